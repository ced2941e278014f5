//! The proof that one event is in a sealed stretch of the log: a document that is checked offline.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    attest::{Seal, digest},
    merkle::{self, Digest32},
};
use crate::{DecodeError, KeyRing, Service, Signed, logging::SealEvent, verify};

/// What `symbia audit prove` writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// The event.
    pub event: Box<RawValue>,
    /// RFC 6962 hash of its leaf, base64url: SHA-256(0x00 ‖ SHA-256 of the event).
    pub leaf_hash: String,
    /// Its place among the events of the stretch, from 0.
    pub index: u64,
    /// Number of events in the stretch.
    pub size: u64,
    /// Hashes beside the way from the leaf to the root, base64url.
    pub path: Vec<String>,
    /// The root, base64url: the same as in the seal.
    pub root: String,
    /// The `LogSealed` event.
    pub seal: Box<RawValue>,
}

/// Why a proof proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The event or the seal does not verify.
    #[error("the {part} is not authentic: {error}")]
    Event {
        /// `event` or `seal`.
        part: &'static str,
        /// Why not.
        error: DecodeError,
    },
    /// A part says something else than another.
    #[error("the proof does not hold: {0}")]
    Mismatch(&'static str),
    /// The event is not among those given.
    #[error("the event is not among the {0} events of the sealed stretch")]
    NotSealed(usize),
}

/// What a proof proves.
#[derive(Debug)]
pub struct Proved {
    /// The event.
    pub event: Signed,
    /// The seal that holds it.
    pub seal: Seal,
}

impl Proof {
    /// Proves that `event` is among the events of a sealed stretch, whose hashes are `leaves` (see [`super::leaves`]).
    pub fn new(event: &Signed, leaves: &[Digest32], seal: &Signed) -> Result<Self, ProofError> {
        let data = digest(&event.hash).ok_or(ProofError::Mismatch("the event has no hash"))?;
        let not_sealed = || ProofError::NotSealed(leaves.len());
        let index = leaves.iter().position(|leaf| *leaf == data).ok_or_else(not_sealed)?;
        let path = merkle::path(index, leaves).ok_or_else(not_sealed)?;
        let raw = |part: &'static str, signed: &Signed| {
            let text = String::from_utf8_lossy(&signed.bytes).into_owned();
            RawValue::from_string(text).map_err(|error| ProofError::Event { part, error: error.into() })
        };
        Ok(Proof {
            event: raw("event", event)?,
            leaf_hash: BASE64URL.encode(merkle::leaf(&data)),
            index: index as u64,
            size: leaves.len() as u64,
            path: path.iter().map(|hash| BASE64URL.encode(hash)).collect(),
            root: BASE64URL.encode(merkle::root(leaves)),
            seal: raw("seal", seal)?,
        })
    }

    /// Checks the proof from nothing but the key ring: both signatures, the path, and that the seal names the root.
    pub fn check(&self, keys: &KeyRing) -> Result<Proved, ProofError> {
        let signed = |part: &'static str, raw: &RawValue| {
            verify(keys, raw.get().as_bytes()).map_err(|error| ProofError::Event { part, error })
        };
        let (event, seal) = (signed("event", &self.event)?, signed("seal", &self.seal)?);
        if seal.event.service() != Some(Service::Logging) {
            return Err(ProofError::Mismatch("the seal is no event of the logging service"));
        }
        let SealEvent::LogSealed(sealed) =
            seal.event.decode().map_err(|error| ProofError::Event { part: "seal", error })?;
        let seal = Seal::of(&sealed).ok_or(ProofError::Mismatch("the seal names no service or no root"))?;
        if event.event.service() != Some(seal.service) {
            return Err(ProofError::Mismatch("the seal is of another service's stream"));
        }
        if self.size != seal.events || digest(&self.root) != Some(seal.root) {
            return Err(ProofError::Mismatch("the seal has another root or another number of events"));
        }
        let data = digest(&event.hash).ok_or(ProofError::Mismatch("the event has no hash"))?;
        if self.leaf_hash != BASE64URL.encode(merkle::leaf(&data)) {
            return Err(ProofError::Mismatch("the leaf is of another event"));
        }
        let path: Option<Vec<Digest32>> = self.path.iter().map(|hash| digest(hash)).collect();
        let path = path.ok_or(ProofError::Mismatch("the path is malformed"))?;
        if !merkle::verify(&data, self.index, self.size, &path, &seal.root) {
            return Err(ProofError::Mismatch("the path does not lead from the event to the root"));
        }
        Ok(Proved { event, seal })
    }
}
