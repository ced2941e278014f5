//! Who may give a capability to an agent (platform.md §6.1).

use crate::Actor;

/// What an agent may do that nobody vouched for (identity.md §4.6).
pub const BASELINE: [&str; 2] = ["cap:messaging.send", "cap:messaging.receive"];

/// Capabilities that reach no further than the organization of their holder: its admins may give them away.
const OF_A_TENANT: [&str; 36] = [
    "cap:messaging.send",
    "cap:messaging.receive",
    "cap:messaging.read",
    "cap:messaging.write",
    "cap:messaging.observe",
    "cap:messaging.interrupt",
    "cap:messaging.route",
    "cap:catalog.read",
    "cap:catalog.write",
    "cap:catalog.publish",
    "cap:registry.read",
    "cap:registry.write",
    "cap:registry.publish",
    "cap:telemetry.read",
    "cap:telemetry.write",
    "cap:telemetry.ingest",
    "cap:assistants.execute",
    "cap:assistants.manage",
    "cap:runtime.execute",
    "cap:runtime.manage",
    "cap:integrations.read",
    "cap:integrations.configure",
    "cap:identity.read",
    "cap:network.topology.read",
    "cap:network.traces.read",
    "cap:network.events.read",
    "cap:network.events.write",
    "cap:network.policies.read",
    "cap:network.policies.write",
    "cap:network.contracts.write",
    "cap:network.nodes.admin",
    "cap:logs.read",
    "cap:runs.read",
    "cap:metrics.read",
    "cap:coordinator",
    "cap:orchestrator",
];

/// Whether an actor who administers an agent's organization may give it a capability: one that stays within the
/// organization, or one that the actor holds. Operators and the platform may give any.
#[must_use]
pub fn may_grant(by: &Actor, capability: &str) -> bool {
    by.is_platform() || by.holds(capability) || OF_A_TENANT.contains(&capability)
}
