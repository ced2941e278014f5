//! The rows of the network model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_events::{
    Personal,
    network::{
        Boundary, BridgeType, Candidate, ContractView, EventRouted, NodeType, NodeView, PolicyDefinition, Transport,
    },
};
use time::{OffsetDateTime, serde::rfc3339};
use uuid::Uuid;

use super::table::{Key, Row};

macro_rules! row {
    ($row:ident, $table:literal) => {
        impl Row for $row {
            const TABLE: &'static str = $table;
            fn key(&self) -> Key {
                (self.org_id.clone(), self.id.clone())
            }
        }
    };
}

row!(Mesh, "meshes");
row!(Node, "nodes");
row!(Contract, "contracts");
row!(Policy, "policies");
row!(PolicyVersion, "policy_versions");
row!(Bridge, "bridges");
row!(RoutedEvent, "events");
row!(Total, "totals");

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mesh {
    pub org_id: String,
    pub id: String,
    pub version: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Total {
    pub org_id: String,
    pub id: String,
    pub value: i64,
}

/// A node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Node {
    pub org_id: String,
    pub id: String,
    pub name: String,
    #[serde(rename = "type")]
    pub node_type: NodeType,
    pub capabilities: Vec<String>,
    pub endpoint: String,
    pub owner_id: String,
    pub metadata: Map<String, Value>,
    pub online: bool,
    #[serde(with = "rfc3339")]
    pub registered_at: OffsetDateTime,
    #[serde(with = "rfc3339")]
    pub last_registered_at: OffsetDateTime,
    /// As far as the log tells; heartbeats are not in it.
    #[serde(with = "rfc3339")]
    pub last_seen: OffsetDateTime,
    pub entity_id: Option<String>,
    #[serde(with = "rfc3339::option")]
    pub entity_bound_at: Option<OffsetDateTime>,
}

impl Node {
    /// What of it counts for routing, by its id.
    #[must_use]
    pub fn for_routing(self) -> (String, NodeView) {
        let Node { id, node_type, endpoint, entity_id, owner_id, .. } = self;
        (id, NodeView { node_type, endpoint, entity_id, owner_id })
    }
}

/// A contract.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Contract {
    pub org_id: String,
    pub id: String,
    pub source: String,
    pub target: String,
    pub allowed_event_types: Vec<String>,
    pub boundaries: Vec<Boundary>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    pub created_by: String,
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    pub max_events_per_second: Option<u32>,
    pub redact: Vec<String>,
}

impl Contract {
    /// What of it counts for routing.
    #[must_use]
    pub fn for_routing(self) -> ContractView {
        ContractView {
            id: self.id,
            from: self.source,
            to: self.target,
            allowed_event_types: self.allowed_event_types,
            boundaries: self.boundaries,
            expires_at: self.expires_at,
            max_events_per_second: self.max_events_per_second,
            redact: self.redact,
        }
    }
}

/// A policy that somebody made, changed or removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Policy {
    pub org_id: String,
    pub id: String,
    pub version: u32,
    /// None when it was removed.
    pub definition: Option<PolicyDefinition>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "rfc3339")]
    pub updated_at: OffsetDateTime,
    pub updated_by: String,
    /// Where in the log it was made.
    pub place: i64,
}

impl Policy {
    /// What of it counts for routing: its id, version, place, and definition.
    #[must_use]
    pub fn for_routing(self) -> (String, u32, i64, Option<PolicyDefinition>) {
        (self.id, self.version, self.place, self.definition)
    }
}

/// One version of a policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct PolicyVersion {
    pub org_id: String,
    pub id: String,
    pub policy_id: String,
    pub version: u32,
    /// None when it was removed.
    pub definition: Option<PolicyDefinition>,
    #[serde(with = "rfc3339")]
    pub changed_at: OffsetDateTime,
    pub changed_by: String,
    pub event_id: Uuid,
}

/// A bridge.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Bridge {
    pub org_id: String,
    pub id: String,
    pub name: String,
    #[serde(rename = "type")]
    pub bridge_type: BridgeType,
    pub endpoint: String,
    pub event_types: Vec<String>,
    pub active: bool,
    pub credential_ref: Option<String>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    /// Who registered it; empty for one of before this was kept.
    pub created_by: String,
}

/// How far the delivery to a target is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names say it")]
pub struct Delivery {
    /// `pending`, `retrying`, `held`, `delivered` or `dead`.
    pub status: String,
    pub attempt: u32,
    pub duration_ms: u64,
    pub error_code: Option<String>,
    /// By which way it was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    #[serde(with = "rfc3339")]
    pub at: OffsetDateTime,
}

/// A call over the mesh.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct RoutedEvent {
    pub org_id: String,
    pub id: String,
    /// Where in the log it is.
    pub place: i64,
    /// The event of the log that holds the decision.
    pub log_event_id: Uuid,
    pub run_id: String,
    #[serde(rename = "type")]
    pub event_type: String,
    /// JSON, sealed.
    pub data: Personal,
    pub source: String,
    pub target: Option<String>,
    pub caused_by: Option<String>,
    pub source_entity_id: Option<String>,
    pub target_entity_id: Option<String>,
    pub boundary: Boundary,
    pub timestamp: String,
    pub hash: String,
    pub key_id: String,
    pub signed: bool,
    pub sender_id: String,
    pub policy_set: String,
    pub candidates: Vec<Candidate>,
    /// By the target that gets it.
    pub deliveries: BTreeMap<String, Delivery>,
    /// `delivered`, `dropped`, `pending`, `error` or `unrouted`.
    pub status: String,
    #[serde(with = "rfc3339")]
    pub routed_at: OffsetDateTime,
    /// When nothing was left to be done.
    #[serde(with = "rfc3339::option")]
    pub settled_at: Option<OffsetDateTime>,
}

impl RoutedEvent {
    /// A call that was accepted with what was decided about it; its deliveries begin.
    #[must_use]
    pub fn accepted(e: EventRouted, place: i64, log_event_id: Uuid, at: OffsetDateTime) -> Self {
        let pending = |target: &String| {
            let status = "pending".to_owned();
            (target.clone(), Delivery { status, attempt: 1, duration_ms: 0, error_code: None, transport: None, at })
        };
        let delivering = e.candidates.iter().filter(|candidate| candidate.verdict.delivers());
        let deliveries = delivering.map(|candidate| pending(&candidate.final_target)).collect();
        let mut row = RoutedEvent {
            org_id: e.org_id,
            id: e.event_id,
            place,
            log_event_id,
            run_id: e.run_id,
            event_type: e.payload_type,
            data: e.data,
            source: e.source,
            target: e.target,
            caused_by: e.caused_by,
            source_entity_id: e.source_entity_id,
            target_entity_id: e.target_entity_id,
            boundary: e.boundary,
            timestamp: e.timestamp,
            hash: e.hash,
            key_id: e.key_id,
            signed: e.signed,
            sender_id: e.sender_id,
            policy_set: e.policy_set,
            candidates: e.candidates,
            deliveries,
            status: String::new(),
            routed_at: at,
            settled_at: None,
        };
        row.settle(at);
        row
    }

    /// What its deliveries add up to now: `delivered` as soon as somebody has it, `error` when all were given up.
    pub fn settle(&mut self, now: OffsetDateTime) {
        let any = |status: &str| self.deliveries.values().any(|delivery| delivery.status == status);
        let status = if self.candidates.is_empty() {
            "unrouted"
        } else if self.deliveries.is_empty() {
            "dropped"
        } else if any("delivered") {
            "delivered"
        } else if any("pending") || any("retrying") || any("held") {
            "pending"
        } else {
            "error"
        };
        let settled = self.deliveries.values().all(|d| matches!(d.status.as_str(), "delivered" | "dead"));
        self.settled_at = settled.then_some(now);
        status.clone_into(&mut self.status);
    }
}
