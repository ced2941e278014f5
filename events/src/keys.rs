//! The key ring: master keys with ids, one derived signing key per role, rotation without downtime.
//!
//! A role's key is `HKDF-SHA-256(ikm = master, salt = "symbia", info = "symbia/v1/<role>")`; its id is `<kid>.<role>`.
//! Event roles are the service names, so a leaked key forges only that service; the other roles are in [`role`].

use std::{collections::HashMap, fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{Service, recent::Recent};

/// Roles beside the nine services.
pub mod role {
    /// Signs actor assertions: held by those who authenticate callers, and by command workers.
    pub const ACTOR: &str = "actor";
    /// Signs snapshots.
    pub const SNAPSHOT: &str = "snapshot";
    /// Signs exports and heads.
    pub const EXPORT: &str = "export";
    /// Keys the lookup hashes of identifiers such as e-mail addresses.
    pub const LOOKUP: &str = "lookup";
    /// Hashes events that travel over the mesh.
    pub const MESH: &str = "mesh";
    /// Every role beside the services.
    pub const ALL: [&str; 5] = [ACTOR, SNAPSHOT, EXPORT, LOOKUP, MESH];
}

/// What a master key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    /// Signs and verifies; exactly one key is active.
    Active,
    /// Verifies what it signed before.
    Verifying,
    /// No longer accepted.
    Retired,
}

/// What may be shown of a master key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Key id, e.g. `k1`.
    pub kid: String,
    /// Current use.
    pub status: KeyStatus,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
}

#[derive(Clone, Serialize, Deserialize)]
struct StoredKey {
    #[serde(flatten)]
    info: KeyInfo,
    secret: Zeroizing<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredRing {
    version: u32,
    keys: Vec<StoredKey>,
}

/// What is wrong with a key ring.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is no key ring.
    #[error("the key ring cannot be read: {0}; restore it from a backup, it cannot be made again")]
    Malformed(String),
    /// Not exactly one key is active.
    #[error("the key ring has {0} active keys; exactly one must be")]
    ActiveCount(usize),
    /// No such key.
    #[error("the key ring has no key '{0}'; `symbia ring list` shows those it has")]
    Unknown(String),
}

/// Why a signature was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The key id is not in the ring.
    #[error("signed with key '{0}', which is not in the key ring")]
    UnknownKey(String),
    /// The key is retired.
    #[error("signed with key '{0}', which is retired")]
    RetiredKey(String),
    /// The bytes do not match the signature.
    #[error("the signature does not match the content")]
    Mismatch,
}

/// Master keys and the signing keys derived from them. `Debug` shows ids only.
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<StoredKey>,
    active: String,
    derived: HashMap<String, Hmac<Sha256>>,
    // Of these keys: a ring that changes has a new one.
    recent: Arc<Recent>,
}

impl KeyRing {
    /// A new ring with one active key.
    #[must_use]
    pub fn generate(at: OffsetDateTime) -> Self {
        let mut ring =
            KeyRing { keys: Vec::new(), active: String::new(), derived: HashMap::new(), recent: Arc::default() };
        ring.rotate(at);
        ring
    }

    /// Reads the JSON form that [`KeyRing::to_json`] writes.
    pub fn from_json(text: &str) -> Result<Self, KeyError> {
        let stored: StoredRing = serde_json::from_str(text).map_err(|e| KeyError::Malformed(e.to_string()))?;
        let mut active = stored.keys.iter().filter(|k| k.info.status == KeyStatus::Active).map(|k| k.info.kid.clone());
        let (first, others) = (active.next(), active.count());
        let Some(active) = first.filter(|_| others == 0) else {
            return Err(KeyError::ActiveCount(others + usize::from(others > 0)));
        };
        let mut ring = KeyRing { keys: stored.keys, active, derived: HashMap::new(), recent: Arc::default() };
        ring.derive()?;
        Ok(ring)
    }

    /// The JSON form, with the secrets: write it to a file that only the owner can read.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<String> {
        let stored = StoredRing { version: 1, keys: self.keys.clone() };
        Zeroizing::new(serde_json::to_string_pretty(&stored).unwrap_or_default())
    }

    /// Adds a new active key; the one before goes on verifying. Returns the new key's id.
    pub fn rotate(&mut self, at: OffsetDateTime) -> String {
        let secret: [u8; 32] = rand::random();
        for key in &mut self.keys {
            if key.info.status == KeyStatus::Active {
                key.info.status = KeyStatus::Verifying;
            }
        }
        let kid = format!("k{}", self.keys.len() + 1);
        let info = KeyInfo { kid: kid.clone(), status: KeyStatus::Active, created: at };
        self.derive_key(&kid, &secret);
        self.keys.push(StoredKey { info, secret: Zeroizing::new(BASE64URL.encode(secret)) });
        self.active.clone_from(&kid);
        kid
    }

    /// Stops accepting what a key signed. The active key cannot be retired: rotate first.
    pub fn retire(&mut self, kid: &str) -> Result<(), KeyError> {
        match self.keys.iter_mut().find(|k| k.info.kid == kid) {
            Some(key) if key.info.status != KeyStatus::Active => {
                key.info.status = KeyStatus::Retired;
                self.recent = Arc::default();
                Ok(())
            }
            Some(_) => Err(KeyError::ActiveCount(0)),
            None => Err(KeyError::Unknown(kid.to_owned())),
        }
    }

    /// The keys, without their secrets.
    pub fn list(&self) -> impl Iterator<Item = &KeyInfo> {
        self.keys.iter().map(|k| &k.info)
    }

    /// Id of the key a role signs with now.
    #[must_use]
    pub fn active_id(&self, role: &str) -> String {
        format!("{}.{role}", self.active)
    }

    /// HMAC-SHA-256 of `bytes` with the active key of `role`, base64url; and the key's id.
    #[must_use]
    pub fn sign(&self, role: &str, bytes: &[u8]) -> (String, String) {
        let id = self.active_id(role);
        let signature = self.mac(&id, &[bytes]).map(|m| BASE64URL.encode(m.finalize().into_bytes()));
        (id, signature.unwrap_or_default())
    }

    /// Checks a base64url HMAC-SHA-256 of `bytes` made with key `id` (`<kid>.<role>`), in constant time.
    pub fn verify(&self, id: &str, bytes: &[u8], signature: &str) -> Result<(), SignatureError> {
        self.verify_parts(id, &[bytes], signature)
    }

    // The parts are signed as if they were one.
    pub(crate) fn verify_parts(&self, id: &str, parts: &[&[u8]], signature: &str) -> Result<(), SignatureError> {
        let kid = id.split('.').next().unwrap_or(id);
        if self.keys.iter().any(|k| k.info.kid == kid && k.info.status == KeyStatus::Retired) {
            return Err(SignatureError::RetiredKey(id.to_owned()));
        }
        let mac = self.mac(id, parts).ok_or_else(|| SignatureError::UnknownKey(id.to_owned()))?;
        // 43 digits are 32 bytes; the decoder's estimate is one more.
        let mut given = [0u8; 33];
        let length = BASE64URL.decode_slice(signature, &mut given).map_err(|_| SignatureError::Mismatch)?;
        mac.verify_slice(&given[..length]).map_err(|_| SignatureError::Mismatch)
    }

    /// Keyed hash of an identifier (an e-mail address, say), base64url, for claims and lookups. It uses the ring's first
    /// key for ever: a rotation must not change the hashes.
    #[must_use]
    pub fn lookup_hash(&self, purpose: &str, value: &str) -> String {
        let id = format!("k1.{}", role::LOOKUP);
        let bytes = format!("{purpose}\0{value}");
        self.mac(&id, &[bytes.as_bytes()]).map(|m| BASE64URL.encode(m.finalize().into_bytes())).unwrap_or_default()
    }

    /// What was verified with these keys of late.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    fn mac(&self, id: &str, parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
        let mut mac = self.derived.get(id)?.clone();
        parts.iter().for_each(|part| mac.update(part));
        Some(mac)
    }

    fn derive(&mut self) -> Result<(), KeyError> {
        for key in self.keys.clone() {
            let secret = BASE64URL.decode(key.secret.as_bytes());
            let secret = Zeroizing::new(secret.map_err(|e| KeyError::Malformed(format!("{}: {e}", key.info.kid)))?);
            if secret.len() != 32 {
                return Err(KeyError::Malformed(format!("{}: {} bytes instead of 32", key.info.kid, secret.len())));
            }
            self.derive_key(&key.info.kid, &secret);
        }
        Ok(())
    }

    fn derive_key(&mut self, kid: &str, secret: &[u8]) {
        let hkdf = Hkdf::<Sha256>::new(Some(b"symbia"), secret);
        for role in Service::ALL.iter().map(|s| s.name()).chain(role::ALL) {
            let mut key = Zeroizing::new([0u8; 32]);
            let expanded = hkdf.expand(format!("symbia/v1/{role}").as_bytes(), key.as_mut());
            if let (Ok(()), Ok(mac)) = (expanded, Hmac::new_from_slice(key.as_ref())) {
                self.derived.insert(format!("{kid}.{role}"), mac);
            }
        }
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}
