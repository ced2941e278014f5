//! Errors in the object form that clients of OpenAI's API read (models.md §2.4), and the statuses that go with them (§15.1).

use axum::http::StatusCode;
use serde_json::json;
use symbia_nats::inference::{AskError, Failure, FailureKind};

use crate::http::ApiError;

/// Seconds after which asking again is worth it.
const AGAIN: u32 = 2;

/// An error with a code of OpenAI's or ours.
pub(super) fn error(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
    shaped(ApiError::new(status, code.to_uppercase(), message.into()))
}

/// What is wrong with a request.
pub(super) fn invalid(path: &str, message: impl Into<String>) -> ApiError {
    shaped(ApiError::invalid(path, "value", message))
}

/// Any error, in the object form.
pub(super) fn shaped(error: ApiError) -> ApiError {
    let kind = match error.status() {
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    };
    let mut object = json!({ "message": error.message(), "type": kind, "code": error.code().to_lowercase() });
    if let Some(first) = error.details().first() {
        object["param"] = json!(first.path);
        object["details"] = json!(error.details());
    }
    error.with_extra("error", object)
}

/// What an inference process refused, or could not do.
pub(super) fn failed(Failure { kind, message }: Failure) -> ApiError {
    use FailureKind::{
        Internal, InvalidFormat, InvalidRequest, Memory, ModelCorrupt, ModelNotFound, PromptTooLong, QueueFull,
        Stopping,
    };
    let (status, code) = match kind {
        InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request_error"),
        InvalidFormat => (StatusCode::BAD_REQUEST, "invalid_schema"),
        PromptTooLong { .. } => (StatusCode::BAD_REQUEST, "context_length_exceeded"),
        ModelNotFound => (StatusCode::NOT_FOUND, "model_not_found"),
        QueueFull => (StatusCode::TOO_MANY_REQUESTS, "queue_full"),
        Memory => (StatusCode::SERVICE_UNAVAILABLE, "insufficient_memory"),
        ModelCorrupt => (StatusCode::SERVICE_UNAVAILABLE, "model_unusable"),
        Stopping => (StatusCode::SERVICE_UNAVAILABLE, "engine_unavailable"),
        Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
    };
    let failed = error(status, code, message);
    if matches!(kind, QueueFull | Memory | Stopping) { failed.with_retry_after(AGAIN) } else { failed }
}

/// Why there is no answer.
pub(super) fn unanswered(error: AskError) -> ApiError {
    match error {
        AskError::Failed(failure) => failed(failure),
        AskError::Nobody | AskError::Lost(_) => {
            self::error(StatusCode::SERVICE_UNAVAILABLE, "engine_unavailable", error.to_string())
                .with_retry_after(AGAIN)
        }
        AskError::Malformed(_) => shaped(ApiError::internal(error)),
    }
}
