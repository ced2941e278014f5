//! The calls over the mesh: events, traces and counters (network.md §6.5).

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_commands::network::{EVENTS_READ, TRACES_READ};
use symbia_projections::network::{self as model, EventFilter};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Network,
    access::{Place, no_event},
    shapes::{self, Trace},
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes};

pub(super) const DEFAULT_PAGE: i64 = 100;
/// Most events of an answer.
pub(super) const LARGEST_PAGE: i64 = 1_000;

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(stats)).routes(routes!(of_run)).routes(routes!(trace))
}

/// Which events.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Listing {
    /// At most so many, 1 to 1000; the newest.
    #[param(example = 100)]
    limit: Option<i64>,
    run_id: Option<String>,
    source: Option<String>,
    /// One of those it was decided for.
    target: Option<String>,
    #[serde(rename = "type")]
    #[param(rename = "type")]
    event_type: Option<String>,
    /// `delivered`, `dropped`, `pending`, `error` or `unrouted`.
    status: Option<String>,
    /// RFC 3339.
    since: Option<String>,
    /// RFC 3339.
    until: Option<String>,
    /// The cursor of the answer before.
    cursor: Option<i64>,
    /// `false` for events without traces.
    traces: Option<bool>,
    /// `durable` (default); or `ephemeral`: the newest that passed by and are not kept, as far as this process saw them.
    #[param(inline)]
    lane: Option<Lane>,
}

/// How events travel.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Lane {
    #[default]
    Durable,
    Ephemeral,
}

pub(super) fn instant(name: &str, text: Option<&str>) -> ApiResult<Option<OffsetDateTime>> {
    let invalid = |_| ApiError::invalid(name, "format", "must be a time in RFC 3339");
    text.map(|text| OffsetDateTime::parse(text, &Rfc3339)).transpose().map_err(invalid)
}

pub(super) fn page(limit: Option<i64>, default: i64) -> ApiResult<i64> {
    let limit = limit.unwrap_or(default);
    if (1..=LARGEST_PAGE).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::invalid("limit", "range", "must be 1 to 1000"))
}

/// Events.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Events {
    /// Pairs of event and trace, in the order they came; without `traces`, events.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Value>,
    count: usize,
    /// For the page before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<i64>,
}

/// List the newest events of the organization (`cap:network.events.read`)
#[utoipa::path(get, path = "/events", tag = "Events", params(Listing),
    responses((status = 200, description = "In the order they came", body = Events),
        (status = 400, description = "A parameter is not valid"), (status = 403, description = "Not allowed")))]
async fn list(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Query(listing): Query<Listing>,
) -> ApiResult<Json<Events>> {
    let place = network.place_for(&caller, &scope, EVENTS_READ)?;
    let paired = |event: Value, trace: Value| {
        if listing.traces == Some(false) { event } else { json!({ "event": event, "trace": trace }) }
    };
    if listing.lane == Some(Lane::Ephemeral) {
        let mut events: Vec<Value> =
            network.hub().passed(&place.org).into_iter().map(|(event, trace)| paired(event, trace)).collect();
        let limit = usize::try_from(page(listing.limit, DEFAULT_PAGE)?).unwrap_or(0);
        events.drain(..events.len().saturating_sub(limit));
        return Ok(Json(Events { count: events.len(), events, cursor: None }));
    }
    let filter = EventFilter {
        limit: page(listing.limit, DEFAULT_PAGE)?,
        since: instant("since", listing.since.as_deref())?,
        until: instant("until", listing.until.as_deref())?,
        run_id: listing.run_id,
        source: listing.source,
        target: listing.target,
        event_type: listing.event_type,
        status: listing.status,
        before: listing.cursor,
    };
    let mut tx = network.platform.read(&place.reading).await?;
    let rows = model::events(&mut tx, place.org.as_str(), &filter).await?;
    drop(tx);
    let key = network.reading_key(&place.org).await?;
    let full = i64::try_from(rows.len()).is_ok_and(|count| count == filter.limit);
    let shown = |row: &model::RoutedEvent| paired(shapes::event(row, key.as_ref()), json!(Trace::from(row)));
    Ok(Json(Events {
        count: rows.len(),
        cursor: rows.first().filter(|_| full).map(|row| row.place),
        events: rows.iter().map(shown).collect(),
    }))
}

impl Network {
    /// A call over the mesh.
    ///
    /// # Errors
    /// 404 when there is none such.
    pub(super) async fn event(&self, place: &Place, id: &str) -> ApiResult<model::RoutedEvent> {
        let mut tx = self.platform.read(&place.reading).await?;
        model::event(&mut tx, place.org.as_str(), id).await?.ok_or_else(no_event)
    }

    /// The traces of a run.
    pub(super) async fn traces(&self, caller: &Caller, scope: &RequestScope, run: &str) -> ApiResult<Traces> {
        let place = self.place_for(caller, scope, TRACES_READ)?;
        let rows = self.run(&place, run, LARGEST_PAGE).await?;
        let traces: Vec<_> = rows.iter().map(Trace::from).collect();
        Ok(Traces { count: traces.len(), traces })
    }

    /// The calls of a run.
    pub(super) async fn run(&self, place: &Place, run: &str, limit: i64) -> ApiResult<Vec<model::RoutedEvent>> {
        let mut tx = self.platform.read(&place.reading).await?;
        Ok(model::traces_of_run(&mut tx, place.org.as_str(), run, limit).await?)
    }
}

/// Read the trace of an event (`cap:network.traces.read`)
#[utoipa::path(get, path = "/events/{id}/trace", tag = "Events", params(("id" = String, Path, description = "Id of the event")),
    responses((status = 200, description = "The trace", body = Trace), (status = 403, description = "Not allowed"),
        (status = 404, description = "There is none")))]
async fn trace(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Trace>> {
    let place = network.place_for(&caller, &scope, TRACES_READ)?;
    Ok(Json(Trace::from(&network.event(&place, &id).await?)))
}

/// Traces.
#[derive(Serialize, ToSchema)]
pub(super) struct Traces {
    traces: Vec<Trace>,
    count: usize,
}

/// Read the traces of a run (`cap:network.traces.read`)
#[utoipa::path(get, path = "/events/traces/{runId}", tag = "Events",
    params(("runId" = String, Path, description = "Id of the run")),
    responses((status = 200, description = "In the order they came, the newest 1000", body = Traces),
        (status = 403, description = "Not allowed")))]
async fn of_run(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(run): Path<String>,
) -> ApiResult<Json<Traces>> {
    Ok(Json(network.traces(&caller, &scope, &run).await?))
}

/// What all calls add up to.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stats {
    total_events: i64,
    total_traces: i64,
    delivered_count: i64,
    dropped_count: i64,
    error_count: i64,
    pending_count: i64,
    unrouted_count: i64,
    /// From routing to the first delivery.
    avg_latency_ms: f64,
}

impl From<model::Totals> for Stats {
    fn from(totals: model::Totals) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a mean in milliseconds")]
        let mean = if totals.delivered > 0 { totals.latency_ms as f64 / totals.delivered as f64 } else { 0.0 };
        Stats {
            total_events: totals.events,
            total_traces: totals.events,
            delivered_count: totals.delivered,
            dropped_count: totals.dropped,
            error_count: totals.error,
            pending_count: totals.pending,
            unrouted_count: totals.unrouted,
            avg_latency_ms: mean,
        }
    }
}

/// Count the events of the organization (`cap:network.events.read`)
#[utoipa::path(get, path = "/events/stats", tag = "Events",
    responses((status = 200, description = "The counters", body = Stats), (status = 403, description = "Not allowed")))]
async fn stats(State(network): State<Network>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Stats>> {
    let place = network.place_for(&caller, &scope, EVENTS_READ)?;
    let mut tx = network.platform.read(&place.reading).await?;
    Ok(Json(model::totals(&mut tx, place.org.as_str()).await?.into()))
}
