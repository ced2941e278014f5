//! `GET /api/integrations/executions/{id}/stream`: a request under way, followed by whom it is of, from anywhere and again
//! (integrations.md §19). Pieces are not stored: who comes late gets those that are still to come, and the whole with the end.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;
use symbia_commands::Actor;
use symbia_events::{AggregateRef, OrgId, Service, SubjectKey, integrations::CompletionEvent};
use symbia_nats::read;
use time::OffsetDateTime;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Integrations,
    ask::tenant,
    execute::Telling,
    hub::{Ear, Heard},
    said::{Said, ended, live},
    stream::Dialect,
};
use crate::http::{ApiError, ApiResult, Caller, Path, RequestScope, routes};

/// A sign of life in a silent stream.
const ALIVE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(follow))
}

/// What the log has of a request.
pub(super) struct Past {
    pub asked_at: OffsetDateTime,
    pub events: Vec<CompletionEvent>,
}

impl Integrations {
    /// What the log has of a request that an actor made; none when it has none, or somebody else's, or is to tell nothing of it.
    pub(super) async fn past(&self, actor: &Actor, org: &OrgId, id: &str) -> ApiResult<Option<Past>> {
        let Ok(address) = AggregateRef::new(Service::Integrations, org.clone(), "completion", id) else {
            return Ok(None);
        };
        let (stream, subject) = (address.service.event_stream(), address.event_subject());
        let stored = read::tail(&self.platform.nats, &stream, &subject, 1).await;
        let stored = stored.map_err(|_| ApiError::unavailable("The log", 2))?;
        let (mut asked_at, mut events) = (None, Vec::new());
        for message in stored {
            let signed = symbia_events::commit::decode(&self.platform.keys, &message.payload);
            for signed in signed.map_err(ApiError::internal)? {
                asked_at.get_or_insert(signed.event.time);
                events.extend(signed.event.decode().ok());
            }
        }
        let theirs = matches!(events.first(), Some(CompletionEvent::CompletionRequested(e))
            if e.requested_by == actor.id && e.context.user_id == actor.on_behalf_of);
        let forgotten = matches!(events.last(), Some(CompletionEvent::CompletionForgotten(_)));
        Ok(asked_at.filter(|_| theirs && !forgotten).map(|asked_at| Past { asked_at, events }))
    }
}

/// Follow a request under way, or hear its end
///
/// The events of `POST /integrations/execute` with `stream`; after `Last-Event-ID`, where that is given. Who leaves does not
/// cancel it.
#[utoipa::path(get, path = "/integrations/executions/{id}/stream", tag = "Execution",
    params(("id" = String, Path, description = "Id of the request"),
        ("Last-Event-ID" = Option<String>, Header, description = "`<attempt>.<seq>` of the last event that one has")),
    responses((status = 200, description = "Its events, until its end", body = String, content_type = "text/event-stream"),
        (status = 404, description = "There is none of the caller's")))]
async fn follow(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let org = tenant(&caller, &scope)?;
    let actor = Actor::from(&*caller);
    let unknown = || ApiError::not_found("Request");
    // Heard from now on, and then looked for: nothing falls between.
    let address = AggregateRef::new(Service::Integrations, org.clone(), "completion", &id).map_err(|_| unknown())?;
    let ear = service.hub.listen_for(address);
    let past = service.past(&actor, &org, &id).await?.ok_or_else(unknown)?;
    let key = service.key_of(&actor).await?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| {
        let (attempt, seq) = id.split_once('.')?;
        Some((attempt.parse().ok()?, seq.parse().ok()?))
    });
    let telling = Telling::new(id);
    let mut following =
        Following { ear, key, telling, last, attempt: 0, beside: None, events: VecDeque::new(), over: false };
    past.events.into_iter().for_each(|event| following.happened(event));
    let events = stream::unfold(following, |mut following| async {
        loop {
            if let Some(event) = following.events.pop_front() {
                return Some((Ok::<_, Infallible>(event), following));
            }
            if following.over {
                return None;
            }
            following.hear().await;
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE).text("ping")).into_response())
}

struct Following {
    ear: Ear,
    key: SubjectKey,
    telling: Telling,
    // What the reader has: an attempt, and a place in it.
    last: Option<(u32, u64)>,
    attempt: u32,
    // An attempt beside it: its number, provider and model.
    beside: Option<(u32, String, String)>,
    events: VecDeque<Event>,
    over: bool,
}

impl Following {
    async fn hear(&mut self) {
        match self.ear.next().await {
            Heard::Event(event) => {
                if let Ok(event) = event.decode() {
                    self.happened(event);
                }
            }
            Heard::Live(message) => {
                let Some(Said::Piece { attempt, index, choice, piece }) = live(&message) else { return };
                if self.beside.as_ref().is_some_and(|(beside, ..)| *beside == attempt) {
                    let events = self.instead();
                    self.events.extend(events);
                }
                if attempt == self.attempt && self.last.is_none_or(|last| (attempt, index + 1) > last) {
                    self.events.push_back(self.telling.at(attempt, index + 1, choice, &piece));
                }
            }
        }
    }

    // The attempt beside the one that the reader knows of goes on.
    fn instead(&mut self) -> Vec<Event> {
        match self.beside.take() {
            Some((attempt, provider, model)) => self.began(attempt, &provider, &model),
            None => Vec::new(),
        }
    }

    fn began(&mut self, attempt: u32, provider: &str, model: &str) -> Vec<Event> {
        self.attempt = attempt;
        let had = self.last.is_some_and(|(last, _)| last >= attempt);
        let mut events = Vec::new();
        if attempt > 1 && !had {
            events.extend(self.telling.reset(attempt));
        }
        let started = self.telling.started(attempt, provider, model);
        events.extend(started.into_iter().filter(|_| !had));
        events
    }

    // An event may be heard twice.
    fn happened(&mut self, event: CompletionEvent) {
        let events = match event {
            CompletionEvent::CompletionAttemptStarted(e) if e.hedges.is_some() && e.attempt > self.attempt => {
                self.beside = Some((e.attempt, e.provider, e.model));
                Vec::new()
            }
            CompletionEvent::CompletionAttemptFailed(e) if e.attempt == self.attempt => self.instead(),
            CompletionEvent::CompletionAttemptFailed(_) => {
                self.beside = None;
                Vec::new()
            }
            CompletionEvent::CompletionAttemptStarted(e) if e.attempt > self.attempt => {
                self.began(e.attempt, &e.provider, &e.model)
            }
            event => match ended(&self.key, event) {
                Some(Said::Completed(answer)) => {
                    self.over = true;
                    self.telling.completed(&answer)
                }
                Some(Said::Failed(failure)) => {
                    self.over = true;
                    self.telling.failed(&failure)
                }
                _ => Vec::new(),
            },
        };
        self.events.extend(events);
    }
}
