//! Changing an event's data by a mapping of dotted paths (network.md §8.7). No code runs, and a path that leads nowhere
//! changes nothing.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::Rejection;

/// Most entries of a mapping.
const MOST: usize = 100;
/// Longest path and literal.
const LONGEST: usize = 256;
/// Most parts of a path.
const DEEPEST: usize = 16;

/// Whether a text is a dotted path.
pub(super) fn is_path(path: &str) -> bool {
    let parts = path.split('.');
    path.len() <= LONGEST && parts.clone().count() <= DEEPEST && parts.clone().all(|part| !part.is_empty())
}

pub(super) fn check_mapping(mapping: &BTreeMap<String, String>) -> Result<(), Rejection> {
    let source = |text: &str| text.is_empty() || (text.starts_with('=') && text.len() <= LONGEST) || is_path(text);
    if (1..=MOST).contains(&mapping.len()) && mapping.iter().all(|(to, from)| is_path(to) && source(from)) {
        return Ok(());
    }
    let rule = "1 to 100 dotted paths, each with a dotted path, '=literal' or '' to remove it";
    Err(Rejection::invalid(format!("action.mapping: {rule}")))
}

/// The data after a mapping: all sources are read from the data as it came.
#[must_use]
pub fn transformed(data: &Value, mapping: &BTreeMap<String, String>) -> Value {
    let mut result = data.clone();
    for (to, from) in mapping {
        let parts: Vec<&str> = to.split('.').collect();
        match from.strip_prefix('=') {
            _ if from.is_empty() => remove(&mut result, &parts),
            Some(literal) => put(&mut result, &parts, Value::from(literal)),
            None => {
                let found = from.split('.').try_fold(data, |value, part| value.get(part));
                if let Some(found) = found {
                    put(&mut result, &parts, found.clone());
                }
            }
        }
    }
    result
}

/// The data without what stands at some paths; it is said that something stood there.
#[must_use]
pub fn redacted<'p>(data: &Value, paths: impl IntoIterator<Item = &'p String>) -> Value {
    let mut result = data.clone();
    for path in paths {
        let found = path.split('.').try_fold(&mut result, |value, part| value.get_mut(part));
        if let Some(found) = found {
            *found = Value::from("[redacted]");
        }
    }
    result
}

fn remove(value: &mut Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else { return };
    let parent = parents.iter().try_fold(value, |value, part| value.get_mut(*part));
    if let Some(Value::Object(members)) = parent {
        members.remove(*last);
    }
}

// What stands in the way and is no object gives way to one.
fn put(value: &mut Value, path: &[&str], new: Value) {
    let Some((first, rest)) = path.split_first() else {
        *value = new;
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    if let Value::Object(members) = value {
        put(members.entry(*first).or_insert(Value::Null), rest, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mapping(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(to, from)| ((*to).to_owned(), (*from).to_owned())).collect()
    }

    #[test]
    fn members_move_are_set_and_are_removed_all_at_once() {
        let data = json!({ "a": { "b": 1 }, "secret": "x", "c": [1] });
        let map = mapping(&[("a.b", "c"), ("d.e", "a.b"), ("f", "=a.b"), ("secret", ""), ("g", "no.such")]);
        let expected = json!({ "a": { "b": [1] }, "c": [1], "d": { "e": 1 }, "f": "a.b" });
        assert_eq!(transformed(&data, &map), expected);
        assert_eq!(transformed(&json!("text"), &mapping(&[("a.b", "=1")])), json!({ "a": { "b": "1" } }));
        assert_eq!(transformed(&json!(null), &mapping(&[("a", "")])), json!(null));
    }

    #[test]
    fn what_is_redacted_is_not_shown_and_nothing_else_changes() {
        let data = json!({ "a": { "b": 1, "c": 2 }, "d": [3] });
        let paths = ["a.b".to_owned(), "d".to_owned(), "no.such".to_owned()];
        let expected = json!({ "a": { "b": "[redacted]", "c": 2 }, "d": "[redacted]" });
        assert_eq!(redacted(&data, &paths), expected);
    }

    #[test]
    fn a_mapping_has_paths_on_both_sides() {
        assert!(check_mapping(&mapping(&[("a.b", "c.d"), ("e", ""), ("f", "=")])).is_ok());
        let deep = ["a"; DEEPEST + 1].join(".");
        for bad in [
            mapping(&[]),
            mapping(&[("", "a")]),
            mapping(&[("a..b", "c")]),
            mapping(&[("a", ".")]),
            mapping(&[(&deep, "a")]),
        ] {
            assert!(check_mapping(&bad).is_err(), "{bad:?}");
        }
    }
}
