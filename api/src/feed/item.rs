//! What a follower receives, as text: items, and the last one, which says why the feed ends.

use std::fmt::Write;

use serde_json::{json, value::RawValue};
use symbia_events::{OrgId, Service, Signed};

use super::{position::Cursor, source::Gap};
use crate::http::ApiError;

/// One item of a feed.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Name of the SSE event; a stored event has none.
    pub name: Option<&'static str>,
    /// Where to go on after it; what is not stored has none.
    pub cursor: Option<String>,
    /// JSON.
    pub data: String,
}

impl Item {
    /// A stored event, byte for byte.
    pub fn event(service: Service, sequence: u64, cursor: &Cursor, event: &Signed) -> Self {
        let cursor = cursor.to_string();
        let mut data = String::with_capacity(event.bytes.len() + 64 + cursor.len());
        let text = String::from_utf8_lossy(&event.bytes);
        let _ = write!(data, r#"{{"position":"{service}:{sequence}","cursor":"{cursor}","event":{text}}}"#);
        Self { name: None, cursor: Some(cursor), data }
    }

    /// A message that does not verify.
    pub fn quarantined(service: Service, sequence: u64, cursor: &Cursor) -> Self {
        let data = json!({ "position": format!("{service}:{sequence}") });
        Self::typed("quarantined", cursor, data)
    }

    /// The first item: where the feed begins.
    pub fn opened(tenant: &OrgId, cursor: &Cursor) -> Self {
        Self::typed("opened", cursor, json!({ "tenant": tenant }))
    }

    /// Messages that cannot be delivered any more.
    pub(super) fn gap(gap: &Gap, cursor: &Cursor) -> Self {
        let Gap { service, from, to } = gap;
        let data = json!({ "position": format!("{service}:{to}"), "service": service, "from": from, "to": to });
        Self::typed("gap", cursor, data)
    }

    /// Something that is not stored. A payload that is no JSON travels as a string.
    pub fn live(subject: &str, payload: &[u8]) -> Self {
        let data = match serde_json::from_slice::<&RawValue>(payload) {
            Ok(data) => json!({ "live": subject, "data": data }),
            Err(_) => json!({ "live": subject, "data": String::from_utf8_lossy(payload) }),
        };
        Self { name: Some("live"), cursor: None, data: data.to_string() }
    }

    fn typed(name: &'static str, cursor: &Cursor, mut data: serde_json::Value) -> Self {
        let cursor = cursor.to_string();
        data["type"] = json!(name);
        data["cursor"] = json!(cursor);
        Self { name: Some(name), cursor: Some(cursor), data: data.to_string() }
    }
}

/// Why a feed ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client went.
    Gone,
    /// The service stops.
    Stopping,
    /// Nobody can tell whether the session is still good.
    DirectoryDown,
    /// The session was ended, or has expired.
    SessionEnded,
    /// The caller may not follow this tenant any more.
    AccessLost,
    /// The client takes items too slowly.
    Slow,
    /// The log is another one than before.
    LogReplaced,
}

impl End {
    /// Close code (RFC 6455 §7.4) and reason; none when there is nobody to tell.
    pub fn code(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Gone => None,
            Self::Stopping => Some((1001, "the service is stopping")),
            Self::DirectoryDown => Some((1013, "the directory is unavailable")),
            Self::SessionEnded => Some((4001, "the session has ended: log in again")),
            Self::AccessLost => Some((4003, "no access to this organization any more")),
            Self::Slow => Some((4008, "slow consumer")),
            Self::LogReplaced => Some((4009, "the log was replaced: begin with latest or earliest")),
        }
    }
}

/// The last item of a feed.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    /// Close code.
    pub code: u16,
    /// Text of the close frame.
    pub reason: String,
    /// The item.
    pub item: Item,
}

/// A close frame has room for so many bytes of text (RFC 6455 §5.5).
const REASON_MAX: usize = 123;

impl Closing {
    /// `None` when there is nobody to tell.
    pub fn new(end: End, cursor: &Cursor) -> Option<Self> {
        let (code, why) = end.code()?;
        let with_cursor = format!("{why}, resume from {cursor}");
        let reason = match end {
            End::LogReplaced => why.to_owned(),
            _ if with_cursor.len() <= REASON_MAX => with_cursor,
            _ => format!("{why}, resume from the last cursor"),
        };
        let item = Item::typed("close", cursor, json!({ "code": code, "reason": reason }));
        Some(Self { code, reason, item })
    }

    /// After a request that is not valid and came too late for an HTTP answer.
    pub fn refused(code: u16, error: &ApiError) -> Self {
        let mut reason = format!("{}: {}", error.code(), error.message());
        let data = json!({ "type": "close", "code": code, "reason": reason }).to_string();
        reason.truncate((0..=REASON_MAX).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0));
        Self { code, reason, item: Item { name: Some("close"), cursor: None, data } }
    }
}
