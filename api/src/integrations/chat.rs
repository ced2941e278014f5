//! `POST /v1/chat/completions` and `/v1/completions` as OpenAI has them: stock clients need another base URL and nothing else.

mod message;
mod request;
mod response;
mod routing;
mod text;

use axum::{extract::State, middleware::map_response, response::Response};
use utoipa_axum::router::OpenApiRouter;

use self::response::{Chunks, TextChunks, completion_with_tools};
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
    tooling::{Outcome, Rounds},
};
use crate::http::{ApiError, ApiResult, Caller, Json, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(chat)).routes(routes!(text)).layer(map_response(as_openai))
}

/// Ask a model for the next message of a conversation, as OpenAI's API has it
///
/// `model` names a provider and a model (`anthropic/claude-3-5-haiku-20241022`, `symbia-labs/pico-chat`), a model alone, or
/// `auto`. `models` are asked in turn when it is at fault. With `stream`, server-sent events end with `[DONE]`.
///
/// Tools of `type` `mcp` name a server of the organization's registry. What the model calls of them is called here, and the model is
/// asked again with the results, until it answers or calls a function of the caller's own; what it calls of servers in that same turn
/// is not called. An answer that would need more rounds than `max_tool_rounds` ends with `finish_reason` `length` and
/// `finish_details`. `usage` is the sum of all rounds. A repetition with the same `Idempotency-Key` goes on where the first was stopped.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI-compatible", params(Tagged), request_body = ChatRequest,
    responses((status = 200, description = "The answer, or its stream", body = Object),
        (status = 400, description = "A field is not valid"), (status = 401, description = "Not authenticated, or no key"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider, model or server"),
        (status = 429, description = "Asked too often"), (status = 502, description = "The provider failed"),
        (status = 504, description = "The provider took too long")))]
async fn chat(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(request): Json<ChatRequest>,
) -> ApiResult<Response> {
    let counted = request.counts();
    let (mut question, wanted) = request.read()?;
    if !wanted.is_nothing() {
        let toolset = service.toolset(&caller, &scope, &wanted, &mut question).await?;
        let chunks = |rounds: &Rounds| Chunks::new(&rounds.request_id(), rounds.asked_at, counted);
        let body =
            |rounds: &Rounds, outcome: &Outcome| completion_with_tools(&rounds.request_id(), rounds.asked_at, outcome);
        return service.reply_with_tools((&caller, &scope), question, toolset, chunks, body).await;
    }
    let chunks = |asked: &Asked| Chunks::new(&asked.request_id, asked.asked_at, counted);
    let body = |asked: &Asked, answer: &Answer| completion(&asked.request_id, asked.asked_at, answer);
    service.reply(&caller, &scope, question, chunks, body).await
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
