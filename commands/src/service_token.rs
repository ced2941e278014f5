//! Service tokens: how one service of the platform proves itself to another, for whom it acts and why (identity.md §8.3).
//!
//! A compact JWS (HS256) under the key that only this service signs with. What it signs is base64url and never an event,
//! which is JSON: neither passes for the other.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use symbia_events::{KeyRing, Service};
use time::{Duration, OffsetDateTime};

use crate::AssertionError;

/// Longest life of a token.
pub const SERVICE_TOKEN_MAX: Duration = Duration::minutes(5);
/// Clocks of two services may differ by this much.
const LEEWAY: Duration = Duration::seconds(5);
const TYPE: &str = "symbia-service+jwt";

/// What a service says of itself to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceToken {
    /// Who it is.
    #[serde(rename = "iss")]
    pub service: Service,
    /// Whom it talks to.
    #[serde(rename = "aud")]
    pub audience: Service,
    /// Proof of whom it acts for: an actor assertion ([`crate::Actor::assert`]). Absent when the request carries that
    /// principal's own token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<String>,
    /// What for, as it is to stand in the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    #[serde(flatten)]
    token: ServiceToken,
    iat: i64,
    exp: i64,
}

impl ServiceToken {
    /// The token, good until `at + lifetime` and never for longer than [`SERVICE_TOKEN_MAX`].
    #[must_use]
    pub fn sign(&self, keys: &KeyRing, at: OffsetDateTime, lifetime: Duration) -> String {
        let role = self.service.name();
        let header = Header { alg: "HS256".to_owned(), kid: keys.active_id(role), typ: TYPE.to_owned() };
        let end = at + lifetime.min(SERVICE_TOKEN_MAX);
        let claims = Claims { token: self.clone(), iat: at.unix_timestamp(), exp: end.unix_timestamp() };
        let encode = |json: serde_json::Result<Vec<u8>>| BASE64URL.encode(json.unwrap_or_default());
        let signed = format!("{}.{}", encode(serde_json::to_vec(&header)), encode(serde_json::to_vec(&claims)));
        let (_, signature) = keys.sign(role, signed.as_bytes());
        format!("{signed}.{signature}")
    }

    /// Reads and verifies a token that was sent to `audience`.
    ///
    /// # Errors
    /// It is malformed, forged, expired, lives too long, or was meant for another service.
    pub fn of_token(
        keys: &KeyRing,
        token: &str,
        audience: Service,
        now: OffsetDateTime,
    ) -> Result<Self, AssertionError> {
        let malformed = AssertionError::Malformed;
        let (signed, signature) = token.rsplit_once('.').ok_or(malformed("it has no three parts"))?;
        let (header, claims) = signed.split_once('.').ok_or(malformed("it has no three parts"))?;
        let header: Header = decode(header).ok_or(malformed("its header is no JSON"))?;
        let claims: Claims = decode(claims).ok_or(malformed("its claims are no JSON"))?;
        // Each service signs with its own key: the one named must be that of the one it names.
        let own = header.kid.split_once('.').is_some_and(|(_, role)| role == claims.token.service.name());
        if header.alg != "HS256" || header.typ != TYPE || !own {
            return Err(malformed("its header names another algorithm, type or key"));
        }
        keys.verify(&header.kid, signed.as_bytes(), signature)?;
        if claims.token.audience != audience {
            return Err(malformed("it is for another service"));
        }
        let lives_too_long = claims.exp - claims.iat > SERVICE_TOKEN_MAX.whole_seconds();
        if lives_too_long || claims.iat > (now + LEEWAY).unix_timestamp() {
            return Err(malformed("its times are not acceptable"));
        }
        if claims.exp <= now.unix_timestamp() {
            let expired = OffsetDateTime::from_unix_timestamp(claims.exp).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            return Err(AssertionError::Expired(expired));
        }
        Ok(claims.token)
    }
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&BASE64URL.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    fn token(service: Service) -> ServiceToken {
        ServiceToken { service, audience: Service::Identity, act: None, purpose: Some("llm".into()) }
    }

    #[test]
    fn a_token_names_its_service_to_its_audience_for_five_minutes_at_most() {
        let keys = KeyRing::generate(now());
        let ours = token(Service::Integrations);
        let signed = ours.sign(&keys, now(), Duration::hours(1));
        let read = |audience, at| ServiceToken::of_token(&keys, &signed, audience, at);
        assert_eq!(read(Service::Identity, now()), Ok(ours));
        assert!(read(Service::Messaging, now()).is_err());
        assert!(read(Service::Identity, now() - Duration::minutes(1)).is_err());
        let end = now() + SERVICE_TOKEN_MAX;
        assert_eq!(read(Service::Identity, end), Err(AssertionError::Expired(end)));
    }

    #[test]
    fn no_service_speaks_in_anothers_name() {
        let keys = KeyRing::generate(now());
        let signed = token(Service::Models).sign(&keys, now(), SERVICE_TOKEN_MAX);
        let parts: Vec<&str> = signed.split('.').collect();
        let text = |part: &str| String::from_utf8(BASE64URL.decode(part).unwrap()).unwrap();
        let claims = BASE64URL.encode(text(parts[1]).replace("models", "integrations"));
        let header = BASE64URL.encode(text(parts[0]).replace("models", "integrations"));
        // The claims alone, the header too, and signed with the own key in another's name.
        let mut forged = vec![format!("{}.{claims}.{}", parts[0], parts[2]), format!("{header}.{claims}.{}", parts[2])];
        let (_, signature) = keys.sign("models", format!("{}.{claims}", parts[0]).as_bytes());
        forged.push(format!("{}.{claims}.{signature}", parts[0]));
        let assertion = crate::Actor::service("integrations").assert(&keys, now(), Duration::minutes(5));
        forged.push(assertion);
        forged.push(KeyRing::generate(now()).lookup_hash("x", "y"));
        for token in forged {
            assert!(ServiceToken::of_token(&keys, &token, Service::Identity, now()).is_err(), "{token}");
        }
    }
}
