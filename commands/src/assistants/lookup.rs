//! Values by dotted path (script.md §5): own keys of objects, indices of arrays, nothing else.

use serde_json::Value;

/// The value at the end of the segments; `None` when any is missing or what holds it is no object or array.
pub(super) fn walk<'a, 's>(from: &'a Value, segments: impl IntoIterator<Item = &'s str>) -> Option<&'a Value> {
    segments.into_iter().try_fold(from, |value, segment| match value {
        Value::Object(members) => members.get(segment),
        Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
        _ => None,
    })
}
