//! The one error of the REST surface and its body, a superset of what the original services sent (platform.md §9.2).

use std::{borrow::Cow, fmt};

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use symbia_nats::witness::{DENIALS, FLOOD};

use super::codes::INTERNAL;

/// Result of a handler.
pub type ApiResult<T> = Result<T, ApiError>;

/// One violated rule of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Detail {
    /// Dotted path of the field (`members[0].email`) or name of the header or parameter.
    pub path: String,
    /// Name of the rule: `required`, `type`, `format`, `length`, …
    pub rule: String,
    /// What the field must be, as a sentence that follows its name.
    pub message: String,
}

/// The body of every error, for the OpenAPI document.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Error)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes the body; the body itself carries extra keys")]
pub(super) struct ErrorBody {
    /// What went wrong, for people.
    error: String,
    /// The same text as `error`.
    message: String,
    /// Stable machine code in UPPER_SNAKE.
    code: String,
    /// Equals the `X-Request-Id` header.
    request_id: String,
    /// Equals the `x-trace-id` header.
    trace_id: String,
    /// What to do about it.
    hint: Option<String>,
    /// One entry per violated rule.
    details: Option<Vec<Detail>>,
    /// Seconds to wait, with 429 and 503.
    retry_after: Option<u32>,
}

/// An error answer. Its texts are for the caller: internal text goes to the log ([`ApiError::internal`]).
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    code: Cow<'static, str>,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    details: Vec<Detail>,
    retry_after: Option<u32>,
    extra: Option<Box<Map<String, Value>>>,
    /// An aggregate refused it: what is for the audit trail was noted there.
    decided: bool,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// An error with the given status, UPPER_SNAKE code and text for the caller.
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            hint: None,
            details: Vec::new(),
            retry_after: None,
            extra: None,
            decided: false,
        }
    }

    /// The same error with another status (duplicates are 400 on some routes and 409 on others).
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds what the caller can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds one violated rule.
    #[must_use]
    pub fn with_detail(mut self, path: impl Into<String>, rule: &str, message: impl Into<String>) -> Self {
        self.details.push(Detail { path: path.into(), rule: rule.to_owned(), message: message.into() });
        self
    }

    /// Asks the caller to wait this many seconds (`retryAfter` and the `Retry-After` header).
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Adds a top-level key of the original's body (`suggestions`, `requiredPermission`, …). It replaces a standard key of
    /// the same name, which is how the models routes keep their object form of `error`.
    #[must_use]
    pub fn with_extra(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.get_or_insert_default().insert(key.into(), value.into());
        self
    }

    /// The refusal of a command.
    #[must_use]
    pub(crate) fn decided(mut self) -> Self {
        self.decided = true;
        self
    }

    /// Whether a right was missing or too much was asked for, and nobody has noted it yet.
    pub(super) fn is_denial(&self) -> bool {
        let missing = self.status == StatusCode::FORBIDDEN && !self.decided && DENIALS.contains(&self.code());
        missing || self.is_flood()
    }

    /// Whether too much was asked for.
    pub(super) fn is_flood(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS && self.code() == FLOOD
    }

    /// HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Machine code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Text for the caller.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// A top-level key of the body that was added.
    pub(crate) fn extra(&self, key: &str) -> Option<&Value> {
        self.extra.as_ref()?.get(key)
    }

    /// The violated rules.
    #[must_use]
    pub fn details(&self) -> &[Detail] {
        &self.details
    }

    /// The whole body; `ids` are the request id and the trace id.
    pub(super) fn body(&self, ids: Option<(&str, &str)>) -> Value {
        let mut body = Map::new();
        body.insert("error".into(), json!(self.message));
        body.insert("message".into(), json!(self.message));
        body.insert("code".into(), json!(self.code));
        if let Some(hint) = &self.hint {
            body.insert("hint".into(), json!(hint));
        }
        if !self.details.is_empty() {
            body.insert("details".into(), json!(self.details));
        }
        if let Some(seconds) = self.retry_after {
            body.insert("retryAfter".into(), json!(seconds));
        }
        if let Some(extra) = &self.extra {
            body.extend(extra.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        if let Some((request_id, trace_id)) = ids {
            body.insert("requestId".into(), json!(request_id));
            body.insert("traceId".into(), json!(trace_id));
        }
        Value::Object(body)
    }
}

impl IntoResponse for ApiError {
    /// The body without ids; `complete` fills them in at the edge of the service.
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body(None))).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Marks a response that another server gave: its body stays, whatever its status.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsItIs;

/// Gives an error response its final body: ids are filled in, and an error that is not JSON (the router's own 404 and 405,
/// a rejection or time-out of a library) becomes the superset body. Anything else passes unchanged.
pub(super) fn complete(mut response: Response, request_id: &str, trace_id: &str, route: &str) -> Response {
    if response.extensions().get::<AsItIs>().is_some() {
        return response;
    }
    let status = response.status();
    let error = match response.extensions_mut().remove::<ApiError>() {
        Some(error) => error,
        None if !(status.is_client_error() || status.is_server_error()) || is_told(response.headers()) => {
            return response;
        }
        None => of_status(status, route),
    };
    let completed = axum::Json(error.body(Some((request_id, trace_id)))).into_response();
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_ENCODING);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(parts, completed.into_body())
}

// Whether a body says already what is wrong, to a program or, as a page, to a person.
fn is_told(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    ["application/json", "text/html"].iter().any(|own| essence.eq_ignore_ascii_case(own)) || essence.ends_with("+json")
}

fn of_status(status: StatusCode, route: &str) -> ApiError {
    match status {
        StatusCode::NOT_FOUND => ApiError::new(status, "NOT_FOUND", format!("Nothing is served at {route}"))
            .with_hint("GET /docs/llms.txt lists the routes of this service."),
        StatusCode::METHOD_NOT_ALLOWED => ApiError::new(
            status,
            "METHOD_NOT_ALLOWED",
            format!("{route} is not supported: the path takes other methods"),
        ),
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_large(),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            ApiError::new(StatusCode::BAD_REQUEST, "VALIDATION_FAILED", "The request is not valid")
        }
        StatusCode::UNAUTHORIZED => ApiError::auth_required(),
        StatusCode::TOO_MANY_REQUESTS => ApiError::new(status, FLOOD, "Too many requests"),
        StatusCode::SERVICE_UNAVAILABLE => ApiError::new(status, "SERVICE_UNAVAILABLE", "The service is unavailable"),
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => {
            ApiError::new(status, "TIMEOUT", "The request took too long")
        }
        _ if status.is_server_error() => ApiError::new(status, "INTERNAL", INTERNAL),
        _ => {
            let reason = status.canonical_reason().unwrap_or("Request failed");
            ApiError::new(status, reason.to_uppercase().replace([' ', '-'], "_").replace('\'', ""), reason)
        }
    }
}
