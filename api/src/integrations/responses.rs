//! `POST /v1/responses` as OpenAI has it: stock clients need another base URL and nothing else. A response can be gone on with
//! by its id: the log has what was asked and answered.

mod items;
mod request;
mod response;

use axum::{extract::State, middleware::map_response, response::Response};
use symbia_commands::Actor;
use symbia_events::{
    OrgId, SubjectKey,
    integrations::{
        CompletionCompleted, CompletionEvent, CompletionRequested, PromptMessage, PromptMore, PromptOptions, PromptRole,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    items::Items,
    request::ResponsesRequest,
    response::{Echo, response},
};
use super::{
    Integrations,
    ask::{Asked, Message},
    errors::{as_openai, refused},
    said::{Answer, opened},
};
use crate::http::{ApiError, ApiResult, Caller, Json, RequestScope};

/// What an API is called in events.
const OPERATION: &str = "responses";
/// What ids of responses begin with.
const PREFIX: &str = "resp_";

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(responses)).layer(map_response(as_openai))
}

/// Ask a model for a response, as OpenAI's API has it
///
/// `input` is a text or items: messages, calls of functions and their outputs. With `previous_response_id` it goes on with an
/// earlier response of the caller's. Tools are functions. With `stream`: the events of that API.
#[utoipa::path(post, path = "/v1/responses", tag = "OpenAI-compatible", request_body = ResponsesRequest,
    responses((status = 200, description = "The response, or its stream", body = Object),
        (status = 400, description = "A field is not valid"), (status = 401, description = "Not authenticated, or no key"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider or model"),
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
    let question = request.question(earlier)?;
    let items = |asked: &Asked| Items::new(asked, echo.clone());
    let body = |asked: &Asked, answer: &Answer| response(asked, &echo, answer);
    service.reply(&caller, &scope, question, items, body).await
}

impl Integrations {
    // What was said up to an earlier response, which must be the caller's own.
    async fn earlier(&self, caller: &Caller, scope: &RequestScope, id: &str) -> ApiResult<Vec<Message>> {
        let unknown = || refused("previous_response_id", format!("there is no response '{id}' of yours"));
        let org: OrgId = caller.org(scope)?.parse().map_err(|_| ApiError::org_access_denied())?;
        let actor = Actor::from(&**caller);
        let request_id = id.strip_prefix(PREFIX).ok_or_else(unknown)?;
        let past = self.past(&actor, &org, request_id).await?.ok_or_else(unknown)?;
        let (mut asked, mut answered) = (None, None);
        for event in past {
            match event {
                CompletionEvent::CompletionRequested(e) => asked = Some(e),
                CompletionEvent::CompletionCompleted(e) => answered = Some(e),
                _ => {}
            }
        }
        let theirs = |e: &CompletionRequested| e.operation == OPERATION;
        let asked = asked.filter(theirs).ok_or_else(unknown)?;
        let answered = answered.ok_or_else(|| {
            refused("previous_response_id", format!("'{id}' has no answer that one could go on with"))
        })?;
        let key = self.key_of(&actor).await?;
        said_before(&key, asked, answered).ok_or_else(unknown)
    }
}

// The turns of a request that was answered, and its answer as one more.
fn said_before(key: &SubjectKey, asked: CompletionRequested, answered: CompletionCompleted) -> Option<Vec<Message>> {
    let options = asked.options.map(|options| key.open(&options).ok()).unwrap_or(Some(String::from("{}")))?;
    let options: PromptOptions = serde_json::from_str(&options).ok()?;
    let message = |message: PromptMessage| -> Option<Message> {
        let more = match message.more {
            Some(more) => serde_json::from_str(&key.open(&more).ok()?).ok()?,
            None => PromptMore::default(),
        };
        Some(Message { role: message.role, text: key.open(&message.content).ok()?, name: message.name, more })
    };
    // Instructions are of one request alone.
    let turns = asked.messages.into_iter().skip(usize::from(options.instructed));
    let mut turns: Vec<Message> = turns.map(message).collect::<Option<_>>()?;
    let answer = opened(key, answered)?;
    let more = PromptMore { tool_calls: answer.first.tool_calls, ..PromptMore::default() };
    turns.push(Message { more, ..Message::text(PromptRole::Assistant, answer.first.text) });
    Some(turns)
}
