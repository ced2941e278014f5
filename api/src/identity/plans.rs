//! Plans: what operators offer and everybody may know, and the one that a new organization gets (identity.md §5.4, 6.9).

use std::collections::BTreeMap;

use axum::extract::State;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Number;
use symbia_commands::{
    Actor,
    identity::{AssignPlan, CreatePlan, DEFAULT_PLAN, OrganizationCommand, PlanCommand, RetirePlan, UpdatePlan},
};
use symbia_events::{AggregateRef, CommandId, OrgId};
use symbia_projections::{Scope, identity as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Identity,
    access::{address, edge_for},
    accounts::Ids,
    orgs,
    paging::{Listed, Page, cursor, listed},
    shapes::{Msg, iso},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes},
    platform::Consistency,
};

/// Organizations that learn of a changed limit side by side.
const SIDE_BY_SIDE: usize = 16;

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(change, retire))
}

/// A plan.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    id: String,
    pub name: String,
    /// Features.
    pub features_json: Vec<String>,
    /// Limits by name; a negative number is none.
    #[schema(value_type = Object)]
    pub limits_json: BTreeMap<String, Number>,
    price_cents: i64,
    created_at: String,
}

impl From<model::Plan> for Plan {
    fn from(p: model::Plan) -> Self {
        Plan {
            id: p.id,
            name: p.name,
            features_json: p.features,
            limits_json: p.limits,
            price_cents: p.price_cents,
            created_at: iso(p.created_at),
        }
    }
}

fn plan_address(id: &str) -> ApiResult<AggregateRef> {
    address(&OrgId::global(), "plan", id, "Plan")
}

impl Identity {
    /// A plan that organizations can get.
    async fn offered(&self, id: &str) -> ApiResult<model::Plan> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let plan = model::plan(&mut tx, id).await?.filter(|plan| !plan.retired);
        plan.ok_or_else(|| ApiError::not_found("Plan"))
    }

    /// Gives an organization a plan, or none (operators, and the service itself).
    pub(super) async fn assign_plan(
        &self,
        org: &str,
        plan: Option<model::Plan>,
        actor: &Actor,
        (id, scope): (CommandId, &RequestScope),
    ) -> ApiResult<()> {
        let member_limit = plan.as_ref().and_then(model::Plan::member_limit);
        let command = AssignPlan { org_id: org.to_owned(), plan_id: plan.map(|plan| plan.id), member_limit };
        let command = OrganizationCommand::from(command);
        let to = orgs::aggregate(org)?;
        self.platform.submit_as(id, &to, &command, actor, scope, Consistency::Visible).await?;
        Ok(())
    }

    /// The plan of new organizations, made when it is first needed.
    pub(super) async fn default_plan(&self, scope: &RequestScope) -> ApiResult<Option<model::Plan>> {
        if let Some(plan) = self.plan_named(DEFAULT_PLAN).await? {
            return Ok(Some(plan));
        }
        // The same plan and the same command for all who find none at the same time: each waits until it shows.
        let origin = Uuid::new_v5(&Uuid::NAMESPACE_OID, b"symbia default plan");
        let (id, command_id) = (origin.to_string(), CommandId::derived(origin, "create"));
        let command = PlanCommand::from(CreatePlan {
            plan_id: id.clone(),
            name: DEFAULT_PLAN.to_owned(),
            features: vec!["basic_access".to_owned()],
            limits: BTreeMap::from([("members".to_owned(), 5.into()), ("api_calls".to_owned(), 1_000.into())]),
            price_cents: 0,
        });
        let (edge, to) = (Actor::service("identity"), plan_address(&id)?);
        let made = self.platform.submit_as(command_id, &to, &command, &edge, scope, Consistency::Visible).await;
        match made {
            Ok(_) => {}
            Err(error) if ["CONFLICT", "PLAN_NAME_TAKEN"].contains(&error.code()) => {}
            Err(error) => return Err(error),
        }
        self.plan_named(DEFAULT_PLAN).await
    }

    async fn plan_named(&self, name: &str) -> ApiResult<Option<model::Plan>> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        Ok(model::plan_by_name(&mut tx, name).await?)
    }
}

/// List the plans
#[utoipa::path(get, path = "/admin/plans", tag = "Administration", params(Page),
    responses((status = 200, description = "The oldest first", body = Vec<Plan>)))]
async fn list(State(identity): State<Identity>, caller: Caller, Query(page): Query<Page>) -> ApiResult<Listed<Plan>> {
    let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
    let found = model::plans(&mut tx, page.after(), page.limit()).await?;
    Ok(listed(found, page.limit(), |plan| cursor(plan.created_at, &plan.id)))
}

/// A new plan.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewPlan {
    /// Unique.
    name: String,
    #[serde(default)]
    features_json: Vec<String>,
    #[serde(default)]
    #[schema(value_type = Object)]
    limits_json: BTreeMap<String, Number>,
    #[serde(default)]
    price_cents: u32,
}

/// Make a plan (super admins)
#[utoipa::path(post, path = "/admin/plans", tag = "Administration", request_body = NewPlan,
    responses((status = 200, description = "The plan", body = Plan),
        (status = 400, description = "A field is not valid, or the name is taken")))]
async fn create(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewPlan>,
) -> ApiResult<Json<Plan>> {
    caller.require_super_admin()?;
    let id = Ids(scope.command_id(&caller.id)).of("plan");
    let NewPlan { name, features_json: features, limits_json: limits, price_cents } = new;
    let command = PlanCommand::from(CreatePlan { plan_id: id.clone(), name, features, limits, price_cents });
    identity.carry_out(&plan_address(&id)?, &command, &caller, &scope).await.map_err(name_taken)?;
    Ok(Json(identity.offered(&id).await?.into()))
}

fn name_taken(error: ApiError) -> ApiError {
    if error.code() == "PLAN_NAME_TAKEN" { error.with_status(axum::http::StatusCode::BAD_REQUEST) } else { error }
}

/// Changes of a plan; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PlanChanges {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    features_json: Option<Vec<String>>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    limits_json: Option<BTreeMap<String, Number>>,
    #[serde(default)]
    price_cents: Option<u32>,
}

/// Change a plan (super admins)
///
/// A changed member limit holds for every organization that has the plan.
#[utoipa::path(patch, path = "/admin/plans/{id}", tag = "Administration", request_body = PlanChanges,
    params(("id" = String, Path, description = "Id of the plan")),
    responses((status = 200, description = "The plan", body = Plan),
        (status = 400, description = "A field is not valid, or the name is taken")))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(changes): Json<PlanChanges>,
) -> ApiResult<Json<Plan>> {
    caller.require_super_admin()?;
    let limits_given = changes.limits_json.is_some();
    let PlanChanges { name, features_json: features, limits_json: limits, price_cents } = changes;
    let command = PlanCommand::from(UpdatePlan { plan_id: id.clone(), name, features, limits, price_cents });
    identity.carry_out(&plan_address(&id)?, &command, &caller, &scope).await.map_err(name_taken)?;
    let plan = identity.offered(&id).await?;
    if limits_given {
        identity.spread_limit(&plan, &caller, &scope).await?;
    }
    Ok(Json(plan.into()))
}

impl Identity {
    /// Tells the organizations that have a plan how many members they may have; who knows it already notes nothing.
    async fn spread_limit(&self, plan: &model::Plan, caller: &Caller, scope: &RequestScope) -> ApiResult<()> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let orgs = model::organizations_with_plan(&mut tx, &plan.id).await?;
        drop(tx);
        let (edge, first) = (edge_for(caller), scope.command_id(&caller.id));
        stream::iter(orgs)
            .map(|org| {
                let (plan, edge) = (plan.clone(), &edge);
                let id = CommandId::derived(first, &format!("limit:{org}"));
                async move { self.assign_plan(&org, Some(plan), edge, (id, scope)).await }
            })
            .buffer_unordered(SIDE_BY_SIDE)
            .try_collect::<()>()
            .await
    }
}

/// Take a plan off the list (super admins)
///
/// Organizations that have it keep it.
#[utoipa::path(delete, path = "/admin/plans/{id}", tag = "Administration",
    params(("id" = String, Path, description = "Id of the plan")),
    responses((status = 200, description = "Retired", body = Msg),
        (status = 409, description = "New organizations get this plan")))]
async fn retire(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    caller.require_super_admin()?;
    let command = PlanCommand::from(RetirePlan { plan_id: id.clone() });
    identity.carry_out(&plan_address(&id)?, &command, &caller, &scope).await?;
    Ok(Json(Msg { message: "Plan retired" }))
}
