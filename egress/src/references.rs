//! Documents that refer to others (JSON Reference, as in OpenAPI): the others are read through the guard and put into the first, so
//! that whoever reads it finds everything within. How deep, how many and how long they may be is bounded.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use reqwest::{
    Method, Url,
    header::{ACCEPT, HeaderMap, HeaderValue},
};
use serde_json::Value;
use tokio::time::Instant;

use crate::{Egress, EgressError, Errand};

/// Where the other documents are put.
const HERE: &str = "x-symbia-documents";
/// Documents at most, and how many stand between the first and the last.
const MOST: usize = 20;
const DEEPEST: usize = 5;
/// Bytes of all of them.
const MOST_BYTES: usize = 10 * 1024 * 1024;
/// How long reading all of them may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// What may look like a reference and is an example of one.
const EXAMPLES: [&str; 5] = ["example", "examples", "default", "enum", "const"];

/// Why not all of a document is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// One that it refers to cannot be read.
    #[error("it refers to {url}, which cannot be read: {why}")]
    Unread {
        /// Which one.
        url: String,
        /// Why.
        why: String,
    },
    /// More than are read.
    #[error("it refers to more than {MOST} other documents: register one that holds them")]
    TooMany,
    /// They refer to one another further than is followed.
    #[error("its references lead through more than {DEEPEST} documents: register one that holds them")]
    TooDeep,
}

/// The document with all that it refers to within it. `came_from` is where it was read from: what it names otherwise than by a
/// whole address is beside that. `read` tells what a document's bytes say.
///
/// # Errors
/// A document cannot be read, or they are too many, too long, or too deep.
pub async fn gathered(
    egress: &Egress,
    mut root: Value,
    came_from: Option<&str>,
    read: impl Fn(&[u8]) -> Option<Value>,
) -> Result<Value, ReferenceError> {
    let base = came_from.and_then(|place| Url::parse(place).ok());
    let mut found = Found::default();
    found.rewrite(&mut root, &Place { base, own: None, depth: 0 })?;
    let (mut documents, mut left, until) = (Vec::new(), MOST_BYTES, Instant::now() + PATIENCE);
    while let Some((url, depth)) = found.wanted.pop_front() {
        let unread = |why: String| ReferenceError::Unread { url: url.to_string(), why };
        let accept = HeaderValue::from_static("application/json, application/yaml, text/yaml, */*;q=0.5");
        let errand = Errand {
            method: Method::GET,
            url: url.clone(),
            headers: HeaderMap::from_iter([(ACCEPT, accept)]),
            body: None,
            patience: until.saturating_duration_since(Instant::now()),
            most: left,
        };
        let reply = egress.fetch(errand).await.map_err(|error: EgressError| unread(error.to_string()))?;
        if !reply.status.is_success() {
            return Err(unread(format!("HTTP {}", reply.status.as_u16())));
        }
        left -= reply.body.len().min(left);
        let mut document = read(&reply.body).ok_or_else(|| unread("it is neither JSON nor YAML".to_owned()))?;
        found.rewrite(&mut document, &Place { base: Some(reply.url), own: Some(documents.len()), depth })?;
        documents.push(document);
    }
    if let (Value::Object(members), false) = (&mut root, documents.is_empty()) {
        members.insert(HERE.to_owned(), Value::Array(documents));
    }
    Ok(root)
}

/// The document that is looked through.
struct Place {
    base: Option<Url>,
    /// Its number; none: the first.
    own: Option<usize>,
    depth: usize,
}

/// Documents that are referred to, by number in the order in which they were found.
#[derive(Default)]
struct Found {
    places: HashMap<Url, usize>,
    wanted: VecDeque<(Url, usize)>,
}

impl Found {
    // References become such within the first document.
    fn rewrite(&mut self, value: &mut Value, place: &Place) -> Result<(), ReferenceError> {
        match value {
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.rewrite(item, place)),
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get_mut("$ref")
                    && let Some(within) = self.within(reference, place)?
                {
                    *reference = within;
                }
                let parts = members.iter_mut().filter(|(name, _)| !EXAMPLES.contains(&name.as_str()));
                parts.map(|(_, part)| part).try_for_each(|part| self.rewrite(part, place))
            }
            _ => Ok(()),
        }
    }

    // None: it stays as it is.
    fn within(&mut self, reference: &str, place: &Place) -> Result<Option<String>, ReferenceError> {
        let at = |number: usize, pointer: &str| format!("#/{HERE}/{number}{pointer}");
        if let Some(pointer) = reference.strip_prefix('#') {
            return Ok(place.own.map(|own| at(own, pointer)));
        }
        let named = match &place.base {
            Some(base) => base.join(reference),
            None => Url::parse(reference),
        };
        let Ok(mut url) = named else { return Ok(None) };
        if !matches!(url.scheme(), "http" | "https") {
            return Ok(None);
        }
        let pointer = url.fragment().unwrap_or_default().to_owned();
        url.set_fragment(None);
        if place.own.is_none() && place.base.as_ref() == Some(&url) {
            return Ok(Some(format!("#{pointer}")));
        }
        if let Some(number) = self.places.get(&url) {
            return Ok(Some(at(*number, &pointer)));
        }
        if place.depth == DEEPEST {
            return Err(ReferenceError::TooDeep);
        }
        let number = self.places.len();
        if number == MOST {
            return Err(ReferenceError::TooMany);
        }
        self.places.insert(url.clone(), number);
        self.wanted.push_back((url, place.depth + 1));
        Ok(Some(at(number, &pointer)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use axum::{Router, extract::Path, routing::get};
    use serde_json::json;

    use super::*;
    use crate::Rules;

    /// A server of documents: `n` refers to `n + 1`; `pair` and `other` to each other.
    async fn server() -> (String, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let document = move |Path(name): Path<String>| {
            count.fetch_add(1, Relaxed);
            let next = name.parse::<usize>().map(|n| json!({ "a": { "$ref": format!("{}#/a", n + 1) } }));
            let said = match name.as_str() {
                "pair" => json!({ "x": { "$ref": "other#/y" }, "z": { "$ref": "#/x" } }),
                "other" => json!({ "y": { "$ref": "pair#/z" }, "type": "string" }),
                "long" => json!("x".repeat(MOST_BYTES)),
                _ => next.unwrap_or_default(),
            };
            std::future::ready(said.to_string())
        };
        let app = Router::new().route("/{name}", get(document));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (base, asked)
    }

    async fn whole(root: Value, came_from: Option<&str>) -> Result<Value, ReferenceError> {
        let egress = Egress::new(Rules::development()).unwrap();
        gathered(&egress, root, came_from, |bytes| serde_json::from_slice(bytes).ok()).await
    }

    #[tokio::test]
    async fn what_is_referred_to_is_found_within_each_document_once() {
        let (base, asked) = server().await;
        let root = json!({ "one": { "$ref": "pair#/x" }, "two": { "$ref": format!("{base}/pair#/z") },
            "own": { "$ref": "root#/one" }, "local": { "$ref": "#/one" }, "example": { "$ref": "nowhere" },
            "odd": { "$ref": "file:///etc/passwd" } });
        let found = whole(root, Some(&format!("{base}/root"))).await.unwrap();
        let of = |path: &str| found.pointer(path).and_then(|v| v["$ref"].as_str()).unwrap_or_default().to_owned();
        assert_eq!((of("/one"), of("/two")), ("#/x-symbia-documents/0/x".into(), "#/x-symbia-documents/0/z".into()));
        assert_eq!((of("/own"), of("/local")), ("#/one".into(), "#/one".into()));
        assert_eq!((of("/example"), of("/odd")), ("nowhere".into(), "file:///etc/passwd".into()));
        assert_eq!(of("/x-symbia-documents/0/z"), "#/x-symbia-documents/0/x");
        assert_eq!(of("/x-symbia-documents/0/x"), "#/x-symbia-documents/1/y");
        assert_eq!(of("/x-symbia-documents/1/y"), "#/x-symbia-documents/0/z");
        assert_eq!(asked.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn how_deep_how_many_and_how_long_is_bounded() {
        let (base, asked) = server().await;
        let from = format!("{base}/root");
        assert_eq!(whole(json!({ "$ref": "1" }), Some(&from)).await, Err(ReferenceError::TooDeep));
        assert_eq!(asked.load(Relaxed), DEEPEST);
        let many: Vec<Value> = (0..=MOST).map(|n| json!({ "$ref": format!("leaf{n}") })).collect();
        assert_eq!(whole(json!(many), Some(&from)).await, Err(ReferenceError::TooMany));
        let long = whole(json!({ "$ref": "long" }), Some(&from)).await;
        assert!(matches!(&long, Err(ReferenceError::Unread { url, .. }) if url.ends_with("/long")), "{long:?}");
        let inside = whole(json!({ "$ref": "http://10.0.0.1/a" }), None).await;
        assert!(
            matches!(&inside, Err(ReferenceError::Unread { why, .. }) if why.contains("not a public one")),
            "{inside:?}"
        );
        assert_eq!(whole(json!({ "$ref": "beside.yaml" }), None).await, Ok(json!({ "$ref": "beside.yaml" })));
    }
}
