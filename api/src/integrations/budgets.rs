//! Budgets: what an organization, a user, an API key, an assistant or a model may use in a period; per minute it is a rate, and
//! `parallel` is what may be under way at once.

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    integrations::{BudgetCommand, RemoveBudget, ResetBudget, SetBudget},
};
use symbia_events::{
    AggregateRef, Service,
    integrations::{BudgetPeriod, BudgetScope, BudgetUnit},
};
use symbia_projections::{Scope, integrations as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{Integrations, usage::Asker};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    iso,
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list, set)).routes(routes!(remove)).routes(routes!(reset))
}

/// A budget, and what it came to.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Budget {
    id: String,
    /// `org`, `user`, `key`, `assistant` or `model`.
    scope: String,
    subject: Option<String>,
    /// `minute`, `day`, `month`, `total` or `parallel`. What was spent of a minute is not told.
    period: String,
    /// `micros`, `tokens` or `requests`.
    unit: String,
    limit: i64,
    /// The period that `spent` belongs to, e.g. `2026-01`.
    window: Option<String>,
    spent: i64,
    /// Kept for requests under way.
    reserved: u64,
    /// Requests that were refused, by a limit of a minute or of what is under way.
    refused: i64,
    last_refused_at: Option<String>,
    updated_at: String,
}

impl From<model::Budget> for Budget {
    fn from(row: model::Budget) -> Self {
        Budget {
            reserved: row.reserved.values().sum(),
            id: row.id,
            scope: row.scope,
            subject: row.subject,
            period: row.period,
            unit: row.unit,
            limit: row.limit,
            window: row.window,
            spent: row.spent,
            refused: row.refused,
            last_refused_at: row.refused_at.map(iso),
            updated_at: iso(row.updated_at),
        }
    }
}

/// A budget to set.
#[derive(Deserialize, ToSchema)]
struct NewBudget {
    #[schema(value_type = String, example = "user")]
    scope: BudgetScope,
    /// The user, API key (its id), assistant (`assistant:coordinator`) or model; none for the organization.
    #[serde(default)]
    subject: Option<String>,
    #[schema(value_type = String, example = "month")]
    period: BudgetPeriod,
    #[schema(value_type = String, example = "tokens")]
    unit: BudgetUnit,
    limit: u64,
}

fn unknown() -> ApiError {
    ApiError::not_found("Budget")
}

impl Integrations {
    fn budget(asker: &Asker, id: &str) -> ApiResult<AggregateRef> {
        AggregateRef::new(Service::Integrations, asker.org.clone(), "budget", id).map_err(|_| unknown())
    }

    async fn decide(
        &self,
        asker: &Asker,
        id: &str,
        command: BudgetCommand,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        self.platform.submit(&Self::budget(asker, id)?, &command, &Actor::from(&**caller), scope).await?;
        Ok(())
    }
}

/// List the budgets of the organization
///
/// Those that concern the caller; all of them for admins.
#[utoipa::path(get, path = "/integrations/budgets", tag = "Budgets",
    responses((status = 200, description = "The budgets, the widest first", body = Vec<Budget>)))]
async fn list(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
) -> ApiResult<Json<Vec<Budget>>> {
    let asker = Asker::new(&caller, &scope)?;
    let mut tx = service.platform.read(&Scope::member(asker.org.clone(), &asker.user)).await?;
    let found = model::budgets(&mut tx, asker.org.as_str()).await?;
    let theirs = |budget: &model::Budget| {
        !["user", "key"].contains(&&*budget.scope) || budget.subject.as_deref() == Some(&asker.user)
    };
    Ok(Json(found.into_iter().filter(|budget| asker.sees_all || theirs(budget)).map(Budget::from).collect()))
}

/// Set a budget, or another limit for one that is the same but for its limit (admins of the organization)
#[utoipa::path(put, path = "/integrations/budgets", tag = "Budgets", request_body = NewBudget,
    responses((status = 200, description = "The budget", body = Budget), (status = 400, description = "A field is not valid"),
        (status = 403, description = "Not an admin of the organization")))]
async fn set(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewBudget>,
) -> ApiResult<Json<Budget>> {
    let asker = Asker::new(&caller, &scope)?;
    // One for each thing that is counted.
    let name = serde_json::json!([asker.org, new.scope, new.subject, new.period, new.unit]).to_string();
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string();
    let command = SetBudget {
        budget_id: id.clone(),
        org_id: asker.org.to_string(),
        scope: new.scope,
        subject: new.subject,
        period: new.period,
        unit: new.unit,
        limit: new.limit,
    };
    service.decide(&asker, &id, command.into(), &caller, &scope).await?;
    let mut tx = service.platform.read(&Scope::member(asker.org.clone(), &asker.user)).await?;
    let found = model::budget(&mut tx, asker.org.as_str(), &id).await?.ok_or_else(unknown)?;
    Ok(Json(found.into()))
}

/// Remove a budget (admins of the organization)
#[utoipa::path(delete, path = "/integrations/budgets/{id}", tag = "Budgets",
    params(("id" = String, Path, description = "Id of the budget")),
    responses((status = 204, description = "Removed"), (status = 403, description = "Not an admin of the organization"),
        (status = 404, description = "There is none")))]
async fn remove(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    let asker = Asker::new(&caller, &scope)?;
    let command = RemoveBudget { budget_id: id.clone(), org_id: asker.org.to_string() };
    service.decide(&asker, &id, command.into(), &caller, &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begin a budget anew: what was spent counts no longer (admins of the organization)
#[utoipa::path(post, path = "/integrations/budgets/{id}/reset", tag = "Budgets",
    params(("id" = String, Path, description = "Id of the budget")),
    responses((status = 200, description = "The budget", body = Budget), (status = 404, description = "There is none")))]
async fn reset(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Budget>> {
    let asker = Asker::new(&caller, &scope)?;
    let command = ResetBudget { budget_id: id.clone(), org_id: asker.org.to_string() };
    service.decide(&asker, &id, command.into(), &caller, &scope).await?;
    let mut tx = service.platform.read(&Scope::member(asker.org.clone(), &asker.user)).await?;
    Ok(Json(model::budget(&mut tx, asker.org.as_str(), &id).await?.ok_or_else(unknown)?.into()))
}
