//! Who acts: command worker, rule engine, LLM router, inference, delivery.

mod again;
pub mod assistants;
pub mod command;
pub mod content_keys;
pub mod directory;
pub mod egress_policies;
pub mod identity;
pub mod integrations;
pub mod messaging;
mod metrics;
pub mod models;
pub mod network;
pub mod reactor;
pub mod seal;
pub mod sender;
pub mod story;
pub mod timer;
mod vault;
