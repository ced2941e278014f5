//! Responses that were given: read again, gone on with, and forgotten.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{CompletionCommand, ForgetCompletion},
};
use symbia_events::{
    AggregateRef, OrgId, Service, SubjectKey,
    integrations::{CompletionEvent, CompletionRequested, PromptMessage, PromptMore, PromptOptions, PromptRole},
};
use time::OffsetDateTime;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    OPERATION, PREFIX,
    response::{Echo, Head, cancelled, failed, response},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope},
    integrations::{
        Integrations,
        ask::{Message, tenant},
        errors::refused,
        following::Past,
        said::{Answer, Failure, Said, ended},
    },
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(read, forget))
}

/// A response that may be given again, opened.
pub(in crate::integrations) struct Stored {
    head: Head,
    echo: Echo,
    // The turns that were asked with; instructions are of one request alone.
    turns: Vec<Message>,
    model: Option<String>,
    became: Became,
}

enum Became {
    Answered(Box<Answer>),
    Failed(Failure),
    Cancelled,
    UnderWay,
}

impl Stored {
    /// What was said up to its end; none when it has no answer.
    pub fn said(self) -> Option<Vec<Message>> {
        let Became::Answered(answer) = self.became else { return None };
        let mut turns = self.turns;
        let more = PromptMore { tool_calls: answer.first.tool_calls, ..PromptMore::default() };
        turns.push(Message { more, ..Message::text(PromptRole::Assistant, answer.first.text) });
        Some(turns)
    }

    fn as_openai(&self) -> Value {
        let without = || self.echo.response(&self.head, self.model.as_deref(), Vec::new());
        match &self.became {
            Became::Answered(answer) => response(&self.head, &self.echo, answer),
            Became::Failed(failure) => failed(without(), failure),
            Became::Cancelled => cancelled(without()),
            Became::UnderWay => without(),
        }
    }
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found("Response").with_extra("id", id)
}

impl Integrations {
    /// A response of an actor's; none when there is none, or it may not be given again.
    pub(in crate::integrations) async fn stored(
        &self,
        actor: &Actor,
        org: &OrgId,
        id: &str,
    ) -> ApiResult<Option<Stored>> {
        let Some(request_id) = id.strip_prefix(PREFIX) else { return Ok(None) };
        let Some(Past { asked_at, events }) = self.past(actor, org, request_id).await? else { return Ok(None) };
        let key = self.key_of(actor).await?;
        Ok(opened(&key, asked_at, events))
    }
}

fn opened(key: &SubjectKey, asked_at: OffsetDateTime, events: Vec<CompletionEvent>) -> Option<Stored> {
    let mut events = events.into_iter();
    let Some(CompletionEvent::CompletionRequested(asked)) = events.next() else { return None };
    let options = options(key, &asked).filter(|options| asked.operation == OPERATION && !options.unstored)?;
    let head = Head::new(&asked.request_id, asked_at);
    let mut became = Became::UnderWay;
    for event in events {
        if matches!(event, CompletionEvent::CompletionCancelled(_)) {
            became = Became::Cancelled;
            continue;
        }
        match ended(key, event) {
            Some(Said::Completed(answer)) => became = Became::Answered(answer),
            Some(Said::Failed(failure)) => became = Became::Failed(failure),
            _ => {}
        }
    }
    let mut turns = asked.messages.into_iter().map(|turn| message(key, turn)).collect::<Option<Vec<_>>>()?;
    let instructions = (options.instructed && !turns.is_empty()).then(|| turns.remove(0).text);
    let echo = Echo::again(options.echo.as_ref(), instructions.as_deref(), &options.tools);
    Some(Stored { head, echo, turns, model: asked.model, became })
}

fn options(key: &SubjectKey, asked: &CompletionRequested) -> Option<PromptOptions> {
    match &asked.options {
        Some(sealed) => serde_json::from_str(&key.open(sealed).ok()?).ok(),
        None => Some(PromptOptions::default()),
    }
}

fn message(key: &SubjectKey, message: PromptMessage) -> Option<Message> {
    let more = match message.more {
        Some(more) => serde_json::from_str(&key.open(&more).ok()?).ok()?,
        None => PromptMore::default(),
    };
    Some(Message { role: message.role, text: key.open(&message.content).ok()?, name: message.name, more })
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct How {
    /// Only false: what was said is told whole.
    #[serde(default)]
    stream: Option<bool>,
}

/// Read a response again, as OpenAI's API has it
///
/// Those of the caller that were neither asked for with `store: false` nor deleted.
#[utoipa::path(get, path = "/v1/responses/{id}", tag = "OpenAI-compatible",
    params(("id" = String, Path, description = "Its id, `resp_…`"), How),
    responses((status = 200, description = "The response, with what has become of it", body = Object),
        (status = 404, description = "There is none of the caller's")))]
async fn read(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Query(how): Query<How>,
) -> ApiResult<Json<Value>> {
    if how.stream == Some(true) {
        return Err(refused("stream", "must be false: follow GET /api/integrations/executions/{id}/stream"));
    }
    let stored = service.stored(&Actor::from(&*caller), &tenant(&caller, &scope)?, &id).await?;
    Ok(Json(stored.ok_or_else(|| unknown(&id))?.as_openai()))
}

/// Delete a response, as OpenAI's API has it
///
/// It is given to nobody any more, nor gone on with. It stays sealed in the log, under the key of whose it was; large pictures that
/// came with it are gone.
#[utoipa::path(delete, path = "/v1/responses/{id}", tag = "OpenAI-compatible",
    params(("id" = String, Path, description = "Its id, `resp_…`")),
    responses((status = 200, description = "Deleted", body = Object), (status = 404, description = "There is none of the caller's"),
        (status = 409, description = "It is under way")))]
async fn forget(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let (actor, org) = (Actor::from(&*caller), tenant(&caller, &scope)?);
    service.stored(&actor, &org, &id).await?.ok_or_else(|| unknown(&id))?;
    let request_id = id.strip_prefix(PREFIX).unwrap_or_default().to_owned();
    let address = AggregateRef::new(Service::Integrations, org.clone(), "completion", &request_id);
    let command = CompletionCommand::from(ForgetCompletion { request_id: request_id.clone() });
    service.platform.submit(&address.map_err(|_| unknown(&id))?, &command, &actor, &scope).await?;
    service.forget_pictures(org.as_str(), &request_id).await;
    Ok(Json(json!({ "id": id, "object": "response", "deleted": true })))
}
