//! Instants as events and commands carry them: RFC 3339.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// An instant as text.
pub(super) fn text(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

/// The instant of a text; `None` when it is none.
pub(super) fn instant(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}
