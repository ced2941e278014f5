//! An event as one target gets it: changed where a policy or its contract says so, hashed, and signed under the target's own
//! key (network.md §3.8, 8.5).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use symbia_events::{
    KeyRing,
    network::{Candidate, EventRouted, HashedEvent, event_hash, service_hash, target_key},
};

use super::{redacted, transformed};

/// What is delivered.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Payload, wrapper and hash.
    pub body: Value,
    /// The service's hash of what is delivered.
    pub hash: String,
    /// HMAC under the target's key.
    pub signature: String,
}

impl Letter {
    /// For one target; `data` is what the event says.
    ///
    /// # Errors
    /// The event cannot be written as JSON.
    pub fn of(
        keys: &KeyRing,
        routed: &EventRouted,
        data: &Value,
        candidate: &Candidate,
    ) -> Result<Self, serde_json::Error> {
        let mut changed = candidate.mapping.as_ref().map(|mapping| transformed(data, mapping));
        if !candidate.redact.is_empty() {
            changed = Some(redacted(changed.as_ref().unwrap_or(data), &candidate.redact));
        }
        let data = changed.as_ref().unwrap_or(data);
        let hashed = HashedEvent {
            v: 1,
            id: &routed.event_id,
            event_type: &routed.payload_type,
            data,
            source: &routed.source,
            target: routed.target.as_deref(),
            run_id: &routed.run_id,
            timestamp: &routed.timestamp,
            boundary: routed.boundary,
            caused_by: routed.caused_by.as_deref(),
            source_entity_id: routed.source_entity_id.as_deref(),
            target_entity_id: routed.target_entity_id.as_deref(),
            org_id: Some(&routed.org_id),
        };
        let bytes = hashed.bytes()?;
        // Changed data has a hash of its own; that of the original stays in the trace.
        let hash = if changed.is_some() { service_hash(keys, &bytes).1 } else { routed.hash.clone() };
        let signing = target_key(keys, &routed.org_id, &candidate.final_target);
        let payload = json!({ "type": routed.payload_type, "data": data });
        let body = json!({ "payload": payload, "wrapper": wrapper(routed, candidate), "hash": hash });
        Ok(Letter { body, hash, signature: event_hash(signing.as_bytes(), &bytes) })
    }
}

fn wrapper(routed: &EventRouted, candidate: &Candidate) -> BTreeMap<&'static str, Value> {
    let mut wrapper = BTreeMap::from([
        ("id", json!(routed.event_id)),
        ("runId", json!(routed.run_id)),
        ("timestamp", json!(routed.timestamp)),
        ("source", json!(routed.source)),
        ("path", json!([routed.source, candidate.final_target])),
        ("boundary", json!(routed.boundary)),
    ]);
    for (name, value) in [
        ("target", &routed.target),
        ("causedBy", &routed.caused_by),
        ("sourceEntityId", &routed.source_entity_id),
        ("targetEntityId", &routed.target_entity_id),
    ] {
        if let Some(value) = value {
            wrapper.insert(name, json!(value));
        }
    }
    wrapper
}
