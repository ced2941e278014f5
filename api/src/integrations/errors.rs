//! Errors in the shapes that clients of other APIs read.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::said::Failure;
use crate::http::ApiError;

/// A parameter that cannot be used.
pub(super) fn refused(param: &str, message: impl Into<String>) -> ApiError {
    ApiError::invalid(param, "format", message.into())
}

fn openai_kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "insufficient_quota",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

fn anthropic_kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        402 => "billing_error",
        413 => "request_too_large",
        503 => "overloaded_error",
        504 => "timeout_error",
        _ => openai_kind(status),
    }
}

/// `{"error": {"message", "type", "param", "code"}}`.
pub(super) fn openai_error(failure: &Failure) -> Value {
    let kind = openai_kind(failure.status());
    json!({ "error": { "message": failure.message, "type": kind, "param": null, "code": failure.code } })
}

/// `{"type": "error", "error": {"type", "message"}}`.
pub(super) fn anthropic_error(failure: &Failure) -> Value {
    json!({ "type": "error", "error": { "type": anthropic_kind(failure.status()), "message": failure.message } })
}

/// Gives error answers OpenAI's shape, besides our own members.
pub(super) async fn as_openai(response: Response) -> Response {
    reshaped(response, |error| error.clone().with_extra("error", shaped_as_openai(error)))
}

/// `{"message", "type", "param", "code"}`.
pub(super) fn shaped_as_openai(error: &ApiError) -> Value {
    let param = error.details().first().map(|detail| detail.path.clone());
    let (kind, code) = (openai_kind(error.status()), error.code().to_lowercase());
    json!({ "message": error.message(), "type": kind, "param": param, "code": code })
}

/// Gives error answers Anthropic's shape, besides our own members.
pub(super) async fn as_anthropic(response: Response) -> Response {
    reshaped(response, |error| {
        let shaped = json!({ "type": anthropic_kind(error.status()), "message": error.message() });
        error.clone().with_extra("error", shaped).with_extra("type", "error")
    })
}

fn reshaped(mut response: Response, shape: impl FnOnce(&ApiError) -> ApiError) -> Response {
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    let reshaped = shape(&error).into_response();
    let (head, body) = reshaped.into_parts();
    // What was set besides stays.
    let mut headers = response.headers().clone();
    headers.extend(head.headers.clone());
    let mut response = Response::from_parts(head, body);
    *response.headers_mut() = headers;
    response
}
