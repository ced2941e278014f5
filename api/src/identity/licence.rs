//! What an organization may use: its plan's features and limits with its own entitlements, as they count now
//! (identity.md §5.4, 6.5, 6.14).

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value, json};
use symbia_commands::identity::{DEFAULT_PLAN, OrganizationCommand, RemoveOrgEntitlement, SetOrgEntitlement};
use symbia_projections::{Scope, identity as model};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    access::Wants,
    orgs,
    shapes::{Msg, iso},
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(licence)).routes(routes!(list)).routes(routes!(set, remove))
}

/// A feature of an organization.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OrgEntitlement {
    id: String,
    org_id: String,
    feature_key: String,
    enabled: bool,
    expires_at: Option<String>,
    /// Switched on and not over.
    effective: bool,
}

impl From<model::OrgEntitlement> for OrgEntitlement {
    fn from(e: model::OrgEntitlement) -> Self {
        OrgEntitlement {
            effective: e.is_effective(OffsetDateTime::now_utc()),
            id: e.id,
            org_id: e.org_id,
            feature_key: e.feature_key,
            enabled: e.enabled,
            expires_at: e.expires_at.map(iso),
        }
    }
}

/// What an organization may use.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Licence {
    /// Name of the organization.
    organization: String,
    /// Name of its plan.
    plan: String,
    /// Of the plan and of its own, without those that are switched off or over.
    features: Vec<String>,
    /// By name; a negative number is none.
    #[schema(value_type = Object)]
    limits: BTreeMap<String, Number>,
    /// `active`, or `over_limit` when more is used than a limit allows.
    status: &'static str,
    /// What is used, by limit.
    #[schema(value_type = Object)]
    usage: Value,
}

/// Read what an organization may use
#[utoipa::path(get, path = "/license/{orgId}", tag = "Organizations",
    params(("orgId" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "As it counts now", body = Licence)))]
async fn licence(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Licence>> {
    let (_, reading) = identity.enter(&caller, &scope, &id, Wants::Read).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let organization = model::organization(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("Organization"))?;
    let plan = match &organization.plan_id {
        Some(plan) => model::plan(&mut tx, plan).await?,
        None => None,
    };
    let own = model::org_entitlements(&mut tx, &id).await?;
    let members = model::member_count(&mut tx, &id).await?;
    let now = OffsetDateTime::now_utc();
    let limit = plan.as_ref().and_then(model::Plan::member_limit);
    let over = limit.is_some_and(|most| members > i64::from(most));
    let (name, of_plan, limits) =
        plan.map_or_else(|| (DEFAULT_PLAN.to_owned(), vec![], BTreeMap::new()), |p| (p.name, p.features, p.limits));
    let mut features: BTreeSet<String> = of_plan.into_iter().collect();
    // The organization's own word counts more than the plan's.
    for entitlement in own {
        if entitlement.is_effective(now) {
            features.insert(entitlement.feature_key);
        } else if !entitlement.enabled {
            features.remove(&entitlement.feature_key);
        }
    }
    Ok(Json(Licence {
        organization: organization.name,
        plan: name,
        features: features.into_iter().collect(),
        limits,
        status: if over { "over_limit" } else { "active" },
        usage: json!({ "members": members }),
    }))
}

/// Features of an organization.
#[derive(Serialize, ToSchema)]
struct Entitlements {
    entitlements: Vec<OrgEntitlement>,
}

/// List the features of an organization
#[utoipa::path(get, path = "/entitlements/{orgId}", tag = "Organizations",
    params(("orgId" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "By key, those that do not count included", body = Entitlements)))]
async fn list(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Entitlements>> {
    let (_, reading) = identity.enter(&caller, &scope, &id, Wants::Read).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let found = model::org_entitlements(&mut tx, &id).await?;
    Ok(Json(Entitlements { entitlements: found.into_iter().map(OrgEntitlement::from).collect() }))
}

/// A feature.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Feature {
    /// False switches off what the plan has.
    #[serde(default = "yes")]
    enabled: bool,
    /// RFC 3339; never, when absent.
    #[serde(default)]
    expires_at: Option<String>,
}

fn yes() -> bool {
    true
}

/// Give an organization a feature, or switch one off (super admins)
#[utoipa::path(put, path = "/entitlements/{orgId}/{featureKey}", tag = "Organizations", request_body = Feature,
    params(("orgId" = String, Path, description = "Id of the organization"),
        ("featureKey" = String, Path, description = "The feature")),
    responses((status = 200, description = "The feature", body = OrgEntitlement)))]
async fn set(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path((id, feature_key)): Path<(String, String)>,
    Json(Feature { enabled, expires_at }): Json<Feature>,
) -> ApiResult<Json<OrgEntitlement>> {
    caller.require_super_admin()?;
    let command = SetOrgEntitlement { org_id: id.clone(), feature_key: feature_key.clone(), enabled, expires_at };
    let command = OrganizationCommand::from(command);
    identity.carry_out(&orgs::aggregate(&id)?, &command, &caller, &scope).await?;
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let found = model::org_entitlements(&mut tx, &id).await?.into_iter().find(|e| e.feature_key == feature_key);
    found.map(|e| Json(e.into())).ok_or_else(|| ApiError::not_found("Entitlement"))
}

/// Take a feature from an organization (super admins)
#[utoipa::path(delete, path = "/entitlements/{orgId}/{featureKey}", tag = "Organizations",
    params(("orgId" = String, Path, description = "Id of the organization"),
        ("featureKey" = String, Path, description = "The feature")),
    responses((status = 200, description = "Taken, also if there was none", body = Msg)))]
async fn remove(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path((id, feature_key)): Path<(String, String)>,
) -> ApiResult<Json<Msg>> {
    caller.require_super_admin()?;
    let command = OrganizationCommand::from(RemoveOrgEntitlement { org_id: id.clone(), feature_key });
    identity.carry_out(&orgs::aggregate(&id)?, &command, &caller, &scope).await?;
    Ok(Json(Msg { message: "Entitlement removed" }))
}
