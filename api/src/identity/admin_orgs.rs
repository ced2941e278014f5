//! Organizations, for operators (identity.md §6.9).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    identity::{DeleteOrganization, OrganizationCommand, present},
};
use symbia_events::CommandId;
use symbia_projections::{Scope, identity as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity, orgs,
    paging::{Listed, Page, cursor, listed},
    shapes::{Msg, Organization},
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(change, delete))
}

/// An organization with its size.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Overview {
    #[serde(flatten)]
    organization: Organization,
    /// Number of members.
    member_count: i64,
    /// Name of its plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_name: Option<String>,
}

impl From<model::OrgOverview> for Overview {
    fn from(o: model::OrgOverview) -> Self {
        Overview { organization: o.organization.into(), member_count: o.member_count, plan_name: o.plan_name }
    }
}

/// List all organizations (super admins)
#[utoipa::path(get, path = "/admin/orgs", tag = "Administration", params(Page),
    responses((status = 200, description = "The oldest first", body = Vec<Overview>)))]
async fn list(
    State(identity): State<Identity>,
    caller: Caller,
    Query(page): Query<Page>,
) -> ApiResult<Listed<Overview>> {
    caller.require_super_admin()?;
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let found = model::organizations(&mut tx, page.after(), page.limit()).await?;
    Ok(listed(found, page.limit(), |o| cursor(o.organization.created_at, &o.organization.id)))
}

/// Changes of an organization; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OrgChanges {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    slug: Option<String>,
    /// Null takes the plan away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    plan_id: Option<Option<String>>,
}

/// Change name, slug or plan of an organization (super admins)
#[utoipa::path(patch, path = "/admin/orgs/{id}", tag = "Administration", request_body = OrgChanges,
    params(("id" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "The organization", body = Organization),
        (status = 400, description = "A field is not valid, the slug is taken, or there is no such plan")))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(OrgChanges { name, slug, plan_id }): Json<OrgChanges>,
) -> ApiResult<Json<Organization>> {
    caller.require_super_admin()?;
    let now = identity.any_organization(&id).await?;
    let plan = match plan_id {
        Some(Some(plan)) => {
            let mut tx = identity.platform.read(&Scope::platform()).await?;
            let found = model::plan(&mut tx, &plan).await?.filter(|plan| !plan.retired);
            let unknown = || ApiError::new(StatusCode::BAD_REQUEST, "PLAN_UNKNOWN", "There is no such plan");
            Some(Some(found.ok_or_else(unknown)?))
        }
        Some(None) => Some(None),
        None => None,
    };
    identity.rename(&now, (name, slug), &caller, &scope).await?;
    if let Some(plan) = plan {
        let command_id = CommandId::derived(scope.command_id(&caller.id), "plan");
        identity.assign_plan(&id, plan, &Actor::from(&*caller), (command_id, &scope)).await?;
    }
    Ok(Json(identity.any_organization(&id).await?.into()))
}

impl Identity {
    async fn any_organization(&self, id: &str) -> ApiResult<model::Organization> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        model::organization(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("Organization"))
    }
}

/// Delete an organization with all that it has (super admins)
#[utoipa::path(delete, path = "/admin/orgs/{id}", tag = "Administration",
    params(("id" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "Deleted", body = Msg),
        (status = 403, description = "The system organization stays")))]
async fn delete(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    caller.require_super_admin()?;
    let command = OrganizationCommand::from(DeleteOrganization { org_id: id.clone() });
    identity.carry_out(&orgs::aggregate(&id)?, &command, &caller, &scope).await?;
    Ok(Json(Msg { message: "Organization deleted" }))
}
