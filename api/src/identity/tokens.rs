//! Access tokens: JWTs that are signed with Ed25519, or with a shared secret where old verifiers need it (identity.md §4.2).
//!
//! A token names its session; whether that still lives is asked on every use ([`super::authenticator`]).

use std::sync::{Arc, PoisonError, RwLock};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::keys::{SigningKeys, TokenError};
use crate::http::{ApiError, AuthError, principal::PrincipalKind};

/// Who may use the tokens of sessions: all services of the platform.
pub const AUDIENCE: &str = "symbia";
/// Clocks of issuer and verifier may differ by this many seconds.
const LEEWAY: u64 = 5;
/// Shortest secret for HS256: as long as its hash (RFC 7518 §3.2).
const SECRET_MIN: usize = 32;
/// Fewest different characters in it.
const VARIETY_MIN: usize = 8;
/// Parts of secrets that published examples use.
const PUBLISHED: [&str; 6] =
    ["change-me", "changeme", "change-in-production", "change_in_production", "dev-secret", "your-secret"];

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(rename = "agentId", default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Organization of an agent.
    #[serde(rename = "orgId", default, skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
    /// Issued at, in seconds.
    pub iat: i64,
    /// Expires at, in seconds.
    pub exp: i64,
    /// Issuer.
    pub iss: String,
    /// Audience: the platform, or the resource that the token was asked for (RFC 8707).
    pub aud: String,
    /// Id of the token.
    pub jti: String,
    /// Id of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// What it is limited to, separated by spaces; a session's token is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The OAuth client it was issued to (RFC 9068).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Who acts for the subject (RFC 8693 §4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
    /// Who may be given a token that acts for the subject in turn (RFC 8693 §4.4).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_act: Vec<MayAct>,
    /// The delegation it stands on.
    #[serde(rename = "dlg", default, skip_serializing_if = "Option::is_none")]
    pub delegation: Option<String>,
    /// The approval it carries.
    #[serde(rename = "apr", default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
}

/// An actor, and the one it acts for in turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Principal id.
    pub sub: String,
    /// The actor before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Act>>,
}

/// An actor that may be appointed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MayAct {
    /// Principal id.
    pub sub: String,
}

/// Whom a token is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Principal id; of an agent the row's, not the handle.
    pub id: String,
    /// User or agent.
    pub kind: PrincipalKind,
    /// Address of a user.
    pub email: Option<String>,
    /// Display name.
    pub name: Option<String>,
    /// Handle of an agent.
    pub agent_id: Option<String>,
    /// Organization of an agent.
    pub org_id: Option<String>,
}

impl Subject {
    /// A person.
    #[must_use]
    pub fn user(id: &str, email: Option<&str>, name: Option<&str>) -> Self {
        Subject {
            id: id.to_owned(),
            kind: PrincipalKind::User,
            email: email.map(str::to_owned),
            name: name.map(str::to_owned),
            agent_id: None,
            org_id: None,
        }
    }

    /// An agent: the id of its row, its handle, name and organization.
    #[must_use]
    pub fn agent(id: &str, handle: &str, name: &str, org: Option<&str>) -> Self {
        Subject {
            id: id.to_owned(),
            kind: PrincipalKind::Agent,
            email: None,
            name: Some(name.to_owned()),
            agent_id: Some(handle.to_owned()),
            org_id: org.map(str::to_owned),
        }
    }

    /// `user` or `agent`, as tokens and events spell it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.kind {
            PrincipalKind::User => "user",
            PrincipalKind::Agent => "agent",
            PrincipalKind::Service => "service",
        }
    }
}

/// A token with its end.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The compact JWS.
    pub token: String,
    /// When it expires.
    pub expires_at: OffsetDateTime,
}

/// Why a token cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The keys are not there yet.
    #[error("there is no signing key yet")]
    NoKey,
    /// The cryptographic library fails.
    #[error(transparent)]
    Jwt(#[from] jsonwebtoken::errors::Error),
}

impl From<IssueError> for ApiError {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::NoKey => ApiError::unavailable("The signing key", 1),
            IssueError::Jwt(error) => ApiError::internal(error),
        }
    }
}

enum Method {
    Pairs(RwLock<Arc<SigningKeys>>),
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
    /// Tokens signed with EdDSA (RFC 8037); anyone can verify them with the key set. The keys may come later.
    #[must_use]
    pub fn new(keys: SigningKeys, issuer: impl Into<String>, lifetime: Duration) -> Self {
        let method = Method::Pairs(RwLock::new(Arc::new(keys)));
        Tokens(Arc::new(Inner { method, issuer: issuer.into(), lifetime }))
    }

    /// Tokens signed with HS256, for verifiers that share `SESSION_SECRET`.
    ///
    /// # Errors
    /// The secret is short, monotonous or a published default.
    pub fn with_secret(
        secret: &Zeroizing<String>,
        issuer: impl Into<String>,
        lifetime: Duration,
    ) -> Result<Self, TokenError> {
        if secret.len() < SECRET_MIN {
            return Err(TokenError::Secret("is shorter than 32 characters"));
        }
        let mut letters: Vec<char> = secret.chars().collect();
        letters.sort_unstable();
        letters.dedup();
        if letters.len() < VARIETY_MIN {
            return Err(TokenError::Secret("repeats a few characters"));
        }
        let lower = Zeroizing::new(secret.to_lowercase());
        if PUBLISHED.iter().any(|part| lower.contains(part)) {
            return Err(TokenError::Secret("is a published default"));
        }
        let (encoding, decoding) =
            (EncodingKey::from_secret(secret.as_bytes()), DecodingKey::from_secret(secret.as_bytes()));
        Ok(Tokens(Arc::new(Inner { method: Method::Secret { encoding, decoding }, issuer: issuer.into(), lifetime })))
    }

    /// Who issues them, `iss`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// `EdDSA` or `HS256`.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        if matches!(self.0.method, Method::Pairs(_)) { "EdDSA" } else { "HS256" }
    }

    /// The keys in use; none when tokens are signed with a shared secret.
    #[must_use]
    pub fn keys(&self) -> Option<Arc<SigningKeys>> {
        match &self.0.method {
            Method::Pairs(keys) => Some(Arc::clone(&keys.read().unwrap_or_else(PoisonError::into_inner))),
            Method::Secret { .. } => None,
        }
    }

    /// Signs and verifies with these keys from now on.
    pub fn replace(&self, keys: SigningKeys) {
        if let Method::Pairs(kept) = &self.0.method {
            *kept.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        }
    }

    /// A token of a session: it lasts as long as tokens do, and not longer than the session.
    ///
    /// # Errors
    /// There is no key yet, or the cryptographic library fails.
    pub fn issue(
        &self,
        subject: &Subject,
        session: &str,
        at: OffsetDateTime,
        session_end: OffsetDateTime,
    ) -> Result<Issued, IssueError> {
        let claims = Claims {
            sub: subject.id.clone(),
            kind: subject.kind().to_owned(),
            email: subject.email.clone(),
            name: subject.name.clone(),
            agent_id: subject.agent_id.clone(),
            org_id: subject.org_id.clone(),
            aud: AUDIENCE.to_owned(),
            sid: Some(session.to_owned()),
            ..Claims::default()
        };
        self.sign(claims, at, (at + self.0.lifetime).min(session_end))
    }

    /// A token that says `claims`; its issuer, id and times are filled in.
    ///
    /// # Errors
    /// There is no key yet, or the cryptographic library fails.
    pub fn sign(&self, claims: Claims, at: OffsetDateTime, end: OffsetDateTime) -> Result<Issued, IssueError> {
        let expires_at = end.replace_nanosecond(0).unwrap_or(at);
        let claims = Claims {
            iat: at.unix_timestamp(),
            exp: expires_at.unix_timestamp(),
            iss: self.0.issuer.clone(),
            jti: Uuid::new_v4().to_string(),
            ..claims
        };
        let token = match &self.0.method {
            Method::Pairs(_) => {
                let keys = self.keys().ok_or(IssueError::NoKey)?;
                let signer = keys.signer().ok_or(IssueError::NoKey)?;
                let header = Header { kid: Some(signer.kid().to_owned()), ..Header::new(Algorithm::EdDSA) };
                jsonwebtoken::encode(&header, &claims, signer.encoding())?
            }
            Method::Secret { encoding, .. } => jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, encoding)?,
        };
        Ok(Issued { token, expires_at })
    }

    /// Checks algorithm, key, signature, issuer, audience and time, and nothing outside the token.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] or [`AuthError::Expired`]; [`AuthError::Unavailable`] while there are no keys.
    pub fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        self.verify_for(token, Some(AUDIENCE))
    }

    /// The same for another audience; for any of ours without one, as introspection needs it.
    ///
    /// # Errors
    /// Those of [`Tokens::verify`].
    pub fn verify_for(&self, token: &str, audience: Option<&str>) -> Result<Claims, AuthError> {
        // The algorithm is ours to name, never the token's (RFC 8725 §3.1).
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY;
        match audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        validation.set_issuer(&[&self.0.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let decoded = match &self.0.method {
            Method::Secret { decoding, .. } => {
                validation.algorithms = vec![Algorithm::HS256];
                jsonwebtoken::decode::<Claims>(token, decoding, &validation)
            }
            Method::Pairs(_) => {
                let keys = self.keys().filter(|keys| !keys.is_empty()).ok_or(AuthError::Unavailable)?;
                let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid)?;
                let key = keys.verifier(header.kid.as_deref().unwrap_or_default()).ok_or(AuthError::Invalid)?;
                jsonwebtoken::decode::<Claims>(token, key, &validation)
            }
        };
        match decoded {
            Ok(data) => Ok(data.claims),
            Err(error) if matches!(error.kind(), ErrorKind::ExpiredSignature) => Err(AuthError::Expired),
            Err(_) => Err(AuthError::Invalid),
        }
    }

    /// Whether a token may be signed with a key that another process made and this one has not heard of.
    #[must_use]
    pub fn may_be_newer(&self, token: &str) -> bool {
        Self::key_of(token).is_some_and(|kid| !self.verifies(&kid))
    }

    /// Id of the key that a token says it is signed with; none for one that is signed with a shared secret.
    #[must_use]
    pub fn key_of(token: &str) -> Option<String> {
        jsonwebtoken::decode_header(token).ok().filter(|header| header.alg == Algorithm::EdDSA)?.kid
    }

    /// Whether what a key signed is accepted, as far as this process knows.
    #[must_use]
    pub fn verifies(&self, kid: &str) -> bool {
        self.keys().is_none_or(|keys| keys.verifier(kid).is_some())
    }

    /// The key set (RFC 7517) with the introspection address that old clients look for.
    #[must_use]
    pub fn jwks(&self) -> Value {
        match self.keys() {
            Some(keys) => json!({ "keys": keys.public(), "introspect_endpoint": "/api/auth/introspect" }),
            None => json!({
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

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};

    use super::{
        super::keys::{SigningKey, VerifyingKey},
        *,
    };

    fn tokens(keys: &SigningKeys) -> Tokens {
        Tokens::new(keys.clone(), "symbia-test", Duration::days(7))
    }

    fn issue(tokens: &Tokens, at: OffsetDateTime) -> String {
        let ada = Subject::user("ada", Some("ada@example.test"), Some("Ada"));
        tokens.issue(&ada, "s1", at, at + Duration::days(7)).unwrap().token
    }

    fn resigned(token: &str, header: &str) -> String {
        let parts: Vec<&str> = token.split('.').collect();
        format!("{}.{}.{}", BASE64URL.encode(header), parts[1], parts[2])
    }

    #[test]
    fn a_token_names_its_session_and_survives_a_rotation() {
        let (first, second) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let ours = tokens(&SigningKeys::new(Some(first.clone()), Vec::new()));
        let token = issue(&ours, OffsetDateTime::now_utc());
        let retired = VerifyingKey::new(first.kid(), first.x()).unwrap();
        ours.replace(SigningKeys::new(Some(second), vec![retired]));
        let claims = ours.verify(&token).unwrap();
        assert_eq!((claims.sub.as_str(), claims.sid.as_deref(), claims.kind.as_str()), ("ada", Some("s1"), "user"));
        assert_eq!(claims.exp - claims.iat, 7 * 24 * 3600);
        assert_eq!(ours.jwks()["keys"].as_array().unwrap().len(), 2);
        assert!(ours.jwks().to_string().contains("\"crv\":\"Ed25519\""));
        assert!(!ours.jwks().to_string().contains("\"d\""));
        ours.replace(SigningKeys::default());
        assert_eq!(ours.verify(&token), Err(AuthError::Unavailable));
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
        let misaddressed = jsonwebtoken::encode(&header, &claims, keys.signer().unwrap().encoding()).unwrap();
        assert_eq!(ours.verify(&misaddressed), Err(AuthError::Invalid));
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused() {
        let with =
            |secret: &str| Tokens::with_secret(&Zeroizing::new(secret.to_owned()), "symbia-test", Duration::days(7));
        assert!(with("short").is_err());
        assert!(with("symbia-dev-secret-change-in-production").is_err());
        assert!(with(&"ab".repeat(20)).is_err());
        let shared = with("kR1vY8nQ2wX5zA7cE9fH3jL6mP0sT4uB").unwrap();
        let claims = shared.verify(&issue(&shared, OffsetDateTime::now_utc())).unwrap();
        assert_eq!(claims.sub, "ada");
        assert_eq!(shared.jwks()["keys"], json!([]));
    }
}
