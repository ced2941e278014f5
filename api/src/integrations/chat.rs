//! `POST /v1/chat/completions` and `/v1/completions` as OpenAI has them: stock clients need another base URL and nothing else.

mod request;
mod response;
mod text;

use axum::{extract::State, middleware::map_response, response::IntoResponse, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use self::request::{ChatRequest, OneOrMany, checked_tool};
use self::{
    response::{Chunks, TextChunks, completion, text_completion},
    text::CompletionRequest,
};
use super::{Integrations, ask::Asked, errors::as_openai, said::Answer, stream};
use crate::http::{ApiError, ApiResult, Caller, Json, RequestScope};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(chat)).routes(routes!(text)).layer(map_response(as_openai))
}

/// Ask a model for the next message of a conversation, as OpenAI's API has it
///
/// `model` names a provider and a model (`anthropic/claude-3-5-haiku-20241022`, `symbia-labs/pico-chat`), a model alone, or
/// `auto`. `models` are asked in turn when it is at fault. With `stream`, server-sent events end with `[DONE]`.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI-compatible", request_body = ChatRequest,
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
    let question = request.question()?;
    let streams = question.stream;
    let mut asked = service.ask(&caller, &scope, question).await?;
    if streams {
        let chunks = Chunks::new(&asked, counted);
        return stream::answer(asked, chunks).await;
    }
    let answer = whole(&mut asked).await?;
    let body = completion(&asked, &answer);
    Ok(with_headers(&asked, &answer, axum::Json(body).into_response()))
}

/// Have a model go on with a text, as OpenAI's older API has it
#[utoipa::path(post, path = "/v1/completions", tag = "OpenAI-compatible", request_body = CompletionRequest,
    responses((status = 200, description = "The text, or its stream", body = Object),
        (status = 400, description = "A field is not valid")))]
async fn text(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(request): Json<CompletionRequest>,
) -> ApiResult<Response> {
    let counted = request.counts();
    let question = request.question()?;
    let streams = question.stream;
    let mut asked = service.ask(&caller, &scope, question).await?;
    if streams {
        let chunks = TextChunks::new(&asked, counted);
        return stream::answer(asked, chunks).await;
    }
    let answer = whole(&mut asked).await?;
    let body = text_completion(&asked, &answer);
    Ok(with_headers(&asked, &answer, axum::Json(body).into_response()))
}

/// The answer, or the error that there is none.
pub(super) async fn whole(asked: &mut Asked) -> ApiResult<Answer> {
    asked.end().await.map_err(|failure| failure.error(&asked.request_id))
}

/// What it took, beside the body.
pub(super) fn with_headers(asked: &Asked, answer: &Answer, mut response: Response) -> Response {
    let cost = answer.cost.map(|cost| cost.total_micros.to_string());
    let headers = [
        ("x-symbia-request-id", Some(asked.request_id.clone())),
        ("x-symbia-provider", Some(answer.provider.clone())),
        ("x-symbia-model", Some(answer.model.clone())),
        ("x-symbia-attempts", Some(answer.attempts.to_string())),
        ("x-symbia-latency-ms", Some(answer.timing.total_ms.to_string())),
        ("x-symbia-cost-micros", cost),
    ];
    for (name, value) in headers {
        // A model may have a name that is no header.
        if let Some(value) = value.and_then(|value| value.parse().ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// A field that clients send and that cannot be honoured.
fn unsupported(param: &str, why: &str) -> ApiError {
    ApiError::invalid(param, "unsupported", why.to_owned())
}
