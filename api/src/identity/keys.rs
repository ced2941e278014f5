//! The key pairs of access tokens in memory: one signs, the others verify (RFC 7517, RFC 8037).

use base64::{
    Engine,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL},
};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    jwk::{Jwk, ThumbprintHash},
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410 §7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why tokens cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The text holds no key of the right kind.
    #[error("a token signing key cannot be used: {0}")]
    Keys(String),
    /// The shared secret can be guessed.
    #[error("SESSION_SECRET {0}: give at least 32 random characters, or leave it out to sign with a key pair")]
    Secret(&'static str),
}

fn unusable(error: impl std::fmt::Display) -> TokenError {
    TokenError::Keys(error.to_string())
}

/// A key pair.
#[derive(Clone)]
pub struct SigningKey {
    der: Zeroizing<Vec<u8>>,
    encoding: EncodingKey,
    public: VerifyingKey,
}

impl SigningKey {
    /// A new key pair; its id is the thumbprint of its public part (RFC 7638).
    ///
    /// # Errors
    /// The cryptographic library refuses it.
    pub fn generate() -> Result<Self, TokenError> {
        let mut der = Zeroizing::new(PKCS8_PREFIX.to_vec());
        der.extend_from_slice(Zeroizing::new(rand::random::<[u8; 32]>()).as_ref());
        Self::of_der(der)
    }

    /// Reads what [`SigningKey::to_secret`] wrote.
    ///
    /// # Errors
    /// The text is no Ed25519 key.
    pub fn of_secret(text: &Zeroizing<String>) -> Result<Self, TokenError> {
        Self::of_der(Zeroizing::new(BASE64.decode(text.as_bytes()).map_err(unusable)?))
    }

    fn of_der(der: Zeroizing<Vec<u8>>) -> Result<Self, TokenError> {
        if der.len() != 48 || der[..16] != PKCS8_PREFIX {
            return Err(TokenError::Keys("it is not Ed25519".to_owned()));
        }
        let encoding = EncodingKey::from_ed_der(&der);
        let jwk = Jwk::from_encoding_key(&encoding, Algorithm::EdDSA).map_err(unusable)?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).map_err(unusable)?;
        let jwk = serde_json::to_value(&jwk).map_err(unusable)?;
        let public = VerifyingKey::new(&kid, jwk["x"].as_str().unwrap_or_default())?;
        Ok(SigningKey { der, encoding, public })
    }

    /// The private part, for the secret store and nothing else.
    #[must_use]
    pub fn to_secret(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(&*self.der))
    }

    /// Key id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.public.kid
    }

    /// The public key, base64url.
    #[must_use]
    pub fn x(&self) -> &str {
        &self.public.x
    }

    pub(super) fn encoding(&self) -> &EncodingKey {
        &self.encoding
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public.kid).finish()
    }
}

/// A public key.
#[derive(Clone)]
pub struct VerifyingKey {
    kid: String,
    x: String,
    decoding: DecodingKey,
}

impl VerifyingKey {
    /// From its id and its 32 bytes in base64url.
    ///
    /// # Errors
    /// The text is no Ed25519 key.
    pub fn new(kid: &str, x: &str) -> Result<Self, TokenError> {
        if BASE64URL.decode(x).map_err(unusable)?.len() != 32 {
            return Err(TokenError::Keys("its public part has not 32 bytes".to_owned()));
        }
        let decoding = DecodingKey::from_ed_components(x).map_err(unusable)?;
        Ok(VerifyingKey { kid: kid.to_owned(), x: x.to_owned(), decoding })
    }
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("VerifyingKey").field(&self.kid).finish()
    }
}

/// The keys of tokens: at most one signs, and it verifies too; the others verify what they signed before a rotation.
#[derive(Clone, Debug, Default)]
pub struct SigningKeys {
    signer: Option<SigningKey>,
    verifiers: Vec<VerifyingKey>,
}

impl SigningKeys {
    /// These keys.
    #[must_use]
    pub fn new(signer: Option<SigningKey>, retired: Vec<VerifyingKey>) -> Self {
        let verifiers = signer.iter().map(|key| key.public.clone()).chain(retired).collect();
        SigningKeys { signer, verifiers }
    }

    /// A new key pair alone, for a platform whose keys are kept nowhere.
    ///
    /// # Errors
    /// The cryptographic library refuses it.
    pub fn generate() -> Result<Self, TokenError> {
        Ok(SigningKeys::new(Some(SigningKey::generate()?), Vec::new()))
    }

    /// The key that signs.
    #[must_use]
    pub fn signer(&self) -> Option<&SigningKey> {
        self.signer.as_ref()
    }

    /// Whether there is none at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.verifiers.is_empty()
    }

    pub(super) fn verifier(&self, kid: &str) -> Option<&DecodingKey> {
        self.verifiers.iter().find(|key| key.kid == kid).map(|key| &key.decoding)
    }

    /// The public keys as JWKs.
    #[must_use]
    pub fn public(&self) -> Vec<Value> {
        let jwk = |key: &VerifyingKey| json!({ "kty": "OKP", "crv": "Ed25519", "x": key.x, "kid": key.kid, "use": "sig", "alg": "EdDSA" });
        self.verifiers.iter().map(jwk).collect()
    }
}
