//! Names: of operations, from what their source calls them, and of servers.

use std::collections::BTreeSet;

use serde_json::Value;

/// Words that say what is done, which stand last in a path.
const VERBS: [&str; 8] = ["create", "get", "list", "update", "delete", "patch", "post", "put"];

/// The path of an operation: of `createChatCompletion` it is `chat.completion.create`, of `send_message` `send.message`.
#[must_use]
pub fn operation_path(operation_id: &str) -> String {
    let words = if operation_id.contains('_') {
        operation_id.split('_').map(str::to_owned).collect()
    } else {
        let mut words = camel_words(operation_id);
        if words.len() > 1 && VERBS.contains(&words[0].as_str()) {
            words.rotate_left(1);
        }
        words
    };
    let fits = |c: char| if c.is_alphanumeric() || c == '-' { c } else { '.' };
    let path: String = words.join(".").chars().map(fits).collect();
    let path: Vec<&str> = path.split('.').filter(|word| !word.is_empty()).collect();
    if path.is_empty() { "operation".to_owned() } else { path.join(".") }
}

// `listFineTuningJobs`: list, fine, tuning, jobs; `getHTTPStatus`: get, http, status.
fn camel_words(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut words = vec![String::new()];
    for (i, c) in chars.iter().enumerate() {
        let after_lower = i > 0 && !chars[i - 1].is_uppercase();
        let before_lower = i > 0 && chars.get(i + 1).is_some_and(|next| next.is_lowercase());
        if c.is_uppercase() && (after_lower || before_lower) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The path of an operation without an id: of `GET /v1/users/{id}/posts` it is `users.posts.get`.
#[must_use]
pub fn operation_of_path(path: &str, method: &str) -> String {
    let is_version =
        |part: &str| part.len() > 1 && part.starts_with('v') && part[1..].bytes().all(|b| b.is_ascii_digit());
    let parts = path.split('/').filter(|part| !part.is_empty() && !part.contains('{') && !is_version(part));
    let name: Vec<&str> = parts.chain([method]).collect();
    operation_path(&name.join("_").to_lowercase())
}

/// The id, or the first of `id.2`, `id.3` … that is free.
pub(super) fn free(id: &str, taken: &mut BTreeSet<String>) -> String {
    let mut candidate = id.to_owned();
    let mut number = 1;
    while !taken.insert(candidate.clone()) {
        number += 1;
        candidate = format!("{id}.{number}");
    }
    candidate
}

/// Where the operations are called. A chosen server wins; only where the document's own is a mere path, that is put behind it.
pub(super) fn server(document: &Value, legacy: bool, chosen: Option<&str>, came_from: Option<&str>) -> Option<String> {
    let own = if legacy { legacy_server(document) } else { first_server(document) };
    let is_absolute = |url: &str| url.starts_with("http://") || url.starts_with("https://");
    let joined = |base: &str, path: &str| format!("{}/{}", base.trim_end_matches('/'), path.trim_start_matches('/'));
    let url = match (chosen, own) {
        (Some(chosen), Some(own)) if !is_absolute(&own) => joined(chosen, &own),
        (Some(chosen), _) => chosen.to_owned(),
        (None, Some(own)) if is_absolute(&own) => own,
        (None, own) => joined(&origin(came_from?)?, own.as_deref().unwrap_or_default()),
    };
    Some(url.trim_end_matches('/').to_owned())
}

fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    Some(format!("{scheme}://{}", rest.split(['/', '?', '#']).next()?))
}

fn first_server(document: &Value) -> Option<String> {
    let server = &document["servers"][0];
    let mut url = server["url"].as_str()?.to_owned();
    for (name, variable) in server["variables"].as_object().into_iter().flatten() {
        url = url.replace(&format!("{{{name}}}"), variable["default"].as_str().unwrap_or_default());
    }
    Some(url)
}

fn legacy_server(document: &Value) -> Option<String> {
    let path = document["basePath"].as_str().unwrap_or_default();
    let Some(host) = document["host"].as_str() else { return Some(path.to_owned()).filter(|path| !path.is_empty()) };
    let schemes: Vec<&str> = document["schemes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let scheme = if schemes.contains(&"https") || schemes.is_empty() { "https" } else { schemes[0] };
    Some(format!("{scheme}://{host}{path}"))
}
