//! What of the registry counts for routing: as much of a node and of a contract as decides who gets an event.

use time::OffsetDateTime;

use super::{Boundary, NodeType};

/// A node as routing sees it.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct NodeView {
    pub node_type: NodeType,
    pub endpoint: String,
    pub entity_id: Option<String>,
    pub owner_id: String,
}

/// A contract as routing sees it.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ContractView {
    pub id: String,
    pub from: String,
    pub to: String,
    pub allowed_event_types: Vec<String>,
    pub boundaries: Vec<Boundary>,
    pub expires_at: Option<OffsetDateTime>,
    pub max_events_per_second: Option<u32>,
    pub redact: Vec<String>,
}
