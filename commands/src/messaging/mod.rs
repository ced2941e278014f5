//! Commands and aggregates of the messaging service (messaging.md §13).

mod answering;
mod author;
mod channel_link;
mod clock;
mod control;
mod conversation;
#[cfg(test)]
mod in_a_name;
mod membership;
mod messages;
mod read_cursor;
mod retention_policy;
mod settings;
mod webhook;

pub use answering::*;
pub use author::*;
pub use channel_link::*;
pub use conversation::*;
pub use read_cursor::*;
pub use retention_policy::*;
pub use webhook::*;
