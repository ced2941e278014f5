//! What of a caller's request is passed on to a provider, where, and for which model.

use std::fmt;

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE},
};
use reqwest::Url;
use serde::de::{IgnoredAny, MapAccess, Visitor};

/// What goes no further than one connection (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];
/// What says who the caller is, or how they came here: the platform's to know.
const CALLERS: [&str; 21] = [
    "host",
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "cookie",
    "x-org-id",
    "x-as-user-id",
    "x-service-id",
    "x-service-auth",
    "x-env",
    "x-environment",
    "x-data-class",
    "x-policy-ref",
    "x-access-reason",
    "x-trace-id",
    "x-request-id",
    "x-real-ip",
    "via",
    "expect",
    "forwarded",
];
/// What a server says to its own browsers, or about keys.
const SERVERS: [&str; 17] = [
    "set-cookie",
    "set-cookie2",
    "authorization",
    "x-api-key",
    "api-key",
    "www-authenticate",
    "authentication-info",
    "proxy-authentication-info",
    "strict-transport-security",
    "alt-svc",
    "clear-site-data",
    "content-security-policy",
    "x-frame-options",
    "x-content-type-options",
    "referrer-policy",
    "x-request-id",
    "x-trace-id",
];
/// Beginnings of such names.
const CALLERS_BEGIN: [&str; 4] = ["x-symbia-", "x-forwarded-", "sec-", "trace"];
const SERVERS_BEGIN: [&str; 3] = ["access-control-", "x-symbia-", "ratelimit"];
/// Segments behind which a path names a model.
const NAMES_MODEL: [&str; 5] = ["models", "model", "engines", "deployments", "tunedmodels"];
/// Members besides `model` by which a body may choose one.
const CHOOSES: [&str; 6] = ["models", "engine", "deployment", "fallbacks", "fallback_models", "model_id"];

/// What providers answer and keep nothing of.
const KEEP_NOTHING: [&str; 11] = [
    "chat/completions",
    "completions",
    "embeddings",
    "moderations",
    "rerank",
    "messages",
    "messages/count_tokens",
    "images/generations",
    "audio/speech",
    "audio/transcriptions",
    "audio/translations",
];

/// Whether a provider may keep something of a call, or gives what it keeps.
pub(super) fn is_kept(method: &Method, path: &str, body: Option<&[u8]>) -> bool {
    // OpenAI keeps an answer that it is told to `store`.
    let stores = || body.is_none_or(|body| body.windows(7).any(|part| part == b"\"store\""));
    match *method {
        Method::GET => path != "models",
        Method::POST => !KEEP_NOTHING.contains(&path) || path == "chat/completions" && stores(),
        _ => true,
    }
}

/// A path that leads elsewhere than below a base URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Astray {
    #[error("path: must name something below the provider's base URL")]
    Empty,
    #[error("path: must not have empty segments, '.' or '..'")]
    Segment,
    #[error("path: must not have backslashes, or encoded slashes, dots, percent signs or control characters")]
    Encoded,
    #[error("path: does not stay below the provider's base URL")]
    Outside,
}

/// The URL of a path, as it stands in the caller's request, below a base URL.
pub(super) fn below(base: &str, path: &str, query: Option<&str>) -> Result<Url, Astray> {
    if path.is_empty() {
        return Err(Astray::Empty);
    }
    for segment in path.split('/') {
        if matches!(segment, "" | "." | "..") {
            return Err(Astray::Segment);
        }
        let mut rest = segment;
        while let Some((_, after)) = rest.split_once('%') {
            let byte = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).ok_or(Astray::Encoded)?;
            if matches!(byte, b'/' | b'\\' | b'.' | b'%' | 0..=0x1f | 0x7f) {
                return Err(Astray::Encoded);
            }
            rest = &after[2..];
        }
        if segment.contains(['\\', '#', '?']) || segment.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Astray::Encoded);
        }
    }
    let base = Url::parse(base).map_err(|_| Astray::Outside)?;
    let whole = format!("{}/{path}", base.path().trim_end_matches('/'));
    let mut url = base.clone();
    url.set_path(&whole);
    url.set_query(query.filter(|query| !query.is_empty()));
    // Nothing of it was taken for something else.
    if url.path() == whole && url.origin() == base.origin() { Ok(url) } else { Err(Astray::Outside) }
}

fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

fn without(headers: &HeaderMap, names: &[&str], beginnings: &[&str]) -> HeaderMap {
    let hop = named_by_connection(headers);
    let stays = |name: &HeaderName| {
        let name = name.as_str();
        !HOP_BY_HOP.contains(&name)
            && !names.contains(&name)
            && !hop.iter().any(|named| named == name)
            && !beginnings.iter().any(|beginning| name.starts_with(beginning))
    };
    headers.iter().filter(|(name, _)| stays(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The headers that a provider gets of a caller's; its key comes besides. An answer is wanted as it is, so that it can be metered.
pub(super) fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut passed = without(headers, &CALLERS, &CALLERS_BEGIN);
    passed.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    passed
}

/// The headers that a caller gets of a provider's. What holds the key is kept back, whatever its name.
pub(super) fn passed_back(headers: &HeaderMap, key: Option<&str>) -> HeaderMap {
    let mut passed = without(headers, &SERVERS, &SERVERS_BEGIN);
    if let Some(key) = key.filter(|key| !key.is_empty()) {
        let holds = |value: &HeaderValue| value.as_bytes().windows(key.len()).any(|part| part == key.as_bytes());
        let holding: Vec<HeaderName> =
            passed.iter().filter(|(_, value)| holds(value)).map(|(name, _)| name.clone()).collect();
        for name in holding {
            passed.remove(name);
        }
    }
    passed
}

/// Which model a request asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asks {
    /// The one that its body names, if it names one.
    pub model: Option<String>,
    /// It may mean another one besides: who may ask certain models only must not send it.
    pub unclear: bool,
}

/// Tells it by the body, which is none when it was not read whole, the path and the query.
pub(super) fn asks(headers: &HeaderMap, body: Option<&[u8]>, path: &str, query: Option<&str>) -> Asks {
    let mut asks = match body {
        Some(body) if headers.get("content-encoding").is_none_or(|encoding| encoding == "identity") => {
            in_body(headers, body)
        }
        _ => Asks::default(),
    };
    let mut segments = path.split('/').map(str::to_ascii_lowercase).peekable();
    while let Some(segment) = segments.next() {
        asks.unclear |= NAMES_MODEL.contains(&segment.as_str()) && segments.peek().is_some();
    }
    let named = query.into_iter().flat_map(|query| query.split('&'));
    asks.unclear |= named.filter_map(|pair| pair.split('=').next()).any(|name| {
        // However it is encoded.
        name.contains('%') || chooses(name)
    });
    asks
}

fn chooses(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "model" || CHOOSES.contains(&name.as_str())
}

fn in_body(headers: &HeaderMap, body: &[u8]) -> Asks {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // Of a form with a file, servers read fields in ways of their own.
    if kind.contains("multipart/") || kind.contains("form-urlencoded") {
        return Asks::default();
    }
    serde_json::from_slice::<Members>(body).map_or_else(|_| Asks::default(), |members| members.0)
}

/// The members of an object that name a model: one that comes twice, or in another case, is read by each server as it likes.
struct Members(Asks);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut asks = Asks::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "model" {
                        let model = map.next_value::<serde_json::Value>()?;
                        asks.unclear |= asks.model.is_some() || !model.is_string();
                        asks.model = model.as_str().map(str::to_owned);
                        continue;
                    }
                    asks.unclear |= chooses(&name);
                    map.next_value::<IgnoredAny>()?;
                }
                Ok(Members(asks))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "https://api.example.com/v1";

    #[test]
    fn a_path_stays_below_the_base_url() {
        let url = |path: &str| below(BASE, path, Some("a=1&b=%2F")).map(String::from);
        assert_eq!(url("chat/completions").unwrap(), "https://api.example.com/v1/chat/completions?a=1&b=%2F");
        assert_eq!(url("models/gemini:count").unwrap(), "https://api.example.com/v1/models/gemini:count?a=1&b=%2F");
        assert_eq!(url("files/a%20b").unwrap(), "https://api.example.com/v1/files/a%20b?a=1&b=%2F");
        assert_eq!(below("http://127.0.0.1:8080", "x", None).unwrap().as_str(), "http://127.0.0.1:8080/x");
        for (path, astray) in [
            ("", Astray::Empty),
            ("..", Astray::Segment),
            ("a/../../admin", Astray::Segment),
            ("./x", Astray::Segment),
            ("/evil.example/x", Astray::Segment),
            ("a//b", Astray::Segment),
            ("a/", Astray::Segment),
            ("https://evil.example/x", Astray::Segment),
            ("%2e%2e/admin", Astray::Encoded),
            ("a%2F..%2Fadmin", Astray::Encoded),
            ("a%2fb", Astray::Encoded),
            ("a%5cb", Astray::Encoded),
            ("a%252fb", Astray::Encoded),
            ("a\\b", Astray::Encoded),
            ("a%00", Astray::Encoded),
            ("a%0d%0ax", Astray::Encoded),
            ("a%zz", Astray::Encoded),
            ("a%", Astray::Encoded),
            ("a%é", Astray::Encoded),
            ("a b", Astray::Encoded),
            ("a\tb", Astray::Encoded),
            ("a#b", Astray::Encoded),
        ] {
            assert_eq!(below(BASE, path, None), Err(astray), "{path}");
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_is_of_the_connection_or_of_keys_is_not_passed_on() {
        let given = headers(&[
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("authorization", "Bearer mine"),
            ("x-api-key", "mine"),
            ("cookie", "token=mine"),
            ("x-org-id", "acme"),
            ("x-access-reason", "incident 4711"),
            ("x-symbia-tags", "a"),
            ("x-forwarded-for", "10.0.0.1"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("traceparent", "00-1"),
            ("accept-encoding", "gzip"),
            ("content-type", "application/json"),
            ("openai-beta", "x"),
        ]);
        let expected =
            headers(&[("content-type", "application/json"), ("openai-beta", "x"), ("accept-encoding", "identity")]);
        assert_eq!(passed_on(&given), expected);
        let answered = headers(&[
            ("set-cookie", "a=b"),
            ("www-authenticate", "Bearer"),
            ("access-control-allow-origin", "*"),
            ("x-echo", "your key is sk-1234"),
            ("keep-alive", "5"),
            ("content-type", "text/event-stream"),
            ("x-ratelimit-remaining-requests", "9"),
        ]);
        let expected = headers(&[("content-type", "text/event-stream"), ("x-ratelimit-remaining-requests", "9")]);
        assert_eq!(passed_back(&answered, Some("sk-1234")), expected);
    }

    #[test]
    fn what_an_account_keeps_is_told_from_what_passes_through_it() {
        let kept = |method: Method, path: &str, body: &str| is_kept(&method, path, Some(body.as_bytes()));
        assert!(!kept(Method::GET, "models", "") && !kept(Method::POST, "embeddings", "{}"));
        assert!(!kept(Method::POST, "chat/completions", r#"{"model":"a"}"#));
        assert!(kept(Method::POST, "chat/completions", r#"{"model":"a", "store":true}"#));
        assert!(is_kept(&Method::POST, "chat/completions", None));
        for (method, path) in [
            (Method::GET, "files"),
            (Method::GET, "models/a"),
            (Method::DELETE, "files/file-1"),
            (Method::POST, "files"),
            (Method::POST, "responses"),
            (Method::POST, "chat/completions/x"),
        ] {
            assert!(kept(method.clone(), path, "{}"), "{method} {path}");
        }
    }

    #[test]
    fn a_model_is_told_only_where_no_other_can_be_meant() {
        let json = headers(&[("content-type", "application/json")]);
        let of = |body: &str, path: &str, query: Option<&str>| asks(&json, Some(body.as_bytes()), path, query);
        let clear = |model: &str| Asks { model: Some(model.to_owned()), unclear: false };
        assert_eq!(of(r#"{"model":"a","messages":[{"model":"b"}]}"#, "chat/completions", Some("x=model")), clear("a"));
        assert_eq!(of(r#"{"mod\u0065l":"a"}"#, "models", None), clear("a"));
        for (body, path, query) in [
            (r#"{"model":"a","model":"b"}"#, "chat", None),
            (r#"{"model":"a","MODEL":"b"}"#, "chat", None),
            (r#"{"model":["a"]}"#, "chat", None),
            (r#"{"model":"a","models":["b"]}"#, "chat", None),
            (r#"{"model":"a"}"#, "hf-inference/models/b/pipeline", None),
            (r#"{"model":"a"}"#, "openai/Deployments/b/chat", None),
            (r#"{"model":"a"}"#, "chat", Some("model=b")),
            (r#"{"model":"a"}"#, "chat", Some("x=1&mode%6C=b")),
        ] {
            assert!(of(body, path, query).unclear, "{body} {path} {query:?}");
        }
        for body in ["", "[]", "{broken", r#"{"messages":[]}"#] {
            assert_eq!(of(body, "chat", None), Asks::default(), "{body}");
        }
        let plain = headers(&[("content-encoding", "identity")]);
        assert_eq!(asks(&plain, Some(br#"{"model":"a"}"#), "chat", None), clear("a"));
        let packed = headers(&[("content-encoding", "gzip")]);
        assert_eq!(asks(&packed, Some(br#"{"model":"a"}"#), "chat", None), Asks::default());
        let form = headers(&[("content-type", "multipart/form-data; boundary=x")]);
        assert_eq!(asks(&form, Some(br#"{"model":"a"}"#), "chat", None), Asks::default());
        assert_eq!(asks(&json, None, "chat", None), Asks::default());
    }
}
