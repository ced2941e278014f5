//! What the mesh counts, under the original's names (network.md §10). Ids and types are labels of nothing: clients choose them.

use std::{collections::BTreeMap, sync::LazyLock};

use symbia_events::{
    Event,
    network::{Candidate, EventRouted, RoutingEvent, SecurityEvent, Verdict},
};
use symbia_nats::telemetry::{
    KeyValue, meter,
    metrics::{Counter, Histogram},
};

/// Events of the registry by the types of ours, without `symbia.network.` and version.
const TOLD: [(&str, &str); 17] = [
    ("node.node-registered", "network.node.registered"),
    ("node.node-reregistered", "network.node.registered"),
    ("node.node-unregistered", "network.node.unregistered"),
    ("node.node-expired", "network.node.heartbeat_missed"),
    ("node.node-expired", "network.node.stale_cleanup"),
    ("contract.contract-created", "network.contract.created"),
    ("contract.contract-deleted", "network.contract.deleted"),
    ("contract.contract-expired", "network.contract.expired"),
    ("bridge.bridge-registered", "network.bridge.registered"),
    ("bridge.bridge-deleted", "network.bridge.deleted"),
    ("bridge.bridge-activated", "network.bridge.status_changed"),
    ("bridge.bridge-deactivated", "network.bridge.status_changed"),
    ("policy.policy-created", "network.policy.created"),
    ("policy.policy-updated", "network.policy.updated"),
    ("policy.policy-enabled", "network.policy.updated"),
    ("policy.policy-disabled", "network.policy.updated"),
    ("policy.policy-deleted", "network.policy.deleted"),
];

/// Counters by the types of events that they count, without `symbia.network.` and version.
const COUNTED: [(&str, &str); 9] = [
    ("node.node-registered", "network.node.registered"),
    ("node.node-unregistered", "network.node.unregistered"),
    ("node.node-expired", "network.node.stale_cleanup"),
    ("contract.contract-created", "network.contract.created"),
    ("contract.contract-deleted", "network.contract.deleted"),
    ("contract.contract-expired", "network.contract.expired"),
    ("bridge.bridge-registered", "network.bridge.registered"),
    ("bridge.bridge-deleted", "network.bridge.deleted"),
    ("routed-event.event-redriven", "network.event.redriven"),
];

struct Metrics {
    registry: BTreeMap<&'static str, Counter<u64>>,
    routed: Counter<u64>,
    dropped: Counter<u64>,
    error: Counter<u64>,
    success: Counter<u64>,
    failure: Counter<u64>,
    latency: Histogram<f64>,
    evaluated: Counter<u64>,
    denied: Counter<u64>,
    allowed: Counter<u64>,
    unsigned: Counter<u64>,
    forbidden: Counter<u64>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let counter = |name: &'static str| meter().u64_counter(name).build();
    Metrics {
        registry: COUNTED.into_iter().map(|(kind, name)| (kind, counter(name))).collect(),
        routed: counter("network.event.routed"),
        dropped: counter("network.event.dropped"),
        error: counter("network.event.error"),
        success: counter("network.event.delivery.success"),
        failure: counter("network.event.delivery.failure"),
        latency: meter().f64_histogram("network.event.latency_ms").with_unit("ms").build(),
        evaluated: counter("network.policy.evaluated"),
        denied: counter("network.policy.denied"),
        allowed: counter("network.policy.allowed"),
        unsigned: counter("network.hash.failed"),
        forbidden: counter("network.permission.denied"),
    }
});

/// A change of the registry: counted, and told under the original's names of such events.
pub(super) fn registry(event: &Event) {
    let kind = event.event_type.strip_prefix("symbia.network.").and_then(|rest| rest.rsplit_once(".v"));
    let Some((kind, _)) = kind else { return };
    if let Some(counter) = METRICS.registry.get(kind) {
        counter.add(1, &[]);
    }
    let (org, id) = (&event.orgid, &event.aggregateid);
    for (_, name) in TOLD.iter().filter(|(told, _)| *told == kind) {
        tracing::info!(event = name, %org, id, "the mesh is another");
    }
    if ["node.", "contract.", "bridge."].iter().any(|of| kind.starts_with(of)) {
        tracing::debug!(event = "network.topology.changed", %org, id, "the mesh is another");
    }
}

/// What was refused: counted, and told under the original's names of such events.
pub(super) fn refusal(event: &Event, what: &SecurityEvent) {
    let (name, principal, code, count) = match what {
        SecurityEvent::SignatureRejected(e) => {
            METRICS.unsigned.add(u64::from(e.count), &[]);
            ("network.security.hash_failed", &e.principal_id, &e.error_code, e.count)
        }
        SecurityEvent::SourceSpoofRejected(e) => {
            METRICS.forbidden.add(u64::from(e.count), &[]);
            ("network.permission.denied", &e.principal_id, &e.error_code, e.count)
        }
        SecurityEvent::PermissionDenied(e) => {
            METRICS.forbidden.add(u64::from(e.count), &[]);
            ("network.permission.denied", &e.principal_id, &e.error_code, e.count)
        }
        // Counted where routing is.
        SecurityEvent::CallRefused(e) => ("network.event.dropped", &e.principal_id, &e.error_code, e.count),
        SecurityEvent::RateExceeded(e) => ("network.event.dropped", &e.principal_id, &e.error_code, e.count),
    };
    tracing::warn!(event = name, org = %event.orgid, principal, code, count, "refused on the mesh");
}

/// What became of an event.
pub(super) fn routing(event: &Event, what: &RoutingEvent) {
    match what {
        RoutingEvent::EventRouted(routed) => accepted(event, routed),
        RoutingEvent::EventDelivered(e) => {
            METRICS.success.add(1, &[]);
            #[allow(clippy::cast_precision_loss, reason = "milliseconds")]
            METRICS.latency.record(e.duration_ms as f64, &[]);
        }
        RoutingEvent::EventDeliveryFailed(e) => {
            METRICS.failure.add(1, &[KeyValue::new("reason", e.error_code.clone())]);
            told(event, "network.event.delivery_failed", &e.error_code);
        }
        RoutingEvent::EventDeadLettered(e) => {
            METRICS.error.add(1, &[KeyValue::new("reason", e.error_code.clone())]);
            told(event, "network.event.delivery_failed", &e.error_code);
        }
        RoutingEvent::EventRedriven(_) => registry(event),
        RoutingEvent::EventHeld(_) => {}
    }
}

// Too many to be told at a level that anybody keeps.
fn told(event: &Event, name: &str, reason: &str) {
    tracing::debug!(event = name, org = %event.orgid, id = event.aggregateid, reason, "an event on the mesh");
}

fn accepted(event: &Event, routed: &EventRouted) {
    let boundary = [KeyValue::new("boundary", routed.boundary.name())];
    let delivers = |candidate: &Candidate| candidate.verdict.delivers();
    if routed.candidates.iter().any(delivers) {
        METRICS.routed.add(1, &boundary);
        told(event, "network.event.routed", "");
    } else {
        let reason = routed.candidates.first().map_or("no_targets", |candidate| match candidate.verdict {
            Verdict::Deny => "policy_denied",
            Verdict::UnknownNode => "target_not_found",
            _ => "refused",
        });
        METRICS.dropped.add(1, &[KeyValue::new("reason", reason)]);
        told(event, "network.event.dropped", reason);
    }
    for candidate in &routed.candidates {
        METRICS.evaluated.add(u64::try_from(candidate.applied.len()).unwrap_or(0), &[]);
        match candidate.verdict {
            Verdict::Deny => {
                METRICS.denied.add(1, &boundary);
                told(event, "network.policy.denied", candidate.reason.as_deref().unwrap_or_default());
            }
            verdict if verdict.delivers() => METRICS.allowed.add(1, &boundary),
            _ => {}
        }
    }
}
