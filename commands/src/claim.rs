//! The claim aggregate: who holds a unique name. Written only beside the commit that takes or releases it.

use serde::{Deserialize, Serialize};
use symbia_events::Service;

/// Kind of aggregate in subjects.
pub const KIND: &str = "claim";

/// What can happen to a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimData {
    /// The name.
    pub name: String,
    /// Who took it or gave it up.
    pub holder: String,
}

/// CloudEvents type of a claim's event in a service's stream.
#[must_use]
pub fn event_type(service: Service, taken: bool) -> String {
    format!("symbia.{service}.{KIND}.{}.v1", if taken { "claimed" } else { "released" })
}

/// The holder after an event of the given type.
#[must_use]
pub fn holder_after(event_type: &str, data: ClaimData) -> Option<String> {
    event_type.ends_with(".claimed.v1").then_some(data.holder)
}
