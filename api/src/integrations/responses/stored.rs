//! Responses that were given: read again, gone on with, and forgotten.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{CompletionCommand, ForgetCompletion},
};
use symbia_events::{
    AggregateRef, CommandId, OrgId, Service, SubjectKey,
    integrations::{CompletionEvent, CompletionRequested, PromptMessage, PromptMore, PromptOptions, PromptRole},
};
use time::OffsetDateTime;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    OPERATION, PREFIX,
    response::{Echo, Head, SERVED, cancelled, failed, response},
    served::{lists, response_with_tools},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes},
    integrations::{
        Integrations,
        ask::{Message, request_id, tenant},
        errors::refused,
        following::Past,
        said::{Answer, Failure, Said, ended},
        tooling::{LATER_ROUND, Next, Outcome, Round, ToolNames, again, nth_round, plan},
    },
    platform::Consistency,
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(read, forget))
}

/// A response that may be given again, opened.
pub(in crate::integrations) struct Stored {
    head: Head,
    echo: Echo,
    // The last turn's request.
    turn: String,
    // The turns that were asked with; instructions are of one request alone.
    turns: Vec<Message>,
    model: Option<String>,
    became: Became,
    // Where tools of servers were called: which those are, what they were told to the model as, and the turns before the last.
    served: Option<(ToolNames, Vec<Value>)>,
    rounds: Vec<Round>,
    used_up: bool,
    // It is itself a later turn.
    later: bool,
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
        // A call that was not made has no result that could follow it.
        let tool_calls = match &self.served {
            Some((names, _)) => names.own(&answer.first.tool_calls),
            None => answer.first.tool_calls,
        };
        let more = PromptMore { tool_calls, ..PromptMore::default() };
        turns.push(Message { more, ..Message::text(PromptRole::Assistant, answer.first.text) });
        Some(turns)
    }

    fn as_openai(&self) -> Value {
        let without = || self.echo.response(&self.head, self.model.as_deref(), Vec::new());
        match &self.became {
            Became::Answered(answer) => self.answered(answer),
            Became::Failed(failure) => failed(without(), failure),
            Became::Cancelled => cancelled(without()),
            Became::UnderWay => without(),
        }
    }

    fn answered(&self, answer: &Answer) -> Value {
        let whole = self.served.as_ref().and_then(|(names, lists)| {
            let mut rounds = self.rounds.clone();
            rounds.push(Round { request_id: self.turn.clone(), answer: answer.clone(), calls: Vec::new() });
            Some((Outcome::new(rounds, names, self.used_up)?, lists.clone()))
        });
        match whole {
            Some((outcome, lists)) => response_with_tools(&self.head, &self.echo, lists, &outcome),
            None => response(&self.head, &self.echo, answer),
        }
    }

    // The requests that it is made of.
    fn requests(&self) -> impl Iterator<Item = &str> {
        self.rounds.iter().map(|round| round.request_id.as_str()).chain([self.turn.as_str()])
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
        let Some(stored) = self.turn(actor, org, request_id).await?.filter(|turn| !turn.later) else {
            return Ok(None);
        };
        self.with_later_turns(actor, org, stored).await.map(Some)
    }

    /// Whether what a request for a response was answered may be told again.
    pub(in crate::integrations) async fn may_be_told(
        &self,
        actor: &Actor,
        org: &OrgId,
        request_id: &str,
    ) -> ApiResult<bool> {
        Ok(self.turn(actor, org, request_id).await?.is_some())
    }

    // One request, which is a response of its own or a later turn of one.
    async fn turn(&self, actor: &Actor, org: &OrgId, request_id: &str) -> ApiResult<Option<Stored>> {
        let Some(Past { asked_at, events }) = self.past(actor, org, request_id).await? else { return Ok(None) };
        let key = self.key_of(actor).await?;
        Ok(opened(&key, asked_at, events))
    }

    // Goes from turn to turn, as they were asked: their ids follow from that of the first.
    async fn with_later_turns(&self, actor: &Actor, org: &OrgId, mut stored: Stored) -> ApiResult<Stored> {
        let (Some((names, _)), Ok(first)) = (stored.served.clone(), Uuid::parse_str(stored.head.request_id())) else {
            return Ok(stored);
        };
        let key = self.key_of(actor).await?;
        for number in 1.. {
            let Became::Answered(answer) = &stored.became else { break };
            let next = names.next(&answer.first, number);
            stored.used_up = next == Next::UsedUp;
            if next != Next::Calls {
                break;
            }
            let later = request_id(nth_round(first, number + 1)).to_string();
            let (Some(later), Became::Answered(answer)) =
                (self.turn(actor, org, &later).await?, std::mem::replace(&mut stored.became, Became::UnderWay))
            else {
                break;
            };
            let mut calls = Vec::new();
            for planned in plan(&names, first, number, &answer.first.tool_calls) {
                calls.extend(again(self, (org, &key), planned).await?);
            }
            let request_id = std::mem::replace(&mut stored.turn, later.turn);
            stored.rounds.push(Round { request_id, answer: *answer, calls });
            (stored.turns, stored.became) = (later.turns, later.became);
        }
        Ok(stored)
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
    let later = options.echo.as_ref().is_some_and(|kept| kept.get(LATER_ROUND).is_some());
    let served = options.echo.as_ref().and_then(|kept| ToolNames::deserialize(&kept[SERVED]).ok());
    let names = served.clone().unwrap_or_default();
    let echo = Echo::again(options.echo.as_ref(), instructions.as_deref(), &options.tools, &names);
    let served = served.map(|names| {
        let lists = lists(&asked.request_id, &names, &options.tools);
        (names, lists)
    });
    let (turn, model) = (asked.request_id, asked.model);
    Some(Stored { head, echo, turn, turns, model, became, served, rounds: Vec::new(), used_up: false, later })
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
    let stored = service.stored(&actor, &org, &id).await?.ok_or_else(|| unknown(&id))?;
    let requests: Vec<&str> = stored.requests().collect();
    // The first one is found by the response's id: it goes last, so that what was not forgotten can be forgotten again.
    for (place, request_id) in requests.into_iter().enumerate().rev() {
        let address = AggregateRef::new(Service::Integrations, org.clone(), "completion", request_id);
        let (address, request_id) = (address.map_err(|_| unknown(&id))?, request_id.to_owned());
        let command = CompletionCommand::from(ForgetCompletion { request_id: request_id.clone() });
        let command_id = scope.command_id(&actor.id);
        let command_id = CommandId(match place {
            0 => command_id,
            later => Uuid::new_v5(&command_id, format!("round {later}").as_bytes()),
        });
        let forgotten =
            service.platform.submit_as(command_id, &address, &command, &actor, &scope, Consistency::Visible).await;
        forgotten?;
        service.forget_pictures(org.as_str(), &request_id).await;
    }
    Ok(Json(json!({ "id": id, "object": "response", "deleted": true })))
}
