//! Control of answers under way (messaging.md §6.6, 8.8). So far one signal acts: `stream.cancel` stops the caller's runs.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    assistants::{
        CancelRuleRun, RuleRunCommand,
        reactions::{Cause, run_id},
    },
};
use symbia_events::{AggregateRef, CommandId, Service};
use symbia_projections::messaging as model;
use time::OffsetDateTime;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{Messaging, access::Place};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope},
    iso,
    platform::Consistency,
};

/// So many of the caller's newest messages may still be being answered.
const NEWEST: i64 = 5;
/// How long a run that has not started yet is waited for, and how often it is looked for.
const START: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_millis(25));
/// A message older than this has its run, or will have none.
const FRESH: time::Duration = time::Duration::seconds(10);

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new().routes(routes!(control))
}

/// A signal.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Signal {
    /// `stream.cancel`, or `cancel`.
    #[serde(default)]
    event: String,
    /// For people: why.
    #[serde(default)]
    reason: Option<String>,
    /// Only this run. Default: the runs that answer the caller's newest messages.
    #[serde(default)]
    run_id: Option<Uuid>,
}

/// What a signal did.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Control {
    /// Its full name.
    event: &'static str,
    conversation_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// When it took effect.
    effective_at: String,
    /// Whether anything was under way that it could act on.
    applied: bool,
    /// The runs that were stopped.
    run_ids: Vec<String>,
}

/// Stop the answers that are under way (whoever asked)
#[utoipa::path(post, path = "/conversations/{id}/control", tag = "Control", request_body = Signal,
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 201, description = "What it did", body = Control),
        (status = 400, description = "No such signal"), (status = 403, description = "The caller takes no part in it")))]
async fn control(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(signal): Json<Signal>,
) -> ApiResult<(StatusCode, Json<Control>)> {
    match signal.event.as_str() {
        "stream.cancel" | "cancel" => {}
        "" => return Err(ApiError::invalid("event", "required", "is required")),
        _ => return Err(ApiError::invalid("event", "enum", "must be stream.cancel")),
    }
    let place = messaging.place(&caller, &id).await?;
    let reason = signal.reason.clone().unwrap_or_else(|| "user".to_owned());
    let runs = match signal.run_id {
        Some(run) => vec![(run, false)],
        None => messaging.runs_of(&place, &caller).await?,
    };
    let mut stopped = Vec::new();
    for (run, fresh) in runs {
        if messaging.cancel(&place, &caller, &scope, run, fresh, &reason).await? {
            stopped.push(run.to_string());
        }
    }
    let done = Control {
        event: "stream.cancel",
        conversation_id: id,
        reason: signal.reason,
        effective_at: iso(OffsetDateTime::now_utc()),
        applied: !stopped.is_empty(),
        run_ids: stopped,
    };
    Ok((StatusCode::CREATED, Json(done)))
}

impl Messaging {
    // A run's id follows from the event of the message that sets it off, so that it can be stopped before it shows anywhere.
    async fn runs_of(&self, place: &Place, caller: &Caller) -> ApiResult<Vec<(Uuid, bool)>> {
        let mut tx = self.platform.read(&Self::scope(place, caller)).await?;
        let (org, id) = (place.tenant.as_str(), &place.conversation.id);
        let newest = model::open_questions(&mut tx, org, id, &caller.id, NEWEST).await?;
        let now = OffsetDateTime::now_utc();
        let runs = newest.into_iter().enumerate().map(|(index, message)| {
            let cause = Cause { event_id: message.event_id, at: message.created_at, tenant: place.tenant.clone() };
            (run_id(&cause), index == 0 && message.created_at + FRESH > now)
        });
        Ok(runs.collect())
    }

    // True when the run was under way.
    async fn cancel(
        &self,
        place: &Place,
        caller: &Caller,
        scope: &RequestScope,
        run: Uuid,
        fresh: bool,
        reason: &str,
    ) -> ApiResult<bool> {
        let address = AggregateRef::new(Service::Assistants, place.tenant.clone(), "rule-run", run.to_string());
        let address = address.map_err(ApiError::internal)?;
        let command = RuleRunCommand::from(CancelRuleRun { reason: reason.to_owned() });
        let (actor, deadline) = (Actor::from(&**caller), Instant::now() + START.0);
        loop {
            let (id, consistency) = (CommandId::random(), Consistency::Eventual);
            match self.platform.submit_as(id, &address, &command, &actor, scope, consistency).await {
                Ok(_) => return Ok(true),
                // Not started, or somebody else's: an aggregate that does not exist has no asker.
                Err(error) if matches!(error.code(), "NOT_FOUND" | "FORBIDDEN") => {
                    if !fresh || Instant::now() >= deadline {
                        return Ok(false);
                    }
                    tokio::time::sleep(START.1).await;
                }
                Err(error) if error.code() == "RUN_OVER" => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}
