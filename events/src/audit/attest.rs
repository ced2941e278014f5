//! What attests the extent of a stream from outside of it: signed heads, seals, and the positions of witnesses.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::merkle::Digest32;
use crate::{KeyRing, Position, Service, SignatureError, canonical, keys::role, logging::LogSealed};

/// Hash over the events of a stream in order: `h₀` = 32 zero bytes, `hₙ` = SHA-256(`hₙ₋₁` ‖ hash of event n).
///
/// Beside it stands the exclusive or of all event hashes, which does not depend on their order: it proves nothing, but it
/// tells a change of order from a change of content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunningHash {
    events: u64,
    chain: Digest32,
    set: Digest32,
}

impl RunningHash {
    /// Takes the next event's hash.
    pub fn push(&mut self, event: &Digest32) {
        self.events += 1;
        self.chain = Sha256::new().chain_update(self.chain).chain_update(event).finalize().into();
        self.set.iter_mut().zip(event).for_each(|(a, b)| *a ^= b);
    }

    /// The head of a stream whose last message has this sequence.
    #[must_use]
    pub fn head(&self, service: Service, sequence: u64) -> Head {
        let (hash, set) = (BASE64URL.encode(self.chain), BASE64URL.encode(self.set));
        Head { service, sequence, events: self.events, hash, set }
    }
}

/// Where a stream ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Whose event stream.
    pub service: Service,
    /// Sequence of its last message.
    pub sequence: u64,
    /// Number of its events.
    pub events: u64,
    /// [`RunningHash`] of its events, base64url.
    pub hash: String,
    /// Exclusive or of the hashes of its events, base64url.
    pub set: String,
}

/// The heads of all streams at one time, signed with the ring's export key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    /// One for each stream that has messages.
    pub heads: Vec<Head>,
    /// Key id, `<kid>.export`.
    pub hmackid: String,
    /// When they were taken.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// base64url HMAC-SHA-256 over the RFC 8785 canonical JSON of this document without `hmac`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hmac: String,
}

/// Why heads are not accepted.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    /// They cannot be written as JSON.
    #[error("the heads cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Another role's key signed them.
    #[error("the heads are signed with key '{0}', which is no export key")]
    WrongRole(String),
    /// The signature does not verify.
    #[error("the heads are not authentic: {0}")]
    Signature(#[from] SignatureError),
}

impl Heads {
    /// Signs heads.
    pub fn sign(keys: &KeyRing, heads: Vec<Head>, time: OffsetDateTime) -> Result<Self, HeadsError> {
        let hmackid = keys.active_id(role::EXPORT);
        let mut heads = Heads { heads, hmackid, time, hmac: String::new() };
        heads.hmac = keys.sign(role::EXPORT, &canonical::to_vec(&heads)?).1;
        Ok(heads)
    }

    /// Checks the signature.
    pub fn verify(&self, keys: &KeyRing) -> Result<(), HeadsError> {
        if self.hmackid.split_once('.').map(|(_, r)| r) != Some(role::EXPORT) {
            return Err(HeadsError::WrongRole(self.hmackid.clone()));
        }
        let unsigned = Heads { hmac: String::new(), ..self.clone() };
        Ok(keys.verify(&self.hmackid, &canonical::to_vec(&unsigned)?, &self.hmac)?)
    }
}

/// A seal to compare a stretch of the log with, from a verified `LogSealed` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Whose event stream.
    pub service: Service,
    /// First sealed sequence.
    pub from: u64,
    /// Last sealed sequence.
    pub to: u64,
    /// Number of events in between.
    pub events: u64,
    /// Merkle root over them.
    pub root: Digest32,
}

impl Seal {
    /// The seal that an event records; `None` when it names no service or its root is no digest.
    #[must_use]
    pub fn of(event: &LogSealed) -> Option<Self> {
        Some(Seal {
            service: event.service.parse().ok()?,
            from: event.from_sequence,
            to: event.to_sequence,
            events: event.events,
            root: digest(&event.root)?,
        })
    }
}

/// Something outside the log that has seen it up to a position: a projection's checkpoint, a mirror, a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its name, for the finding.
    pub name: String,
    /// How far it has read.
    pub position: Position,
}

/// Reads a base64url SHA-256 digest.
pub(super) fn digest(text: &str) -> Option<Digest32> {
    // One byte more than a digest has: the decoder wants room for its estimate.
    let mut buffer = [0; 33];
    let length = BASE64URL.decode_slice(text, &mut buffer).ok()?;
    buffer[..length].try_into().ok()
}
