//! The shapes of nodes, contracts, bridges, policies, events and traces on the wire (network.md §3).

use serde::Serialize;
use serde_json::{Map, Value, json};
use symbia_commands::network::redacted;
use symbia_events::{
    SubjectKey,
    network::{Boundary, BridgeType, Candidate, ContractCreated, NodeType, PolicyMode, Transport, Verdict},
};
use symbia_nats::leases::Sign;
use symbia_projections::network::{self as model, Delivery, RoutedEvent};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;

use super::mesh::Standing;
use crate::iso;

/// A node.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    id: String,
    name: String,
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    node_type: NodeType,
    capabilities: Vec<String>,
    endpoint: String,
    registered_at: String,
    last_registered_at: String,
    last_heartbeat: String,
    /// Of the socket that it is connected by.
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_id: Option<String>,
    /// `online`, or `offline` when its lease ran out.
    status: &'static str,
    owner_id: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_bound_at: Option<String>,
}

impl Node {
    /// A node; a sign of life may be known that the log does not hold.
    pub fn of(row: model::Node, sign: Option<Sign>) -> Self {
        Node {
            last_heartbeat: iso(sign.as_ref().map_or(row.last_seen, |sign| sign.at.max(row.last_seen))),
            socket_id: sign.and_then(|sign| sign.socket).filter(|_| row.online),
            id: row.id,
            name: row.name,
            node_type: row.node_type,
            capabilities: row.capabilities,
            endpoint: row.endpoint,
            registered_at: iso(row.registered_at),
            last_registered_at: iso(row.last_registered_at),
            status: if row.online { "online" } else { "offline" },
            owner_id: row.owner_id,
            metadata: row.metadata,
            entity_id: row.entity_id,
            entity_bound_at: row.entity_bound_at.map(iso),
        }
    }
}

/// A contract.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Contract {
    id: String,
    from: String,
    to: String,
    allowed_event_types: Vec<String>,
    #[schema(value_type = Vec<String>)]
    boundaries: Vec<Boundary>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// `active`, or `expired`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_events_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    redact: Vec<String>,
}

impl Contract {
    /// As it was just made.
    pub fn created(e: ContractCreated, at: OffsetDateTime) -> Self {
        let expires_at = e.expires_at.as_deref().and_then(|end| OffsetDateTime::parse(end, &Rfc3339).ok());
        let row = model::Contract {
            org_id: e.org_id,
            id: e.contract_id,
            source: e.from,
            target: e.to,
            allowed_event_types: e.allowed_event_types,
            boundaries: e.boundaries,
            created_at: at,
            created_by: e.by,
            expires_at,
            max_events_per_second: e.max_events_per_second,
            redact: e.redact,
        };
        Self::of(row, at)
    }

    pub fn of(row: model::Contract, now: OffsetDateTime) -> Self {
        Contract {
            status: if row.expires_at.is_some_and(|end| end <= now) { "expired" } else { "active" },
            id: row.id,
            from: row.source,
            to: row.target,
            allowed_event_types: row.allowed_event_types,
            boundaries: row.boundaries,
            created_at: iso(row.created_at),
            expires_at: row.expires_at.map(iso),
            max_events_per_second: row.max_events_per_second,
            redact: row.redact,
        }
    }
}

/// A bridge.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bridge {
    id: String,
    name: String,
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    bridge_type: BridgeType,
    endpoint: String,
    event_types: Vec<String>,
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    config: Option<Value>,
    created_at: String,
    /// The node that contracts and events name.
    node_id: String,
}

impl From<model::Bridge> for Bridge {
    fn from(row: model::Bridge) -> Self {
        Bridge {
            node_id: symbia_commands::network::bridge_node(&row.id),
            id: row.id,
            name: row.name,
            bridge_type: row.bridge_type,
            endpoint: row.endpoint,
            event_types: row.event_types,
            active: row.active,
            config: row.credential_ref.map(|reference| json!({ "credentialRef": reference })),
            created_at: iso(row.created_at),
        }
    }
}

/// A policy.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policy {
    id: String,
    name: String,
    priority: i64,
    #[schema(value_type = Vec<Object>)]
    conditions: Value,
    #[schema(value_type = Object)]
    action: Value,
    enabled: bool,
    /// `enforce`, or `observe`: what it would do is only recorded.
    #[schema(value_type = String)]
    mode: PolicyMode,
    version: u32,
    /// Every organization starts with it.
    built_in: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
}

impl From<Standing> for Policy {
    fn from(standing: Standing) -> Self {
        let Standing { record, row } = standing;
        let definition = record.definition;
        Policy {
            built_in: symbia_commands::network::default_policies().iter().any(|(id, _)| *id == record.id),
            id: record.id,
            version: record.version,
            name: definition.name,
            priority: definition.priority,
            conditions: json!(definition.conditions),
            action: json!(definition.action),
            enabled: definition.enabled,
            mode: definition.mode,
            created_at: row.as_ref().map(|row| iso(row.created_at)),
            updated_at: row.as_ref().map(|row| iso(row.updated_at)),
        }
    }
}

/// One target that was tried, or refused.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hop {
    pub node: String,
    from: String,
    timestamp: String,
    duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contract_id: Option<String>,
    /// `deliver` or `transform` when the node has it, `forward` while it is tried, `drop` when it gets nothing.
    action: &'static str,
    /// What was decided.
    #[schema(value_type = String)]
    verdict: Verdict,
    /// Whom the event was for, when another got it.
    #[serde(skip_serializing_if = "Option::is_none")]
    redirected_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    /// By which way the node has it: `socket` or `http` over the mesh, its `webhook`, or as a message of a `conversation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    transport: Option<Transport>,
    /// As far as the event went to it, when the sender claimed it went less far.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    raised_to: Option<Boundary>,
}

/// The routing of one event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Trace {
    event_id: String,
    run_id: String,
    pub path: Vec<Hop>,
    total_duration_ms: u64,
    /// `delivered`, `dropped`, `pending`, `error`, or `unrouted` when nobody listens.
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Tells apart what the policies were.
    policy_set_version: String,
}

fn refusal(candidate: &Candidate) -> Option<&'static str> {
    match candidate.verdict {
        Verdict::Deny => Some("policy_denied"),
        Verdict::NoContract => Some("no_contract"),
        Verdict::ExpiredContract => Some("expired_contract"),
        Verdict::UnknownNode => Some("target_not_found"),
        Verdict::RouteCycle => Some("route_cycle"),
        Verdict::UnsupportedBridge => Some("unsupported_bridge_type"),
        Verdict::RateLimited => Some("rate_limited"),
        Verdict::Deliver | Verdict::Redirect | Verdict::Transform => None,
    }
}

fn hop(row: &RoutedEvent, candidate: &Candidate) -> Hop {
    let delivery: Option<&Delivery> =
        row.deliveries.get(&candidate.final_target).filter(|_| candidate.verdict.delivers());
    let status = delivery.map(|delivery| delivery.status.as_str());
    let action = match (status, candidate.verdict) {
        (Some("delivered"), Verdict::Transform) => "transform",
        (Some("delivered"), _) => "deliver",
        (Some("pending" | "retrying" | "held"), _) => "forward",
        _ => "drop",
    };
    let failed = delivery.and_then(|delivery| delivery.error_code.clone());
    let refused = || candidate.reason.clone().or_else(|| refusal(candidate).map(str::to_owned));
    Hop {
        node: candidate.final_target.clone(),
        from: row.source.clone(),
        timestamp: iso(delivery.map_or(row.routed_at, |delivery| delivery.at)),
        duration_ms: delivery.map_or(0, |delivery| delivery.duration_ms),
        policy_id: candidate.applied.iter().rev().find(|a| a.decisive).map(|applied| applied.policy_id.clone()),
        contract_id: candidate.contract_id.clone(),
        action,
        verdict: candidate.verdict,
        redirected_from: (candidate.target != candidate.final_target).then(|| candidate.target.clone()),
        reason: failed.or_else(refused),
        attempt: delivery.map(|delivery| delivery.attempt),
        transport: delivery.and_then(|delivery| delivery.transport),
        raised_to: (candidate.boundary > row.boundary).then_some(candidate.boundary),
    }
}

impl From<&RoutedEvent> for Trace {
    fn from(row: &RoutedEvent) -> Self {
        let error = match row.status.as_str() {
            "unrouted" => Some("no_targets".to_owned()),
            "dropped" => row.candidates.iter().find_map(refusal).map(str::to_owned),
            "error" => Some("delivery_failed".to_owned()),
            _ => None,
        };
        let took = row.settled_at.map_or(0, |end| (end - row.routed_at).whole_milliseconds());
        Trace {
            event_id: row.id.clone(),
            run_id: row.run_id.clone(),
            path: row.candidates.iter().map(|candidate| hop(row, candidate)).collect(),
            total_duration_ms: u64::try_from(took).unwrap_or(0),
            status: row.status.clone(),
            error,
            policy_set_version: row.policy_set.clone(),
        }
    }
}

/// The event as it is read: its data is opened, `null` when its key was destroyed.
pub(super) fn event(row: &RoutedEvent, key: Option<&SubjectKey>) -> Value {
    let data = key.and_then(|key| key.open(&row.data).ok());
    let data: Value = data.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let data = redacted(&data, row.candidates.iter().flat_map(|candidate| &candidate.redact));
    let reached = row.candidates.iter().filter(|c| row.deliveries.contains_key(&c.final_target));
    let mut path = vec![row.source.clone()];
    path.extend(reached.map(|candidate| candidate.final_target.clone()));
    let mut wrapper = json!({
        "id": row.id, "runId": row.run_id, "timestamp": row.timestamp, "source": row.source, "path": path,
        "boundary": row.boundary,
    });
    for (name, value) in [
        ("target", &row.target),
        ("causedBy", &row.caused_by),
        ("sourceEntityId", &row.source_entity_id),
        ("targetEntityId", &row.target_entity_id),
    ] {
        if let Some(value) = value {
            wrapper[name] = json!(value);
        }
    }
    json!({
        "payload": { "type": row.event_type, "data": data }, "wrapper": wrapper, "hash": row.hash, "keyId": row.key_id,
        "signed": row.signed,
    })
}
