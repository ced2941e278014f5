//! From an operation and what it is called with to an HTTP request (integrations.md §7): values encoded where they stand, and
//! the key last, so that no header of a caller takes its place.

use std::{fmt::Write, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use reqwest::{
    Method, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Map, Value};
use symbia_events::integrations::{IntegrationAuth, InvocationInput, Location, Operation};
use uuid::Uuid;

use crate::Errand;

/// What stands in a URL for a key.
const TOKEN: &str = "{token}";
/// Headers that are no caller's to set.
const OURS: [&str; 12] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "authorization",
    "cookie",
    "proxy-authorization",
    "forwarded",
];

/// A call that cannot be made as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCall(String);

/// A request to an operation. `Debug` shows no key: its header is marked, and of a URL with a key in it nothing is shown.
#[derive(Clone)]
pub struct Request {
    /// Where it goes.
    pub url: Url,
    /// What goes along; a key is marked as sensitive.
    pub headers: HeaderMap,
    method: Method,
    body: Option<Vec<u8>>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = self.url.host_str().unwrap_or_default();
        f.debug_struct("Request").field("method", &self.method).field("host", &host).finish_non_exhaustive()
    }
}

fn invalid(text: impl Into<String>) -> InvalidCall {
    InvalidCall(text.into())
}

impl Request {
    /// Builds it. The URL is the one that the key will be sent to, with `{token}` where it goes in itself.
    ///
    /// # Errors
    /// A parameter is missing, unknown or unfit; a header is not the caller's to set.
    pub fn new(server: &str, operation: &Operation, input: &InvocationInput) -> Result<Self, InvalidCall> {
        let known = |name: &str| operation.parameters.iter().any(|parameter| parameter.name == name);
        if let Some(name) = input.params.keys().find(|name| !known(name)) {
            let names: Vec<&str> = operation.parameters.iter().map(|p| p.name.as_str()).collect();
            let takes = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(invalid(format!(
                "params: '{name}' is no parameter of '{}', which takes {takes}",
                operation.id
            )));
        }
        let missing = operation.parameters.iter().find(|p| p.required && !input.params.contains_key(&p.name));
        if let Some(missing) = missing {
            return Err(invalid(format!("params: '{}' is required by '{}'", missing.name, operation.id)));
        }
        let method = operation.method.as_deref().unwrap_or("POST");
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| invalid(format!("'{method}' is no method")))?;
        let path = path(operation, &input.params)?;
        let mut url = Url::parse(&format!("{}{path}", server.trim_end_matches('/')))
            .map_err(|e| invalid(format!("the integration's server URL cannot be used: {e}")))?;
        let query: Vec<(&str, String)> = of(operation, Location::Query, &input.params)
            .flat_map(|(name, value)| texts(value).into_iter().map(move |text| (name, text)))
            .collect();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json, */*;q=0.5"))]);
        let body = body(operation, &input.body, &mut headers)?;
        let described =
            of(operation, Location::Header, &input.params).map(|(name, value)| (name, texts(value).join(",")));
        let further = input.headers.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in further.chain(described) {
            if OURS.contains(&name.to_lowercase().as_str()) {
                return Err(invalid(format!("headers: '{name}' cannot be set")));
            }
            insert(&mut headers, name, &value)?;
        }
        let cookies: Vec<String> = of(operation, Location::Cookie, &input.params)
            .map(|(name, value)| format!("{name}={}", encoded(&texts(value).join(","))))
            .collect();
        if !cookies.is_empty() {
            insert(&mut headers, "cookie", &cookies.join("; "))?;
        }
        Ok(Request { url, headers, method, body })
    }

    /// To a server that is asked by a library of its own.
    ///
    /// # Errors
    /// It has no usable URL.
    pub fn to(server: &str) -> Result<Self, InvalidCall> {
        let url =
            Url::parse(server).map_err(|e| invalid(format!("the integration's server URL cannot be used: {e}")))?;
        Ok(Request { url, headers: HeaderMap::new(), method: Method::POST, body: None })
    }

    /// Puts the key in.
    ///
    /// # Errors
    /// It cannot stand in a header.
    pub fn with_key(mut self, auth: &IntegrationAuth, key: &str) -> Result<Self, InvalidCall> {
        let unusable = || invalid("the key cannot be put into a header");
        let mut header = |name: HeaderName, value: String| -> Result<(), InvalidCall> {
            let mut value = HeaderValue::from_str(&value).map_err(|_| unusable())?;
            value.set_sensitive(true);
            self.headers.insert(name, value);
            Ok(())
        };
        match auth {
            IntegrationAuth::None => {}
            IntegrationAuth::Bearer { .. } | IntegrationAuth::Oauth2 { .. } => {
                header(AUTHORIZATION, format!("Bearer {key}"))?;
            }
            IntegrationAuth::Basic { .. } => header(AUTHORIZATION, format!("Basic {}", BASE64.encode(key)))?,
            IntegrationAuth::ApiKey { header: name, .. } => {
                let name = name.as_deref().unwrap_or("X-API-Key");
                header(
                    name.parse().map_err(|_| invalid(format!("auth.header: '{name}' is no name")))?,
                    key.to_owned(),
                )?;
            }
            IntegrationAuth::Path { .. } => {
                // A URL that was parsed has it encoded in its path.
                let path = self.url.path().replace("%7Btoken%7D", &encoded(key));
                self.url.set_path(&path);
            }
        }
        Ok(self)
    }

    /// The call, to be made within a time and of an answer of so many bytes.
    #[must_use]
    pub fn errand(&self, patience: Duration, most: usize) -> Errand {
        Errand {
            method: self.method.clone(),
            url: self.url.clone(),
            headers: self.headers.clone(),
            body: self.body.clone().map(Into::into),
            patience,
            most,
        }
    }
}

// The parameters of a place that are given.
fn of<'a>(
    operation: &'a Operation,
    location: Location,
    params: &'a Map<String, Value>,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let theirs = operation.parameters.iter().filter(move |parameter| parameter.location == location);
    theirs.filter_map(|p| Some((p.name.as_str(), params.get(&p.name).filter(|value| !value.is_null())?)))
}

fn path(operation: &Operation, params: &Map<String, Value>) -> Result<String, InvalidCall> {
    let mut path = operation.path.clone().unwrap_or_default();
    for (name, value) in of(operation, Location::Path, params) {
        let text = texts(value).join(",");
        // It would lead to another operation.
        if text.is_empty() || text == "." || text == ".." {
            return Err(invalid(format!("params: '{name}' must not be empty or dots, since it is a part of the path")));
        }
        path = path.replace(&format!("{{{name}}}"), &encoded(&text));
    }
    match path.replace(TOKEN, "").split_once('{') {
        Some((_, rest)) => {
            let name = rest.split('}').next().unwrap_or_default();
            Err(invalid(format!("params: '{name}' is required, since it is a part of the path")))
        }
        None => Ok(path),
    }
}

// Each as it stands in a URL or header; a list is several.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        other => vec![other.to_string()],
    }
}

/// All but unreserved characters percent-encoded (RFC 3986 §2.3).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => _ = write!(encoded, "%{byte:02X}"),
        }
    }
    encoded
}

fn insert(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), InvalidCall> {
    let header = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(value).ok());
    let (name, value) = header.ok_or_else(|| invalid(format!("headers: '{name}' cannot be sent as it is")))?;
    headers.insert(name, value);
    Ok(())
}

fn body(operation: &Operation, body: &Value, headers: &mut HeaderMap) -> Result<Option<Vec<u8>>, InvalidCall> {
    let described = operation.request_body.as_ref();
    if body.is_null() {
        return match described.is_some_and(|described| described.required) {
            true => Err(invalid(format!("body: is required by '{}'", operation.id))),
            false => Ok(None),
        };
    }
    if matches!(operation.method.as_deref(), Some("GET" | "HEAD")) {
        return Err(invalid(format!("body: '{}' takes none", operation.id)));
    }
    let kind = described.map_or("application/json", |described| described.content_type.as_str());
    let fields = || body.as_object().ok_or_else(|| invalid("body: must be an object, since it is a form"));
    let (kind, bytes) = match (kind.split(';').next().unwrap_or_default(), body) {
        ("application/x-www-form-urlencoded", _) => {
            let pairs = fields()?.iter().flat_map(|(name, value)| texts(value).into_iter().map(move |t| (name, t)));
            let pairs: Vec<String> =
                pairs.map(|(name, text)| format!("{}={}", encoded(name), encoded(&text))).collect();
            (kind.to_owned(), pairs.join("&").into_bytes())
        }
        ("multipart/form-data", _) => multipart(fields()?),
        (json, _) if json.ends_with("json") => (kind.to_owned(), body.to_string().into_bytes()),
        (_, Value::String(text)) => (kind.to_owned(), text.clone().into_bytes()),
        _ => (kind.to_owned(), body.to_string().into_bytes()),
    };
    insert(headers, CONTENT_TYPE.as_str(), &kind)?;
    Ok(Some(bytes))
}

// RFC 7578; texts, and JSON for what is none.
fn multipart(fields: &Map<String, Value>) -> (String, Vec<u8>) {
    let boundary = Uuid::new_v4().simple().to_string();
    let mut body = String::new();
    for (name, value) in fields {
        let name = name.replace('"', "%22").replace(['\r', '\n'], " ");
        let (kind, text) = match value {
            Value::String(text) => ("text/plain; charset=utf-8", text.clone()),
            other => ("application/json", other.to_string()),
        };
        let _ = write!(
            body,
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\nContent-Type: {kind}\r\n\r\n{text}\r\n"
        );
    }
    let _ = write!(body, "--{boundary}--\r\n");
    (format!("multipart/form-data; boundary={boundary}"), body.into_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use symbia_events::integrations::{Parameter, RequestBody};

    use super::*;

    fn operation(method: &str, path: &str, parameters: &[(&str, Location)]) -> Operation {
        let parameter = |(name, location): &(&str, Location)| Parameter {
            name: (*name).to_owned(),
            location: *location,
            required: false,
            description: None,
            schema: None,
        };
        Operation {
            id: "op".to_owned(),
            method: Some(method.to_owned()),
            path: Some(path.to_owned()),
            parameters: parameters.iter().map(parameter).collect(),
            ..Operation::default()
        }
    }

    fn input(params: Value, body: Value, headers: &[(&str, &str)]) -> InvocationInput {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        InvocationInput { params: params.as_object().cloned().unwrap_or_default(), body, headers }
    }

    const HERE: &str = "https://api.example.com/v1";

    #[test]
    fn values_stand_encoded_where_they_belong() {
        let of = [("id", Location::Path), ("q", Location::Query), ("X-T", Location::Header), ("c", Location::Cookie)];
        let given = input(json!({ "id": "a/b ?#", "q": ["x y", 2], "X-T": true, "c": "d;e" }), Value::Null, &[]);
        let request = Request::new(HERE, &operation("GET", "/pets/{id}/x", &of), &given).unwrap();
        assert_eq!(request.url.as_str(), "https://api.example.com/v1/pets/a%2Fb%20%3F%23/x?q=x+y&q=2");
        assert_eq!(
            (&request.headers["x-t"], &request.headers["cookie"]),
            (&HeaderValue::from_static("true"), &HeaderValue::from_static("c=d%3Be"))
        );
    }

    #[test]
    fn no_value_leads_to_another_operation_and_no_header_to_another_caller() {
        let one = operation("GET", "/pets/{id}", &[("id", Location::Path)]);
        for (given, says) in [
            (input(json!({ "id": ".." }), Value::Null, &[]), "dots"),
            (input(json!({ "id": "" }), Value::Null, &[]), "empty"),
            (input(json!({}), Value::Null, &[]), "'id' is required"),
            (input(json!({ "id": "1", "x": 1 }), Value::Null, &[]), "'x' is no parameter of 'op', which takes id"),
            (input(json!({ "id": "1" }), json!({}), &[]), "takes none"),
            (input(json!({ "id": "1" }), Value::Null, &[("Authorization", "Bearer mine")]), "cannot be set"),
            (input(json!({ "id": "1" }), Value::Null, &[("host", "evil.example")]), "cannot be set"),
            (input(json!({ "id": "1" }), Value::Null, &[("x", "a\r\nb: c")]), "as it is"),
        ] {
            let refused = Request::new(HERE, &one, &given).unwrap_err().to_string();
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn a_body_has_the_shape_that_is_described() {
        let with = |kind: &str| {
            let request_body = Some(RequestBody { required: true, content_type: kind.to_owned(), schema: None });
            Operation { request_body, ..operation("POST", "/x", &[]) }
        };
        let sent = |kind: &str, body: Value| {
            let request = Request::new(HERE, &with(kind), &input(json!({}), body, &[])).unwrap();
            (
                request.headers["content-type"].to_str().unwrap().to_owned(),
                String::from_utf8(request.body.unwrap()).unwrap(),
            )
        };
        assert_eq!(sent("application/json", json!({ "a": 1 })).1, "{\"a\":1}");
        assert_eq!(sent("application/x-www-form-urlencoded", json!({ "a": "1 2", "b": [3, 4] })).1, "a=1%202&b=3&b=4");
        assert_eq!(sent("text/plain", json!("hi")).1, "hi");
        let (kind, form) = sent("multipart/form-data", json!({ "a": "x", "b": { "c": 1 } }));
        let boundary = kind.split_once("boundary=").unwrap().1;
        assert_eq!(form.matches(boundary).count(), 3);
        assert!(form.contains("name=\"b\"\r\nContent-Type: application/json\r\n\r\n{\"c\":1}\r\n"));
        let none = Request::new(HERE, &with("application/json"), &input(json!({}), Value::Null, &[])).unwrap_err();
        assert!(none.to_string().contains("body: is required"));
    }

    #[test]
    fn a_key_stands_where_the_integration_says() {
        let with = |server: &str, auth: IntegrationAuth| {
            let request =
                Request::new(server, &operation("GET", "/x", &[]), &input(json!({}), Value::Null, &[])).unwrap();
            request.with_key(&auth, "se/cret").unwrap()
        };
        let header = |auth, name: &str| with(HERE, auth).headers[name].to_str().unwrap().to_owned();
        assert_eq!(header(IntegrationAuth::Bearer { credential_key: None }, "authorization"), "Bearer se/cret");
        assert_eq!(header(IntegrationAuth::Basic { credential_key: None }, "authorization"), "Basic c2UvY3JldA==");
        assert_eq!(header(IntegrationAuth::ApiKey { header: None, credential_key: None }, "x-api-key"), "se/cret");
        let named = IntegrationAuth::ApiKey { header: Some("X-Key".into()), credential_key: None };
        assert_eq!(header(named, "x-key"), "se/cret");
        let path = with("https://api.example.com/bot{token}", IntegrationAuth::Path { credential_key: None });
        assert_eq!(path.url.as_str(), "https://api.example.com/botse%2Fcret/x");
    }
}
