//! The life of an organization's agents, for its admins (identity.md §6.14).

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_commands::{
    Actor, DomainCommand,
    identity::{
        ActivateAgent, AgentCommand, ApproveAgentCapabilities, DeactivateAgent, DeleteAgent, RotateAgentCredential,
        UpdateAgent, may_grant,
    },
};
use symbia_events::{CommandId, OrgId};
use symbia_projections::{Scope, identity as model};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Identity,
    agent_auth::{NewAgent, aggregate, check_credential, check_metadata},
    agent_enrolment::{EnrolmentClaims, Terms},
    shapes::{Msg, epoch_ms, iso},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, Validation, routes},
    platform::Consistency,
};

/// How long an enrolment token is good for unless it says otherwise, and at most.
const ENROLMENT_HOURS: (u32, u32) = (24, 168);
/// Most agents in one answer.
const PAGE: i64 = 500;

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(enrol))
        .routes(routes!(read, change, delete))
        .routes(routes!(rotate))
        .routes(routes!(activate))
        .routes(routes!(deactivate))
}

/// An agent as its admins see it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AgentDetails {
    id: String,
    agent_id: String,
    name: String,
    org_id: Option<String>,
    /// What it may do.
    capabilities: Vec<String>,
    /// What it asked for and was not granted.
    requested_capabilities: Vec<String>,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    is_active: bool,
    enrolled_by: String,
    last_seen_at: Option<String>,
    created_at: String,
    updated_at: String,
}

impl From<model::Agent> for AgentDetails {
    fn from(a: model::Agent) -> Self {
        AgentDetails {
            org_id: a.organization().map(str::to_owned),
            id: a.id,
            agent_id: a.agent_id,
            name: a.name,
            capabilities: a.capabilities,
            requested_capabilities: a.requested_capabilities,
            metadata: a.metadata,
            is_active: a.is_active,
            enrolled_by: a.enrolled_by,
            last_seen_at: a.last_seen_at.map(iso),
            created_at: iso(a.created_at),
            updated_at: iso(a.updated_at),
        }
    }
}

impl Identity {
    /// An agent that the caller administers; to everybody else it does not exist.
    async fn administered(&self, caller: &Caller, scope: &RequestScope, id: &str) -> ApiResult<model::Agent> {
        caller.require_user()?;
        let unknown = || ApiError::not_found("Agent");
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let agent = model::agent(&mut tx, id).await?.ok_or_else(unknown)?;
        let role = agent.organization().and_then(|org| caller.role_in(org));
        match role {
            Some("admin") => Ok(agent),
            _ if caller.is_super_admin => {
                agent.organization().map_or(Ok(()), |org| caller.enters(org, scope))?;
                Ok(agent)
            }
            Some(_) => Err(ApiError::insufficient_role("admin")),
            None => Err(unknown()),
        }
    }

    async fn order(
        &self,
        agent: &model::Agent,
        command: impl Into<AgentCommand>,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let command = command.into();
        // A request may change several things: each has its own command.
        let id = CommandId::derived(scope.command_id(&caller.id), command.command_type());
        let (address, actor) = (aggregate(agent.organization(), &agent.id)?, Actor::from(&**caller));
        self.platform.submit_as(id, &address, &command, &actor, scope, Consistency::Visible).await?;
        Ok(())
    }

    async fn details(&self, caller: &Caller, scope: &RequestScope, id: &str) -> ApiResult<Json<AgentDetails>> {
        Ok(Json(self.administered(caller, scope, id).await?.into()))
    }
}

/// Which agents to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
struct Filter {
    /// Only those of this organization. Super admins may leave it out and see all.
    #[serde(default)]
    org_id: Option<String>,
    /// Where the page before ended.
    #[serde(default)]
    cursor: Option<String>,
    /// 1 to 500.
    #[serde(default)]
    limit: Option<i64>,
}

/// Agents.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Agents {
    agents: Vec<AgentDetails>,
    /// For the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// List the agents of an organization (its admins)
#[utoipa::path(get, path = "/agents", tag = "Agents", params(Filter),
    responses((status = 200, description = "The oldest first", body = Agents)))]
async fn list(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Query(filter): Query<Filter>,
) -> ApiResult<Json<Agents>> {
    caller.require_user()?;
    let org = match filter.org_id {
        None if caller.is_super_admin && scope.org_id.is_none() => None,
        None => Some(caller.org(&scope)?),
        org => org,
    };
    let read = match &org {
        Some(org) => {
            identity.require_admin_or_operator(&caller, &scope, org).await?;
            let tenant = org.parse().map_err(|_| ApiError::not_found("Organization"))?;
            Scope::member(tenant, &caller.id)
        }
        None => {
            caller.enters(OrgId::GLOBAL, &scope)?;
            Scope::platform()
        }
    };
    let limit = filter.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let after = filter.cursor.as_deref().and_then(|cursor| cursor.split_once('_'));
    let after =
        after.and_then(|(at, id)| Some((OffsetDateTime::from_unix_timestamp_nanos(at.parse().ok()?).ok()?, id)));
    let mut tx = identity.platform.read(&read).await?;
    let found = model::agents(&mut tx, org.as_deref(), after, limit).await?;
    let full = i64::try_from(found.len()).is_ok_and(|n| n == limit);
    let last = found.last().filter(|_| full);
    let next_cursor = last.map(|agent| format!("{}_{}", agent.created_at.unix_timestamp_nanos(), agent.id));
    Ok(Json(Agents { agents: found.into_iter().map(AgentDetails::from).collect(), next_cursor }))
}

/// Add an agent to an organization (its admins)
///
/// The capabilities are granted, as far as an admin of the organization may grant them.
#[utoipa::path(post, path = "/agents", tag = "Agents", request_body = NewAgent,
    responses((status = 200, description = "The agent", body = AgentDetails),
        (status = 400, description = "A field is not valid, or the handle is taken")))]
async fn create(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewAgent>,
) -> ApiResult<Json<AgentDetails>> {
    new.check()?;
    let org = match new.org_id.clone() {
        None if caller.is_super_admin && scope.org_id.is_none() => None,
        None => Some(caller.org(&scope)?),
        org => org,
    };
    if let Some(org) = &org {
        identity.require_admin_or_operator(&caller, &scope, org).await?;
    }
    caller.require_user()?;
    if let Some(org) = org.as_deref().filter(|_| caller.is_super_admin) {
        let mut tx = identity.platform.read(&Scope::platform()).await?;
        model::organization(&mut tx, org).await?.ok_or_else(|| ApiError::not_found("Organization"))?;
    }
    let terms =
        Terms { org, capabilities: new.capabilities.clone(), enrolled_by: caller.id.clone(), enrolment_id: None };
    let id = identity.register_agent(&new, terms, &Actor::from(&*caller), &scope).await?;
    identity.details(&caller, &scope, &id).await
}

/// What an enrolment token lets its bearer do.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Enrolment {
    /// The organization that the agent will belong to; else that of the request.
    #[serde(default)]
    org_id: Option<String>,
    /// What the agent may do.
    #[serde(default)]
    capabilities: Vec<String>,
    /// Hours until the token expires: 24 unless said, at most 168.
    #[serde(default)]
    expires_in_hours: Option<u32>,
}

/// An enrolment token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EnrolmentToken {
    /// For the `X-Enrolment-Token` header of one registration.
    token: String,
    /// In milliseconds since 1970.
    expires_at: i64,
}

/// Issue a token with which one agent can register itself (admins of the organization)
#[utoipa::path(post, path = "/agents/enrolment-tokens", tag = "Agents", request_body = Enrolment,
    responses((status = 200, description = "Shown once", body = EnrolmentToken)))]
async fn enrol(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(enrolment): Json<Enrolment>,
) -> ApiResult<Json<EnrolmentToken>> {
    caller.require_user()?;
    let org = enrolment.org_id.map_or_else(|| caller.org(&scope), Ok)?;
    identity.require_admin_or_operator(&caller, &scope, &org).await?;
    let actor = Actor::from(&*caller);
    if let Some(beyond) = enrolment.capabilities.iter().find(|c| !may_grant(&actor, c)) {
        return Err(ApiError::missing_capability(beyond));
    }
    let (hours, most) = ENROLMENT_HOURS;
    let hours = enrolment.expires_in_hours.unwrap_or(hours);
    let mut rules = Validation::new();
    rules.check((1..=most).contains(&hours), "expiresInHours", "range", "must be 1 to 168");
    rules.check(enrolment.capabilities.len() <= 200, "capabilities", "length", "must be at most 200").finish()?;
    let end = OffsetDateTime::now_utc() + Duration::hours(i64::from(hours));
    let claims = EnrolmentClaims {
        id: Uuid::new_v4().to_string(),
        org,
        capabilities: enrolment.capabilities,
        by: caller.id.clone(),
        exp: end.unix_timestamp(),
    };
    let token = claims.token(&identity.platform.keys).to_string();
    Ok(Json(EnrolmentToken { token, expires_at: epoch_ms(end) }))
}

/// Read an agent (admins of its organization)
#[utoipa::path(get, path = "/agents/{id}", tag = "Agents", params(("id" = String, Path, description = "Id of the agent")),
    responses((status = 200, description = "The agent", body = AgentDetails)))]
async fn read(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<AgentDetails>> {
    identity.details(&caller, &scope, &id).await
}

/// Changes of an agent; what is absent stays.
#[derive(Deserialize, ToSchema)]
struct Changes {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    /// What it may do from now on.
    #[serde(default)]
    capabilities: Option<Vec<String>>,
}

/// Change an agent, or approve what it may do (admins of its organization)
#[utoipa::path(patch, path = "/agents/{id}", tag = "Agents", request_body = Changes,
    params(("id" = String, Path, description = "Id of the agent")),
    responses((status = 200, description = "The agent", body = AgentDetails)))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(changes): Json<Changes>,
) -> ApiResult<Json<AgentDetails>> {
    let agent = identity.administered(&caller, &scope, &id).await?;
    let mut rules = Validation::new();
    if let Some(name) = &changes.name {
        rules.required("name", name).length("name", name, 1, 200);
    }
    if let Some(metadata) = &changes.metadata {
        check_metadata(&mut rules, metadata);
    }
    rules.finish()?;
    let agent_row_id = id.clone();
    if let Some(capabilities) = changes.capabilities {
        // First: it is the one that can be refused.
        let approve = ApproveAgentCapabilities { agent_row_id: id.clone(), capabilities };
        identity.order(&agent, approve, &caller, &scope).await?;
    }
    if changes.name.is_some() || changes.metadata.is_some() {
        let name = changes.name.map(|name| name.trim().to_owned());
        let update = UpdateAgent { agent_row_id, name, metadata: changes.metadata };
        identity.order(&agent, update, &caller, &scope).await?;
    }
    identity.details(&caller, &scope, &id).await
}

/// Delete an agent; its handle is never given to another (admins of its organization)
#[utoipa::path(delete, path = "/agents/{id}", tag = "Agents",
    params(("id" = String, Path, description = "Id of the agent")),
    responses((status = 200, description = "Deleted", body = Msg)))]
async fn delete(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    let agent = identity.administered(&caller, &scope, &id).await?;
    identity.order(&agent, DeleteAgent { agent_row_id: id }, &caller, &scope).await?;
    for reference in [Some(&agent.credential_ref), agent.previous_ref.as_ref()].into_iter().flatten() {
        identity.platform.secrets.destroy_secret(reference).await?;
    }
    Ok(Json(Msg { message: "Agent deleted" }))
}

/// Another credential.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Rotation {
    /// 32 characters at least; made here when it is absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    credential: Option<Zeroizing<String>>,
    /// For so many seconds the credential before goes on working; 0 unless said, at most 7 days. Without it, all
    /// sessions of the agent end.
    #[serde(default)]
    grace_seconds: Option<u32>,
}

/// A rotated credential.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Rotated {
    agent: AgentDetails,
    /// The new credential, when it was made here. It is shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
}

/// Give an agent another credential (admins of its organization)
#[utoipa::path(post, path = "/agents/{id}/rotate", tag = "Agents", request_body = Rotation,
    params(("id" = String, Path, description = "Id of the agent")),
    responses((status = 200, description = "The agent, and the credential if it was made here", body = Rotated)))]
async fn rotate(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(rotation): Json<Rotation>,
) -> ApiResult<Json<Rotated>> {
    let agent = identity.administered(&caller, &scope, &id).await?;
    let grace = Duration::seconds(i64::from(rotation.grace_seconds.unwrap_or(0)));
    let mut rules = Validation::new();
    rules.check(grace <= Duration::days(7), "graceSeconds", "range", "must be at most 604800");
    if let Some(credential) = &rotation.credential {
        check_credential(&mut rules, credential);
    }
    rules.finish()?;
    let made = rotation.credential.is_none();
    let credential = rotation.credential.unwrap_or_else(|| {
        Zeroizing::new(rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect())
    });
    // Not derived from an idempotency key: a made credential is given out once.
    let purpose = Uuid::new_v4().to_string();
    let credential_ref = identity.keep_credential(&id, &purpose, &credential).await?;
    let end = (!grace.is_zero()).then(|| (OffsetDateTime::now_utc() + grace).format(&Rfc3339).unwrap_or_default());
    let command = RotateAgentCredential { agent_row_id: id.clone(), credential_ref, grace_until: end };
    identity.order(&agent, command, &caller, &scope).await?;
    let agent = identity.administered(&caller, &scope, &id).await?.into();
    Ok(Json(Rotated { agent, credential: made.then(|| credential.to_string()) }))
}

/// Why.
#[derive(Default, Deserialize, ToSchema)]
struct Reason {
    #[serde(default)]
    reason: Option<String>,
}

/// Let an agent in again (admins of its organization)
#[utoipa::path(post, path = "/agents/{id}/activate", tag = "Agents", request_body = Reason,
    params(("id" = String, Path, description = "Id of the agent")),
    responses((status = 200, description = "The agent", body = AgentDetails)))]
async fn activate(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(Reason { reason }): Json<Reason>,
) -> ApiResult<Json<AgentDetails>> {
    let agent = identity.administered(&caller, &scope, &id).await?;
    identity.order(&agent, ActivateAgent { agent_row_id: id.clone(), reason }, &caller, &scope).await?;
    identity.details(&caller, &scope, &id).await
}

/// Keep an agent out, at once (admins of its organization)
#[utoipa::path(post, path = "/agents/{id}/deactivate", tag = "Agents", request_body = Reason,
    params(("id" = String, Path, description = "Id of the agent")),
    responses((status = 200, description = "The agent", body = AgentDetails)))]
async fn deactivate(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(Reason { reason }): Json<Reason>,
) -> ApiResult<Json<AgentDetails>> {
    let agent = identity.administered(&caller, &scope, &id).await?;
    identity.order(&agent, DeactivateAgent { agent_row_id: id.clone(), reason }, &caller, &scope).await?;
    identity.details(&caller, &scope, &id).await
}
