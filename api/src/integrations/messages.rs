//! `POST /v1/messages` as Anthropic has it: stock clients need another base URL and nothing else.

mod request;
mod response;

use axum::{extract::State, middleware::map_response, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    request::MessagesRequest,
    response::{Blocks, message},
};
use super::{Integrations, errors::as_anthropic};
use crate::http::{ApiResult, Caller, Json, RequestScope};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(messages)).layer(map_response(as_anthropic))
}

/// Ask a model for the next message of a conversation, as Anthropic's API has it
///
/// Any provider's model may be named, as for `/v1/chat/completions`.
#[utoipa::path(post, path = "/v1/messages", tag = "Anthropic-compatible", request_body = MessagesRequest,
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
