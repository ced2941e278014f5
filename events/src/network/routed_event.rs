//! Events of one call over the mesh: what was decided about it and by which rules, and what became of its deliveries
//! (network.md §3.5, 3.6, 8.6).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Boundary, PolicyMode};
use crate::{Personal, domain_events};

/// What was decided about one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It gets the event.
    Deliver,
    /// Another gets it.
    Redirect,
    /// It, or another, gets it changed.
    Transform,
    /// A policy, or the default, refused it.
    Deny,
    /// No contract lets the source send it there.
    NoContract,
    /// The only one that did has ended.
    ExpiredContract,
    /// There is no such node.
    UnknownNode,
    /// Policies send it round in a circle.
    RouteCycle,
    /// The bridge is of a kind that forwards nothing yet.
    UnsupportedBridge,
    /// More came in this second than the contract lets pass.
    RateLimited,
}

impl Verdict {
    /// Whether somebody gets the event.
    #[must_use]
    pub fn delivers(self) -> bool {
        matches!(self, Verdict::Deliver | Verdict::Redirect | Verdict::Transform)
    }
}

/// By which way a target got an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// The mesh: a socket that speaks for it.
    Socket,
    /// The mesh: its address.
    Http,
    /// The webhook that it named.
    Webhook,
    /// It is a conversation, and has it as a message.
    Conversation,
}

/// A policy that matched, in the version that did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names say it")]
pub struct AppliedPolicy {
    pub policy_id: String,
    pub version: u32,
    pub action: String,
    pub mode: PolicyMode,
    /// The target it was asked about.
    pub target: String,
    /// Whether it settled what happens.
    pub decisive: bool,
}

/// What was decided about one target, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "fields are named as in the service's specification")]
pub struct Candidate {
    pub target: String,
    /// As far as the event travels to it: never nearer than the nodes are.
    pub boundary: Boundary,
    pub verdict: Verdict,
    /// The contract that it rests on; none for a reply.
    pub contract_id: Option<String>,
    pub applied: Vec<AppliedPolicy>,
    /// Who gets it in the end.
    pub final_target: String,
    /// Where it is posted to.
    pub endpoint: String,
    /// How its data is changed.
    pub mapping: Option<BTreeMap<String, String>>,
    /// What of its data is not shown, by the contract.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<String>,
    pub reason: Option<String>,
}

domain_events! {
    /// What can have happened to a call over the mesh.
    RoutingEvent: Network / "routed-event" {
        /// It was accepted, and decided for every target.
        EventRouted = "symbia.network.routed-event.event-routed.v1" {
            event_id: String,
            org_id: String,
            run_id: String,
            payload_type: String,
            /// JSON, sealed under the organization's mesh key.
            data: Personal,
            source: String,
            target: Option<String>,
            caused_by: Option<String>,
            source_entity_id: Option<String>,
            target_entity_id: Option<String>,
            boundary: Boundary,
            /// RFC 3339 with milliseconds.
            timestamp: String,
            hash: String,
            key_id: String,
            /// The publisher signed it too.
            signed: bool,
            sender_id: String,
            /// Digest of all policies that counted.
            policy_set: String,
            candidates: Vec<Candidate>,
        }
        /// A target has it.
        EventDelivered = "symbia.network.routed-event.event-delivered.v1" {
            event_id: String,
            target: String,
            attempt: u32,
            duration_ms: u64,
            /// None for what was delivered before this was kept.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            transport: Option<Transport>,
        }
        /// A target did not take it; it is tried again.
        EventDeliveryFailed = "symbia.network.routed-event.event-delivery-failed.v1" {
            event_id: String,
            target: String,
            attempt: u32,
            duration_ms: u64,
            error_code: String,
        }
        /// A target cannot have it now: nothing is connected for it, or an earlier event waits. It is tried when that has changed.
        EventHeld = "symbia.network.routed-event.event-held.v1" {
            event_id: String,
            target: String,
            /// The attempt that will be made.
            attempt: u32,
            error_code: String,
        }
        /// A target did not take it, and it is not tried again.
        EventDeadLettered = "symbia.network.routed-event.event-dead-lettered.v1" {
            event_id: String,
            target: String,
            attempt: u32,
            error_code: String,
        }
        /// It is tried again.
        EventRedriven = "symbia.network.routed-event.event-redriven.v1" {
            event_id: String,
            target: String,
            attempt: u32,
            by: String,
        }
    }
}
