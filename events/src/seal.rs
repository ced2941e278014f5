//! Sealed personal data: AES-256-GCM under the data subject's key. Destroying the key erases the person from the log.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A personal field as it stands in commands and events (platform.md §26.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(extend("x-data-class" = "pii"))]
pub struct Personal {
    /// Id of the subject key.
    pub kid: String,
    /// Always `A256GCM`.
    pub alg: String,
    /// 12 bytes, base64url.
    pub nonce: String,
    /// Ciphertext with its tag, base64url. The additional data is the kid.
    pub ct: String,
}

impl Personal {
    /// Length of the sealed text in bytes, as its ciphertext tells it: nobody needs the key to keep a limit.
    #[must_use]
    pub fn text_len(&self) -> usize {
        const TAG: usize = 16;
        (self.ct.len() * 3 / 4).saturating_sub(TAG)
    }
}

/// Why a field cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Sealed with another key or algorithm than the one at hand.
    #[error("sealed with {alg} under key '{kid}', which is not the key at hand")]
    WrongKey {
        /// The key it names.
        kid: String,
        /// The algorithm it names.
        alg: String,
    },
    /// The content was changed, or the key is not the one it was sealed with.
    #[error("the sealed value cannot be opened: it was changed or its key was")]
    Corrupt,
}

/// The data key of one person. `Debug` shows the id only; the bytes are wiped when dropped.
#[derive(Clone)]
pub struct SubjectKey {
    kid: String,
    key: Zeroizing<[u8; 32]>,
}

impl SubjectKey {
    /// A new random key.
    #[must_use]
    pub fn generate(kid: impl Into<String>) -> Self {
        SubjectKey { kid: kid.into(), key: Zeroizing::new(rand::random()) }
    }

    /// The key from its bytes.
    #[must_use]
    pub fn from_bytes(kid: impl Into<String>, key: [u8; 32]) -> Self {
        SubjectKey { kid: kid.into(), key: Zeroizing::new(key) }
    }

    /// Its id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its bytes, to be wrapped and stored; nothing else.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.key
    }

    /// Seals a text.
    #[must_use]
    pub fn seal(&self, text: &str) -> Personal {
        let nonce: [u8; 12] = rand::random();
        let payload = Payload { msg: text.as_bytes(), aad: self.kid.as_bytes() };
        let ct = Aes256Gcm::new((&*self.key).into()).encrypt(&Nonce::from(nonce), payload).unwrap_or_default();
        Personal {
            kid: self.kid.clone(),
            alg: "A256GCM".to_owned(),
            nonce: BASE64URL.encode(nonce),
            ct: BASE64URL.encode(ct),
        }
    }

    /// HMAC-SHA-256 of a text under this key, base64url: tells equal texts apart from others, and means nothing once the
    /// key is destroyed.
    #[must_use]
    pub fn digest(&self, text: &str) -> String {
        // A key of its own for it (RFC 5869), so that one key serves one algorithm.
        let mut derived = Zeroizing::new([0u8; 32]);
        let expanded = Hkdf::<Sha256>::new(None, &*self.key).expand(b"symbia digest v1", &mut *derived);
        match (expanded, Hmac::<Sha256>::new_from_slice(&*derived)) {
            (Ok(()), Ok(mut mac)) => {
                mac.update(text.as_bytes());
                BASE64URL.encode(mac.finalize().into_bytes())
            }
            // Neither can fail for 32 bytes.
            _ => String::new(),
        }
    }

    /// Seals a part of a file, which can be opened as what it was sealed as and nothing else: nonce, ciphertext, tag.
    #[must_use]
    pub fn seal_bytes(&self, bytes: &[u8], sealed_as: &str) -> Vec<u8> {
        let nonce: [u8; 12] = rand::random();
        let aad = format!("{}\0{sealed_as}", self.kid);
        let payload = Payload { msg: bytes, aad: aad.as_bytes() };
        let ct = Aes256Gcm::new((&*self.key).into()).encrypt(&Nonce::from(nonce), payload).unwrap_or_default();
        [&nonce[..], &ct].concat()
    }

    /// Opens a sealed part of a file.
    ///
    /// # Errors
    /// It was changed, sealed as something else, or under another key.
    pub fn open_bytes(&self, sealed: &[u8], sealed_as: &str) -> Result<Vec<u8>, UnsealError> {
        let (nonce, ct) = sealed.split_first_chunk::<12>().ok_or(UnsealError::Corrupt)?;
        let aad = format!("{}\0{sealed_as}", self.kid);
        let payload = Payload { msg: ct, aad: aad.as_bytes() };
        let opened = Aes256Gcm::new((&*self.key).into()).decrypt(&Nonce::from(*nonce), payload);
        opened.map_err(|_| UnsealError::Corrupt)
    }

    /// Opens a sealed text.
    pub fn open(&self, sealed: &Personal) -> Result<String, UnsealError> {
        if sealed.kid != self.kid || sealed.alg != "A256GCM" {
            return Err(UnsealError::WrongKey { kid: sealed.kid.clone(), alg: sealed.alg.clone() });
        }
        let nonce: [u8; 12] =
            BASE64URL.decode(&sealed.nonce).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(UnsealError::Corrupt)?;
        let ct = BASE64URL.decode(&sealed.ct).map_err(|_| UnsealError::Corrupt)?;
        let payload = Payload { msg: &ct, aad: self.kid.as_bytes() };
        let text = Aes256Gcm::new((&*self.key).into())
            .decrypt(&Nonce::from(nonce), payload)
            .map_err(|_| UnsealError::Corrupt)?;
        String::from_utf8(text).map_err(|_| UnsealError::Corrupt)
    }
}

impl fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SubjectKey").field(&self.kid).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_file_is_opened_as_what_it_was_sealed_as_and_nothing_else() {
        let key = SubjectKey::from_bytes("k", [1; 32]);
        let sealed = key.seal_bytes(b"part", "file.1");
        assert_eq!(key.open_bytes(&sealed, "file.1"), Ok(b"part".to_vec()));
        assert_eq!(key.open_bytes(&sealed, "file.2"), Err(UnsealError::Corrupt));
        assert_eq!(SubjectKey::from_bytes("k2", [1; 32]).open_bytes(&sealed, "file.1"), Err(UnsealError::Corrupt));
        assert_eq!(key.open_bytes(&sealed[..5], "file.1"), Err(UnsealError::Corrupt));
        assert_eq!(key.open_bytes(&key.seal_bytes(b"", "x"), "x"), Ok(Vec::new()));
    }
}
