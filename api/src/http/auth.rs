//! Which credential of a request counts, on every service alike: bearer, then API key, then cookie (platform.md §4.5).

use std::sync::Arc;

use async_trait::async_trait;
use axum::http::{HeaderMap, header, request::Parts};

use super::{
    error::ApiError,
    principal::{AuthType, Principal},
};

/// Seconds after which asking again is worth it when the directory is down.
const RETRY_AFTER: u32 = 2;
const COOKIES: [&str; 2] = ["token", "symbia_session"];

/// Why a credential did not give a principal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Unknown, malformed, wrongly signed, or not for us.
    #[error("the credential is not valid")]
    Invalid,
    /// Past its end.
    #[error("the credential has expired")]
    Expired,
    /// Its session was ended.
    #[error("the session was ended")]
    Revoked,
    /// The keys or the directory cannot be asked: nobody is let in, as anyone or anonymously.
    #[error("the directory is unavailable")]
    Unavailable,
}

/// Turns credentials into principals. One implementation per deployment; services add nothing.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The principal of a token, from `Authorization: Bearer` or a session cookie.
    async fn bearer(&self, token: &str) -> Result<Principal, AuthError>;

    /// The owner of an API key.
    async fn api_key(&self, key: &str) -> Result<Principal, AuthError>;
}

/// The outcome for one request, kept with it so that a request is authenticated once.
type Outcome = Result<Option<Arc<Principal>>, ApiError>;

#[derive(Clone)]
struct Resolved(Outcome);

/// Who asks: `None` is anonymous. The authenticator comes from the request's extensions.
///
/// # Errors
/// 401 for a bearer token or API key that is present and not valid; 503 when the directory cannot be asked.
pub(super) async fn resolve(parts: &mut Parts) -> Outcome {
    if let Some(Resolved(outcome)) = parts.extensions.get() {
        return outcome.clone();
    }
    let outcome = match parts.extensions.get::<Arc<dyn Authenticator>>().cloned() {
        Some(authenticator) => authenticate(authenticator.as_ref(), &parts.headers).await.map(|p| p.map(Arc::new)),
        None => Err(ApiError::internal("the service was built without an authenticator")),
    };
    parts.extensions.insert(Resolved(outcome.clone()));
    outcome
}

async fn authenticate(authenticator: &dyn Authenticator, headers: &HeaderMap) -> Result<Option<Principal>, ApiError> {
    if let Some(token) = bearer(headers) {
        return authenticator.bearer(token).await.map(Some).map_err(|e| refused(&e, ApiError::token_invalid()));
    }
    if let Some(key) = headers.get("x-api-key") {
        let key = key.to_str().unwrap_or_default().trim();
        return authenticator.api_key(key).await.map(Some).map_err(|e| refused(&e, ApiError::api_key_invalid()));
    }
    for name in COOKIES {
        let Some(token) = cookie(headers, name) else { continue };
        match authenticator.bearer(token).await {
            Ok(principal) if principal.auth_type == AuthType::Jwt => {
                return Ok(Some(Principal { auth_type: AuthType::Session, ..principal }));
            }
            Ok(principal) => return Ok(Some(principal)),
            Err(AuthError::Unavailable) => return Err(refused(&AuthError::Unavailable, ApiError::token_invalid())),
            // A browser keeps sending a cookie that is no longer good: treat it as absent.
            Err(AuthError::Invalid | AuthError::Expired | AuthError::Revoked) => {}
        }
    }
    Ok(None)
}

fn refused(error: &AuthError, invalid: ApiError) -> ApiError {
    match error {
        AuthError::Invalid => invalid,
        AuthError::Expired => ApiError::token_expired(),
        AuthError::Revoked => ApiError::session_revoked(),
        AuthError::Unavailable => ApiError::unavailable("The directory", RETRY_AFTER),
    }
}

/// The token of a bearer header; an empty or unreadable one is present (and will not be valid). Other schemes are not ours.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let scheme = value.get(..6)?;
    let rest = value.get(6..)?;
    (scheme.eq_ignore_ascii_case(b"bearer") && (rest.is_empty() || rest[0] == b' '))
        .then(|| std::str::from_utf8(rest).unwrap_or_default().trim())
}

/// The value of a cookie; empty counts as absent.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, value)| *key == name && !value.is_empty())
        .map(|(_, value)| value.trim_matches('"'))
}
