//! The rule engine: a message sets off a run, a run asks a model and replies (assistants.md §21).
//!
//! What follows from what is decided by pure functions in `symbia_commands::assistants`; here is what they need and what
//! becomes of it.

mod control;
mod definitions;
mod engine;
pub(crate) mod log;
mod outside;
mod replay;
mod seed;
mod transcript;

pub use engine::RuleEngine;
pub use outside::Outside;
pub use replay::{ReplayError, Replayed, replay};
pub use seed::{SeedError, load_seed};
