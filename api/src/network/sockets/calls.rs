//! What clients ask for over their sockets (network.md §7.2): the operations of the REST routes.

use std::sync::Arc;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use socketioxide::extract::SocketRef;
use symbia_commands::network::{EVENTS_READ, POLICIES_READ, TOPOLOGY_READ};
use tracing::Instrument;
use uuid::Uuid;

use super::{NetworkSockets, seats::Seat, watch::Filter};
use crate::{
    http::{ApiError, ApiResult, Caller, RequestScope, principal::PrincipalKind},
    network::{Network, metrics, nodes::NewNode},
    socket::Peer,
};

/// A node that speaks through this socket.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    #[serde(flatten)]
    node: NewNode,
    /// It calls the callback of `event:received` when it has an event.
    #[serde(default)]
    acknowledges: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfNode {
    node_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfEntity {
    node_id: String,
    entity_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfContract {
    contract_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfPolicy {
    policy_id: String,
    #[serde(default)]
    changes: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfBridge {
    bridge_id: String,
    #[serde(default)]
    active: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfSubscription {
    subscription_id: String,
}

fn read<T: DeserializeOwned>(argument: &Value) -> ApiResult<T> {
    T::deserialize(argument)
        .map_err(|error| ApiError::invalid("", "format", format!("The argument is not valid: {error}")))
}

/// The answer to a call that fails: the codes of the original where it has one.
fn failed(error: &ApiError) -> Value {
    let code = match error.code() {
        "MISSING_CAPABILITY" => "insufficient_permissions".to_owned(),
        "AUTH_REQUIRED" | "TOKEN_INVALID" | "TOKEN_EXPIRED" => "authentication_required".to_owned(),
        code => code.to_ascii_lowercase(),
    };
    let mut answer = json!({ "ok": false, "error": code, "message": error.message() });
    if let Some(needed) = error.extra("requiredPermission") {
        answer["requiredPermission"] = needed.clone();
    }
    answer
}

impl Network {
    /// What a socket may be told; none of somebody who belongs nowhere.
    pub(super) fn seat(&self, socket: SocketRef, peer: &Peer) -> Option<Seat> {
        let place = self.place(&peer.caller(), &peer.scope("opened")).ok()?;
        let [topology, policies, events] = [TOPOLOGY_READ, POLICIES_READ, EVENTS_READ].map(|right| place.may(right));
        Some(Seat { socket, org: place.org, topology, policies, events })
    }
}

/// A call: who asks, and for what.
struct Asked<'a> {
    socket: &'a SocketRef,
    caller: Caller,
    scope: RequestScope,
    argument: Value,
}

impl NetworkSockets {
    /// Does what a client asks for.
    pub(super) async fn answer(
        &self,
        peer: &Arc<Peer>,
        socket: &SocketRef,
        call: &str,
        arguments: Vec<Value>,
    ) -> Value {
        if peer.is_nobody() {
            return failed(&ApiError::auth_required());
        }
        let scope = peer.scope(call);
        let span = tracing::info_span!("call", service = "network", call, request_id = scope.request_id);
        let argument = arguments.into_iter().next().unwrap_or_default();
        let asked = Asked { socket, caller: peer.caller(), scope, argument };
        metrics::received();
        let answered = self.done(call, &asked).instrument(span).await;
        answered.unwrap_or_else(|error| {
            asked.caller.was_refused(asked.caller.org(&asked.scope).ok(), &asked.scope.operation, &error);
            failed(&error)
        })
    }

    async fn done(&self, call: &str, asked: &Asked<'_>) -> ApiResult<Value> {
        let (network, Asked { socket, caller, scope, argument }) = (&self.0, asked);
        network.admits_call(caller).await?;
        match call {
            "node:register" => return self.register(asked).await,
            "node:heartbeat" => {
                let OfNode { node_id } = read(argument)?;
                network.beat(caller, scope, &node_id).await?;
            }
            "node:unregister" => network.unregister(caller, scope, read::<OfNode>(argument)?.node_id).await?,
            "event:send" => {
                let sent = network.send(caller, scope, read(argument)?).await?;
                return Ok(json!({ "ok": true, "eventId": sent.event_id, "trace": sent.trace }));
            }
            "entity:bind" => {
                let OfEntity { node_id, entity_id } = read(argument)?;
                network.bind_own(caller, scope, node_id, entity_id).await?;
            }
            "entity:unbind" => network.unbind(caller, scope, read::<OfNode>(argument)?.node_id).await?,
            "contract:create" => {
                let contract = network.make_contract(caller, scope, read(argument)?).await?;
                return Ok(json!({ "ok": true, "contract": contract }));
            }
            "contract:delete" => {
                network.end_contract(caller, scope, read::<OfContract>(argument)?.contract_id).await?;
            }
            "policy:create" => {
                let policy = network.make_policy(caller, scope, read(argument)?).await?;
                return Ok(json!({ "ok": true, "policy": policy }));
            }
            "policy:update" => {
                let OfPolicy { policy_id, changes } = read(argument)?;
                let policy = network.change_policy(caller, scope, &policy_id, read(&changes)?).await?;
                return Ok(json!({ "ok": true, "policy": policy }));
            }
            "policy:delete" => network.remove_policy(caller, scope, read::<OfPolicy>(argument)?.policy_id).await?,
            "bridge:register" => {
                let bridge = network.make_bridge(caller, scope, read(argument)?).await?;
                return Ok(json!({ "ok": true, "bridge": bridge }));
            }
            "bridge:update" => {
                let OfBridge { bridge_id, active } = read(argument)?;
                let bridge = network.switch_bridge(caller, scope, bridge_id, active).await?;
                return Ok(json!({ "ok": true, "bridge": bridge }));
            }
            "bridge:delete" => network.remove_bridge(caller, scope, read::<OfBridge>(argument)?.bridge_id).await?,
            "sdn:topology" => return Ok(json!(network.topology(caller, scope).await?)),
            "sdn:watch" => return self.watch(asked).await,
            "sdn:unwatch" => {
                let OfSubscription { subscription_id } = read(argument)?;
                return Ok(json!({ "ok": self.0.hub().unwatch(socket.id, subscription_id).await }));
            }
            _ => return Err(ApiError::not_found("Event")),
        }
        Ok(json!({ "ok": true }))
    }

    // From then on the socket gets what is for the node, what waited for it first.
    async fn register(&self, asked: &Asked<'_>) -> ApiResult<Value> {
        let Asked { socket, caller, scope, argument } = asked;
        let Registration { node, acknowledges } = read(argument)?;
        self.0.is_nobody_elses(caller, scope, &node.id).await?;
        let (place, row) = self.0.register(caller, scope, node).await?;
        let key = (place.org.clone(), row.id.clone());
        self.0.gateway.attach(&key, (*socket).clone(), acknowledges).await.map_err(|error| {
            tracing::warn!(%error, "a node is not connected");
            ApiError::unavailable("The event bus", 2)
        })?;
        if !socket.connected() {
            self.0.gateway.gone(socket.id);
        }
        self.0.gateway.lives(&key, socket.id).await;
        // What is put aside from now on is noticed; what was before is looked up.
        self.0.hub().listens().await;
        let (network, at) = (self.0.clone(), self.0.hub().place());
        tokio::spawn(async move { network.catch_up(&key, at).await });
        let mut answer = json!({ "ok": true, "node": self.0.shown(row) });
        if caller.kind == PrincipalKind::Agent {
            answer["agent"] = json!({ "id": caller.id, "agentId": caller.agent_id, "name": caller.name,
                "orgId": caller.org_id, "capabilities": caller.entitlements });
        }
        Ok(answer)
    }

    async fn watch(&self, asked: &Asked<'_>) -> ApiResult<Value> {
        self.0.place_for(&asked.caller, &asked.scope, EVENTS_READ)?;
        let filter = if asked.argument.is_null() { Filter::default() } else { read(&asked.argument)? };
        let id = format!("watch_{}_{}", asked.socket.id, Uuid::now_v7().simple());
        if !self.0.hub().watch(asked.socket.id, id.clone(), filter).await {
            return Err(ApiError::unavailable("The event log", 2));
        }
        Ok(json!({ "ok": true, "subscriptionId": id }))
    }
}
