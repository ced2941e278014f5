//! Telegram's Bot API: one call at a time, and what its refusals mean.

use std::time::Duration;

use reqwest::{
    Method, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde_json::Value;
use symbia_egress::{Blocked, Egress, EgressError, Errand, Reply, Rules};

use super::{super::provider::ApiKey, line::Refused};

/// Where Telegram is.
pub const TELEGRAM_API: &str = "https://api.telegram.org";
/// Most bytes of an answer: a hundred updates.
const MOST: usize = 4 * 1024 * 1024;

/// Telegram, or a server that speaks its Bot API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telegram {
    base: String,
    egress: Egress,
}

impl Telegram {
    /// A server; tokens go to no other.
    ///
    /// # Errors
    /// The base is no http(s) URL, or this machine can make no HTTP client.
    pub fn new(base: &str) -> Result<Self, String> {
        let base = base.trim_end_matches('/').to_owned();
        let url = Url::parse(&base).map_err(|e| format!("'{base}': {e}"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(format!("'{base}' is no http(s) URL"));
        }
        let egress = Egress::new(Rules::only(&url)).map_err(|e| e.to_string())?;
        Ok(Telegram { base, egress })
    }

    /// Calls a method with a bot's token.
    pub(super) async fn call(
        &self,
        token: &ApiKey,
        method: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Value, Refused> {
        let token = token.reveal();
        // A token is a part of the path, and of nothing else.
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b":_-".contains(&b)) {
            return Err(Refused::fatal("bad_token"));
        }
        let url = Url::parse(&format!("{}/bot{token}/{method}", self.base));
        let url = url.map_err(|_| Refused::fatal("bad_token"))?;
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let body = Some(body.to_string().into());
        let errand = Errand { method: Method::POST, url, headers, body, patience, most: MOST };
        read(&self.egress.fetch(errand).await?)
    }
}

impl From<EgressError> for Refused {
    fn from(error: EgressError) -> Self {
        match error {
            // A name service that fails today may know the name tomorrow.
            EgressError::Blocked(Blocked::Unknown) => Refused::passing(error.code(), None),
            EgressError::Blocked(_) => Refused::fatal(error.code()),
            error => Refused::passing(error.code(), None),
        }
    }
}

fn read(reply: &Reply) -> Result<Value, Refused> {
    let mut said: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if reply.status.is_success() && said["ok"] == true {
        return Ok(said["result"].take());
    }
    let after = said["parameters"]["retry_after"].as_u64().map(Duration::from_secs);
    let description = said["description"].as_str().unwrap_or_default();
    Err(match reply.status.as_u16() {
        // Unknown tokens are no paths.
        401 | 404 => Refused::fatal("unauthorized"),
        403 => Refused::lasting("forbidden"),
        409 => Refused::passing("conflict", after),
        429 => Refused::passing("rate_limited", after),
        400 if description.contains("can't parse entities") => Refused::lasting("unparsed"),
        400..=499 => Refused::lasting("refused"),
        _ => Refused::passing("unavailable", after),
    })
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_refusal_means_is_told_and_what_it_says_is_not() {
        let reply = |status: u16, said: Value| {
            let (url, status) = ("https://x.example".parse().unwrap(), StatusCode::from_u16(status).unwrap());
            read(&Reply { url, status, headers: HeaderMap::new(), body: said.to_string().into() })
        };
        assert_eq!(reply(200, json!({ "ok": true, "result": 7 })), Ok(json!(7)));
        let slow = json!({ "ok": false, "description": "Too Many", "parameters": { "retry_after": 3 } });
        let expected = Refused::passing("rate_limited", Some(Duration::from_secs(3)));
        assert_eq!(reply(429, slow), Err(expected));
        assert_eq!(reply(401, json!({ "ok": false })), Err(Refused::fatal("unauthorized")));
        let entities = json!({ "ok": false, "description": "Bad Request: can't parse entities: x" });
        assert_eq!(reply(400, entities), Err(Refused::lasting("unparsed")));
        assert_eq!(reply(200, json!("<html>")), Err(Refused::passing("unavailable", None)));
    }
}
