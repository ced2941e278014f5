//! Pages of lists, in the order of creation (platform.md §16): `limit` and `cursor` in, `X-Next-Cursor` out.

use axum::{
    http::{HeaderName, HeaderValue},
    response::AppendHeaders,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::http::Json;

/// Most entries of a page, and how many there are unless asked otherwise.
pub(super) const MOST: i64 = 500;
const NEXT: HeaderName = HeaderName::from_static("x-next-cursor");

/// Which page of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Where the page before ended.
    #[serde(default)]
    pub cursor: Option<String>,
    /// 1 to 500.
    #[serde(default)]
    pub limit: Option<i64>,
}

impl Page {
    pub(super) fn limit(&self) -> i64 {
        self.limit.unwrap_or(MOST).clamp(1, MOST)
    }

    /// Creation and id of the last entry of the page before; a cursor that is none of ours starts anew.
    pub(super) fn after(&self) -> Option<(OffsetDateTime, &str)> {
        let (at, id) = self.cursor.as_deref()?.split_once('_')?;
        Some((OffsetDateTime::from_unix_timestamp_nanos(at.parse().ok()?).ok()?, id))
    }
}

/// The cursor behind an entry.
pub(super) fn cursor(at: OffsetDateTime, id: &str) -> String {
    format!("{}_{id}", at.unix_timestamp_nanos())
}

/// A page as a bare list; the cursor goes into the header, when there may be more.
pub(super) type Listed<T> = (AppendHeaders<Option<(HeaderName, HeaderValue)>>, Json<Vec<T>>);

/// Makes a page of what was found, at most `limit` entries.
pub(super) fn listed<R, T: From<R> + Serialize + ToSchema>(
    found: Vec<R>,
    limit: i64,
    cursor: impl Fn(&R) -> String,
) -> Listed<T> {
    let full = i64::try_from(found.len()).is_ok_and(|count| count >= limit);
    let next = found.last().filter(|_| full).and_then(|last| HeaderValue::try_from(cursor(last)).ok());
    let header = next.map(|value| (NEXT, value));
    (AppendHeaders(header), Json(found.into_iter().map(T::from).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_behind_its_entry_and_garbage_to_the_start() {
        let at = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let page = Page { cursor: Some(cursor(at, "a_b")), limit: Some(9_999) };
        assert_eq!((page.after(), page.limit()), (Some((at, "a_b")), MOST));
        for garbage in ["", "x", "_", "x_y", "99999999999999999999999999999999999999_a"] {
            assert_eq!(Page { cursor: Some(garbage.to_owned()), limit: Some(-1) }.after(), None, "{garbage}");
        }
    }
}
