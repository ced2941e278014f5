//! Events of the messaging service (messaging.md §13).

mod conversation;
mod read_cursor;

pub use conversation::*;
pub use read_cursor::*;
