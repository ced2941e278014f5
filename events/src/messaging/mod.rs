//! Events of the messaging service (messaging.md §13).

mod author;
mod channel_link;
mod conversation;
mod read_cursor;
mod retention_policy;
mod webhook;

pub use author::*;
pub use channel_link::*;
pub use conversation::*;
pub use read_cursor::*;
pub use retention_policy::*;
pub use webhook::*;
