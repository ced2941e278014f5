//! `POST /v1/messages` as Anthropic has it: stock clients need another base URL and nothing else.

mod request;
mod response;

use axum::{extract::State, middleware::map_response, response::Response};
use serde_json::{Value, json};
use symbia_commands::Actor;
use symbia_events::integrations::Target;
use symbia_nats::enquiry::{Found, Prompt, What};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use self::{
    request::MessagesRequest,
    response::{Blocks, message},
};
use super::{Integrations, ask::Tagged, errors::as_anthropic};
use crate::http::{ApiError, ApiResult, Caller, Json, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(messages)).routes(routes!(count_tokens)).layer(map_response(as_anthropic))
}

/// Count the tokens of a message that is not sent, as Anthropic's API has it
///
/// By Anthropic for its models, by the engine for those on this machine; `estimated` for all others.
#[utoipa::path(post, path = "/v1/messages/count_tokens", tag = "Anthropic-compatible", request_body = MessagesRequest,
    responses((status = 200, description = "How many there are", body = Object),
        (status = 400, description = "A field is not valid"), (status = 401, description = "Not authenticated, or no key"),
        (status = 404, description = "No such provider or model"), (status = 503, description = "No router answers")))]
async fn count_tokens(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(request): Json<MessagesRequest>,
) -> ApiResult<axum::Json<Value>> {
    let org = caller.org(&scope)?;
    let mut question = request.counted()?;
    let actor = Actor::from(&*caller);
    let key = service.key_of(&actor).await?;
    // Its pictures are kept as long as they are counted.
    let counting = Uuid::new_v4().to_string();
    let kept = service.keep_pictures((&org, &counting), &key, &mut question.messages).await?;
    let (messages, options) = question.sealed(&key).map_err(ApiError::internal)?;
    let Target { provider, model } = question.target;
    let prompt = Prompt { provider, model, messages, options };
    let found = service.enquire(&actor, org.clone(), What::Tokens(Box::new(prompt))).await;
    if kept {
        service.forget_pictures(&org, &counting).await;
    }
    match found? {
        Found::Tokens { tokens, estimated } => {
            Ok(axum::Json(json!({ "input_tokens": tokens, "estimated": estimated })))
        }
        _ => Err(ApiError::internal("an enquiry was answered by something else")),
    }
}

/// Ask a model for the next message of a conversation, as Anthropic's API has it
///
/// Any provider's model may be named, as for `/v1/chat/completions`.
#[utoipa::path(post, path = "/v1/messages", tag = "Anthropic-compatible", params(Tagged), request_body = MessagesRequest,
    responses((status = 200, description = "The message, or its stream", body = Object),
        (status = 400, description = "A field is not valid"), (status = 401, description = "Not authenticated, or no key"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider or model"),
        (status = 429, description = "Asked too often"), (status = 502, description = "The provider failed")))]
async fn messages(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(request): Json<MessagesRequest>,
) -> ApiResult<Response> {
    service.reply(&caller, &scope, request.question()?, Blocks::new, message).await
}
