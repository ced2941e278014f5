//! Routes: names of an organization's own for several models, and which of them is asked when (integrations.md §28).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{RemoveRoutePolicy, RouteCommand, SetRoutePolicy, may_ask_route, may_be_alias, route_id},
};
use symbia_events::{
    AggregateRef, Service,
    integrations::{FallbackTrigger, Hedge, RouteFallback, RouteTarget, Strategy},
};
use symbia_projections::integrations as model;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, chat::Hedging, errors::refused, usage::Asker};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    iso,
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read, set, remove))
}

/// A route.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Route {
    alias: String,
    /// Counts changes, from 1.
    version: i64,
    strategy: String,
    #[schema(value_type = Vec<Object>)]
    targets: Vec<RouteTarget>,
    #[schema(value_type = Vec<Object>)]
    fallbacks: Vec<RouteFallback>,
    /// When the second target is asked besides the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    hedge: Option<Hedging>,
    updated_by: String,
    updated_at: String,
}

impl From<model::Route> for Route {
    fn from(row: model::Route) -> Self {
        Route {
            alias: row.alias,
            version: row.version,
            strategy: row.strategy,
            targets: row.targets.0,
            fallbacks: row.fallbacks.0,
            hedge: row.hedge.map(|hedge| hedge.0.into()),
            updated_by: row.set_by,
            updated_at: iso(row.set_at),
        }
    }
}

/// What a name is to mean.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRoute {
    /// Which target is asked first: `priority` (in their order), `simple-shuffle` (by chance, as often as its weight says),
    /// `least-busy`, `lowest-latency`, `lowest-cost`, `usage-based` (most left of what its provider grants) or `sticky` (the
    /// same for all of a conversation). The others follow when it is at fault.
    #[serde(default = "in_order")]
    #[schema(value_type = Option<String>, example = "least-busy")]
    strategy: Strategy,
    targets: Vec<Target>,
    /// What is asked besides, when something goes wrong.
    #[serde(default)]
    fallbacks: Vec<Fallback>,
    /// When the second target is asked besides the first.
    #[serde(default)]
    hedge: Option<Hedging>,
}

fn in_order() -> Strategy {
    Strategy::Priority
}

/// A model that is asked.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Target {
    #[schema(example = "openai")]
    provider: String,
    /// Absent: the provider's default.
    #[serde(default)]
    model: Option<String>,
    /// 0 to 1000; 1 when it is not given. With 0 it is asked last.
    #[serde(default)]
    weight: Option<u32>,
    /// How long one attempt may take, 100 to 600000.
    #[serde(default)]
    timeout_ms: Option<u64>,
    /// How often it is asked in a minute, by all processes together; beyond that others are. 1 to 1000000.
    #[serde(default)]
    max_rpm: Option<u32>,
    /// How many requests it may have under way, likewise.
    #[serde(default)]
    max_concurrency: Option<u32>,
}

/// Models that are asked when something goes wrong.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Fallback {
    /// `error` (whatever another model may do better), `timeout`, `rate_limit`, `content_filter`, `context_window` or `budget`.
    #[schema(value_type = String, example = "rate_limit")]
    on: FallbackTrigger,
    /// In turn.
    targets: Vec<Target>,
}

impl From<Target> for RouteTarget {
    fn from(target: Target) -> Self {
        let Target { provider, model, weight, timeout_ms, max_rpm, max_concurrency } = target;
        RouteTarget { provider, model, weight, timeout_ms, max_rpm, max_concurrency }
    }
}

fn unknown() -> ApiError {
    ApiError::not_found("Route")
}

impl Integrations {
    // Where an organization's models are asked for is its admins' to know: keys and budgets hang on it.
    fn of_admin(caller: &Caller, scope: &RequestScope, alias: &str) -> ApiResult<(Asker, AggregateRef)> {
        let asker = administrator(caller, scope)?;
        let id = route_id(asker.org.as_str(), alias);
        let address = AggregateRef::new(Service::Integrations, asker.org.clone(), "route", &id);
        Ok((asker, address.map_err(ApiError::internal)?))
    }

    async fn route(&self, asker: &Asker, alias: &str) -> ApiResult<Option<Route>> {
        let mut tx = self.platform.read(&asker.scope()).await?;
        Ok(model::route(&mut tx, asker.org.as_str(), alias).await?.map(Route::from))
    }

    // A target's provider and model.
    fn named<'t>(&'t self, target: &'t RouteTarget) -> (&'t str, &'t str) {
        let usual = || self.provider(&target.provider).map_or("", |provider| &provider.default_model);
        (&target.provider, target.model.as_deref().unwrap_or_else(usual))
    }

    /// The names that a caller can ask for, as OpenAI's list of models has them.
    pub(super) async fn aliases(&self, caller: &Caller, scope: &RequestScope) -> ApiResult<Vec<Value>> {
        let asker = Asker::new(caller, scope)?;
        let mut tx = self.platform.read(&asker.scope()).await?;
        let routes = model::routes(&mut tx, asker.org.as_str()).await?;
        let asked = |route: &model::Route| {
            may_ask_route(&caller.scopes, &route.alias, route.targets.iter().map(|t| self.named(t)))
        };
        let entry = |route: model::Route| {
            let created = route.set_at.unix_timestamp();
            json!({ "id": route.alias, "object": "model", "created": created, "owned_by": asker.org })
        };
        Ok(routes.into_iter().filter(asked).map(entry).collect())
    }
}

fn administrator(caller: &Caller, scope: &RequestScope) -> ApiResult<Asker> {
    let asker = Asker::new(caller, scope)?;
    if asker.sees_all { Ok(asker) } else { Err(ApiError::insufficient_role("admin")) }
}

/// List the routes of the organization (its admins)
#[utoipa::path(get, path = "/integrations/routes", tag = "Routes",
    responses((status = 200, description = "The routes, by their names", body = Vec<Route>),
        (status = 403, description = "Not an admin of the organization")))]
async fn list(State(service): State<Integrations>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Vec<Route>>> {
    let asker = administrator(&caller, &scope)?;
    let mut tx = service.platform.read(&asker.scope()).await?;
    let found = model::routes(&mut tx, asker.org.as_str()).await?;
    Ok(Json(found.into_iter().map(Route::from).collect()))
}

/// Read a route (admins of the organization)
#[utoipa::path(get, path = "/integrations/routes/{alias}", tag = "Routes",
    params(("alias" = String, Path, description = "Its name")),
    responses((status = 200, description = "The route", body = Route), (status = 404, description = "There is none"),
        (status = 403, description = "Not an admin of the organization")))]
async fn read(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(alias): Path<String>,
) -> ApiResult<Json<Route>> {
    let asker = administrator(&caller, &scope)?;
    Ok(Json(service.route(&asker, &alias).await?.ok_or_else(unknown)?))
}

/// Have a name mean several models (admins of the organization)
///
/// A request that names it as its model, without a provider, asks one of them; so it shows among the models.
#[utoipa::path(put, path = "/integrations/routes/{alias}", tag = "Routes", request_body = NewRoute,
    params(("alias" = String, Path, description = "1 to 64 letters, digits, dots, dashes and underscores")),
    responses((status = 200, description = "The route", body = Route), (status = 400, description = "A field is not valid"),
        (status = 403, description = "Not an admin of the organization")))]
async fn set(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(alias): Path<String>,
    Json(new): Json<NewRoute>,
) -> ApiResult<Json<Route>> {
    let (asker, address) = Integrations::of_admin(&caller, &scope, &alias)?;
    if !may_be_alias(&alias) {
        return Err(refused("alias", "must be 1 to 64 letters, digits, dots, dashes and underscores, and not auto"));
    }
    let all = new.targets.iter().chain(new.fallbacks.iter().flat_map(|fallback| &fallback.targets));
    for target in all {
        if service.provider(&target.provider).is_err() {
            return Err(refused("targets", format!("there is no provider '{}' here", target.provider)));
        }
    }
    let fallback =
        |Fallback { on, targets }| RouteFallback { on, targets: targets.into_iter().map(Into::into).collect() };
    let command = RouteCommand::from(SetRoutePolicy {
        route_id: address.id.clone(),
        org_id: asker.org.to_string(),
        alias: alias.clone(),
        strategy: new.strategy,
        targets: new.targets.into_iter().map(Into::into).collect(),
        fallbacks: new.fallbacks.into_iter().map(fallback).collect(),
        hedge: new.hedge.map(Hedge::try_from).transpose()?,
    });
    service.platform.submit(&address, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(service.route(&asker, &alias).await?.ok_or_else(unknown)?))
}

/// Have a name mean nothing any more (admins of the organization)
#[utoipa::path(delete, path = "/integrations/routes/{alias}", tag = "Routes",
    params(("alias" = String, Path, description = "Its name")),
    responses((status = 204, description = "Removed"), (status = 404, description = "There is none"),
        (status = 403, description = "Not an admin of the organization")))]
async fn remove(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(alias): Path<String>,
) -> ApiResult<StatusCode> {
    let (asker, address) = Integrations::of_admin(&caller, &scope, &alias)?;
    let command = RouteCommand::from(RemoveRoutePolicy { route_id: address.id.clone(), org_id: asker.org.to_string() });
    service.platform.submit(&address, &command, &Actor::from(&*caller), &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}
