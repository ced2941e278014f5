//! What a principal was granted beyond its memberships: capabilities and global roles, each at most once at a time
//! (identity.md §15, 16.7).

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef,
    identity::{EntitlementGranted, EntitlementRevoked, GrantExpired, GrantsEvent, RoleGranted, RoleRevoked},
};
use time::OffsetDateTime;

use super::rules::{instant, named, operators_only, outside_organizations, over};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

const GRANTS_MAX: usize = 1_000;

domain_commands! {
    /// What operators can do with a principal's grants.
    GrantsCommand: Identity / "grants" {
        /// Gives a capability.
        GrantEntitlement = "symbia.cmd.identity.grant-entitlement.v1" {
            principal_id: String,
            grant_id: String,
            key: String,
            /// RFC 3339; never, when absent.
            #[serde(default)]
            expires_at: Option<String>,
        }
        /// Takes a capability away.
        RevokeEntitlement = "symbia.cmd.identity.revoke-entitlement.v1" { principal_id: String, key: String }
        /// Gives a global role.
        GrantRole = "symbia.cmd.identity.grant-role.v1" {
            principal_id: String,
            grant_id: String,
            role_key: String,
            /// RFC 3339; never, when absent.
            #[serde(default)]
            expires_at: Option<String>,
        }
        /// Takes a global role away.
        RevokeRole = "symbia.cmd.identity.revoke-role.v1" { principal_id: String, role_key: String }
        /// Says that a grant's time is over.
        ExpireGrant = "symbia.cmd.identity.expire-grant.v1" { principal_id: String, grant_id: String }
    }
}

/// A principal's grants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Grants {
    grants: Vec<Grant>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Grant {
    grant_id: String,
    kind: Kind,
    key: String,
    expires_at: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Entitlement,
    Role,
}

/// What is to be granted.
struct Wanted {
    principal_id: String,
    grant_id: String,
    key: String,
    expires_at: Option<String>,
}

impl Grants {
    fn held(&self, kind: Kind, key: &str) -> Option<&Grant> {
        self.grants.iter().find(|grant| grant.kind == kind && grant.key == key)
    }

    fn grant(
        &self,
        kind: Kind,
        wanted: Wanted,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<GrantsEvent>, Rejection> {
        let Wanted { principal_id, grant_id, key, expires_at } = wanted;
        named(if kind == Kind::Role { "roleKey" } else { "entitlementKey" }, &key)?;
        if let Some(end) = &expires_at
            && instant("expiresAt", end)? <= at
        {
            return Err(Rejection::invalid("expiresAt: an instant in the future"));
        }
        let mut decision = Decision::nothing();
        match self.held(kind, &key) {
            Some(held) if over(held.expires_at.as_deref(), at) => {
                let (grant_id, key) = (held.grant_id.clone(), held.key.clone());
                decision = decision.and(GrantExpired { grant_id, principal_id: principal_id.clone(), key });
            }
            Some(_) => return Err(Rejection::new("ALREADY_GRANTED", "the principal holds this already")),
            None if self.grants.len() >= GRANTS_MAX => {
                return Err(Rejection::new("QUOTA_EXCEEDED", format!("a principal has at most {GRANTS_MAX} grants")));
            }
            None => {}
        }
        let by = by.id.clone();
        Ok(match kind {
            Kind::Entitlement => decision.and(EntitlementGranted { grant_id, principal_id, key, expires_at, by }),
            Kind::Role => decision.and(RoleGranted { grant_id, principal_id, key, expires_at, by }),
        })
    }

    fn revoke(&self, kind: Kind, principal_id: String, key: String, by: &Actor) -> Decision<GrantsEvent> {
        let Some(held) = self.held(kind, &key) else { return Decision::nothing() };
        let (grant_id, by) = (held.grant_id.clone(), by.id.clone());
        match kind {
            Kind::Entitlement => Decision::one(EntitlementRevoked { grant_id, principal_id, key, by }),
            Kind::Role => Decision::one(RoleRevoked { grant_id, principal_id, key, by }),
        }
    }

    fn expire(&self, c: ExpireGrant, at: OffsetDateTime) -> Decision<GrantsEvent> {
        let ended = self.grants.iter().find(|g| g.grant_id == c.grant_id && over(g.expires_at.as_deref(), at));
        let Some(ended) = ended else { return Decision::nothing() };
        let ExpireGrant { principal_id, grant_id } = c;
        Decision::one(GrantExpired { grant_id, principal_id, key: ended.key.clone() })
    }
}

impl Aggregate for Grants {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("principalId");
    type Command = GrantsCommand;
    type Event = GrantsEvent;

    fn apply(&mut self, event: &GrantsEvent) {
        let (kind, grant_id, key, expires_at) = match event.clone() {
            GrantsEvent::EntitlementGranted(e) => (Kind::Entitlement, e.grant_id, e.key, e.expires_at),
            GrantsEvent::RoleGranted(e) => (Kind::Role, e.grant_id, e.key, e.expires_at),
            GrantsEvent::EntitlementRevoked(EntitlementRevoked { grant_id, .. })
            | GrantsEvent::RoleRevoked(RoleRevoked { grant_id, .. })
            | GrantsEvent::GrantExpired(GrantExpired { grant_id, .. }) => {
                self.grants.retain(|grant| grant.grant_id != grant_id);
                return;
            }
        };
        self.grants.push(Grant { grant_id, kind, key, expires_at });
    }

    fn belongs(_command: &GrantsCommand, to: &AggregateRef) -> Result<(), Rejection> {
        outside_organizations(to)
    }

    fn decide(
        &self,
        command: GrantsCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<GrantsEvent>, Rejection> {
        operators_only(by)?;
        match command {
            GrantsCommand::GrantEntitlement(GrantEntitlement { principal_id, grant_id, key, expires_at }) => {
                self.grant(Kind::Entitlement, Wanted { principal_id, grant_id, key, expires_at }, by, at)
            }
            GrantsCommand::GrantRole(GrantRole { principal_id, grant_id, role_key: key, expires_at }) => {
                self.grant(Kind::Role, Wanted { principal_id, grant_id, key, expires_at }, by, at)
            }
            GrantsCommand::RevokeEntitlement(c) => Ok(self.revoke(Kind::Entitlement, c.principal_id, c.key, by)),
            GrantsCommand::RevokeRole(c) => Ok(self.revoke(Kind::Role, c.principal_id, c.role_key, by)),
            GrantsCommand::ExpireGrant(c) => Ok(self.expire(c, at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::testing::operator, testing::given};

    fn granted(id: &str, end: Option<&str>) -> GrantsEvent {
        EntitlementGranted {
            grant_id: id.into(),
            principal_id: "bob".into(),
            key: "cap:catalog.write".into(),
            expires_at: end.map(Into::into),
            by: "root".into(),
        }
        .into()
    }

    fn grant(id: &str, end: Option<&str>) -> GrantEntitlement {
        GrantEntitlement {
            principal_id: "bob".into(),
            grant_id: id.into(),
            key: "cap:catalog.write".into(),
            expires_at: end.map(Into::into),
        }
    }

    #[test]
    fn only_operators_grant_and_nobody_twice() {
        let root = operator("root");
        given::<Grants>([]).when(grant("g1", None), &root).then([granted("g1", None)]);
        let bob = Actor { super_admin: false, id: "bob".into(), ..root.clone() };
        given::<Grants>([]).when(grant("g1", None), &bob).rejected("SUPERADMIN_REQUIRED");
        given::<Grants>([granted("g1", None)]).when(grant("g2", None), &root).rejected("ALREADY_GRANTED");
        // The same word as a role is another grant.
        let role = GrantRole {
            principal_id: "bob".into(),
            grant_id: "g2".into(),
            role_key: "cap:catalog.write".into(),
            expires_at: None,
        };
        let expected = RoleGranted {
            grant_id: "g2".into(),
            principal_id: "bob".into(),
            key: "cap:catalog.write".into(),
            expires_at: None,
            by: "root".into(),
        };
        given::<Grants>([granted("g1", None)]).when(role, &root).then([expected.into()]);
    }

    #[test]
    fn what_is_over_can_be_granted_anew_and_nothing_is_granted_into_the_past() {
        let root = operator("root");
        let over = "2025-12-31T23:59:59Z";
        given::<Grants>([]).when(grant("g1", Some(over)), &root).rejected("VALIDATION_FAILED");
        given::<Grants>([]).when(grant("g1", Some("soon")), &root).rejected("VALIDATION_FAILED");
        let expired =
            GrantExpired { grant_id: "g1".into(), principal_id: "bob".into(), key: "cap:catalog.write".into() };
        given::<Grants>([granted("g1", Some(over))])
            .when(grant("g2", None), &root)
            .then([expired.clone().into(), granted("g2", None)]);
        let expire = ExpireGrant { principal_id: "bob".into(), grant_id: "g1".into() };
        let timer = Actor::system("timer");
        given::<Grants>([granted("g1", Some(over))]).when(expire.clone(), &timer).then([expired.into()]);
        given::<Grants>([granted("g1", Some("2026-01-02T00:00:00Z"))]).when(expire, &timer).then([]);
    }

    #[test]
    fn what_is_not_held_is_revoked_without_a_word() {
        let root = operator("root");
        let revoke = RevokeEntitlement { principal_id: "bob".into(), key: "cap:catalog.write".into() };
        given::<Grants>([]).when(revoke.clone(), &root).then([]);
        let revoked = EntitlementRevoked {
            grant_id: "g1".into(),
            principal_id: "bob".into(),
            key: "cap:catalog.write".into(),
            by: "root".into(),
        };
        given::<Grants>([granted("g1", None)]).when(revoke, &root).then([revoked.into()]);
    }
}
