//! A call whose whole answer is wanted: within a time and a size, and from where it is redirected to, if that is allowed.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, LOCATION, USER_AGENT},
};
use serde_json::{Value, json};

use crate::{Egress, EgressError};

/// Redirects that are followed.
const HOPS: usize = 3;

/// What to ask, and how much to take.
#[derive(Clone, Debug)]
pub struct Errand {
    /// HTTP method. Only GET and HEAD follow redirects; others get them as the answer.
    pub method: Method,
    /// Where.
    pub url: Url,
    /// What goes to this origin; to another one that it redirects to, only `Accept` and `User-Agent` do.
    pub headers: HeaderMap,
    /// The body, if any.
    pub body: Option<Bytes>,
    /// How long it may take, redirects included.
    pub patience: Duration,
    /// Most bytes of the answer.
    pub most: usize,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Where it came from.
    pub url: Url,
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON: its own JSON, its text, or its bytes in base64. None of it is lost.
    #[must_use]
    pub fn data(&self) -> Value {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if self.body.is_empty() {
            return Value::Null;
        }
        let media = kind.split(';').next().unwrap_or_default().trim();
        let json = media.is_empty() || media.ends_with("/json") || media.ends_with("+json");
        if let Some(value) = json.then(|| serde_json::from_slice(&self.body).ok()).flatten() {
            return value;
        }
        match str::from_utf8(&self.body) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => json!({ "contentType": kind, "base64": BASE64.encode(&self.body) }),
        }
    }
}

impl Egress {
    /// Runs an errand.
    ///
    /// # Errors
    /// It may not be made, at its address or one that it is redirected to; there is no answer, or not within its limits.
    pub async fn fetch(&self, errand: Errand) -> Result<Reply, EgressError> {
        let patience = errand.patience;
        tokio::time::timeout(patience, self.follow(errand)).await.unwrap_or(Err(EgressError::Timeout))
    }

    async fn follow(&self, errand: Errand) -> Result<Reply, EgressError> {
        let Errand { method, mut url, mut headers, body, most, .. } = errand;
        for _ in 0..=HOPS {
            let mut request = self.request(method.clone(), url.clone())?.headers(headers.clone());
            if let Some(body) = &body {
                request = request.body(body.clone());
            }
            let response = request.send().await?;
            let Some(next) = redirected(&method, &url, &response) else {
                let (status, headers) = (response.status(), response.headers().clone());
                return Ok(Reply { url, status, headers, body: read(response, most).await? });
            };
            if next.origin() != url.origin() {
                let kept =
                    [ACCEPT, USER_AGENT].into_iter().filter_map(|name| Some((name.clone(), headers.remove(name)?)));
                headers = kept.collect();
            }
            url = next;
        }
        Err(EgressError::Redirects(HOPS))
    }
}

// Where a response sends to, when that is to be followed.
fn redirected(method: &Method, url: &Url, response: &Response) -> Option<Url> {
    let follows = matches!(*method, Method::GET | Method::HEAD) && response.status().is_redirection();
    let place = response.headers().get(LOCATION).filter(|_| follows)?.to_str().ok()?;
    url.join(place).ok()
}

/// The body of an answer, if it is no longer than `most` bytes; the rest is not read.
///
/// # Errors
/// It is longer, or breaks off.
pub async fn read(mut response: Response, most: usize) -> Result<Bytes, EgressError> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > most {
            return Err(EgressError::TooLong(most));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_text_and_bytes_are_kept_as_what_they_are() {
        for (kind, body, expected) in [
            ("application/json; charset=utf-8", &b"{\"a\":1}"[..], json!({ "a": 1 })),
            ("application/problem+json", b"[]", json!([])),
            ("application/json", b"{broken", json!("{broken")),
            ("text/html", b"<p>", json!("<p>")),
            ("image/png", b"\xff\xfe", json!({ "contentType": "image/png", "base64": "//4=" })),
            ("text/plain", b"", Value::Null),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);
            let url = "https://x.example".parse().unwrap();
            let reply = Reply { url, status: StatusCode::OK, headers, body: body.to_vec().into() };
            assert_eq!(reply.data(), expected);
        }
    }
}
