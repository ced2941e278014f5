//! The API key aggregate: revoked is final; a key acts for its creator and within its scopes (identity.md §4.7, 15).

use serde::{Deserialize, Serialize};
use symbia_events::{
    ActorType, AuthMethod, OrgId,
    identity::{ApiKeyCreated, ApiKeyDeleted, ApiKeyEvent, ApiKeyRevoked, ApiKeyRotated, ApiKeyUsed},
};
use time::{Duration, OffsetDateTime};

use super::GRACE_MAX;
use super::instants::{instant, text};
use crate::{Actor, Aggregate, Decision, Rejection, Role, domain_commands};

/// A key's use is recorded at most so often (identity.md §16.8).
pub const USE_INTERVAL: Duration = Duration::seconds(60);
const SCOPES_MAX: usize = 100;

domain_commands! {
    /// What an API key can be asked to do.
    ApiKeyCommand: Identity / "api-key" {
        /// Mints it, in the actor's own name, after the edge has drawn and hashed it.
        CreateApiKey = "symbia.cmd.identity.create-api-key.v1" {
            key_id: String,
            name: String,
            key_prefix: String,
            key_hash: String,
            #[serde(default)]
            org_id: Option<String>,
            #[serde(default)]
            scopes: Vec<String>,
            #[serde(default)]
            expires_at: Option<String>,
            #[serde(default)]
            rotated_from: Option<String>,
        }
        /// Puts another key in its place.
        RotateApiKey = "symbia.cmd.identity.rotate-api-key.v1" {
            key_id: String,
            new_key_id: String,
            /// RFC 3339, at most seven days ahead.
            #[serde(default)]
            grace_until: Option<String>,
        }
        /// Ends it.
        RevokeApiKey = "symbia.cmd.identity.revoke-api-key.v1" {
            key_id: String,
            #[serde(default)]
            reason: Option<String>,
        }
        /// Records that it was used.
        RecordApiKeyUse = "symbia.cmd.identity.record-api-key-use.v1" { key_id: String, count: u32 }
        /// Removes it.
        DeleteApiKey = "symbia.cmd.identity.delete-api-key.v1" { key_id: String }
    }
}

/// An API key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    created_by: String,
    ends: Option<OffsetDateTime>,
    used: Option<OffsetDateTime>,
    deleted: bool,
}

impl ApiKey {
    fn exists(&self) -> Result<(), Rejection> {
        if self.created_by.is_empty() || self.deleted {
            return Err(Rejection::not_found("API key"));
        }
        Ok(())
    }

    fn owned_by(&self, by: &Actor) -> Result<(), Rejection> {
        self.exists()?;
        if by.is_platform() || by.super_admin || by.id == self.created_by {
            return Ok(());
        }
        Err(Rejection::forbidden("only the creator of an API key, or a super admin, may do this"))
    }

    fn live(&self, at: OffsetDateTime) -> Result<(), Rejection> {
        if self.ends.is_some_and(|end| end <= at) {
            return Err(Rejection::new("ALREADY_REVOKED", "the API key was revoked before"));
        }
        Ok(())
    }

    fn create(&self, c: CreateApiKey, by: &Actor) -> Result<Decision<ApiKeyEvent>, Rejection> {
        if !self.created_by.is_empty() {
            return Err(Rejection::new("CONFLICT", "this key id is in use"));
        }
        mints(by)?;
        if c.name.trim().is_empty() || c.name.chars().count() > 100 {
            return Err(Rejection::invalid("name: 1 to 100 characters"));
        }
        if c.scopes.len() > SCOPES_MAX || c.scopes.iter().any(|s| s.trim().is_empty() || s.chars().count() > 200) {
            return Err(Rejection::invalid("scopes: at most 100, each of 1 to 200 characters"));
        }
        if c.expires_at.as_deref().is_some_and(|end| instant(end).is_none()) {
            return Err(Rejection::invalid("expiresAt: a time as in RFC 3339"));
        }
        let org: Option<OrgId> = c.org_id.as_deref().map(str::parse).transpose().map_err(|_| not_an_admin())?;
        if org.is_some_and(|org| by.role_in(&org) != Some(Role::Admin)) {
            return Err(not_an_admin());
        }
        Ok(Decision::one(ApiKeyCreated {
            key_id: c.key_id,
            name: c.name,
            key_prefix: c.key_prefix,
            key_hash: c.key_hash,
            org_id: c.org_id,
            scopes: c.scopes,
            expires_at: c.expires_at,
            created_by: by.id.clone(),
            rotated_from: c.rotated_from,
        }))
    }

    fn rotate(&self, c: RotateApiKey, by: &Actor, at: OffsetDateTime) -> Result<Decision<ApiKeyEvent>, Rejection> {
        self.owned_by(by)?;
        mints(by)?;
        self.live(at)?;
        let grace = c.grace_until.as_deref().map(|end| instant(end).filter(|end| *end <= at + GRACE_MAX));
        if grace == Some(None) {
            return Err(Rejection::invalid("graceUntil: a time at most seven days ahead"));
        }
        let grace_until = grace.flatten().filter(|end| *end > at).map(text);
        let by = by.id.clone();
        Ok(Decision::one(ApiKeyRotated { key_id: c.key_id, new_key_id: c.new_key_id, grace_until, by }))
    }
}

// Whoever found a key must not be able to make one that outlives it.
fn mints(by: &Actor) -> Result<(), Rejection> {
    if by.kind != ActorType::User {
        return Err(Rejection::new("USER_PRINCIPAL_REQUIRED", "only a user has API keys"));
    }
    if by.auth == AuthMethod::ApiKey {
        return Err(Rejection::forbidden("an API key does not make another: sign in first"));
    }
    Ok(())
}

fn not_an_admin() -> Rejection {
    Rejection::new("INSUFFICIENT_ROLE", "only an admin of an organization makes API keys for it")
}

impl Aggregate for ApiKey {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("keyId");
    type Command = ApiKeyCommand;
    type Event = ApiKeyEvent;

    fn apply(&mut self, event: &ApiKeyEvent) {
        match event {
            ApiKeyEvent::ApiKeyCreated(e) => self.created_by.clone_from(&e.created_by),
            // The times of the events stand in their envelopes: what ended without grace has ended.
            ApiKeyEvent::ApiKeyRotated(e) => {
                let end = e.grace_until.as_deref().and_then(instant);
                self.ends = Some(end.unwrap_or(OffsetDateTime::UNIX_EPOCH));
            }
            ApiKeyEvent::ApiKeyRevoked(_) => self.ends = Some(OffsetDateTime::UNIX_EPOCH),
            ApiKeyEvent::ApiKeyUsed(e) => self.used = instant(&e.used_at),
            ApiKeyEvent::ApiKeyDeleted(_) => self.deleted = true,
        }
    }

    fn decide(
        &self,
        command: ApiKeyCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<ApiKeyEvent>, Rejection> {
        match command {
            ApiKeyCommand::CreateApiKey(c) => self.create(c, by),
            ApiKeyCommand::RotateApiKey(c) => self.rotate(c, by, at),
            ApiKeyCommand::RevokeApiKey(c) => {
                self.owned_by(by)?;
                self.live(at)?;
                Ok(Decision::one(ApiKeyRevoked { key_id: c.key_id, by: by.id.clone(), reason: c.reason }))
            }
            ApiKeyCommand::RecordApiKeyUse(c) => {
                self.exists()?;
                if !by.is_platform() {
                    return Err(Rejection::forbidden("the use of a key is recorded by the identity service"));
                }
                if self.used.is_some_and(|used| at < used + USE_INTERVAL) {
                    return Ok(Decision::nothing());
                }
                Ok(Decision::one(ApiKeyUsed { key_id: c.key_id, used_at: text(at), count: c.count }))
            }
            ApiKeyCommand::DeleteApiKey(c) => {
                self.owned_by(by)?;
                Ok(Decision::one(ApiKeyDeleted { key_id: c.key_id, by: by.id.clone() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Membership,
        testing::{AT, given},
    };

    fn ada() -> Actor {
        let orgs = vec![Membership { id: "o1".parse().unwrap(), role: Role::Admin }];
        let auth = AuthMethod::Jwt;
        Actor { id: "ada".into(), kind: ActorType::User, auth, orgs, ..Actor::service("test") }
    }

    fn eve() -> Actor {
        Actor { id: "eve".into(), orgs: vec![], ..ada() }
    }

    fn create() -> CreateApiKey {
        CreateApiKey {
            key_id: "k1".into(),
            name: "ci".into(),
            key_prefix: "sk_01234567".into(),
            key_hash: "hash".into(),
            org_id: Some("o1".into()),
            scopes: vec!["deploy".into()],
            expires_at: None,
            rotated_from: None,
        }
    }

    fn created() -> ApiKeyEvent {
        ApiKey::default().create(create(), &ada()).unwrap().events.remove(0)
    }

    fn revoke() -> RevokeApiKey {
        RevokeApiKey { key_id: "k1".into(), reason: None }
    }

    fn rotated(grace_until: Option<String>) -> ApiKeyEvent {
        ApiKeyRotated { key_id: "k1".into(), new_key_id: "k2".into(), grace_until, by: "ada".into() }.into()
    }

    #[test]
    fn a_key_is_minted_by_a_signed_in_user_and_for_an_organization_by_its_admin() {
        let ApiKeyEvent::ApiKeyCreated(event) = created() else { panic!("no creation") };
        assert_eq!((event.created_by.as_str(), event.org_id.as_deref()), ("ada", Some("o1")));
        given::<ApiKey>([]).when(create(), &eve()).rejected("INSUFFICIENT_ROLE");
        assert!(ApiKey::default().create(CreateApiKey { org_id: None, ..create() }, &eve()).is_ok());
        let agent = Actor { kind: ActorType::Agent, ..ada() };
        given::<ApiKey>([]).when(create(), &agent).rejected("USER_PRINCIPAL_REQUIRED");
        let key = Actor { auth: AuthMethod::ApiKey, ..ada() };
        given::<ApiKey>([]).when(create(), &key).rejected("FORBIDDEN");
        given::<ApiKey>([])
            .when(CreateApiKey { name: "n".repeat(101), ..create() }, &ada())
            .rejected("VALIDATION_FAILED");
        given::<ApiKey>([created()]).when(create(), &ada()).rejected("CONFLICT");
    }

    #[test]
    fn revoked_is_final_and_only_the_creators_or_an_operators_to_say() {
        let revoked: ApiKeyEvent = ApiKeyRevoked { key_id: "k1".into(), by: "ada".into(), reason: None }.into();
        given::<ApiKey>([created()]).when(revoke(), &ada()).then([revoked.clone()]);
        given::<ApiKey>([created(), revoked.clone()]).when(revoke(), &ada()).rejected("ALREADY_REVOKED");
        given::<ApiKey>([created()]).when(revoke(), &eve()).rejected("FORBIDDEN");
        given::<ApiKey>([]).when(revoke(), &ada()).rejected("NOT_FOUND");
        let operator = Actor { super_admin: true, ..eve() };
        assert!(ApiKey::default().decide(revoke().into(), &operator, AT).is_err());
        let rotate = RotateApiKey { key_id: "k1".into(), new_key_id: "k2".into(), grace_until: None };
        given::<ApiKey>([created(), revoked]).when(rotate, &ada()).rejected("ALREADY_REVOKED");
    }

    #[test]
    fn in_its_grace_a_rotated_key_can_still_be_revoked() {
        let rotate = |grace: Duration| RotateApiKey {
            key_id: "k1".into(),
            new_key_id: "k2".into(),
            grace_until: Some(text(AT + grace)),
        };
        let hour = rotated(Some(text(AT + Duration::hours(1))));
        given::<ApiKey>([created()]).when(rotate(Duration::hours(1)), &ada()).then([hour.clone()]);
        given::<ApiKey>([created()]).when(rotate(Duration::days(8)), &ada()).rejected("VALIDATION_FAILED");
        let revoked = ApiKeyRevoked { key_id: "k1".into(), by: "ada".into(), reason: None };
        given::<ApiKey>([created(), hour]).when(revoke(), &ada()).then([revoked.into()]);
        given::<ApiKey>([created(), rotated(None)]).when(revoke(), &ada()).rejected("ALREADY_REVOKED");
    }

    #[test]
    fn use_is_recorded_once_a_minute_by_the_platform_alone() {
        let record = || RecordApiKeyUse { key_id: "k1".into(), count: 3 };
        let used = |at| ApiKeyUsed { key_id: "k1".into(), used_at: text(at), count: 3 };
        let edge = Actor::service("identity");
        given::<ApiKey>([created(), used(AT - Duration::seconds(59)).into()]).when(record(), &edge).then([]);
        given::<ApiKey>([created(), used(AT - Duration::seconds(60)).into()])
            .when(record(), &edge)
            .then([used(AT).into()]);
        given::<ApiKey>([created()]).when(record(), &ada()).rejected("FORBIDDEN");
    }
}
