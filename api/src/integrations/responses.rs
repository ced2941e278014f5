//! `POST /v1/responses` as OpenAI has it: stock clients need another base URL and nothing else. A response can be read and gone
//! on with by its id: the log has what was asked and answered.

mod input;
mod items;
mod request;
mod response;
mod served;
mod stored;

use axum::{extract::State, middleware::map_response, response::Response};
use symbia_commands::Actor;
use utoipa_axum::router::OpenApiRouter;

use self::{
    items::Items,
    served::{lists, response_with_tools},
};
pub(super) use self::{
    request::ResponsesRequest,
    response::{Echo, Head, response},
};
use super::{
    Integrations,
    ask::{Asked, Message, Tagged, tenant},
    errors::{as_openai, refused},
    said::Answer,
    tooling::{Outcome, Rounds},
};
use crate::http::{ApiResult, Caller, Json, RequestScope, routes};

/// What an API is called in events.
const OPERATION: &str = "responses";
/// What ids of responses begin with.
pub(super) const PREFIX: &str = "resp_";

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(responses)).merge(stored::routes()).layer(map_response(as_openai))
}

/// Ask a model for a response, as OpenAI's API has it
///
/// `input` is a text or items: messages, calls of functions and their outputs. With `previous_response_id` it goes on with an
/// earlier response of the caller's. With `store: false` it can be read and gone on with by nobody later. With `stream`: the events
/// of that API.
///
/// Tools are functions, and MCP servers of the organization's registry (`server_label` is the key); the latter's tools are called
/// here, without asking for approval, as for `POST /v1/chat/completions`. An answer that would need more rounds than
/// `max_tool_rounds` is `incomplete`.
#[utoipa::path(post, path = "/v1/responses", tag = "OpenAI-compatible", params(Tagged), request_body = ResponsesRequest,
    responses((status = 200, description = "The response, or its stream", body = Object),
        (status = 400, description = "A field is not valid"), (status = 401, description = "Not authenticated, or no key"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider, model or server"),
        (status = 429, description = "Asked too often"), (status = 502, description = "The provider failed")))]
async fn responses(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(request): Json<ResponsesRequest>,
) -> ApiResult<Response> {
    let echo = Echo::of(&request);
    let earlier = match &request.previous_response_id {
        Some(id) => service.earlier(&caller, &scope, id).await?,
        None => Vec::new(),
    };
    let (mut question, wanted) = request.read(earlier)?;
    let toolset = match wanted.is_nothing() {
        true => None,
        false => Some(service.toolset(&caller, &scope, &wanted, &mut question).await?),
    };
    let names = toolset.as_ref().map(|toolset| &toolset.names);
    question.options.echo = (!question.options.unstored).then(|| echo.kept(names));
    if let Some(toolset) = toolset {
        let head = |rounds: &Rounds| Head::new(&rounds.request_id(), rounds.asked_at);
        let lists =
            |rounds: &Rounds| lists(&rounds.request_id(), &rounds.toolset().names, &rounds.question().options.tools);
        let items = |rounds: &Rounds| Items::with_tools(head(rounds), echo.clone(), lists(rounds));
        let body =
            |rounds: &Rounds, outcome: &Outcome| response_with_tools(&head(rounds), &echo, lists(rounds), outcome);
        return service.reply_with_tools((&caller, &scope), question, toolset, items, body).await;
    }
    let items = |asked: &Asked| Items::new(Head::of(asked), echo.clone());
    let body = |asked: &Asked, answer: &Answer| response(&Head::of(asked), &echo, answer);
    service.reply(&caller, &scope, question, items, body).await
}

impl Integrations {
    // What was said up to an earlier response, which must be the caller's own.
    async fn earlier(&self, caller: &Caller, scope: &RequestScope, id: &str) -> ApiResult<Vec<Message>> {
        let unknown = || refused("previous_response_id", format!("there is no response '{id}' of yours"));
        let stored = self.stored(&Actor::from(&**caller), &tenant(caller, scope)?, id).await?.ok_or_else(unknown)?;
        let said = stored.said().ok_or_else(|| {
            refused("previous_response_id", format!("'{id}' has no answer that one could go on with"))
        })?;
        Ok(said)
    }
}
