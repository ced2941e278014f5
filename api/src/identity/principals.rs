//! Who asks, and who a token belongs to: me, introspection, actor assertions, the own profile (identity.md §4.8, 6.4).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    identity::{RenameUser, UserCommand},
};
use symbia_events::{AggregateRef, OrgId, Service};
use symbia_projections::{Scope, identity as model};
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use zeroize::Zeroizing;

use super::{
    Identity,
    agent_auth::AgentRef,
    email,
    shapes::{EnrichedUser, UserRef, epoch_ms},
    tokens::{Act, Claims},
};
use crate::http::{
    ApiError, ApiResult, AuthError, Caller, Json, Principal, RequestScope, Validation, principal::Membership as OrgRef,
    routes,
};

/// How long an actor assertion is accepted.
const ASSERTION_LIFETIME: Duration = Duration::minutes(5);
/// The same of an agent in somebody's name.
const ACTING_LIFETIME: Duration = Duration::seconds(30);

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(me))
        .routes(routes!(user_me))
        .routes(routes!(introspect))
        .routes(routes!(assertion))
        .routes(routes!(profile, change_profile))
}

/// The caller.
#[derive(Serialize, ToSchema)]
struct Me {
    /// `user` or `agent`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<EnrichedUser>,
    /// Those of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    organizations: Option<Vec<OrgRef>>,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<AgentRef>,
}

fn of(caller: &Caller, kind: Option<&'static str>) -> ApiResult<Json<Me>> {
    caller.require_user()?;
    let (user, organizations) = (Some(EnrichedUser::from(&**caller)), Some(caller.organizations.clone()));
    Ok(Json(Me { kind, user, organizations, agent: None }))
}

/// Read who the caller is
#[utoipa::path(get, path = "/auth/me", tag = "Authentication",
    responses((status = 200, description = "The caller", body = Me)))]
async fn me(State(identity): State<Identity>, caller: Caller) -> ApiResult<Json<Me>> {
    if caller.require_agent().is_err() {
        return of(&caller, Some("user"));
    }
    let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
    let agent = model::agent_by_handle(&mut tx, &caller.id).await?.ok_or_else(|| ApiError::not_found("Agent"))?;
    Ok(Json(Me { kind: Some("agent"), user: None, organizations: None, agent: Some(agent.into()) }))
}

/// Read who the caller is (users only)
#[utoipa::path(get, path = "/auth/user/me", tag = "Authentication",
    responses((status = 200, description = "The caller", body = Me)))]
async fn user_me(caller: Caller) -> ApiResult<Json<Me>> {
    of(&caller, None)
}

/// A token to look at.
#[derive(Deserialize, ToSchema)]
struct Introspection {
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    token: Option<Zeroizing<String>>,
}

/// What a token stands for (RFC 7662).
#[derive(Default, Serialize, ToSchema)]
struct Introspected {
    /// Whether it is accepted now; the other fields are there only if it is.
    active: bool,
    /// `user` or `agent`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    /// Address of a user, handle of an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(rename = "agentId", skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
    /// Organization of an agent, `null` when it has none; absent for users.
    #[serde(rename = "orgId", skip_serializing_if = "Option::is_none")]
    org_id: Option<Option<String>>,
    #[serde(rename = "isSuperAdmin", skip_serializing_if = "Option::is_none")]
    is_super_admin: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    organizations: Option<Vec<OrgRef>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entitlements: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<Vec<String>>,
    /// Of an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Vec<String>>,
    /// Always `Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    /// What it is limited to, separated by spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// Who acts for the subject (RFC 8693).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    act: Option<Act>,
}

impl Introspected {
    fn of(principal: Principal, claims: Claims) -> Self {
        let common = Introspected {
            active: true,
            sub: Some(claims.sub),
            name: principal.name,
            token_type: Some("Bearer"),
            iat: Some(claims.iat),
            exp: Some(claims.exp),
            iss: Some(claims.iss),
            aud: Some(claims.aud),
            jti: Some(claims.jti),
            sid: claims.sid,
            scope: claims.scope,
            client_id: claims.client_id,
            act: claims.act,
            ..Introspected::default()
        };
        if claims.kind == "agent" {
            return Introspected {
                kind: Some("agent"),
                username: principal.agent_id.clone(),
                agent_id: principal.agent_id,
                org_id: Some(principal.org_id),
                capabilities: Some(principal.entitlements),
                ..common
            };
        }
        Introspected {
            kind: Some("user"),
            username: principal.email.clone(),
            email: principal.email,
            is_super_admin: Some(principal.is_super_admin),
            organizations: Some(principal.organizations),
            entitlements: Some(principal.entitlements),
            roles: Some(principal.roles),
            ..common
        }
    }
}

/// Ask what a token stands for
///
/// A token is told about whatever its audience: hold `aud` against your own name before you act on it.
#[utoipa::path(post, path = "/auth/introspect", tag = "Authentication", security(()), request_body = Introspection,
    responses((status = 200, description = "`active` tells whether it is accepted", body = Introspected)))]
async fn introspect(
    State(identity): State<Identity>,
    body: Result<Json<Introspection>, ApiError>,
) -> ApiResult<Json<Introspected>> {
    let Ok(Json(Introspection { token: Some(token) })) = body else { return Ok(Json(Introspected::default())) };
    match identity.directory.introspect(token.trim()).await {
        Ok((principal, claims)) => Ok(Json(Introspected::of(principal, claims))),
        // "Inactive" would log people out of every service while the directory is away.
        Err(AuthError::Unavailable) => Err(ApiError::unavailable("The directory", 2)),
        Err(_) => Ok(Json(Introspected::default())),
    }
}

/// Proof of who acts, for commands sent over NATS.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Assertion {
    /// Goes into a command's `actorassertion`.
    assertion: String,
    /// When it expires, in milliseconds since 1970.
    expires_at: i64,
    /// The actor it names.
    #[schema(value_type = Object)]
    actor: Value,
}

/// Get an actor assertion, valid for five minutes, to send commands over NATS
#[utoipa::path(post, path = "/auth/assertion", tag = "Authentication",
    responses((status = 200, description = "The assertion", body = Assertion)))]
async fn assertion(State(identity): State<Identity>, caller: Caller) -> ApiResult<Json<Assertion>> {
    let (actor, at) = (Actor::from(&*caller), OffsetDateTime::now_utc());
    // The bus does not ask whether a delegation still stands.
    let lifetime = if caller.acting.is_some() { ACTING_LIFETIME } else { ASSERTION_LIFETIME };
    let assertion = actor.assert(&identity.platform.keys, at, lifetime);
    Ok(Json(Assertion { assertion, expires_at: epoch_ms(at + lifetime), actor: json!(actor) }))
}

/// Read the caller's profile
#[utoipa::path(get, path = "/users/me", tag = "Users",
    responses((status = 200, description = "The caller", body = EnrichedUser)))]
async fn profile(caller: Caller) -> ApiResult<Json<EnrichedUser>> {
    caller.require_user()?;
    Ok(Json(EnrichedUser::from(&*caller)))
}

/// Changes of a profile; what is absent or empty stays.
#[derive(Deserialize, ToSchema)]
struct ProfileChanges {
    #[serde(default)]
    name: Option<String>,
    /// Only the present address is accepted: another one has to be confirmed first.
    #[serde(default)]
    email: Option<String>,
}

/// Change the caller's display name
#[utoipa::path(patch, path = "/users/me", tag = "Users", request_body = ProfileChanges,
    responses((status = 200, description = "The caller", body = UserRef)))]
async fn change_profile(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(changes): Json<ProfileChanges>,
) -> ApiResult<Json<UserRef>> {
    caller.require_user()?;
    let keys = &identity.platform.keys;
    let mut rules = Validation::new();
    if let Some(address) = changes.email.as_deref().filter(|text| !text.is_empty()) {
        let same = caller.email.as_deref().is_some_and(|own| email::key(keys, own) == email::key(keys, address));
        rules.check(same, "email", "unconfirmed", "cannot be changed without a confirmation");
    }
    let name = changes.name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    if let Some(name) = &name {
        rules.length("name", name, 1, 200);
    }
    rules.finish()?;
    let changed = name.filter(|name| caller.name.as_ref() != Some(name));
    if let Some(name) = &changed {
        let key = identity.platform.secrets.subject_key(&caller.id).await?;
        let key = key.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "The account was erased"))?;
        let command = UserCommand::from(RenameUser { user_id: caller.id.clone(), name: key.seal(name) });
        let address = AggregateRef::new(Service::Identity, OrgId::global(), "user", &caller.id);
        let address = address.map_err(ApiError::internal)?;
        identity.platform.submit(&address, &command, &Actor::from(&*caller), &scope).await?;
    }
    Ok(Json(UserRef {
        id: caller.id.clone(),
        email: caller.email.clone(),
        name: changed.or_else(|| caller.name.clone()),
        is_super_admin: None,
        organizations: None,
    }))
}
