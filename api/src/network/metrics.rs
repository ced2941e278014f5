//! What happens at the mesh's sockets, counted and told under the original's names (network.md §10). What the log says is
//! counted by who reads it, in the workers. Ids are labels of nothing: clients choose them.

use std::{sync::LazyLock, time::Duration};

use symbia_nats::telemetry::{
    meter,
    metrics::{Counter, Histogram, UpDownCounter},
};

use crate::http::principal::PrincipalKind;

struct Metrics {
    connected: Counter<u64>,
    disconnected: Counter<u64>,
    received: Counter<u64>,
    agent: Counter<u64>,
    user: Counter<u64>,
    unknown: Counter<u64>,
    unknown_agent: Counter<u64>,
    heartbeat: Counter<u64>,
    subscribed: Counter<u64>,
    unsubscribed: Counter<u64>,
    watches: UpDownCounter<i64>,
    verified: Counter<u64>,
    evaluation: Histogram<f64>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let counter = |name: &'static str| meter().u64_counter(name).build();
    Metrics {
        connected: counter("network.socket.connected"),
        disconnected: counter("network.socket.disconnected"),
        received: counter("network.socket.message_received"),
        agent: counter("network.agent.auth.success"),
        user: counter("network.user.auth.success"),
        unknown: counter("network.user.auth.failure"),
        unknown_agent: counter("network.agent.auth.failure"),
        heartbeat: counter("network.node.heartbeat"),
        subscribed: counter("network.sdn.watch.subscribed"),
        unsubscribed: counter("network.sdn.watch.unsubscribed"),
        watches: meter().i64_up_down_counter("network.sdn.watch.active_count").build(),
        verified: counter("network.hash.verified"),
        evaluation: meter().f64_histogram("network.policy.evaluation_latency_ms").with_unit("ms").build(),
    }
});

/// A socket is connected; `whose` is nobody's where nobody knows whose it is.
pub(super) fn connected(whose: Option<(PrincipalKind, &str)>) {
    METRICS.connected.add(1, &[]);
    tracing::debug!(event = "network.socket.connected", "a socket of the mesh");
    match whose {
        Some((PrincipalKind::Agent, agent)) => {
            METRICS.agent.add(1, &[]);
            tracing::debug!(event = "network.agent.authenticated", agent, "an agent on the mesh");
        }
        Some((_, principal)) => {
            METRICS.user.add(1, &[]);
            tracing::debug!(event = "network.user.authenticated", principal, "a principal on the mesh");
        }
        None => {}
    }
}

/// A socket showed a credential that is nobody's, and claims to be no known agent's.
pub(super) fn unknown() {
    METRICS.unknown.add(1, &[]);
    tracing::info!(event = "network.user.auth_failed", "a credential on the mesh is not good");
}

/// A socket showed a credential that is nobody's and claims to be a known agent's or a service's. Who is named is told.
pub(super) fn unknown_agent(claimed: Option<&str>) {
    METRICS.unknown_agent.add(1, &[]);
    if let Some(claimed) = claimed {
        tracing::info!(
            event = "network.agent.auth_failed",
            claimed,
            "a credential on the mesh is not good, whoever showed it"
        );
    }
}

/// A socket has gone.
pub(super) fn disconnected() {
    METRICS.disconnected.add(1, &[]);
    tracing::debug!(event = "network.socket.disconnected", "a socket of the mesh has gone");
}

/// A socket asked for something.
pub(super) fn received() {
    METRICS.received.add(1, &[]);
}

/// A node gave a sign of life.
pub(super) fn heartbeat() {
    METRICS.heartbeat.add(1, &[]);
}

/// A subscription began.
pub(super) fn subscribed() {
    METRICS.subscribed.add(1, &[]);
    METRICS.watches.add(1, &[]);
    tracing::debug!(event = "network.sdn.watch.started", "somebody watches the mesh");
}

/// A subscription ended.
pub(super) fn unsubscribed() {
    METRICS.unsubscribed.add(1, &[]);
    METRICS.watches.add(-1, &[]);
    tracing::debug!(event = "network.sdn.watch.stopped", "somebody watches the mesh no more");
}

/// A publisher's signature was that of its event.
pub(super) fn verified() {
    METRICS.verified.add(1, &[]);
}

/// What was decided about an event took so long.
pub(super) fn evaluated(took: Duration) {
    METRICS.evaluation.record(took.as_secs_f64() * 1000.0, &[]);
}
