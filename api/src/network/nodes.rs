//! The registry of nodes: registration, heartbeats, and the key that a node signs with (network.md §6.2, 8.1, 8.3).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use symbia_commands::network::{ConnectNode, NodeCommand, RegisterNode, TOPOLOGY_READ, UnregisterNode};
use symbia_events::{
    OrgId,
    network::{NodeType, node_key, target_key},
};
use symbia_nats::leases::{LeaseError, Sign};
use symbia_projections::network as model;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Network,
    access::{Place, address},
    metrics, shapes,
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Principal, RequestScope, principal::PrincipalKind, routes};

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new()
        .routes(routes!(list, register))
        .routes(routes!(by_capability))
        .routes(routes!(by_type))
        .routes(routes!(read, unregister))
        .routes(routes!(heartbeat))
        .routes(routes!(signing_key))
        .routes(routes!(known))
}

/// Nodes.
#[derive(Serialize, ToSchema)]
struct Nodes {
    nodes: Vec<shapes::Node>,
    count: usize,
}

/// It is done.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    pub ok: bool,
}

pub(super) const OK: Json<Done> = Json(Done { ok: true });

/// A node to be registered.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewNode {
    /// 1 to 128 of `A-Z a-z 0-9 _ - : @ =`.
    pub id: String,
    name: String,
    /// `service`, `assistant`, `sandbox`, `bridge` or `client`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    node_type: NodeType,
    capabilities: Vec<String>,
    /// Where events are posted to while no socket speaks for it; empty when they are not.
    endpoint: String,
    /// At most 16 kB, nested at most 16 levels deep.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// The entry of the directory that lives on it.
    #[serde(default)]
    entity_id: Option<String>,
}

impl NewNode {
    /// An assistant that an agent registers is as its token says.
    fn of_agent(mut self, agent: &Principal) -> Self {
        if self.node_type != NodeType::Assistant || agent.kind != PrincipalKind::Agent {
            return self;
        }
        let missing = agent.entitlements.iter().filter(|own| !self.capabilities.contains(own)).cloned();
        let missing: Vec<String> = missing.collect();
        self.capabilities.extend(missing);
        if let Some(name) = &agent.name {
            self.name.clone_from(name);
        }
        self.metadata.insert("authenticatedAgentId".to_owned(), json!(agent.id));
        if let Some(org) = &agent.org_id {
            self.metadata.insert("orgId".to_owned(), json!(org));
        }
        self
    }
}

impl Network {
    pub(super) fn shown(&self, row: model::Node) -> shapes::Node {
        let sign = self.leases.last(&row.org_id, &row.id);
        shapes::Node::of(row, sign)
    }

    /// Registers a node, or describes it anew.
    pub(super) async fn register(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        new: NewNode,
    ) -> ApiResult<(Place, model::Node)> {
        let place = self.place(caller, scope)?;
        let new = new.of_agent(caller);
        let is_service = new.node_type == NodeType::Service;
        let (id, to) = (new.id.clone(), address(&place.org, "node", &new.id)?);
        let command = NodeCommand::from(RegisterNode {
            node_id: new.id,
            org_id: place.org.to_string(),
            name: new.name,
            node_type: new.node_type,
            capabilities: new.capabilities,
            endpoint: new.endpoint,
            metadata: new.metadata,
            unless_present: false,
        });
        let done = self.submit(&place, &to, &command, scope).await?;
        if is_service && done.has("node-registered") {
            self.default_contracts(&place, scope, &id).await;
        }
        if let Some(entity) = new.entity_id {
            self.bind(&place, scope, id.clone(), entity).await?;
        }
        if let Err(error) = self.renew(&place.org, &id, OffsetDateTime::now_utc()).await {
            // A lease that is not renewed now is renewed by the next heartbeat.
            tracing::warn!(%error, "a sign of life is not kept");
        }
        let node = self.node(&place, &id).await?;
        Ok((place, node))
    }

    /// Refuses the id of a node that is another's, also to those who manage it: they do not get what is for it.
    pub(super) async fn is_nobody_elses(&self, caller: &Caller, scope: &RequestScope, id: &str) -> ApiResult<()> {
        let place = self.place(caller, scope)?;
        let mut tx = self.platform.read(&place.reading).await?;
        match model::node(&mut tx, place.org.as_str(), id).await? {
            Some(node) if node.owner_id != place.actor.subject() => {
                Err(self.anothers(&place, id, "Only its owner gets what is for a node"))
            }
            _ => Ok(()),
        }
    }

    /// Takes a node off the mesh.
    pub(super) async fn unregister(&self, caller: &Caller, scope: &RequestScope, id: String) -> ApiResult<()> {
        let command = |_: &OrgId| NodeCommand::from(UnregisterNode { node_id: id.clone() });
        self.act((caller, scope), None, ("node", &id), command).await
    }

    /// Keeps a sign of life of a node.
    pub(super) async fn beat(&self, caller: &Caller, scope: &RequestScope, id: &str) -> ApiResult<OffsetDateTime> {
        let place = self.place(caller, scope)?;
        let node = self.own_node(&place, id).await?;
        let now = OffsetDateTime::now_utc();
        self.renew(&place.org, id, now).await.map_err(|error| {
            tracing::warn!(%error, "a sign of life is not kept");
            ApiError::unavailable("The event bus", 2)
        })?;
        metrics::heartbeat();
        if !node.online {
            let command = NodeCommand::from(ConnectNode { node_id: id.to_owned() });
            self.submit(&place, &address(&place.org, "node", id)?, &command, scope).await?;
        }
        Ok(now)
    }

    // With the socket that the node is known to be connected by.
    async fn renew(&self, org: &OrgId, id: &str, at: OffsetDateTime) -> Result<(), LeaseError> {
        let socket = self.leases.last(org.as_str(), id).and_then(|sign| sign.socket);
        self.leases.renew(org.as_str(), id, Sign { at, socket }).await
    }

    /// The nodes of a mesh that are meant.
    pub(super) async fn nodes(
        &self,
        place: &Place,
        which: impl Fn(&model::Node) -> bool,
    ) -> ApiResult<Vec<shapes::Node>> {
        let mut tx = self.platform.read(&place.reading).await?;
        let found = model::nodes(&mut tx, place.org.as_str()).await?;
        Ok(found.into_iter().filter(which).map(|row| self.shown(row)).collect())
    }
}

fn counted(nodes: Vec<shapes::Node>) -> Json<Nodes> {
    Json(Nodes { count: nodes.len(), nodes })
}

/// Register a node, or describe it anew
///
/// Its id belongs to whoever registered it first. Admins and holders of `cap:network.nodes.admin` register any node, an agent
/// the one of its own id.
#[utoipa::path(post, path = "/registry/nodes", tag = "Nodes", request_body = NewNode,
    responses((status = 201, description = "The node", body = shapes::Node),
        (status = 400, description = "A field is not valid"), (status = 403, description = "Not allowed, or another's id"),
        (status = 413, description = "The metadata is too large or too deep")))]
async fn register(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewNode>,
) -> ApiResult<(StatusCode, Json<shapes::Node>)> {
    let (_, node) = network.register(&caller, &scope, new).await?;
    Ok((StatusCode::CREATED, Json(network.shown(node))))
}

/// List the nodes of the organization
#[utoipa::path(get, path = "/registry/nodes", tag = "Nodes",
    responses((status = 200, description = "The oldest first", body = Nodes), (status = 403, description = "No access")))]
async fn list(State(network): State<Network>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Nodes>> {
    let place = network.place(&caller, &scope)?;
    Ok(counted(network.nodes(&place, |_| true).await?))
}

/// List the nodes, for who may see the topology
#[utoipa::path(get, path = "/sdn/nodes", tag = "Observation",
    responses((status = 200, description = "The oldest first", body = Nodes), (status = 403, description = "No access")))]
async fn known(State(network): State<Network>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Nodes>> {
    let place = network.place_for(&caller, &scope, TOPOLOGY_READ)?;
    Ok(counted(network.nodes(&place, |_| true).await?))
}

/// List the nodes that have a capability, word for word
#[utoipa::path(get, path = "/registry/nodes/capability/{capability}", tag = "Nodes",
    params(("capability" = String, Path, description = "The capability")),
    responses((status = 200, description = "The oldest first", body = Nodes), (status = 403, description = "No access")))]
async fn by_capability(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(capability): Path<String>,
) -> ApiResult<Json<Nodes>> {
    let place = network.place(&caller, &scope)?;
    Ok(counted(network.nodes(&place, |node| node.capabilities.contains(&capability)).await?))
}

/// List the nodes of a type
#[utoipa::path(get, path = "/registry/nodes/type/{type}", tag = "Nodes",
    params(("type" = String, Path, description = "service, assistant, sandbox, bridge or client")),
    responses((status = 200, description = "The oldest first", body = Nodes), (status = 400, description = "No such type")))]
async fn by_type(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(wanted): Path<String>,
) -> ApiResult<Json<Nodes>> {
    let place = network.place(&caller, &scope)?;
    let known = NodeType::ALL.into_iter().find(|node_type| node_type.name() == wanted);
    let known = known
        .ok_or_else(|| ApiError::invalid("type", "enum", "must be service, assistant, sandbox, bridge or client"))?;
    Ok(counted(network.nodes(&place, |node| node.node_type == known).await?))
}

/// Read a node
#[utoipa::path(get, path = "/registry/nodes/{id}", tag = "Nodes",
    params(("id" = String, Path, description = "Id of the node")),
    responses((status = 200, description = "The node", body = shapes::Node), (status = 404, description = "There is none")))]
async fn read(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<shapes::Node>> {
    let place = network.place(&caller, &scope)?;
    let node = network.node(&place, &id).await?;
    Ok(Json(network.shown(node)))
}

/// Take a node off the mesh (its owner, and who manages nodes); its contracts stand
#[utoipa::path(delete, path = "/registry/nodes/{id}", tag = "Nodes",
    params(("id" = String, Path, description = "Id of the node")),
    responses((status = 200, description = "It is off", body = Done), (status = 403, description = "It is another's"),
        (status = 404, description = "There is none")))]
async fn unregister(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Done>> {
    network.unregister(&caller, &scope, id).await?;
    Ok(OK)
}

/// That a node lives.
#[derive(Serialize, ToSchema)]
struct Heartbeat {
    ok: bool,
    timestamp: String,
}

/// Give a sign of life (the node's owner, and who manages nodes): renews its lease of 90 seconds
#[utoipa::path(post, path = "/registry/nodes/{id}/heartbeat", tag = "Nodes",
    params(("id" = String, Path, description = "Id of the node")),
    responses((status = 200, description = "The lease is renewed", body = Heartbeat),
        (status = 403, description = "It is another's"), (status = 404, description = "There is none")))]
async fn heartbeat(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Heartbeat>> {
    let at = network.beat(&caller, &scope, &id).await?;
    Ok(Json(Heartbeat { ok: true, timestamp: crate::iso(at) }))
}

/// The keys of a node; the bytes of each text are the key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SigningKey {
    node_id: String,
    /// For the `signature` of events that it sends.
    signing_key: String,
    /// For the `X-Symbia-Signature` of events that are delivered to it.
    delivery_key: String,
    algorithm: &'static str,
}

/// Get the keys that sign a node's events, and what is delivered to it (its owner only)
#[utoipa::path(get, path = "/registry/nodes/{id}/signing-key", tag = "Nodes",
    params(("id" = String, Path, description = "Id of the node")),
    responses((status = 200, description = "The keys", body = SigningKey), (status = 403, description = "It is another's"),
        (status = 404, description = "There is none")))]
async fn signing_key(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<SigningKey>> {
    let place = network.place(&caller, &scope)?;
    let node = network.node(&place, &id).await?;
    if node.owner_id != place.actor.subject() {
        return Err(network.anothers(&place, &id, "Only its owner gets the key of a node"));
    }
    let signing_key = node_key(&network.platform.keys, place.org.as_str(), &id, &node.owner_id);
    let delivery_key = target_key(&network.platform.keys, place.org.as_str(), &id);
    Ok(Json(SigningKey { node_id: id, signing_key, delivery_key, algorithm: "HMAC-SHA-256" }))
}
