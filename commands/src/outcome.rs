//! What became of a command: published to whoever waits for it, and given again when the command is repeated.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use symbia_events::{CommandId, Event, Position};

use crate::Rejection;

/// Whether the command's events are in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutcomeStatus {
    /// Decided; its events, if any, are stored.
    Accepted,
    /// Refused; nothing happened.
    Rejected,
    /// It could not be decided in five attempts and waits in the dead letters; nothing happened.
    Dead,
}

/// An event that a command led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRef {
    /// CloudEvents type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Version of the aggregate after it.
    pub version: u32,
}

/// The outcome of a command, as JSON on `symbia.out.<tenant>.<commandid>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The command.
    pub command_id: CommandId,
    /// What became of it.
    pub status: OutcomeStatus,
    /// Its events; empty when it changed nothing.
    #[serde(default)]
    pub events: Vec<EventRef>,
    /// The same as they stand in the log, for a sender that asked for them (`returnevents`); not for a repeated command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stored: Vec<Arc<Event>>,
    /// Where its events stand: the read models show them once they have passed this position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The command had been decided before; this is its first outcome again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
    /// Why it was refused.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
}

impl Outcome {
    /// A refusal.
    #[must_use]
    pub fn rejected(command_id: CommandId, rejection: Rejection) -> Self {
        Outcome {
            command_id,
            status: OutcomeStatus::Rejected,
            events: Vec::new(),
            stored: Vec::new(),
            position: None,
            repeated: false,
            rejection: Some(rejection),
        }
    }
}
