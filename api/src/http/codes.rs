//! The base error codes (platform.md §9.2), one constructor each.

use std::{borrow::Cow, fmt};

use axum::http::StatusCode;

use super::error::{ApiError, Detail};

/// Text of every 5xx that has no better one.
pub(super) const INTERNAL: &str = "The server could not complete the request";

impl ApiError {
    /// 400 VALIDATION_FAILED; the message names the first violated rule.
    #[must_use]
    pub fn validation(details: Vec<Detail>) -> Self {
        let message = match details.first() {
            Some(first) if !first.path.is_empty() => format!("{} {}", first.path, first.message),
            Some(first) => format!("The body {}", first.message),
            None => "The request is not valid".to_owned(),
        };
        let error = Self::new(StatusCode::BAD_REQUEST, "VALIDATION_FAILED", message);
        details.into_iter().fold(error, |error, d| error.with_detail(d.path, &d.rule, d.message))
    }

    /// 400 VALIDATION_FAILED for one field.
    pub fn invalid(path: impl Into<String>, rule: &str, message: impl Into<String>) -> Self {
        Self::validation(vec![Detail { path: path.into(), rule: rule.to_owned(), message: message.into() }])
    }

    /// 400 MALFORMED_JSON.
    #[must_use]
    pub fn malformed_json(line: usize, column: usize) -> Self {
        let message = format!("The body is not valid JSON (line {line}, column {column})");
        Self::new(StatusCode::BAD_REQUEST, "MALFORMED_JSON", message)
    }

    /// 413 BODY_TOO_LARGE.
    #[must_use]
    pub fn body_too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", "The body is larger than this route accepts")
    }

    /// 401 AUTH_REQUIRED.
    #[must_use]
    pub fn auth_required() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "AUTH_REQUIRED", "Authentication required")
            .with_hint("Send Authorization: Bearer <token>, X-API-Key, or the session cookie.")
    }

    /// 401 TOKEN_INVALID.
    #[must_use]
    pub fn token_invalid() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "TOKEN_INVALID", "The token is not valid")
    }

    /// 401 TOKEN_EXPIRED.
    #[must_use]
    pub fn token_expired() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "TOKEN_EXPIRED", "The token has expired").with_hint("Log in again.")
    }

    /// 401 SESSION_REVOKED.
    #[must_use]
    pub fn session_revoked() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "SESSION_REVOKED", "The session was ended").with_hint("Log in again.")
    }

    /// 401 API_KEY_INVALID.
    #[must_use]
    pub fn api_key_invalid() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "API_KEY_INVALID", "The API key is not valid")
    }

    /// 403 USER_PRINCIPAL_REQUIRED.
    #[must_use]
    pub fn user_principal_required() -> Self {
        Self::new(StatusCode::FORBIDDEN, "USER_PRINCIPAL_REQUIRED", "Only a user can do this")
    }

    /// 403 AGENT_PRINCIPAL_REQUIRED.
    #[must_use]
    pub fn agent_principal_required() -> Self {
        Self::new(StatusCode::FORBIDDEN, "AGENT_PRINCIPAL_REQUIRED", "Only an agent can do this")
    }

    /// 403 SUPERADMIN_REQUIRED.
    #[must_use]
    pub fn superadmin_required() -> Self {
        Self::new(StatusCode::FORBIDDEN, "SUPERADMIN_REQUIRED", "Only a super admin can do this")
    }

    /// 403 INSUFFICIENT_ROLE.
    #[must_use]
    pub fn insufficient_role(needed: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "INSUFFICIENT_ROLE", format!("The role '{needed}' is required"))
    }

    /// 403 MISSING_CAPABILITY.
    #[must_use]
    pub fn missing_capability(needed: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "MISSING_CAPABILITY", format!("The capability '{needed}' is required"))
            .with_extra("requiredPermission", needed)
    }

    /// 400 ORG_REQUIRED.
    #[must_use]
    pub fn org_required() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "ORG_REQUIRED", "The request does not say for which organization it is")
            .with_hint("Send the organization's id in X-Org-Id.")
    }

    /// 403 ORG_ACCESS_DENIED, also for an organization that does not exist.
    #[must_use]
    pub fn org_access_denied() -> Self {
        Self::new(StatusCode::FORBIDDEN, "ORG_ACCESS_DENIED", "No access to this organization")
    }

    /// The same to an operator, who may enter any organization and has not said why.
    #[must_use]
    pub fn access_reason_required() -> Self {
        Self::org_access_denied().with_hint("An operator says why in X-Access-Reason; it is recorded.")
    }

    /// 404 NOT_FOUND; `what` starts the sentence: "User".
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("{what} not found"))
    }

    /// 409 CONFLICT.
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "CONFLICT", message)
    }

    /// 400 EMAIL_TAKEN.
    #[must_use]
    pub fn email_taken() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "EMAIL_TAKEN", "This e-mail address is already registered")
    }

    /// 409 SLUG_TAKEN.
    #[must_use]
    pub fn slug_taken() -> Self {
        Self::new(StatusCode::CONFLICT, "SLUG_TAKEN", "This slug is already taken")
    }

    /// 409 HANDLE_TAKEN.
    #[must_use]
    pub fn handle_taken() -> Self {
        Self::new(StatusCode::CONFLICT, "HANDLE_TAKEN", "This handle is already taken")
    }

    /// 409 LAST_ADMIN.
    #[must_use]
    pub fn last_admin() -> Self {
        Self::new(StatusCode::CONFLICT, "LAST_ADMIN", "The last admin can be neither removed nor demoted")
            .with_hint("Make someone else an admin first.")
    }

    /// 429 QUOTA_EXCEEDED.
    pub fn quota_exceeded(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "QUOTA_EXCEEDED", message)
    }

    /// 429 RATE_LIMIT_EXCEEDED with the seconds to wait.
    #[must_use]
    pub fn rate_limited(seconds: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMIT_EXCEEDED", format!("Too many requests: wait {seconds} s"))
            .with_retry_after(seconds)
    }

    /// 503 SERVICE_UNAVAILABLE; `what` starts the sentence: "The event bus".
    #[must_use]
    pub fn unavailable(what: &str, retry_after: u32) -> Self {
        let message = format!("{what} is unavailable");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message).with_retry_after(retry_after)
    }

    /// 504 TIMEOUT.
    #[must_use]
    pub fn timeout() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "TIMEOUT", "The request took too long")
    }

    /// 500 INTERNAL: the cause goes to the log, where the request's span carries its ids, and never to the caller.
    pub fn internal(cause: impl fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", INTERNAL)
            .with_hint("Quote the request id when you report this.")
    }
}
