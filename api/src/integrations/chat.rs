//! `POST /v1/chat/completions` and `/v1/completions` as OpenAI has them: stock clients need another base URL and nothing else.

mod message;
mod request;
mod response;
mod routing;
mod text;

use axum::{extract::State, middleware::map_response, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::response::{Chunks, TextChunks};
pub(super) use self::{
    message::plain,
    request::{ChatRequest, OneOrMany, checked_logprobs, checked_tool, target},
    routing::{Caching, Hedging, Routing},
};
pub(super) use self::{
    response::{completion, text_completion},
    text::CompletionRequest,
};
use super::{
    Integrations,
    ask::{Asked, Tagged},
    errors::as_openai,
    said::Answer,
};
use crate::http::{ApiError, ApiResult, Caller, Json, RequestScope};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(chat)).routes(routes!(text)).layer(map_response(as_openai))
}

/// Ask a model for the next message of a conversation, as OpenAI's API has it
///
/// `model` names a provider and a model (`anthropic/claude-3-5-haiku-20241022`, `symbia-labs/pico-chat`), a model alone, or
/// `auto`. `models` are asked in turn when it is at fault. With `stream`, server-sent events end with `[DONE]`.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI-compatible", params(Tagged), request_body = ChatRequest,
    responses((status = 200, description = "The answer, or its stream", body = Object),
        (status = 400, description = "A field is not valid"), (status = 401, description = "Not authenticated, or no key"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider or model"),
        (status = 429, description = "Asked too often"), (status = 502, description = "The provider failed"),
        (status = 504, description = "The provider took too long")))]
async fn chat(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(request): Json<ChatRequest>,
) -> ApiResult<Response> {
    let counted = request.counts();
    let chunks = |asked: &Asked| Chunks::new(asked, counted);
    let body = |asked: &Asked, answer: &Answer| completion(&asked.request_id, asked.asked_at, answer);
    service.reply(&caller, &scope, request.question()?, chunks, body).await
}

/// Have a model go on with a text, as OpenAI's older API has it
#[utoipa::path(post, path = "/v1/completions", tag = "OpenAI-compatible", params(Tagged), request_body = CompletionRequest,
    responses((status = 200, description = "The text, or its stream", body = Object),
        (status = 400, description = "A field is not valid")))]
async fn text(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(request): Json<CompletionRequest>,
) -> ApiResult<Response> {
    let counted = request.counts();
    let chunks = |asked: &Asked| TextChunks::new(asked, counted);
    let body = |asked: &Asked, answer: &Answer| text_completion(&asked.request_id, asked.asked_at, answer);
    service.reply(&caller, &scope, request.question()?, chunks, body).await
}

/// A field that clients send and that cannot be honoured.
fn unsupported(param: &str, why: &str) -> ApiError {
    ApiError::invalid(param, "unsupported", why.to_owned())
}
