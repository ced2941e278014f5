//! The mesh as a whole: topology, summary, flows (network.md §6.7).

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_commands::network::{TOPOLOGY_READ, TRACES_READ, bridge_node};
use symbia_events::network::NodeType;
use symbia_projections::network as model;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Network,
    access::Place,
    events::{Stats, Traces, page},
    shapes::{self, Trace},
};
use crate::http::{ApiResult, Caller, Json, Path, Query, RequestScope, routes};

const DEFAULT_FLOW: i64 = 500;

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new()
        .routes(routes!(topology))
        .routes(routes!(summary))
        .routes(routes!(graph))
        .routes(routes!(trace))
        .routes(routes!(of_run))
        .routes(routes!(flow))
}

/// The mesh.
#[derive(Serialize, ToSchema)]
pub(super) struct Topology {
    nodes: Vec<shapes::Node>,
    contracts: Vec<shapes::Contract>,
    bridges: Vec<shapes::Bridge>,
    timestamp: String,
}

struct Registry {
    nodes: Vec<model::Node>,
    contracts: Vec<model::Contract>,
    bridges: Vec<model::Bridge>,
}

impl Network {
    async fn registry(&self, place: &Place) -> ApiResult<Registry> {
        let (mut tx, org) = (self.platform.read(&place.reading).await?, place.org.as_str());
        Ok(Registry {
            nodes: model::nodes(&mut tx, org).await?,
            contracts: model::contracts(&mut tx, org).await?,
            bridges: model::bridges(&mut tx, org).await?,
        })
    }

    /// The mesh.
    pub(super) async fn topology(&self, caller: &Caller, scope: &RequestScope) -> ApiResult<Topology> {
        let place = self.place_for(caller, scope, TOPOLOGY_READ)?;
        let (registry, now) = (self.registry(&place).await?, OffsetDateTime::now_utc());
        Ok(Topology {
            nodes: registry.nodes.into_iter().map(|row| self.shown(row)).collect(),
            contracts: registry.contracts.into_iter().map(|row| shapes::Contract::of(row, now)).collect(),
            bridges: registry.bridges.into_iter().map(shapes::Bridge::from).collect(),
            timestamp: crate::iso(now),
        })
    }
}

/// Read nodes, contracts and bridges (`cap:network.topology.read`)
#[utoipa::path(get, path = "/sdn/topology", tag = "Observation",
    responses((status = 200, description = "The mesh", body = Topology), (status = 403, description = "Not allowed")))]
async fn topology(State(network): State<Network>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Topology>> {
    Ok(Json(network.topology(&caller, &scope).await?))
}

/// The mesh in numbers.
#[derive(Serialize, ToSchema)]
struct Summary {
    #[schema(value_type = Object)]
    nodes: Value,
    #[schema(value_type = Object)]
    contracts: Value,
    #[schema(value_type = Object)]
    bridges: Value,
    events: Stats,
    #[schema(value_type = Object)]
    policies: Value,
    timestamp: String,
}

/// Count what is on the mesh (`cap:network.topology.read`)
#[utoipa::path(get, path = "/sdn/summary", tag = "Observation",
    responses((status = 200, description = "The numbers", body = Summary), (status = 403, description = "Not allowed")))]
async fn summary(State(network): State<Network>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Summary>> {
    let place = network.place_for(&caller, &scope, TOPOLOGY_READ)?;
    let registry = network.registry(&place).await?;
    let policies = network.policies(&place).await?;
    let mut tx = network.platform.read(&place.reading).await?;
    let totals = model::totals(&mut tx, place.org.as_str()).await?;
    let of_type = |node_type: NodeType| registry.nodes.iter().filter(|node| node.node_type == node_type).count();
    let by_type: BTreeMap<&str, usize> = NodeType::ALL.into_iter().map(|t| (t.name(), of_type(t))).collect();
    let connected = registry.nodes.iter().filter(|node| node.online).count();
    let active = registry.bridges.iter().filter(|bridge| bridge.active).count();
    let enabled = policies.iter().filter(|policy| policy.record.definition.enabled).count();
    Ok(Json(Summary {
        nodes: json!({ "total": registry.nodes.len(), "byType": by_type, "connected": connected }),
        contracts: json!({ "total": registry.contracts.len() }),
        bridges: json!({ "total": registry.bridges.len(), "active": active }),
        events: totals.into(),
        policies: json!({ "total": policies.len(), "enabled": enabled }),
        timestamp: crate::iso(OffsetDateTime::now_utc()),
    }))
}

/// Who may send to whom.
#[derive(Serialize, ToSchema)]
struct Graph {
    #[schema(value_type = Vec<Object>)]
    nodes: Vec<Value>,
    /// By source.
    #[schema(value_type = Object)]
    adjacency: BTreeMap<String, BTreeSet<String>>,
    #[schema(value_type = Vec<Object>)]
    bridges: Vec<Value>,
}

/// Read who may send to whom (`cap:network.topology.read`)
#[utoipa::path(get, path = "/sdn/graph", tag = "Observation",
    responses((status = 200, description = "The graph", body = Graph), (status = 403, description = "Not allowed")))]
async fn graph(State(network): State<Network>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Graph>> {
    let place = network.place_for(&caller, &scope, TOPOLOGY_READ)?;
    let (registry, now) = (network.registry(&place).await?, OffsetDateTime::now_utc());
    let mut adjacency: BTreeMap<String, BTreeSet<String>> =
        registry.nodes.iter().map(|node| (node.id.clone(), BTreeSet::new())).collect();
    for contract in registry.contracts.iter().filter(|contract| contract.expires_at.is_none_or(|end| end > now)) {
        let reached = adjacency.entry(contract.source.clone()).or_default();
        if contract.target == "*" {
            let others = registry.nodes.iter().filter(|node| node.id != contract.source);
            reached.extend(others.map(|node| node.id.clone()));
        } else {
            reached.insert(contract.target.clone());
        }
    }
    let node = |node: &model::Node| json!({ "id": node.id, "name": node.name, "type": node.node_type, "connected": node.online });
    let bridge = |bridge: &model::Bridge| {
        json!({ "id": bridge.id, "name": bridge.name, "type": bridge.bridge_type, "active": bridge.active,
            "eventTypes": bridge.event_types, "nodeId": bridge_node(&bridge.id) })
    };
    Ok(Json(Graph {
        nodes: registry.nodes.iter().map(node).collect(),
        adjacency,
        bridges: registry.bridges.iter().map(bridge).collect(),
    }))
}

/// Read the trace of an event with the names of its nodes (`cap:network.traces.read`)
#[utoipa::path(get, path = "/sdn/trace/{eventId}", tag = "Observation",
    params(("eventId" = String, Path, description = "Id of the event")),
    responses((status = 200, description = "The trace; hops carry nodeName and nodeType", body = Trace),
        (status = 403, description = "Not allowed"), (status = 404, description = "There is none")))]
async fn trace(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let place = network.place_for(&caller, &scope, TRACES_READ)?;
    let trace = Trace::from(&network.event(&place, &id).await?);
    let mut tx = network.platform.read(&place.reading).await?;
    let nodes = model::nodes(&mut tx, place.org.as_str()).await?;
    let mut body = json!(trace);
    for hop in body["path"].as_array_mut().into_iter().flatten() {
        let node = nodes.iter().find(|node| hop["node"] == node.id.as_str());
        hop["nodeName"] = node.map_or_else(|| hop["node"].clone(), |node| json!(node.name));
        if let Some(node) = node {
            hop["nodeType"] = json!(node.node_type);
        }
    }
    Ok(Json(body))
}

/// The traces of a run.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TracesOfRun {
    #[serde(flatten)]
    found: Traces,
    run_id: String,
}

/// Read the traces of a run (`cap:network.traces.read`)
#[utoipa::path(get, path = "/sdn/traces/{runId}", tag = "Observation",
    params(("runId" = String, Path, description = "Id of the run")),
    responses((status = 200, description = "In the order they came, the newest 1000", body = TracesOfRun),
        (status = 403, description = "Not allowed")))]
async fn of_run(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(run): Path<String>,
) -> ApiResult<Json<TracesOfRun>> {
    let found = network.traces(&caller, &scope, &run).await?;
    Ok(Json(TracesOfRun { found, run_id: run }))
}

/// How far back.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Window {
    /// At most so many events, 1 to 1000; the newest.
    limit: Option<i64>,
}

/// What went where in a run.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Flow {
    run_id: String,
    #[schema(value_type = Vec<Object>)]
    nodes: Vec<Value>,
    /// One for each delivery: from the source to who got the event.
    #[schema(value_type = Vec<Object>)]
    edges: Vec<Value>,
    event_count: usize,
}

/// Read what went where in a run (`cap:network.traces.read`)
#[utoipa::path(get, path = "/sdn/flow/{runId}", tag = "Observation",
    params(("runId" = String, Path, description = "Id of the run"), Window),
    responses((status = 200, description = "The flow", body = Flow), (status = 403, description = "Not allowed")))]
async fn flow(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(run): Path<String>,
    Query(window): Query<Window>,
) -> ApiResult<Json<Flow>> {
    let place = network.place_for(&caller, &scope, TRACES_READ)?;
    let rows = network.run(&place, &run, page(window.limit, DEFAULT_FLOW)?).await?;
    let mut tx = network.platform.read(&place.reading).await?;
    let known = model::nodes(&mut tx, place.org.as_str()).await?;
    let (mut ids, mut edges) = (BTreeSet::new(), Vec::new());
    for row in &rows {
        ids.insert(row.source.clone());
        for target in row.deliveries.keys() {
            ids.insert(target.clone());
            edges.push(json!({
                "from": row.source, "to": target, "eventType": row.event_type, "timestamp": row.timestamp,
            }));
        }
    }
    let node = |id: String| match known.iter().find(|node| node.id == id) {
        Some(node) => json!({ "id": id, "name": node.name, "type": node.node_type }),
        None => json!({ "id": id }),
    };
    Ok(Json(Flow { run_id: run, nodes: ids.into_iter().map(node).collect(), edges, event_count: rows.len() }))
}
