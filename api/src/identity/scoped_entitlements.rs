//! Entitlements with a quota on an organization, a project, an application or a service (identity.md §6.7, 6.14).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_commands::{
    Actor,
    identity::{
        ConsumeEntitlement, CreateScopedEntitlement, DeleteScopedEntitlement, SCOPES, ScopedEntitlementCommand,
        UpdateScopedEntitlement, present,
    },
};
use symbia_events::{CommandId, OrgId};
use symbia_projections::{Scope, identity as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Identity,
    access::Wants,
    accounts::Ids,
    owned::{Entered, Owned},
    shapes::{Msg, iso},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, principal::PrincipalKind, routes},
    platform::Consistency,
};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(create))
        .routes(routes!(change, delete))
        .routes(routes!(consume))
}

/// An entitlement with a quota.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScopedEntitlement {
    id: String,
    org_id: String,
    /// `org`, `project`, `application` or `service`.
    scope_type: String,
    scope_id: String,
    /// Always null, as in the original.
    tranche_id: Option<String>,
    feature_key: String,
    /// Null is no limit.
    quota: Option<i64>,
    consumed: i64,
    enabled: bool,
    expires_at: Option<String>,
    /// Always empty, as in the original.
    #[schema(value_type = Object)]
    metadata_json: Map<String, Value>,
    created_at: String,
}

impl From<model::ScopedEntitlement> for ScopedEntitlement {
    fn from(e: model::ScopedEntitlement) -> Self {
        ScopedEntitlement {
            id: e.id,
            org_id: e.org_id,
            scope_type: e.scope_type,
            scope_id: e.scope_id,
            tranche_id: None,
            feature_key: e.feature_key,
            quota: e.quota,
            consumed: e.consumed,
            enabled: e.enabled,
            expires_at: e.expires_at.map(iso),
            metadata_json: Map::new(),
            created_at: iso(e.created_at),
        }
    }
}

impl Identity {
    /// The organization of a scope that lets the caller in, with the scope to read there.
    async fn scope_of(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        (kind, id): (&str, &str),
        wants: Wants,
    ) -> ApiResult<(OrgId, Scope)> {
        fn of<T>(entered: Entered<T>) -> (OrgId, Scope) {
            (entered.to.tenant, entered.reading)
        }
        match kind {
            "org" => self.enter(caller, scope, id, wants).await,
            "project" => self.owned::<model::Project>(caller, scope, id, wants).await.map(of),
            "application" => self.owned::<model::Application>(caller, scope, id, wants).await.map(of),
            "service" => self.owned::<model::ProjectService>(caller, scope, id, wants).await.map(of),
            _ => Err(ApiError::invalid("scopeType", "enum", format!("must be one of {}", SCOPES.join(", ")))),
        }
    }
}

/// Entitlements.
#[derive(Serialize, ToSchema)]
struct Entitlements {
    entitlements: Vec<ScopedEntitlement>,
}

/// List the entitlements of a scope
#[utoipa::path(get, path = "/scoped-entitlements/{scopeType}/{scopeId}", tag = "Entitlements",
    params(("scopeType" = String, Path, description = "`org`, `project`, `application` or `service`"),
        ("scopeId" = String, Path, description = "Id of that")),
    responses((status = 200, description = "The oldest first", body = Entitlements)))]
async fn list(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path((kind, id)): Path<(String, String)>,
) -> ApiResult<Json<Entitlements>> {
    let (_, reading) = identity.scope_of(&caller, &scope, (&kind, &id), Wants::Read).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let found = model::scoped_entitlements(&mut tx, &kind, &id).await?;
    Ok(Json(Entitlements { entitlements: found.into_iter().map(ScopedEntitlement::from).collect() }))
}

/// A new entitlement.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewEntitlement {
    /// `org`, `project`, `application` or `service`.
    scope_type: String,
    scope_id: String,
    feature_key: String,
    /// 0 unless given; null is no limit.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>)]
    quota: Option<Option<u64>>,
    #[serde(default = "yes")]
    enabled: bool,
    /// RFC 3339; never, when absent.
    #[serde(default)]
    expires_at: Option<String>,
}

fn yes() -> bool {
    true
}

/// Give a scope a feature with a quota (admins of its organization)
#[utoipa::path(post, path = "/scoped-entitlements", tag = "Entitlements", request_body = NewEntitlement,
    responses((status = 200, description = "The entitlement", body = ScopedEntitlement),
        (status = 409, description = "The scope has the feature already")))]
async fn create(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewEntitlement>,
) -> ApiResult<Json<ScopedEntitlement>> {
    let of = (new.scope_type.as_str(), new.scope_id.as_str());
    let (tenant, reading) = identity.scope_of(&caller, &scope, of, Wants::Administer).await?;
    let id = Ids(scope.command_id(&caller.id)).of("entitlement");
    let to = model::ScopedEntitlement::address(&tenant, &id)?;
    let command = ScopedEntitlementCommand::from(CreateScopedEntitlement {
        id,
        org_id: tenant.to_string(),
        scope_type: new.scope_type,
        scope_id: new.scope_id,
        feature_key: new.feature_key,
        quota: new.quota.unwrap_or(Some(0)),
        enabled: new.enabled,
        expires_at: new.expires_at,
    });
    let now: model::ScopedEntitlement = identity.changed((&to, &reading), &command, &caller, &scope).await?;
    Ok(Json(now.into()))
}

/// Changes of an entitlement; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EntitlementChanges {
    /// Null is no limit.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>)]
    quota: Option<Option<u64>>,
    #[serde(default)]
    consumed: Option<u64>,
    #[serde(default)]
    enabled: Option<bool>,
    /// RFC 3339; null is never.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<Option<String>>,
}

/// Change an entitlement (admins of its organization)
#[utoipa::path(patch, path = "/scoped-entitlements/{id}", tag = "Entitlements", request_body = EntitlementChanges,
    params(("id" = String, Path, description = "Id of the entitlement")),
    responses((status = 200, description = "The entitlement", body = ScopedEntitlement)))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(changes): Json<EntitlementChanges>,
) -> ApiResult<Json<ScopedEntitlement>> {
    let entered = identity.owned(&caller, &scope, &id, Wants::Administer).await?;
    let Entered::<model::ScopedEntitlement> { to, reading, .. } = entered;
    let EntitlementChanges { quota, consumed, enabled, expires_at } = changes;
    let command = UpdateScopedEntitlement { id, quota, consumed, enabled, expires_at };
    let command = ScopedEntitlementCommand::from(command);
    let now: model::ScopedEntitlement = identity.changed((&to, &reading), &command, &caller, &scope).await?;
    Ok(Json(now.into()))
}

/// Delete an entitlement (admins of its organization)
#[utoipa::path(delete, path = "/scoped-entitlements/{id}", tag = "Entitlements",
    params(("id" = String, Path, description = "Id of the entitlement")),
    responses((status = 200, description = "Deleted", body = Msg)))]
async fn delete(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    let entered = identity.owned::<model::ScopedEntitlement>(&caller, &scope, &id, Wants::Administer).await?;
    let command = ScopedEntitlementCommand::from(DeleteScopedEntitlement { id });
    identity.carry_out(&entered.to, &command, &caller, &scope).await?;
    Ok(Json(Msg { message: "Entitlement deleted" }))
}

/// A use.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Use {
    /// How much, at least 1.
    amount: u64,
    /// Tells a repetition from another use; the `Idempotency-Key` header does as well.
    #[serde(default)]
    idempotency_key: Option<String>,
}

/// What is left.
#[derive(Serialize, ToSchema)]
struct Left {
    /// Null is no limit.
    remaining: Option<i64>,
    consumed: i64,
    quota: Option<i64>,
}

/// Use some of an entitlement (services, and admins of its organization)
///
/// The same use reported again counts once.
#[utoipa::path(post, path = "/scoped-entitlements/{id}/consume", tag = "Entitlements", request_body = Use,
    params(("id" = String, Path, description = "Id of the entitlement")),
    responses((status = 200, description = "Used; what is left", body = Left),
        (status = 409, description = "More was wanted than is left, or the entitlement does not count now")))]
async fn consume(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(Use { amount, idempotency_key }): Json<Use>,
) -> ApiResult<Json<Left>> {
    let org = identity.found::<model::ScopedEntitlement>(&Scope::platform(), &id).await?.org_id;
    let tenant = if caller.kind == PrincipalKind::Service {
        org.parse().map_err(|_| ApiError::not_found("Entitlement"))?
    } else {
        identity.enter(&caller, &scope, &org, Wants::Administer).await?.0
    };
    let own = idempotency_key.or_else(|| scope.idempotency_key.clone());
    let command_id = match &own {
        Some(key) => Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("use {} {id} {key}", caller.id).as_bytes()),
        None => Uuid::now_v7(),
    };
    let idempotency_key = own.unwrap_or_else(|| command_id.to_string());
    let command = ScopedEntitlementCommand::from(ConsumeEntitlement { id: id.clone(), amount, idempotency_key });
    let (to, actor) = (model::ScopedEntitlement::address(&tenant, &id)?, Actor::from(&*caller));
    let sent = CommandId(command_id);
    let done = identity.platform.submit_as(sent, &to, &command, &actor, &scope, Consistency::Visible).await;
    let done = done.map_err(|error| match error.code() {
        "ENTITLEMENT_INACTIVE" => error.with_status(StatusCode::CONFLICT),
        _ => error,
    })?;
    let now: model::ScopedEntitlement = identity.found(&Scope::platform(), &id).await?;
    let remaining = now.quota.map(|quota| (quota - now.consumed).max(0));
    if done.has("entitlement-exhausted") {
        let error = ApiError::quota_exceeded("More was wanted than is left of the quota");
        return Err(error.with_status(StatusCode::CONFLICT).with_extra("remaining", remaining));
    }
    Ok(Json(Left { remaining, consumed: now.consumed, quota: now.quota }))
}
