//! The command worker: takes commands from the bus, decides them, stores the events, publishes the outcomes.
//!
//! Error policy: a command that cannot be decided now (log not reachable) is given back and redelivered; after
//! [`MAX_DELIVERIES`] it goes to the dead letters and its sender is told. A malformed or forged command is refused at once.

mod acks;
mod decider;
mod handlers;
mod lanes;
mod worker;

pub(crate) use decider::Known;
pub use decider::{Decider, Share};
pub use handlers::Handlers;
pub(crate) use lanes::Lanes;
pub use worker::{CommandWorker, MAX_DELIVERIES, Options};
