//! Which credential of a request counts, on every service alike: bearer, then API key, then cookie (platform.md §4.5).

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use axum::{
    extract::OriginalUri,
    http::{HeaderMap, header, request::Parts},
};

use symbia_events::Service;
use symbia_nats::witness::Seen;

use super::{
    error::ApiError,
    principal::{AuthType, Principal, domain},
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

    /// The same where a path may take tokens that are for its own address alone (RFC 8707). As everywhere, unless a service
    /// says otherwise.
    async fn bearer_at(&self, token: &str, _path: &str) -> Result<Principal, AuthError> {
        self.bearer(token).await
    }

    /// The owner of an API key.
    async fn api_key(&self, key: &str) -> Result<Principal, AuthError>;

    /// Takes note of an access that is for the audit trail: one that was refused, or an operator's elsewhere. Does not wait.
    fn witness(&self, _seen: Seen) {}
}

/// Whom a request was found to come from, for who looks at its answer.
#[derive(Clone, Default)]
pub(super) struct Found(Arc<OnceLock<Arc<Principal>>>);

impl Found {
    pub(super) fn principal(&self) -> Option<&Principal> {
        self.0.get().map(AsRef::as_ref)
    }
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
        Some(authenticator) => {
            // A router within another one is shown a part of the path.
            let whole = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |OriginalUri(uri)| uri);
            authenticate(authenticator.as_ref(), &parts.headers, whole.path()).await.map(|p| p.map(Arc::new))
        }
        None => Err(ApiError::internal("the service was built without an authenticator")),
    };
    if let (Ok(Some(principal)), Some(Found(found))) = (&outcome, parts.extensions.get()) {
        let _ = found.set(Arc::clone(principal));
    }
    let outcome = outcome.and_then(|principal| within_reach(parts, principal));
    parts.extensions.insert(Resolved(outcome.clone()));
    outcome
}

// A credential with scopes opens the services that they name. Identity looks at each of its routes instead.
fn within_reach(parts: &Parts, principal: Option<Arc<Principal>>) -> Outcome {
    match (parts.extensions.get::<Service>(), &principal) {
        (Some(service), Some(p)) if *service != Service::Identity && !p.reaches(*service) => {
            Err(ApiError::missing_capability(&format!("cap:{}.read", domain(*service)))
                .with_hint("The credential has scopes, and none of them reaches this service."))
        }
        _ => Ok(principal),
    }
}

async fn authenticate(
    authenticator: &dyn Authenticator,
    headers: &HeaderMap,
    path: &str,
) -> Result<Option<Principal>, ApiError> {
    if let Some(token) = bearer(headers) {
        return authenticator
            .bearer_at(token, path)
            .await
            .map(Some)
            .map_err(|e| refused(&e, ApiError::token_invalid()));
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
pub(crate) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, value)| *key == name && !value.is_empty())
        .map(|(_, value)| value.trim_matches('"'))
}
