//! Events of a contract: a permission to send, from one node to another (network.md §3.2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain_events;

/// How far an event travels, from near to far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Boundary {
    /// Within one context of execution.
    #[default]
    Intra,
    /// Between contexts.
    Inter,
    /// To the outside or from there.
    Extra,
}

impl Boundary {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Boundary::Intra => "intra",
            Boundary::Inter => "inter",
            Boundary::Extra => "extra",
        }
    }
}

domain_events! {
    /// What can have happened to a contract.
    ContractEvent: Network / "contract" {
        /// It counts.
        ContractCreated = "symbia.network.contract.contract-created.v1" {
            contract_id: String,
            org_id: String,
            from: String,
            /// A node, or `*`.
            to: String,
            /// Names, `*`, or patterns like `message.*`; sorted.
            allowed_event_types: Vec<String>,
            /// Sorted.
            boundaries: Vec<Boundary>,
            /// RFC 3339.
            expires_at: Option<String>,
            by: String,
            /// At most so many events in a second; absent: any number.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            max_events_per_second: Option<u32>,
            /// Dotted paths in the data that neither the target nor who watches is shown.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            redact: Vec<String>,
        }
        /// Its time is over: it counts no longer.
        ContractExpired = "symbia.network.contract.contract-expired.v1" { contract_id: String }
        /// It counts no longer.
        ContractDeleted = "symbia.network.contract.contract-deleted.v1" { contract_id: String, by: String }
    }
}
