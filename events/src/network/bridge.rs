//! Events of a bridge: a connector to the outside, a target of events as `bridge:<id>` (network.md §3.3, 8.13).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain_events;

/// How a bridge forwards; only webhooks do so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum BridgeType {
    Webhook,
    Websocket,
    Grpc,
    Custom,
}

domain_events! {
    /// What can have happened to a bridge.
    BridgeEvent: Network / "bridge" {
        /// There is one.
        BridgeRegistered = "symbia.network.bridge.bridge-registered.v1" {
            bridge_id: String,
            org_id: String,
            name: String,
            #[serde(rename = "type")]
            bridge_type: BridgeType,
            endpoint: String,
            /// What it forwards: names or patterns.
            event_types: Vec<String>,
            /// A credential of the identity service.
            credential_ref: Option<String>,
            by: String,
        }
        /// It forwards.
        BridgeActivated = "symbia.network.bridge.bridge-activated.v1" { bridge_id: String, by: String }
        /// It does not.
        BridgeDeactivated = "symbia.network.bridge.bridge-deactivated.v1" { bridge_id: String, by: String }
        /// There is none any more.
        BridgeDeleted = "symbia.network.bridge.bridge-deleted.v1" { bridge_id: String, by: String }
    }
}
