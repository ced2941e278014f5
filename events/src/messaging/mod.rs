//! Events of the messaging service (messaging.md §13).

mod author;
mod channel_link;
mod conversation;
mod read_cursor;

pub use author::*;
pub use channel_link::*;
pub use conversation::*;
pub use read_cursor::*;
