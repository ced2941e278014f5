//! Delegations: a person lets an agent act in their name, sees what stands, and ends it (RFC 8693).

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    identity::{DelegationCommand, GrantDelegation, RevokeDelegation, is_scope},
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service};
use symbia_projections::{Scope, identity as model};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    shapes::{Msg, iso},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, Validation, routes},
    platform::Consistency,
};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(list, grant)).routes(routes!(read, revoke))
}

fn aggregate(id: &str) -> ApiResult<AggregateRef> {
    AggregateRef::new(Service::Identity, OrgId::global(), "delegation", id)
        .map_err(|_| ApiError::not_found("Delegation"))
}

/// What an agent may do in the caller's name.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewDelegation {
    /// Handle of the agent.
    agent_id: String,
    /// Capabilities (`cap:identity.read`, `cap:messaging.send`) and roles (`role:member`, `role:admin`): a ceiling.
    scopes: Vec<String>,
    /// Resources that tokens may be for beside the platform (RFC 8707).
    #[serde(default)]
    audiences: Vec<String>,
    /// Handles of agents that it may pass the delegation on to.
    #[serde(default)]
    may_act: Vec<String>,
    /// Longest chain of agents, 1 to 4; 1 unless it may be passed on.
    #[serde(default)]
    max_depth: Option<u32>,
    /// `ordinary` (default): what takes away or changes rights needs an approval each time. `grave`: nothing does.
    #[serde(default)]
    limit: Option<String>,
    /// How many days it lasts, 1 to 366; 30 unless said.
    #[serde(default)]
    expires_in_days: Option<u32>,
}

/// A delegation.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DelegationView {
    id: String,
    /// The person.
    subject_id: String,
    /// The agent.
    agent_id: String,
    scopes: Vec<String>,
    audiences: Vec<String>,
    may_act: Vec<String>,
    max_depth: u32,
    limit: String,
    created_at: String,
    expires_at: String,
    revoked_at: Option<String>,
    revoked_by: Option<String>,
    revoked_reason: Option<String>,
}

impl From<model::Delegation> for DelegationView {
    fn from(d: model::Delegation) -> Self {
        DelegationView {
            id: d.id,
            subject_id: d.subject_id,
            agent_id: d.agent_id,
            scopes: d.scopes,
            audiences: d.audiences,
            may_act: d.may_act,
            max_depth: d.max_depth,
            limit: d.limit,
            created_at: iso(d.created_at),
            expires_at: iso(d.expires_at),
            revoked_at: d.revoked_at.map(iso),
            revoked_by: d.revoked_by,
            revoked_reason: d.revoked_reason,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct Delegations {
    delegations: Vec<DelegationView>,
}

/// List the delegations that the caller granted, or was granted
#[utoipa::path(get, path = "/delegations", tag = "Delegations",
    responses((status = 200, description = "The newest first", body = Delegations)))]
async fn list(State(identity): State<Identity>, caller: Caller) -> ApiResult<Json<Delegations>> {
    caller.require_itself()?;
    let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
    let delegations = model::delegations_of(&mut tx, &caller.id).await?;
    Ok(Json(Delegations { delegations: delegations.into_iter().map(Into::into).collect() }))
}

/// Let an agent act in the caller's name, within limits, until it is revoked
#[utoipa::path(post, path = "/delegations", tag = "Delegations", request_body = NewDelegation,
    responses((status = 201, description = "Granted", body = DelegationView),
        (status = 400, description = "A field is not valid, or there is no such agent")))]
async fn grant(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewDelegation>,
) -> ApiResult<impl IntoResponse> {
    caller.require_person()?;
    let days = new.expires_in_days.unwrap_or(30);
    let mut rules = Validation::new();
    rules.required("agentId", &new.agent_id);
    let scopes = (1..=50).contains(&new.scopes.len()) && new.scopes.iter().all(|scope| is_scope(scope));
    rules.check(scopes, "scopes", "format", "must be 1 to 50 capabilities (cap:…) or roles (role:member, role:admin)");
    let absolute = |uri: &String| uri.len() <= 500 && uri.contains("://") && !uri.contains('#') && !uri.contains(' ');
    rules.check(new.audiences.iter().all(absolute), "audiences", "format", "must be absolute URIs without fragments");
    rules.check((1..=366).contains(&days), "expiresInDays", "range", "must be 1 to 366");
    rules.finish()?;
    identity.check_agents(&caller, std::iter::once(&new.agent_id).chain(&new.may_act)).await?;
    let max_depth = new.max_depth.unwrap_or(if new.may_act.is_empty() { 1 } else { 2 });
    let id = CommandId(scope.command_id(&caller.id));
    let delegation_id = CommandId::derived(id.0, "id:delegation").to_string();
    let command = DelegationCommand::from(GrantDelegation {
        delegation_id: delegation_id.clone(),
        agent_id: new.agent_id,
        scopes: new.scopes,
        audiences: new.audiences,
        may_act: new.may_act,
        max_depth,
        limit: new.limit.unwrap_or_else(|| "ordinary".to_owned()),
        expires_at: (OffsetDateTime::now_utc() + Duration::days(days.into())).format(&Rfc3339).unwrap_or_default(),
    });
    let (address, actor) = (aggregate(&delegation_id)?, Actor::from(&*caller));
    identity.platform.submit_as(id, &address, &command, &actor, &scope, Consistency::Visible).await?;
    let view = identity.delegation(&delegation_id, &caller).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Read a delegation
#[utoipa::path(get, path = "/delegations/{id}", tag = "Delegations",
    params(("id" = String, Path, description = "Id of the delegation")),
    responses((status = 200, description = "The delegation", body = DelegationView)))]
async fn read(
    State(identity): State<Identity>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<DelegationView>> {
    caller.require_itself()?;
    Ok(Json(identity.delegation(&id, &caller).await?))
}

/// End a delegation; tokens that stand on it are refused at once
#[utoipa::path(delete, path = "/delegations/{id}", tag = "Delegations",
    params(("id" = String, Path, description = "Id of the delegation")),
    responses((status = 200, description = "Ended", body = Msg)))]
async fn revoke(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    caller.require_itself()?;
    let command = RevokeDelegation { delegation_id: id.clone(), reason: "revoked".to_owned() };
    let command = DelegationCommand::from(command);
    identity.platform.submit(&aggregate(&id)?, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(Msg { message: "Delegation ended" }))
}

impl Identity {
    async fn delegation(&self, id: &str, caller: &Caller) -> ApiResult<DelegationView> {
        let mut tx = self.platform.read(&Scope::user(&caller.id)).await?;
        let found = model::delegation_by_id(&mut tx, id).await?;
        found.map(Into::into).ok_or_else(|| ApiError::not_found("Delegation"))
    }

    /// Agents of other organizations are as unknown as those that do not exist.
    async fn check_agents(&self, caller: &Caller, handles: impl Iterator<Item = &String>) -> ApiResult<()> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        for handle in handles {
            let agent = model::agent_by_handle(&mut tx, handle).await?;
            let near = |agent: &model::Agent| agent.organization().is_none_or(|org| caller.belongs_to(org));
            if !agent.is_some_and(|agent| agent.is_active && near(&agent)) {
                let text = format!("There is no active agent '{handle}' that you can delegate to");
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "AGENT_UNKNOWN", text));
            }
        }
        Ok(())
    }
}
