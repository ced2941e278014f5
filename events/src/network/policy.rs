//! Events of a routing policy: conditions and one action, in versions (network.md §3.4).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain_events;

/// What of an event a condition looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Field {
    Source,
    Target,
    EventType,
    Boundary,
    RunId,
}

/// How a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Operator {
    Eq,
    Neq,
    Contains,
    StartsWith,
    Regex,
}

/// One condition; those of a policy must all hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Condition {
    pub field: Field,
    pub operator: Operator,
    pub value: String,
}

/// How loudly a `log` policy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// What a policy does to a call that it matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Action {
    /// Lets it pass.
    Allow,
    /// Refuses it.
    Deny {
        /// Why, for the trace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Sends it to another node, which the source needs a contract with.
    Route {
        /// That node.
        #[serde(alias = "target")]
        to: String,
    },
    /// Changes its data.
    Transform {
        /// By destination, a dotted path in the data: a source path, `=` and a literal, or nothing to remove it.
        mapping: BTreeMap<String, String>,
    },
    /// Records it, and lets the following policies decide.
    Log {
        /// How loudly.
        level: LogLevel,
    },
}

impl Action {
    /// Its name on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny { .. } => "deny",
            Action::Route { .. } => "route",
            Action::Transform { .. } => "transform",
            Action::Log { .. } => "log",
        }
    }
}

/// Whether a policy acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// It does.
    #[default]
    Enforce,
    /// What it would do is recorded, and the following policies decide.
    Observe,
}

/// A policy, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "fields are named as in the service's specification")]
pub struct PolicyDefinition {
    pub name: String,
    /// The highest is asked first.
    pub priority: i64,
    /// Empty matches everything.
    pub conditions: Vec<Condition>,
    pub action: Action,
    pub enabled: bool,
    pub mode: PolicyMode,
}

domain_events! {
    /// What can have happened to a policy.
    PolicyEvent: Network / "policy" {
        /// There is one.
        PolicyCreated = "symbia.network.policy.policy-created.v1" {
            policy_id: String,
            org_id: String,
            /// From 1; 2 when it replaces what every organization starts with.
            version: u32,
            policy: PolicyDefinition,
            by: String,
        }
        /// It says something else.
        PolicyUpdated = "symbia.network.policy.policy-updated.v1" {
            policy_id: String,
            version: u32,
            policy: PolicyDefinition,
            by: String,
        }
        /// It counts again.
        PolicyEnabled = "symbia.network.policy.policy-enabled.v1" {
            policy_id: String,
            version: u32,
            policy: PolicyDefinition,
            by: String,
        }
        /// It counts no longer.
        PolicyDisabled = "symbia.network.policy.policy-disabled.v1" {
            policy_id: String,
            version: u32,
            policy: PolicyDefinition,
            by: String,
        }
        /// There is none any more.
        PolicyDeleted = "symbia.network.policy.policy-deleted.v1" { policy_id: String, version: u32, by: String }
    }
}
