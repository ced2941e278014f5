//! Events of the messaging service (messaging.md §13.3).

mod conversation;

pub use conversation::*;
