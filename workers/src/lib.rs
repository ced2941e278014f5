//! Who acts: command worker, rule engine, LLM router, inference, delivery.

pub mod command;
pub mod models;
pub mod reactor;
pub mod seal;
pub mod timer;
