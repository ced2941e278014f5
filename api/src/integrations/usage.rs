//! What was used (integrations.md §5.6). Everybody sees their own use, admins that of their organization.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_commands::integrations::ADMIN_CAPABILITY;
use symbia_events::OrgId;
use symbia_projections::{
    Scope,
    integrations::{self as model, Filter, Grouped},
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, executions::days_ago};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Query, RequestScope, routes},
    iso,
};

const MOST_DAYS: i64 = 366;
const PAGE: i64 = 100;
const LARGEST_PAGE: i64 = 500;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(summary)).routes(routes!(logs)).routes(routes!(by_user)).routes(routes!(by_key))
}

/// Which requests.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct Since {
    /// Of so many days until now.
    days: Option<i64>,
    /// Only at this provider.
    integration: Option<String>,
    /// Only of this user.
    user_id: Option<String>,
    /// Only with this API key, by its id.
    key_id: Option<String>,
    /// Only of this model.
    model: Option<String>,
    /// Only those that are `requested`, `running`, `completed`, `failed` or `cancelled`.
    status: Option<String>,
    /// Only those with this word in their `X-Symbia-Tags`.
    tag: Option<String>,
    /// At most so many, 1 to 500.
    limit: Option<i64>,
    offset: Option<i64>,
}

/// Who asks, and how much they see.
pub(super) struct Asker {
    pub org: OrgId,
    pub user: String,
    /// Admins see what others used.
    pub sees_all: bool,
}

impl Asker {
    pub fn new(caller: &Caller, scope: &RequestScope) -> ApiResult<Self> {
        let org = caller.org(scope)?;
        let sees_all = caller.role_in(&org) == Some("admin") || caller.has_capability(ADMIN_CAPABILITY);
        let org = org.parse().map_err(|_| ApiError::org_access_denied())?;
        Ok(Asker { org, user: caller.id.clone(), sees_all })
    }

    /// What they may see of what they ask for.
    pub fn filter<'a>(&'a self, since: &'a Since, usual: i64) -> ApiResult<Filter<'a>> {
        let days = since.days.unwrap_or(usual);
        if !(1..=MOST_DAYS).contains(&days) {
            return Err(ApiError::invalid("days", "range", "must be 1 to 366"));
        }
        let user = if self.sees_all { since.user_id.as_deref() } else { Some(self.user.as_str()) };
        let provider = since.integration.as_deref();
        let (key, model, status) = (since.key_id.as_deref(), since.model.as_deref(), since.status.as_deref());
        let tag = since.tag.as_deref();
        Ok(Filter { org: self.org.as_str(), since: days_ago(days), user, provider, key, model, status, tag })
    }
}

impl Since {
    pub fn page(&self) -> ApiResult<(i64, i64)> {
        let (limit, offset) = (self.limit.unwrap_or(PAGE), self.offset.unwrap_or(0));
        if !(1..=LARGEST_PAGE).contains(&limit) || offset < 0 {
            return Err(ApiError::invalid("limit", "range", "must be 1 to 500, and offset not negative"));
        }
        Ok((limit, offset))
    }
}

fn group(name: &str, of: &Grouped) -> Value {
    let s = &of.summary;
    let mut value = json!({
        "requestCount": s.requests,
        "successCount": s.succeeded,
        "errorCount": s.requests - s.succeeded,
        "totalTokens": s.prompt_tokens + s.completion_tokens,
        "totalCostMicros": s.cost_micros,
        "avgDurationMs": s.avg_ms.round(),
        "lastUsedAt": of.last_at.map(iso),
    });
    value[name] = json!(of.key);
    value
}

/// Sum up what was used
///
/// By the caller; by everybody in the organization for its admins. Costs are of requests whose model has a price.
#[utoipa::path(get, path = "/integrations/usage", tag = "Usage", params(Since),
    responses((status = 200, description = "Sums, and the same by provider, model, assistant, user and API key", body = Object)))]
async fn summary(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(since): Query<Since>,
) -> ApiResult<Json<Value>> {
    const MOST: i64 = 20;
    let asker = Asker::new(&caller, &scope)?;
    let filter = asker.filter(&since, 30)?;
    let mut tx = service.platform.read(&Scope::member(asker.org.clone(), &asker.user)).await?;
    let s = model::summary(&mut tx, &filter).await?;
    let mut groups = Vec::new();
    for (column, name) in [
        ("provider", "integrationKey"),
        ("model", "model"),
        ("assistant_id", "assistantId"),
        ("user_id", "userId"),
        ("key_id", "keyId"),
    ] {
        let found = model::usage_by(&mut tx, column, &filter, MOST).await?;
        groups.push(found.iter().map(|of| group(name, of)).collect::<Vec<_>>());
    }
    let start = iso(filter.since);
    Ok(Json(json!({
        "period": { "days": since.days.unwrap_or(30), "startDate": start },
        "summary": {
            "totalRequests": s.requests,
            "successCount": s.succeeded,
            "errorCount": s.requests - s.succeeded,
            "promptTokens": s.prompt_tokens,
            "completionTokens": s.completion_tokens,
            "totalTokens": s.prompt_tokens + s.completion_tokens,
            "totalCostMicros": s.cost_micros,
            "avgDurationMs": s.avg_ms.round(),
            "uniqueUsers": s.users,
        },
        "byIntegration": groups[0],
        "byModel": groups[1],
        "byAssistant": groups[2],
        "byUser": groups[3],
        "byKey": groups[4],
    })))
}

/// Rows of use.
#[derive(Serialize, ToSchema)]
struct Logs {
    logs: Vec<super::executions::Execution>,
    limit: i64,
    offset: i64,
}

/// List what was used, the newest first
#[utoipa::path(get, path = "/integrations/usage/logs", tag = "Usage", params(Since),
    responses((status = 200, description = "A row for each request", body = Logs)))]
async fn logs(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(since): Query<Since>,
) -> ApiResult<Json<Logs>> {
    let asker = Asker::new(&caller, &scope)?;
    let (limit, offset) = since.page()?;
    let mut tx = service.platform.read(&Scope::member(asker.org.clone(), &asker.user)).await?;
    let found = model::executions(&mut tx, &asker.filter(&since, 7)?, limit, offset).await?;
    Ok(Json(Logs { logs: found.into_iter().map(Into::into).collect(), limit, offset }))
}

/// Sum up what each user used
#[utoipa::path(get, path = "/integrations/usage/by-user", tag = "Usage", params(Since),
    responses((status = 200, description = "The users, those with most requests first", body = Object)))]
async fn by_user(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(since): Query<Since>,
) -> ApiResult<Json<Value>> {
    Ok(Json(json!({ "users": service.used_by(&caller, &scope, &since, ("user_id", "userId")).await? })))
}

/// Sum up what was used with each API key
///
/// What was asked without one has none: its `keyId` is null.
#[utoipa::path(get, path = "/integrations/usage/by-key", tag = "Usage", params(Since),
    responses((status = 200, description = "The keys, those with most requests first", body = Object)))]
async fn by_key(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(since): Query<Since>,
) -> ApiResult<Json<Value>> {
    Ok(Json(json!({ "keys": service.used_by(&caller, &scope, &since, ("key_id", "keyId")).await? })))
}

impl Integrations {
    async fn used_by(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        since: &Since,
        (column, name): (&'static str, &str),
    ) -> ApiResult<Vec<Value>> {
        let asker = Asker::new(caller, scope)?;
        let mut tx = self.platform.read(&Scope::member(asker.org.clone(), &asker.user)).await?;
        let found = model::usage_by(&mut tx, column, &asker.filter(since, 30)?, LARGEST_PAGE).await?;
        Ok(found.iter().map(|of| group(name, of)).collect())
    }
}
