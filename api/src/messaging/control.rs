//! Control of answers under way (messaging.md §6.6, 8.8).

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_commands::{
    Actor,
    assistants::{
        CancelRuleRun, RuleRunCommand,
        reactions::{Cause, run_id},
    },
    messaging::{ASSISTANT_PREFIX, SendControl},
};
use symbia_events::{
    AggregateRef, CommandId, Service,
    assistants::KeepPartial,
    messaging::{ControlTarget, ParticipantType, Priority, SenderType, Signal},
};
use symbia_projections::{assistants as runs, messaging as model};
use time::OffsetDateTime;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Messaging,
    access::{Home, Place, seal_object},
    conversations::kind_of,
    shapes::MessageRow,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    platform::Consistency,
};

/// Guards every signal but the next two; the aggregate decides, this names it.
const INTERRUPT: &str = "cap:messaging.interrupt";
/// Guards `stream.route` and `stream.handoff`.
const ROUTE: &str = "cap:messaging.route";
/// So many of the caller's newest messages may still be being answered.
const NEWEST: i64 = 5;
/// So many of a conversation's newest runs may still be under way.
const RECENT: i64 = 20;
/// How long a run that has not started yet is waited for, and how often it is looked for.
const START: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_millis(25));
/// A message older than this has its run, or will have none.
const FRESH: time::Duration = time::Duration::seconds(10);

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new().routes(routes!(control))
}

/// Whom a signal is about: an id, or an id with its kind.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum Target {
    /// A user's id, or `assistant:<key>`.
    Id(String),
    /// The same, with its kind.
    #[serde(rename_all = "camelCase")]
    Principal {
        /// A user's id, or `assistant:<key>`.
        principal_id: String,
        /// `user`, `agent`, `service` or `bot`; inferred from the id when absent.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        principal_type: Option<SenderType>,
    },
}

impl From<Target> for ControlTarget {
    fn from(target: Target) -> Self {
        let (principal_id, kind) = match target {
            Target::Id(id) => (id, None),
            Target::Principal { principal_id, principal_type } => (principal_id, principal_type),
        };
        let agent = kind_of(&principal_id) == ParticipantType::Agent;
        let inferred = if agent { SenderType::Agent } else { SenderType::User };
        ControlTarget { principal_type: kind.unwrap_or(inferred), principal_id }
    }
}

/// A signal.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewSignal {
    /// `stream.pause`, `stream.resume`, `stream.preempt`, `stream.route`, `stream.handoff`, `stream.cancel` or
    /// `stream.priority`, with or without the `stream.`.
    #[serde(default)]
    event: String,
    /// Only this assistant; for `route` and `handoff`: who answers from now on.
    #[serde(default)]
    target: Option<Target>,
    /// For people: why.
    #[serde(default)]
    reason: Option<String>,
    /// Only this run.
    #[serde(default)]
    run_id: Option<Uuid>,
    #[serde(default)]
    trace_id: Option<String>,
    /// The message that something is given up for.
    #[serde(default)]
    preempted_by: Option<String>,
    /// `low`, `normal`, `high` or `critical`, for `stream.priority`; a `critical` preemption spares nothing.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    priority: Option<Priority>,
    /// An object.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// What a signal did: the message that records it, and more.
#[derive(Serialize, ToSchema)]
pub(super) struct Control {
    #[serde(flatten)]
    message: MessageRow,
    /// Its full name.
    event: &'static str,
    /// Whether there was anything that it acts on.
    applied: bool,
    /// The runs that it stops.
    #[serde(rename = "runIds")]
    run_ids: Vec<String>,
}

/// Signal to those who answer
///
/// Owners and admins of the conversation, and holders of `cap:messaging.interrupt` (`cap:messaging.route` for `route` and
/// `handoff`), signal about everybody's answers; anyone may `cancel` the answers to their own questions. While a conversation
/// is paused, no assistant answers; what was under way is given up, and the open question is answered when it is resumed. What
/// was said before a `preempt` stays, as a message with `preempted_by`; with `keepPartial` in the metadata, so it does before a
/// `cancel`.
#[utoipa::path(post, path = "/conversations/{id}/control", tag = "Control", request_body = NewSignal,
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 201, description = "What it did", body = Control),
        (status = 400, description = "No such signal"),
        (status = 403, description = "The caller takes no part in it, or may not signal"),
        (status = 404, description = "There is none")))]
async fn control(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<NewSignal>,
) -> ApiResult<(StatusCode, Json<Control>)> {
    Ok((StatusCode::CREATED, Json(messaging.signal(&caller, &scope, &id, new).await?)))
}

impl Messaging {
    /// Signals in the caller's name.
    pub(super) async fn signal(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        id: &str,
        new: NewSignal,
    ) -> ApiResult<Control> {
        let signal = match (new.event.as_str(), Signal::named(&new.event)) {
            ("", _) => return Err(ApiError::invalid("event", "required", "is required")),
            (_, None) => return Err(ApiError::invalid("event", "enum", "must be a signal such as stream.cancel")),
            (_, Some(signal)) => signal,
        };
        let place = self.place(caller, id).await?;
        let key = self.author_key(&Home::from(&place), caller).await?;
        let control_id = Uuid::new_v5(&scope.command_id(&caller.id), b"control").to_string();
        let named = new.metadata.get("priority").and_then(|p| serde_json::from_value(p.clone()).ok());
        let metadata = seal_object(&key, &new.metadata)?;
        let keep_partial = new.metadata.get("keepPartial") == Some(&Value::Bool(true));
        // The caller's own runs are stopped here, at once; the rest follows from the signal.
        let mut run_ids = Vec::new();
        if signal == Signal::Cancel && new.target.is_none() {
            let reason = new.reason.clone().unwrap_or_else(|| "user".to_owned());
            let stop = CancelRuleRun { reason, keep_partial: keep_partial.then(KeepPartial::default) };
            let runs = match new.run_id {
                Some(run) => vec![(run, false)],
                None => self.runs_of(&place, caller).await?,
            };
            for (run, fresh) in runs {
                if self.cancel(&place, caller, scope, (run, fresh), &stop).await? {
                    run_ids.push(run.to_string());
                }
            }
        }
        let leads = matches!(place.role.as_deref(), Some("owner" | "admin"));
        let everybody = leads || caller.is_super_admin || caller.has_capability(INTERRUPT);
        let target: Option<ControlTarget> = new.target.map(ControlTarget::from);
        if everybody && matches!(signal, Signal::Cancel | Signal::Preempt) {
            run_ids.extend(self.open_runs(&place, caller, target.as_ref(), new.run_id).await?);
        }
        let command = SendControl {
            control_id: control_id.clone(),
            event: signal,
            target,
            reason: new.reason.map(|reason| key.seal(&reason)),
            priority: new.priority.or(named),
            run_id: new.run_id.map(|run| run.to_string()),
            trace_id: new.trace_id.or_else(|| Some(scope.trace.trace_id())),
            preempted_by: new.preempted_by,
            metadata,
            keep_partial,
        };
        let needed = if matches!(signal, Signal::Route | Signal::Handoff) { ROUTE } else { INTERRUPT };
        self.submit(&place.address, command, caller, scope).await.map_err(|error| match error.code() {
            "INSUFFICIENT_ENTITLEMENT" => error.with_extra("requiredEntitlement", needed),
            _ => error,
        })?;
        let applied = match signal {
            Signal::Cancel | Signal::Preempt => !run_ids.is_empty(),
            Signal::Priority => false,
            _ => true,
        };
        let message = self.message(&place, caller, &control_id).await?.into();
        Ok(Control { message, event: signal.name(), applied, run_ids })
    }

    // Runs of others that are under way, as far as it shows.
    async fn open_runs(
        &self,
        place: &Place,
        caller: &Caller,
        target: Option<&ControlTarget>,
        run: Option<Uuid>,
    ) -> ApiResult<Vec<String>> {
        let mut tx = self.platform.read(&Self::scope(place, caller)).await?;
        let runs = runs::rule_runs(&mut tx, place.tenant.as_str(), &place.conversation.id, RECENT).await?;
        let assistant = target.and_then(|t| t.principal_id.strip_prefix(ASSISTANT_PREFIX));
        let runs = runs.into_iter().filter(|r| r.ended_at.is_none() && (target.is_some() || r.sender_id != caller.id));
        let runs = runs.filter(|r| assistant.is_none_or(|key| r.assistant_key == key));
        Ok(runs.map(|r| r.id).filter(|id| run.is_none_or(|run| run.to_string() == *id)).collect())
    }

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
        (run, fresh): (Uuid, bool),
        stop: &CancelRuleRun,
    ) -> ApiResult<bool> {
        let address = AggregateRef::new(Service::Assistants, place.tenant.clone(), "rule-run", run.to_string());
        let address = address.map_err(ApiError::internal)?;
        let command = RuleRunCommand::from(stop.clone());
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
