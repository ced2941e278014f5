//! The credential of a socket (messaging.md §7.2): the handshake's `auth`, then headers, then cookies.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::Deserialize;
use serde_json::Value;

use super::slim::some_of;
use crate::{
    feed::access::authenticate,
    http::{ApiError, Authenticator, Caller},
};

/// What a client presented, kept so that it can be looked at again.
pub(super) struct Credential(HeaderMap);

#[derive(Deserialize)]
struct Claims {
    exp: Option<i64>,
}

impl Credential {
    /// A `token` or `apiKey` of the handshake counts before the headers of the same meaning; null and empty are absent.
    pub fn of(headers: &HeaderMap, auth: &Value) -> Self {
        let named = |name: &str| auth.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        // What no header can carry is no credential of ours: it is present, and not valid.
        let value = |text: String| HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Bearer"));
        let (token, key) = (named("token"), named("apiKey"));
        let names = [header::AUTHORIZATION, HeaderName::from_static("x-api-key"), header::COOKIE];
        let others = usize::from(token.is_some()) + usize::from(key.is_some());
        let mut kept = some_of(headers, &names, others, |value| Some(value.clone()));
        if let Some(token) = token {
            let token = token.strip_prefix("Bearer ").unwrap_or(token);
            kept.insert(header::AUTHORIZATION, value(format!("Bearer {token}")));
        }
        if let Some(key) = key {
            kept.insert("x-api-key", value(key.to_owned()));
        }
        for value in kept.values_mut() {
            value.set_sensitive(true);
        }
        Credential(kept)
    }

    /// That of somebody who has none.
    pub fn none() -> Self {
        Credential(HeaderMap::new())
    }

    /// The token, where it is one.
    pub fn token(&self) -> Option<&str> {
        self.0.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose it is, now.
    ///
    /// # Errors
    /// 401 when it is nobody's, or not any more; 503 when nobody can tell.
    pub async fn caller(&self, authenticator: &Arc<dyn Authenticator>) -> Result<Caller, ApiError> {
        authenticate(&self.0, authenticator).await
    }

    /// When the token ends, in seconds since 1970. It was verified when the client was let in; only its end is read here.
    pub fn ends_at(&self) -> Option<i64> {
        let token = self.0.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        let claims = BASE64URL.decode(token.split('.').nth(1)?).ok()?;
        serde_json::from_slice::<Claims>(&claims).ok()?.exp
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue};
    use serde_json::json;

    use super::Credential;

    #[test]
    fn the_handshake_counts_before_headers_and_null_is_absent() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer of-header"));
        headers.insert("x-api-key", HeaderValue::from_static("key-of-header"));
        headers.insert("x-other", HeaderValue::from_static("not kept"));
        let of = |auth| {
            let Credential(kept) = Credential::of(&headers, &auth);
            assert_eq!(kept.len(), 2);
            ["authorization", "x-api-key"].map(|name| kept[name].to_str().unwrap_or_default().to_owned())
        };
        assert_eq!(of(json!({ "token": null, "apiKey": "" })), ["Bearer of-header", "key-of-header"]);
        assert_eq!(of(json!({ "token": "own", "apiKey": "own-key" })), ["Bearer own", "own-key"]);
        assert_eq!(of(json!({ "token": "bad\n" })), ["Bearer bad", "key-of-header"]);
        assert_eq!(of(json!("not an object")), ["Bearer of-header", "key-of-header"]);
    }
}
