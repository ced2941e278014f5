//! Reading requests: JSON and flat forms, query strings and path parameters, with errors that name the field.

use axum::{
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, RawPathParams, Request,
        path::ErrorKind,
        rejection::{BytesRejection, PathRejection},
    },
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};

use super::error::{ApiError, Detail};

/// A body, either way. Accepts `application/json` (and `+json`) and flat `application/x-www-form-urlencoded`; an empty
/// body reads as `{}`, as the original's parser did.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let kind = BodyKind::of(request.headers());
        let bytes = Bytes::from_request(request, state).await.map_err(unread)?;
        match kind {
            _ if bytes.is_empty() => from_json(b"{}"),
            Some(BodyKind::Json) => from_json(&bytes),
            Some(BodyKind::Form) => from_form(&bytes),
            None => Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UNSUPPORTED_MEDIA_TYPE",
                "The body must be application/json or application/x-www-form-urlencoded",
            )
            .with_hint("Set the Content-Type header.")),
        }
        .map(Json)
    }
}

/// A query string, read as a flat form.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        from_form(parts.uri.query().unwrap_or_default().as_bytes()).map(Query)
    }
}

/// The parameters of the path.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let failure = match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => return Ok(Path(value)),
            Err(PathRejection::FailedToDeserializePathParams(failure)) => failure,
            Err(_) => return Err(ApiError::internal("the route has no path parameters")),
        };
        // The error of a lone parameter does not name it.
        let names = RawPathParams::from_request_parts(parts, state).await.map_err(ApiError::internal)?;
        let name = |index: usize| names.iter().nth(index).map_or("path", |(name, _)| name).to_owned();
        let wrong_type = |path, expected: &str| Err(ApiError::invalid(path, "type", format!("must be a {expected}")));
        match failure.into_kind() {
            ErrorKind::ParseErrorAtKey { key, expected_type, .. } => wrong_type(key, expected_type),
            ErrorKind::ParseErrorAtIndex { index, expected_type, .. } => wrong_type(name(index), expected_type),
            ErrorKind::ParseError { expected_type, .. } => wrong_type(name(0), expected_type),
            ErrorKind::DeserializeError { key, message, .. } => Err(wrong_shape(&key, &message)),
            ErrorKind::Message(message) => Err(wrong_shape(&name(0), &message)),
            ErrorKind::InvalidUtf8InPathParam { key } => Err(ApiError::invalid(key, "format", "must be UTF-8")),
            mismatch => Err(ApiError::internal(mismatch)),
        }
    }
}

enum BodyKind {
    Json,
    Form,
}

impl BodyKind {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
        match value.split(';').next()?.trim() {
            "application/json" => Some(Self::Json),
            "application/x-www-form-urlencoded" => Some(Self::Form),
            other if other.ends_with("+json") => Some(Self::Json),
            _ => None,
        }
    }
}

fn unread(rejection: BytesRejection) -> ApiError {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_large(),
        _ => ApiError::new(StatusCode::BAD_REQUEST, "VALIDATION_FAILED", "The body broke off before its end"),
    }
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        let cause = e.into_inner();
        if cause.is_data() { wrong_shape(&path, &cause.to_string()) } else { malformed(&cause) }
    })?;
    json.end().map_err(|e| malformed(&e))?;
    Ok(value)
}

fn malformed(cause: &serde_json::Error) -> ApiError {
    ApiError::malformed_json(cause.line(), cause.column())
}

fn from_form<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let form = serde_urlencoded::Deserializer::new(form_urlencoded::parse(bytes));
    serde_path_to_error::deserialize(form).map_err(|e| wrong_shape(&e.path().to_string(), &e.inner().to_string()))
}

fn wrong_shape(path: &str, cause: &str) -> ApiError {
    let path = if path == "." { "" } else { path };
    for (prefix, rule, message) in
        [("missing field `", "required", "is required"), ("unknown field `", "unknown", "is not a known field")]
    {
        let Some(field) = cause.strip_prefix(prefix).and_then(|rest| rest.split('`').next()) else { continue };
        // An unknown field is already the last part of the path.
        let full = match path {
            "" => field.to_owned(),
            _ if rule == "unknown" => path.to_owned(),
            _ => format!("{path}.{field}"),
        };
        return ApiError::invalid(full, rule, message);
    }
    let (rule, message) = sentence(cause);
    ApiError::invalid(path, rule, message)
}

/// Turns serde's text into a rule and a sentence without the offending value (it may be a password) and without the names
/// of our types.
fn sentence(cause: &str) -> (&'static str, String) {
    let cause = cause.rfind(" at line ").map_or(cause, |end| &cause[..end]);
    let expected = cause.rfind("expected ").map(|start| &cause[start + "expected ".len()..]);
    match expected {
        Some(expected) if cause.starts_with("unknown variant") => ("enum", format!("must be {expected}")),
        Some(expected) if ["struct ", "internally tagged", "map"].iter().any(|p| expected.starts_with(p)) => {
            ("type", "must be an object".to_owned())
        }
        Some(expected) if cause.starts_with("invalid length") => ("length", format!("must be {expected}")),
        Some(expected) => ("type", format!("must be {expected}")),
        None => ("format", "is not valid".to_owned()),
    }
}

/// Collects violated rules, so that the caller sees all of them at once.
#[derive(Debug, Default)]
pub struct Validation(Vec<Detail>);

impl Validation {
    /// No violation yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a violation unless `holds`.
    pub fn check(&mut self, holds: bool, path: &str, rule: &str, message: &str) -> &mut Self {
        if !holds {
            self.0.push(Detail { path: path.to_owned(), rule: rule.to_owned(), message: message.to_owned() });
        }
        self
    }

    /// The text must not be blank.
    pub fn required(&mut self, path: &str, text: &str) -> &mut Self {
        self.check(!text.trim().is_empty(), path, "required", "is required")
    }

    /// The text must have `min..=max` characters.
    pub fn length(&mut self, path: &str, text: &str, min: usize, max: usize) -> &mut Self {
        let length = text.chars().count();
        self.check((min..=max).contains(&length), path, "length", &format!("must have {min} to {max} characters"))
    }

    /// 400 VALIDATION_FAILED when a rule was violated.
    ///
    /// # Errors
    /// All violated rules, in the order of checking.
    pub fn finish(&mut self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::validation(std::mem::take(&mut self.0))) }
    }
}
