//! Who acts: the authenticated principal of a command, and the signed assertion that carries it over the bus.

use crate::Authority;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use symbia_events::{ActorType, AuthMethod, KeyRing, OrgId, SignatureError, keys::role};
use time::{Duration, OffsetDateTime};

/// Role of a member in an organization (identity.md §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and writes.
    Member,
    /// Also manages members and settings.
    Admin,
}

/// An organization that the actor belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The organization.
    pub id: OrgId,
    /// The actor's role there.
    pub role: Role,
}

/// The authenticated principal that a command is decided for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Principal id; `system:<what>` and `service:<name>` for the platform itself.
    #[serde(rename = "sub")]
    pub id: String,
    /// Kind of principal.
    pub kind: ActorType,
    /// How it authenticated.
    pub auth: AuthMethod,
    /// Organizations it belongs to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orgs: Vec<Membership>,
    /// Capabilities (`cap:…`) and global roles (`role:…`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entitlements: Vec<String>,
    /// The API key that it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Operator of the platform.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub super_admin: bool,
    /// The principal acted for, on impersonation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// The limits within which it acts; none for who acts in their own right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<Box<Authority>>,
}

impl Actor {
    /// A service of the platform acting on its own account.
    #[must_use]
    pub fn service(name: &str) -> Self {
        Actor {
            id: format!("service:{name}"),
            kind: ActorType::Service,
            auth: AuthMethod::Service,
            orgs: Vec::new(),
            entitlements: Vec::new(),
            key: None,
            super_admin: false,
            on_behalf_of: None,
            authority: None,
        }
    }

    /// The platform itself: first run, timers.
    #[must_use]
    pub fn system(what: &str) -> Self {
        Actor { id: format!("system:{what}"), kind: ActorType::System, ..Actor::service(what) }
    }

    /// A service or the platform itself.
    #[must_use]
    pub fn is_platform(&self) -> bool {
        matches!(self.kind, ActorType::Service | ActorType::System)
    }

    /// Whether the actor may touch a tenant at all: its member, an operator, or the platform. `global` is open to all
    /// and guarded by each aggregate.
    #[must_use]
    pub fn may_enter(&self, tenant: &OrgId) -> bool {
        tenant.as_str() == OrgId::GLOBAL || self.is_platform() || self.super_admin || self.role_in(tenant).is_some()
    }

    /// The actor's role in an organization.
    #[must_use]
    pub fn role_in(&self, tenant: &OrgId) -> Option<Role> {
        self.orgs.iter().find(|m| &m.id == tenant).map(|m| m.role)
    }

    /// Whether the actor holds a capability or role, or is an operator.
    #[must_use]
    pub fn holds(&self, entitlement: &str) -> bool {
        self.super_admin || self.entitlements.iter().any(|e| e == entitlement)
    }
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
    actor: Actor,
    iat: i64,
    exp: i64,
}

/// Why an assertion is not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// There is none.
    #[error(
        "the command carries no actor assertion; get one from POST /api/auth/assertion and send it as 'actorassertion'"
    )]
    Missing,
    /// It is no assertion of ours.
    #[error("the actor assertion is malformed: {0}")]
    Malformed(&'static str),
    /// It is forged.
    #[error("the actor assertion is not valid: {0}")]
    Forged(#[from] SignatureError),
    /// It is too old.
    #[error("the actor assertion expired at {0}; get a new one")]
    Expired(OffsetDateTime),
}

const TYPE: &str = "symbia-actor+jwt";

impl Actor {
    /// A compact JWS (HS256, RFC 7515) that names this actor until `at + lifetime`.
    #[must_use]
    pub fn assert(&self, keys: &KeyRing, at: OffsetDateTime, lifetime: Duration) -> String {
        let header = Header { alg: "HS256".to_owned(), kid: keys.active_id(role::ACTOR), typ: TYPE.to_owned() };
        let claims = Claims { actor: self.clone(), iat: at.unix_timestamp(), exp: (at + lifetime).unix_timestamp() };
        let encode = |json: serde_json::Result<Vec<u8>>| BASE64URL.encode(json.unwrap_or_default());
        let signed = format!("{}.{}", encode(serde_json::to_vec(&header)), encode(serde_json::to_vec(&claims)));
        let (_, signature) = keys.sign(role::ACTOR, signed.as_bytes());
        format!("{signed}.{signature}")
    }

    /// Reads and verifies an assertion at the time `now`.
    pub fn of_assertion(keys: &KeyRing, assertion: &str, now: OffsetDateTime) -> Result<Self, AssertionError> {
        let mut parts = assertion.rsplitn(2, '.');
        let (Some(signature), Some(signed)) = (parts.next(), parts.next()) else {
            return Err(AssertionError::Malformed("it has no three parts"));
        };
        let (header, claims) = signed.split_once('.').ok_or(AssertionError::Malformed("it has no three parts"))?;
        let header: Header = decode(header).ok_or(AssertionError::Malformed("its header is no JSON"))?;
        if header.alg != "HS256" || header.typ != TYPE || !header.kid.ends_with(".actor") {
            return Err(AssertionError::Malformed("its header names another algorithm, type or key"));
        }
        keys.verify(&header.kid, signed.as_bytes(), signature)?;
        let claims: Claims = decode(claims).ok_or(AssertionError::Malformed("its claims are no JSON"))?;
        if claims.exp <= now.unix_timestamp() {
            let expired = OffsetDateTime::from_unix_timestamp(claims.exp).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            return Err(AssertionError::Expired(expired));
        }
        Ok(claims.actor)
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

    #[test]
    fn an_assertion_names_its_actor_until_it_expires() {
        let keys = KeyRing::generate(now());
        let actor = Actor::service("identity");
        let assertion = actor.assert(&keys, now(), Duration::minutes(5));
        assert_eq!(Actor::of_assertion(&keys, &assertion, now()), Ok(actor));
        let later = now() + Duration::minutes(5);
        assert_eq!(Actor::of_assertion(&keys, &assertion, later), Err(AssertionError::Expired(later)));
    }

    #[test]
    fn a_changed_unsigned_or_foreign_assertion_is_refused() {
        let keys = KeyRing::generate(now());
        let assertion = Actor::service("identity").assert(&keys, now(), Duration::minutes(5));
        let parts: Vec<&str> = assertion.split('.').collect();
        let claims = String::from_utf8(BASE64URL.decode(parts[1]).unwrap()).unwrap();
        let forged = claims.replace("identity", "messaging");
        let forged = format!("{}.{}.{}", parts[0], BASE64URL.encode(forged), parts[2]);
        assert_eq!(Actor::of_assertion(&keys, &forged, now()), Err(AssertionError::Forged(SignatureError::Mismatch)));
        let none = BASE64URL.encode(r#"{"alg":"none","kid":"k1.actor","typ":"symbia-actor+jwt"}"#);
        let unsigned = format!("{none}.{}.", parts[1]);
        assert!(matches!(Actor::of_assertion(&keys, &unsigned, now()), Err(AssertionError::Malformed(_))));
        let foreign = KeyRing::generate(now());
        assert!(Actor::of_assertion(&foreign, &assertion, now()).is_err());
    }
}
