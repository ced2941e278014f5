//! Commands and aggregates of the messaging service (messaging.md §13).

mod conversation;
mod membership;
mod messages;

pub use conversation::*;
