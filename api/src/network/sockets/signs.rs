//! What a change of the mesh says to those who see it (network.md §7.3).

use serde_json::{Value, json};
use symbia_events::{
    DomainEvent, Event,
    network::{BridgeEvent, ContractEvent, NodeEvent, NodeType, PolicyEvent},
};

use super::super::shapes;

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    Topology,
    Policies,
}

type Sign = (Audience, String, Value);

/// What is told of an event of the registry.
pub(super) fn signs(event: &Event) -> Vec<Sign> {
    let mut signs = Vec::new();
    let mut topology = |name: &str, data: Value| signs.push((Audience::Topology, name.to_owned(), data));
    let id = event.aggregateid.as_str();
    match event.aggregatetype.as_str() {
        NodeEvent::AGGREGATE => {
            if let Ok(node) = event.decode()
                && let Some((name, data)) = of_node(id, node)
            {
                topology(name, data);
            }
        }
        ContractEvent::AGGREGATE => match event.decode() {
            Ok(ContractEvent::ContractCreated(e)) => {
                topology("network:contract:created", json!(shapes::Contract::created(e, event.time)));
            }
            Ok(ContractEvent::ContractExpired(_)) => {
                topology("network:contract:expired", json!({ "contractId": id }));
            }
            Ok(ContractEvent::ContractDeleted(_)) => {
                topology("network:contract:deleted", json!({ "contractId": id }));
            }
            Err(_) => return signs,
        },
        BridgeEvent::AGGREGATE => {
            topology("network:bridge:changed", json!({ "bridgeId": id, "change": change(event) }))
        }
        PolicyEvent::AGGREGATE => {
            let data = json!({ "policyId": id, "change": change(event) });
            return vec![(Audience::Policies, "network:policy:changed".to_owned(), data)];
        }
        _ => return signs,
    }
    topology("network:topology:changed", json!({ "timestamp": crate::iso(event.time) }));
    signs
}

// `created` of `symbia.network.policy.policy-created.v1`.
fn change(event: &Event) -> &str {
    let name = event.event_type.split('.').nth(3).unwrap_or_default();
    name.split_once('-').map_or(name, |(_, change)| change)
}

fn joined(id: &str, name: Option<&str>, node_type: Option<NodeType>) -> (&'static str, Value) {
    let mut data = json!({ "nodeId": id });
    if let Some(name) = name {
        data["name"] = json!(name);
    }
    if let Some(node_type) = node_type {
        data["type"] = json!(node_type);
    }
    if node_type == Some(NodeType::Assistant) {
        data["isAgent"] = json!(true);
    }
    ("network:node:joined", data)
}

fn of_node(id: &str, event: NodeEvent) -> Option<(&'static str, Value)> {
    Some(match event {
        NodeEvent::NodeRegistered(e) => joined(id, Some(&e.name), Some(e.node_type)),
        NodeEvent::NodeReregistered(e) => joined(id, Some(&e.name), Some(e.node_type)),
        NodeEvent::NodeConnected(_) => joined(id, None, None),
        NodeEvent::NodeExpired(e) => ("network:node:expired", json!({ "nodeId": id, "lastSeen": e.last_seen })),
        NodeEvent::NodeUnregistered(_) => ("network:node:left", json!({ "nodeId": id })),
        NodeEvent::EntityBound(_) | NodeEvent::EntityUnbound(_) => return None,
    })
}
