//! Access tokens: JWTs that are signed with Ed25519, or with a shared secret where old verifiers need it (identity.md §4.2).
//!
//! A token names its session; whether that still lives is asked on every use ([`super::authenticator`]).

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    errors::ErrorKind,
    jwk::{Jwk, PublicKeyUse, ThumbprintHash},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::http::AuthError;

/// Who may use the tokens: all services of the platform.
pub const AUDIENCE: &str = "symbia";
/// Clocks of issuer and verifier may differ by this many seconds.
const LEEWAY: u64 = 5;
/// Shortest secret for HS256: as long as its hash (RFC 7518 §3.2).
const SECRET_MIN: usize = 32;
/// Parts of secrets that published examples use.
const PUBLISHED: [&str; 4] = ["change-me", "changeme", "change-in-production", "dev-secret"];

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";
/// What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410 §7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why tokens cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file holds no key of the right kind.
    #[error(
        "the token signing keys cannot be read: {0}; expected Ed25519 private keys in PEM (PKCS #8), the active one first"
    )]
    Keys(String),
    /// The shared secret can be guessed.
    #[error("SESSION_SECRET {0}: give at least 32 random characters, or leave it out to sign with a key pair")]
    Secret(&'static str),
}

/// One key pair.
#[derive(Clone)]
struct SigningKey {
    der: Zeroizing<Vec<u8>>,
    kid: String,
    jwk: Jwk,
    decoding: DecodingKey,
}

impl SigningKey {
    fn new(der: Zeroizing<Vec<u8>>) -> Result<Self, TokenError> {
        let unusable = |e: jsonwebtoken::errors::Error| TokenError::Keys(e.to_string());
        if der.len() != 48 || der[..16] != PKCS8_PREFIX {
            return Err(TokenError::Keys("a key is not Ed25519".to_owned()));
        }
        let mut jwk = Jwk::from_encoding_key(&EncodingKey::from_ed_der(&der), Algorithm::EdDSA).map_err(unusable)?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).map_err(unusable)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let decoding = DecodingKey::from_jwk(&jwk).map_err(unusable)?;
        Ok(SigningKey { der, kid, jwk, decoding })
    }
}

/// The key pairs tokens are signed with: the first signs, the others verify what they signed before a rotation.
#[derive(Clone)]
pub struct SigningKeys(Vec<SigningKey>);

impl SigningKeys {
    /// A new key pair.
    ///
    /// # Errors
    /// The cryptographic library refuses it.
    pub fn generate() -> Result<Self, TokenError> {
        let mut der = Zeroizing::new(PKCS8_PREFIX.to_vec());
        der.extend_from_slice(Zeroizing::new(rand::random::<[u8; 32]>()).as_ref());
        Ok(SigningKeys(vec![SigningKey::new(der)?]))
    }

    /// Reads what [`SigningKeys::to_pem`] or `openssl genpkey -algorithm ed25519` wrote, the active key first.
    ///
    /// # Errors
    /// The text holds no key, or another kind of key.
    pub fn from_pem(text: &str) -> Result<Self, TokenError> {
        let mut keys = Vec::new();
        for block in text.split(PEM_BEGIN).skip(1) {
            let body = block.split(PEM_END).next().unwrap_or_default();
            let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
            let der = BASE64.decode(body.as_bytes()).map_err(|e| TokenError::Keys(e.to_string()))?;
            keys.push(SigningKey::new(Zeroizing::new(der))?);
        }
        if keys.is_empty() {
            Err(TokenError::Keys("there is no private key".to_owned()))
        } else {
            Ok(SigningKeys(keys))
        }
    }

    /// PEM of all keys, with the secrets: write it to a file that only the owner can read.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let blocks = self.0.iter().map(|key| format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", BASE64.encode(&*key.der)));
        Zeroizing::new(blocks.collect())
    }

    /// Puts a new key pair first; the others go on verifying.
    ///
    /// # Errors
    /// The cryptographic library refuses it.
    pub fn rotate(&mut self) -> Result<(), TokenError> {
        self.0.splice(0..0, Self::generate()?.0);
        Ok(())
    }
}

impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.kid)).finish()
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Principal id.
    pub sub: String,
    /// `user` or `agent`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Address of a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Handle of an agent.
    #[serde(default, rename = "agentId", skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Organization of an agent.
    #[serde(default, rename = "orgId", skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
    /// Issued at, in seconds.
    pub iat: i64,
    /// Expires at, in seconds.
    pub exp: i64,
    /// Issuer.
    pub iss: String,
    /// Audience.
    pub aud: String,
    /// Id of the token.
    pub jti: String,
    /// Id of the session.
    pub sid: String,
}

/// A token with its end.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The compact JWS.
    pub token: String,
    /// When it expires.
    pub expires_at: OffsetDateTime,
}

enum Method {
    Pairs { encoding: EncodingKey, keys: SigningKeys },
    Secret { encoding: EncodingKey, decoding: DecodingKey },
}

struct Inner {
    method: Method,
    issuer: String,
    lifetime: Duration,
}

/// Issues and verifies tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

impl Tokens {
    /// Tokens signed with EdDSA (RFC 8037); anyone can verify them with the key set.
    #[must_use]
    pub fn new(keys: SigningKeys, issuer: impl Into<String>, lifetime: Duration) -> Self {
        let encoding = EncodingKey::from_ed_der(&keys.0[0].der);
        Tokens(Arc::new(Inner { method: Method::Pairs { encoding, keys }, issuer: issuer.into(), lifetime }))
    }

    /// Tokens signed with HS256, for verifiers that share `SESSION_SECRET`.
    ///
    /// # Errors
    /// The secret is short or a published default.
    pub fn with_secret(
        secret: &Zeroizing<String>,
        issuer: impl Into<String>,
        lifetime: Duration,
    ) -> Result<Self, TokenError> {
        if secret.len() < SECRET_MIN {
            return Err(TokenError::Secret("is shorter than 32 characters"));
        }
        let lower = Zeroizing::new(secret.to_lowercase());
        if PUBLISHED.iter().any(|part| lower.contains(part)) {
            return Err(TokenError::Secret("is a published default"));
        }
        let (encoding, decoding) =
            (EncodingKey::from_secret(secret.as_bytes()), DecodingKey::from_secret(secret.as_bytes()));
        Ok(Tokens(Arc::new(Inner { method: Method::Secret { encoding, decoding }, issuer: issuer.into(), lifetime })))
    }

    /// A token of a user's session: it lasts as long as tokens do, and not longer than the session.
    ///
    /// # Errors
    /// The cryptographic library fails.
    pub fn issue(
        &self,
        user: (&str, Option<&str>, Option<&str>),
        session: &str,
        at: OffsetDateTime,
        session_end: OffsetDateTime,
    ) -> Result<Issued, jsonwebtoken::errors::Error> {
        let (id, email, name) = user;
        let claims = Claims {
            email: email.map(str::to_owned),
            name: name.map(str::to_owned),
            ..self.claims(id, "user", session, at, session_end)
        };
        self.sign(&claims)
    }

    /// The same for an agent: the id of its row, its handle, name and organization.
    ///
    /// # Errors
    /// The cryptographic library fails.
    pub fn issue_to_agent(
        &self,
        agent: (&str, &str, &str, Option<&str>),
        session: &str,
        at: OffsetDateTime,
        session_end: OffsetDateTime,
    ) -> Result<Issued, jsonwebtoken::errors::Error> {
        let (id, handle, name, org) = agent;
        let claims = Claims {
            name: Some(name.to_owned()),
            agent_id: Some(handle.to_owned()),
            org_id: org.map(str::to_owned),
            ..self.claims(id, "agent", session, at, session_end)
        };
        self.sign(&claims)
    }

    fn claims(&self, id: &str, kind: &str, session: &str, at: OffsetDateTime, end: OffsetDateTime) -> Claims {
        let expires_at = (at + self.0.lifetime).min(end);
        Claims {
            sub: id.to_owned(),
            kind: kind.to_owned(),
            email: None,
            name: None,
            agent_id: None,
            org_id: None,
            iat: at.unix_timestamp(),
            exp: expires_at.unix_timestamp(),
            iss: self.0.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            jti: Uuid::new_v4().to_string(),
            sid: session.to_owned(),
        }
    }

    fn sign(&self, claims: &Claims) -> Result<Issued, jsonwebtoken::errors::Error> {
        let token = match &self.0.method {
            Method::Pairs { encoding, keys } => {
                let header = Header { kid: Some(keys.0[0].kid.clone()), ..Header::new(Algorithm::EdDSA) };
                jsonwebtoken::encode(&header, claims, encoding)?
            }
            Method::Secret { encoding, .. } => jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, encoding)?,
        };
        let expires_at = OffsetDateTime::from_unix_timestamp(claims.exp).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Ok(Issued { token, expires_at })
    }

    /// Checks algorithm, key, signature, issuer, audience and time, and nothing outside the token.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] or [`AuthError::Expired`].
    pub fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        let (key, algorithm) = match &self.0.method {
            Method::Secret { decoding, .. } => (decoding, Algorithm::HS256),
            Method::Pairs { keys, .. } => {
                let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid)?;
                let key = keys.0.iter().find(|key| header.kid.as_ref() == Some(&key.kid)).ok_or(AuthError::Invalid)?;
                (&key.decoding, Algorithm::EdDSA)
            }
        };
        // The algorithm is ours to name, never the token's (RFC 8725 §3.1).
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[&self.0.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        match jsonwebtoken::decode::<Claims>(token, key, &validation) {
            Ok(data) => Ok(data.claims),
            Err(error) if matches!(error.kind(), ErrorKind::ExpiredSignature) => Err(AuthError::Expired),
            Err(_) => Err(AuthError::Invalid),
        }
    }

    /// The key set (RFC 7517) with the introspection address that old clients look for.
    #[must_use]
    pub fn jwks(&self) -> Value {
        match &self.0.method {
            Method::Pairs { keys, .. } => {
                let keys: Vec<&Jwk> = keys.0.iter().map(|key| &key.jwk).collect();
                json!({ "keys": keys, "introspect_endpoint": "/api/auth/introspect" })
            }
            Method::Secret { .. } => json!({
                "keys": [],
                "_note": "Tokens are signed with a shared secret: verify them by introspection",
                "introspect_endpoint": "/api/auth/introspect",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

    use super::*;

    fn tokens(keys: &SigningKeys) -> Tokens {
        Tokens::new(keys.clone(), "symbia-test", Duration::days(7))
    }

    fn issue(tokens: &Tokens, at: OffsetDateTime) -> String {
        tokens.issue(("ada", Some("ada@example.test"), Some("Ada")), "s1", at, at + Duration::days(7)).unwrap().token
    }

    fn resigned(token: &str, header: &str) -> String {
        let parts: Vec<&str> = token.split('.').collect();
        format!("{}.{}.{}", BASE64URL.encode(header), parts[1], parts[2])
    }

    #[test]
    fn a_token_names_its_session_and_survives_a_rotation_and_the_file() {
        let mut keys = SigningKeys::generate().unwrap();
        let token = issue(&tokens(&keys), OffsetDateTime::now_utc());
        keys.rotate().unwrap();
        let read = SigningKeys::from_pem(&keys.to_pem()).unwrap();
        let claims = tokens(&read).verify(&token).unwrap();
        assert_eq!((claims.sub.as_str(), claims.sid.as_str(), claims.kind.as_str()), ("ada", "s1", "user"));
        assert_eq!(claims.exp - claims.iat, 7 * 24 * 3600);
        assert_eq!(tokens(&read).jwks()["keys"].as_array().unwrap().len(), 2);
        assert!(tokens(&read).jwks().to_string().contains("\"crv\":\"Ed25519\""));
        assert!(!tokens(&read).jwks().to_string().contains("\"d\""));
    }

    #[test]
    fn foreign_keys_other_algorithms_other_audiences_and_old_tokens_are_refused() {
        let now = OffsetDateTime::now_utc();
        let keys = SigningKeys::generate().unwrap();
        let ours = tokens(&keys);
        let token = issue(&ours, now);
        let kid = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
        assert_eq!(ours.verify(&issue(&tokens(&SigningKeys::generate().unwrap()), now)), Err(AuthError::Invalid));
        assert_eq!(ours.verify(&issue(&ours, now - Duration::days(8))), Err(AuthError::Expired));
        let elsewhere = Tokens::new(keys.clone(), "somebody-else", Duration::days(7));
        assert_eq!(ours.verify(&issue(&elsewhere, now)), Err(AuthError::Invalid));
        for alg in ["none", "HS256", "ES256"] {
            let forged = resigned(&token, &format!(r#"{{"alg":"{alg}","typ":"JWT","kid":"{kid}"}}"#));
            assert_eq!(ours.verify(&forged), Err(AuthError::Invalid), "{alg}");
            let unsigned = format!("{}.", forged.rsplit_once('.').unwrap().0);
            assert_eq!(ours.verify(&unsigned), Err(AuthError::Invalid), "{alg}");
        }
        // The public key as an HMAC secret, the classic confusion.
        let public = match ours.jwks()["keys"][0]["x"].as_str() {
            Some(x) => BASE64URL.decode(x).unwrap(),
            None => Vec::new(),
        };
        let mut claims = ours.verify(&token).unwrap();
        let header = Header { kid: Some(kid.clone()), ..Header::new(Algorithm::HS256) };
        let confused = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&public)).unwrap();
        assert_eq!(ours.verify(&confused), Err(AuthError::Invalid));
        claims.aud = "another".to_owned();
        let header = Header { kid: Some(kid), ..Header::new(Algorithm::EdDSA) };
        let misaddressed = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&keys.0[0].der)).unwrap();
        assert_eq!(ours.verify(&misaddressed), Err(AuthError::Invalid));
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused() {
        let with =
            |secret: &str| Tokens::with_secret(&Zeroizing::new(secret.to_owned()), "symbia-test", Duration::days(7));
        assert!(with("short").is_err());
        assert!(with("symbia-dev-secret-change-in-production").is_err());
        let shared = with("kR1vY8nQ2wX5zA7cE9fH3jL6mP0sT4uB").unwrap();
        let claims = shared.verify(&issue(&shared, OffsetDateTime::now_utc())).unwrap();
        assert_eq!(claims.sub, "ada");
        assert_eq!(shared.jwks()["keys"], json!([]));
    }
}
