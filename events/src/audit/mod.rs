//! Auditing the log: telling a flipped, removed, re-ordered, replayed, forked or foreign event, and where it stands.
//!
//! Pure: the caller brings the messages. [`Verifier`] is the whole check, [`export`] the file format, [`merkle`] and
//! [`Proof`] show that one event is in a sealed stretch.

mod attest;
mod chain;
mod check;
pub mod export;
pub mod merkle;
mod proof;
mod verifier;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Service;

pub use attest::{Head, Heads, HeadsError, RunningHash, Seal, Witness};
pub use check::leaves;
pub use proof::{Proof, ProofError, Proved};
pub use verifier::Verifier;

/// A stored message of an event stream, as the verifier reads it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Whose event stream.
    pub service: Service,
    /// Its sequence in that stream, from 1.
    pub sequence: u64,
    /// The subject it is stored under.
    pub subject: &'a str,
    /// The bytes as they stand.
    pub payload: &'a [u8],
}

/// What was done to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The content of an event was changed.
    Flip,
    /// An event is missing.
    Removal,
    /// Events stand in another order than they were written in.
    Reorder,
    /// An event stands in the log a second time.
    Replay,
    /// Two events, both validly signed, claim the same version of an aggregate.
    Fork,
    /// A message that no key of this ring signed for this place.
    Foreign,
    /// The stretch is not the one that a head or seal attests, in a way that none of the other kinds names.
    Diverged,
}

/// One tampering, named and placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was done.
    pub kind: Kind,
    /// In whose event stream.
    pub service: Service,
    /// At which sequence: of the message at fault, of the missing message, or of the one that shows that it is missing.
    pub sequence: u64,
    /// Subject of the aggregate, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<String>,
    /// Version of the aggregate that is at fault, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Id of the event at fault, where there is one and it can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<Uuid>,
    /// What was seen, in words.
    pub explanation: String,
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Messages read.
    pub messages: u64,
    /// Events that verified.
    pub events: u64,
    /// Aggregates they belong to.
    pub aggregates: u64,
    /// Where each stream ends.
    pub heads: Vec<Head>,
    /// Heads and seals that were compared and agree.
    pub attestations: u64,
    /// Everything that is wrong, in the order of services and sequences.
    pub findings: Vec<Finding>,
    /// Findings beyond the ten thousandth, which are only counted.
    pub more: u64,
}

impl Report {
    /// Nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}
