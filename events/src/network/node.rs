//! Events of a node: an addressable endpoint of an organization's mesh (network.md §3.1).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain_events;

/// Kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum NodeType {
    Service,
    Assistant,
    Sandbox,
    Bridge,
    Client,
}

impl NodeType {
    /// Every kind.
    pub const ALL: [NodeType; 5] =
        [NodeType::Service, NodeType::Assistant, NodeType::Sandbox, NodeType::Bridge, NodeType::Client];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            NodeType::Service => "service",
            NodeType::Assistant => "assistant",
            NodeType::Sandbox => "sandbox",
            NodeType::Bridge => "bridge",
            NodeType::Client => "client",
        }
    }
}

domain_events! {
    /// What can have happened to a node.
    NodeEvent: Network / "node" {
        /// It is on the mesh; whoever registered it owns its id.
        NodeRegistered = "symbia.network.node.node-registered.v1" {
            node_id: String,
            org_id: String,
            name: String,
            #[serde(rename = "type")]
            node_type: NodeType,
            capabilities: Vec<String>,
            /// Where events are posted to; empty when they are not.
            endpoint: String,
            owner_id: String,
            metadata: Map<String, Value>,
        }
        /// Its owner described it anew, or it came back.
        NodeReregistered = "symbia.network.node.node-reregistered.v1" {
            node_id: String,
            name: String,
            #[serde(rename = "type")]
            node_type: NodeType,
            capabilities: Vec<String>,
            endpoint: String,
            metadata: Map<String, Value>,
        }
        /// It gave a sign of life after it had been given up.
        NodeConnected = "symbia.network.node.node-connected.v1" { node_id: String }
        /// It gave none for longer than its lease. Its contracts stand.
        NodeExpired = "symbia.network.node.node-expired.v1" {
            node_id: String,
            /// RFC 3339.
            last_seen: String,
        }
        /// It left.
        NodeUnregistered = "symbia.network.node.node-unregistered.v1" { node_id: String, by: String }
        /// An entry of the directory lives on it.
        EntityBound = "symbia.network.node.entity-bound.v1" { node_id: String, entity_id: String, by: String }
        /// No longer.
        EntityUnbound = "symbia.network.node.entity-unbound.v1" { node_id: String, entity_id: String, by: String }
    }
}
