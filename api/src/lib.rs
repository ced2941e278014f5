//! Who asks: REST, Socket.IO and WebSocket, one router per service.

pub mod assistants;
pub mod feed;
pub mod http;
pub mod identity;
pub mod integrations;
pub mod mail;
pub mod messaging;
pub mod models;
pub mod network;
pub mod platform;
pub mod socket;

pub use platform::Platform;

use time::{OffsetDateTime, UtcOffset, format_description::BorrowedFormatItem, macros::format_description};

/// ISO 8601 in UTC with milliseconds (platform.md §9.1).
fn iso(at: OffsetDateTime) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    at.to_offset(UtcOffset::UTC).format(FORMAT).unwrap_or_default()
}
