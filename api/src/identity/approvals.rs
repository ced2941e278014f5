//! Approvals: an agent asks, the person answers out of band, and the agent gets a token for that one thing.

use axum::{Extension, extract::State, http::StatusCode, response::IntoResponse};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor, DomainCommand,
    identity::{ANSWER_WITHIN, ApprovalCommand, ApproveRequest, DenyRequest, ExpireRequest, RequestApproval},
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service};
use symbia_nats::timers::{TimerCommand, Timers, When};
use symbia_projections::{Scope, identity as model};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use zeroize::Zeroizing;

use super::{Identity, shapes::iso};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, Validation, rate::RateLimits, routes},
    platform::Consistency,
};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(list, request))
        .routes(routes!(read))
        .routes(routes!(approve))
        .routes(routes!(deny))
}

pub(super) fn aggregate(id: &str) -> ApiResult<AggregateRef> {
    AggregateRef::new(Service::Identity, OrgId::global(), "approval", id).map_err(|_| ApiError::not_found("Approval"))
}

/// What an agent asks for; the refusal `APPROVAL_REQUIRED` named both.
#[derive(Deserialize, ToSchema)]
struct NewApproval {
    /// The command, e.g. `identity.delete-organization`.
    action: String,
    /// The aggregate, e.g. `organization/<id>`.
    target: String,
    /// Why, for the person.
    #[serde(default)]
    reason: Option<String>,
}

/// A request for approval.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ApprovalView {
    id: String,
    delegation_id: String,
    /// The person asked.
    subject_id: String,
    /// The agent.
    agent_id: String,
    action: String,
    target: String,
    reason: Option<String>,
    /// `requested`, `approved`, `denied`, `expired` or `used`.
    status: String,
    requested_at: String,
    /// Until when it can be answered, or used once it is approved.
    expires_at: String,
    decided_at: Option<String>,
}

impl From<model::Approval> for ApprovalView {
    fn from(a: model::Approval) -> Self {
        ApprovalView {
            status: a.status_at(OffsetDateTime::now_utc()).to_owned(),
            id: a.id,
            delegation_id: a.delegation_id,
            subject_id: a.subject_id,
            agent_id: a.agent_id,
            action: a.action,
            target: a.target,
            reason: a.reason,
            requested_at: iso(a.requested_at),
            expires_at: iso(a.expires_at),
            decided_at: a.decided_at.map(iso),
        }
    }
}

#[derive(Serialize, ToSchema)]
struct Approvals {
    approvals: Vec<ApprovalView>,
}

/// Whose requests a caller sees: a person those it is asked, an agent in somebody's name those it made.
fn viewer(caller: &Caller) -> &str {
    // A client without a delegation asks for nobody.
    let acting = caller.acting.as_ref().filter(|acting| !acting.delegation.is_empty());
    acting.map_or(&caller.id, |acting| &acting.agent)
}

/// List the requests that the caller is asked, or made
#[utoipa::path(get, path = "/approvals", tag = "Delegations",
    responses((status = 200, description = "The newest first", body = Approvals)))]
async fn list(State(identity): State<Identity>, caller: Caller) -> ApiResult<Json<Approvals>> {
    let mut tx = identity.platform.read(&Scope::user(viewer(&caller))).await?;
    let approvals = model::approvals_of(&mut tx, viewer(&caller)).await?;
    Ok(Json(Approvals { approvals: approvals.into_iter().map(Into::into).collect() }))
}

/// Ask the person in whose name the caller acts to approve one thing
///
/// They are told by mail where the platform sends mail.
#[utoipa::path(post, path = "/approvals", tag = "Delegations", request_body = NewApproval,
    responses((status = 201, description = "Asked", body = ApprovalView),
        (status = 403, description = "The caller does not act in somebody's name")))]
async fn request(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewApproval>,
) -> ApiResult<impl IntoResponse> {
    let mut rules = Validation::new();
    rules.required("action", &new.action).length("action", &new.action, 1, 200);
    rules.required("target", &new.target).length("target", &new.target, 1, 300);
    if let Some(reason) = &new.reason {
        rules.length("reason", reason, 0, 1000);
    }
    rules.finish()?;
    let platform = &identity.platform;
    let key = platform.secrets.subject_key(&caller.id).await?;
    let id = CommandId(scope.command_id(viewer(&caller)));
    let approval_id = CommandId::derived(id.0, "id:approval").to_string();
    let command = ApprovalCommand::from(RequestApproval {
        approval_id: approval_id.clone(),
        action: new.action,
        target: new.target,
        reason: key.zip(new.reason).map(|(key, reason)| key.seal(&reason)),
    });
    let (address, actor) = (aggregate(&approval_id)?, Actor::from(&*caller));
    platform.submit_as(id, &address, &command, &actor, &scope, Consistency::Visible).await?;
    identity.expire_later(&address, &approval_id).await;
    let asked = identity.approval(&approval_id, &caller).await?;
    identity.mail_request(limits, &asked).await?;
    Ok((StatusCode::CREATED, Json(asked)))
}

/// Read a request for approval
#[utoipa::path(get, path = "/approvals/{id}", tag = "Delegations",
    params(("id" = String, Path, description = "Id of the request")),
    responses((status = 200, description = "The request", body = ApprovalView)))]
async fn read(
    State(identity): State<Identity>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<ApprovalView>> {
    Ok(Json(identity.approval(&id, &caller).await?))
}

/// Approve a request: the agent may do this one thing once
#[utoipa::path(post, path = "/approvals/{id}/approve", tag = "Delegations",
    params(("id" = String, Path, description = "Id of the request")),
    responses((status = 200, description = "Approved", body = ApprovalView)))]
async fn approve(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<ApprovalView>> {
    let command = ApprovalCommand::from(ApproveRequest { approval_id: id.clone() });
    identity.answer_approval(&id, &command, &caller, &scope).await
}

/// Deny a request
#[utoipa::path(post, path = "/approvals/{id}/deny", tag = "Delegations",
    params(("id" = String, Path, description = "Id of the request")),
    responses((status = 200, description = "Denied", body = ApprovalView)))]
async fn deny(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<ApprovalView>> {
    let command = ApprovalCommand::from(DenyRequest { approval_id: id.clone() });
    identity.answer_approval(&id, &command, &caller, &scope).await
}

impl Identity {
    async fn answer_approval(
        &self,
        id: &str,
        command: &ApprovalCommand,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<Json<ApprovalView>> {
        caller.require_person()?;
        self.platform.submit(&aggregate(id)?, command, &Actor::from(&**caller), scope).await?;
        Ok(Json(self.approval(id, caller).await?))
    }

    async fn approval(&self, id: &str, caller: &Caller) -> ApiResult<ApprovalView> {
        let mut tx = self.platform.read(&Scope::user(viewer(caller))).await?;
        let found = model::approval_by_id(&mut tx, id).await?;
        found.map(Into::into).ok_or_else(|| ApiError::not_found("Approval"))
    }

    // Without the reason: those are the agent's own words.
    async fn mail_request(&self, limits: RateLimits, asked: &ApprovalView) -> ApiResult<()> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let address = model::user(&mut tx, &asked.subject_id).await?.and_then(|user| user.email);
        drop(tx);
        let Some(to) = address else { return Ok(()) };
        let text = Zeroizing::new(format!(
            "{} acts in your name and asks to do what needs your approval:\n\n  {} on {}\n\nAnswer until {}:\n{}\n\n\
             If you do nothing, it does not happen.\n",
            asked.agent_id,
            asked.action,
            asked.target,
            asked.expires_at,
            self.page(&format!("approvals/{}", asked.id)),
        ));
        self.mail_later(limits, format!("approval:{}", asked.subject_id), to, "An agent asks for your approval", text);
        Ok(())
    }

    // That it is over is true without it; the timer has the log say so.
    async fn expire_later(&self, address: &AggregateRef, id: &str) {
        let command = ApprovalCommand::from(ExpireRequest { approval_id: id.to_owned() });
        let Ok(data) = command.to_data() else { return };
        let command_type = command.command_type().to_owned();
        let timer = TimerCommand { aggregate: address.clone(), command_type, data };
        let timers = Timers::new(async_nats::jetstream::new(self.platform.nats.clone()));
        let when = When::At(OffsetDateTime::now_utc() + ANSWER_WITHIN);
        if let Err(error) = timers.command(&format!("approval-{id}"), &when, &timer).await {
            tracing::warn!(%error, "the end of a request for approval will not be recorded");
        }
    }
}
