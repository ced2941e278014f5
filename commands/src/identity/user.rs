//! The user aggregate: one live password reference, the claim of its e-mail address (identity.md §15).

use serde::{Deserialize, Serialize};
use symbia_events::{
    OrgId, Personal,
    identity::{SessionsRevoked, UserDeleted, UserEvent, UserPasswordChanged, UserRegistered, UserRenamed},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Actor, Aggregate, Claim, Decision, Rejection, domain_commands};

domain_commands! {
    /// What a user can be asked to do. All come from the identity edge, which has sealed and hashed what is secret.
    UserCommand: Identity / "user" {
        /// Opens an account.
        RegisterUser = "symbia.cmd.identity.register-user.v1" {
            user_id: String,
            email: Personal,
            email_key: String,
            name: Personal,
            password_ref: String,
            password_algo: String,
            /// `self`, `bootstrap` (claims the platform's first super admin), `seed` or `invite`.
            source: String,
        }
        /// Changes the display name.
        RenameUser = "symbia.cmd.identity.rename-user.v1" { user_id: String, name: Personal }
        /// Replaces the password.
        ChangePassword = "symbia.cmd.identity.change-password.v1" {
            user_id: String,
            password_ref: String,
            password_algo: String,
        }
        /// Ends whatever began before, everywhere.
        RevokeAllSessions = "symbia.cmd.identity.revoke-all-sessions.v1" { user_id: String, reason: String }
        /// Closes the account.
        DeleteUser = "symbia.cmd.identity.delete-user.v1" { user_id: String }
    }
}

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct User {
    email_key: String,
    is_super_admin: bool,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Standing {
    #[default]
    Unknown,
    Registered,
    Deleted,
}

/// The claim that the first super admin takes, once in the life of a platform.
#[must_use]
pub fn bootstrap_claim(user_id: &str) -> Claim {
    Claim {
        tenant: OrgId::global(),
        name: "bootstrap:super-admin".to_owned(),
        holder: user_id.to_owned(),
        taken: "ALREADY_INITIALIZED",
    }
}

fn email_claim(email_key: &str, user_id: &str) -> Claim {
    Claim {
        tenant: OrgId::global(),
        name: format!("email:{email_key}"),
        holder: user_id.to_owned(),
        taken: "EMAIL_TAKEN",
    }
}

impl User {
    fn may_change(&self, user_id: &str, by: &Actor) -> Result<(), Rejection> {
        if self.standing != Standing::Registered {
            return Err(Rejection::not_found("user"));
        }
        if by.is_platform() || by.super_admin || by.id == user_id {
            return Ok(());
        }
        Err(Rejection::forbidden("only the user or a super admin may change an account"))
    }

    fn sessions_revoked(user_id: &str, by: &Actor, at: OffsetDateTime, reason: &str) -> SessionsRevoked {
        SessionsRevoked {
            principal_id: user_id.to_owned(),
            before: at.format(&Rfc3339).unwrap_or_default(),
            by: by.id.clone(),
            reason: reason.to_owned(),
        }
    }

    fn register(&self, c: RegisterUser, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        if self.standing != Standing::Unknown {
            return Err(Rejection::new("CONFLICT", "this user id is in use"));
        }
        if !by.is_platform() {
            return Err(Rejection::forbidden("accounts are opened by the identity service"));
        }
        let is_super_admin = c.source == "bootstrap";
        let decision = Decision::one(UserRegistered {
            user_id: c.user_id.clone(),
            email: c.email,
            email_key: c.email_key.clone(),
            name: c.name,
            password_ref: c.password_ref,
            password_algo: c.password_algo,
            is_super_admin,
            source: c.source,
        })
        .claiming(email_claim(&c.email_key, &c.user_id));
        if is_super_admin { Ok(decision.claiming(bootstrap_claim(&c.user_id))) } else { Ok(decision) }
    }
}

impl Aggregate for User {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("userId");
    type Command = UserCommand;
    type Event = UserEvent;

    fn apply(&mut self, event: &UserEvent) {
        match event {
            UserEvent::UserRegistered(e) => {
                self.standing = Standing::Registered;
                self.email_key.clone_from(&e.email_key);
                self.is_super_admin = e.is_super_admin;
            }
            UserEvent::UserRenamed(_) | UserEvent::UserPasswordChanged(_) | UserEvent::SessionsRevoked(_) => {}
            UserEvent::UserDeleted(_) => self.standing = Standing::Deleted,
        }
    }

    fn decide(&self, command: UserCommand, by: &Actor, at: OffsetDateTime) -> Result<Decision<UserEvent>, Rejection> {
        match command {
            UserCommand::RegisterUser(c) => self.register(c, by),
            UserCommand::RenameUser(c) => {
                self.may_change(&c.user_id, by)?;
                Ok(Decision::one(UserRenamed { user_id: c.user_id, name: c.name }))
            }
            UserCommand::ChangePassword(c) => {
                self.may_change(&c.user_id, by)?;
                let revoked = Self::sessions_revoked(&c.user_id, by, at, "password-changed");
                Ok(Decision::one(UserPasswordChanged {
                    user_id: c.user_id,
                    password_ref: c.password_ref,
                    password_algo: c.password_algo,
                })
                .and(revoked))
            }
            UserCommand::RevokeAllSessions(c) => {
                self.may_change(&c.user_id, by)?;
                Ok(Decision::one(Self::sessions_revoked(&c.user_id, by, at, &c.reason)))
            }
            UserCommand::DeleteUser(c) => {
                self.may_change(&c.user_id, by)?;
                let claim = email_claim(&self.email_key, &c.user_id);
                Ok(Decision::one(UserDeleted { user_id: c.user_id, by: by.id.clone() }).releasing(claim))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;
    use symbia_events::SubjectKey;

    fn registration(source: &str) -> RegisterUser {
        let key = SubjectKey::from_bytes("u1", [7; 32]);
        RegisterUser {
            user_id: "u1".into(),
            email: key.seal("ada@example.com"),
            email_key: "hash".into(),
            name: key.seal("Ada"),
            password_ref: "pw1".into(),
            password_algo: "bcrypt".into(),
            source: source.into(),
        }
    }

    fn registered() -> UserEvent {
        let command = registration("self");
        User::default().register(command, &edge()).unwrap().events.remove(0)
    }

    fn edge() -> Actor {
        Actor::service("identity")
    }

    fn person(id: &str) -> Actor {
        Actor { id: id.into(), kind: symbia_events::ActorType::User, ..edge() }
    }

    #[test]
    fn a_bootstrap_registration_claims_the_only_super_admin() {
        let decision = User::default().decide(registration("bootstrap").into(), &edge(), crate::testing::AT).unwrap();
        assert!(decision.claims.iter().any(|c| c.claim() == &bootstrap_claim("u1")));
        let claims: Vec<_> = decision.claims.iter().map(|c| c.claim().taken).collect();
        assert_eq!(claims, ["EMAIL_TAKEN", "ALREADY_INITIALIZED"]);
    }

    #[test]
    fn only_the_identity_edge_opens_accounts() {
        given::<User>([]).when(registration("bootstrap"), &person("mallory")).rejected("FORBIDDEN");
        given::<User>([registered()]).when(registration("self"), &edge()).rejected("CONFLICT");
    }

    #[test]
    fn a_stranger_cannot_change_an_account_and_a_deleted_one_stays_deleted() {
        let delete = DeleteUser { user_id: "u1".into() };
        given::<User>([registered()]).when(delete.clone(), &person("u2")).rejected("FORBIDDEN");
        let deleted = UserDeleted { user_id: "u1".into(), by: "u1".into() };
        given::<User>([registered()]).when(delete.clone(), &person("u1")).then([deleted.clone().into()]);
        given::<User>([registered(), deleted.into()]).when(delete, &person("u1")).rejected("NOT_FOUND");
    }
}
