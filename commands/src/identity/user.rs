//! The user aggregate: one live password reference, the claim of its e-mail address (identity.md §15).

mod email;
mod factor;
mod lock;
mod password;

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef, OrgId, Personal,
    identity::{
        SessionsRevoked, SubjectKeyDestroyed, SuperAdminGranted, SuperAdminRevoked, UserDeleted, UserEmailChanged,
        UserEvent, UserRegistered, UserRenamed,
    },
};
use time::OffsetDateTime;

pub use factor::TOTP;

use super::instants::{instant, text};
use super::rules::{operators_only, outside_organizations};
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
        /// Sends a link to choose a new password; the one before counts no longer.
        RequestPasswordReset = "symbia.cmd.identity.request-password-reset.v1" {
            user_id: String,
            reset_id: String,
            token_hash: String,
            expires_at: String,
        }
        /// Tells what became of the mail with the link.
        RecordResetMail = "symbia.cmd.identity.record-reset-mail.v1" {
            user_id: String,
            reset_id: String,
            /// Why it could not be sent.
            #[serde(default)]
            failed: Option<String>,
        }
        /// Uses the link.
        CompletePasswordReset = "symbia.cmd.identity.complete-password-reset.v1" {
            user_id: String,
            token_hash: String,
            password_ref: String,
            password_algo: String,
        }
        /// Asks for an address to be confirmed.
        RequestEmailChange = "symbia.cmd.identity.request-email-change.v1" {
            user_id: String,
            new_email: Personal,
            new_email_key: String,
            token_hash: String,
            expires_at: String,
        }
        /// Confirms it.
        ConfirmEmailChange = "symbia.cmd.identity.confirm-email-change.v1" { user_id: String, token_hash: String }
        /// Keeps the account from being signed in to.
        LockUser = "symbia.cmd.identity.lock-user.v1" {
            user_id: String,
            reason: String,
            /// RFC 3339; without it, until it is unlocked.
            #[serde(default)]
            until: Option<String>,
        }
        /// Lets it be signed in to again.
        UnlockUser = "symbia.cmd.identity.unlock-user.v1" { user_id: String, reason: String }
        /// Sets a second factor up.
        EnrolMfa = "symbia.cmd.identity.enrol-mfa.v1" { user_id: String, method: String, secret_ref: String }
        /// Turns it on, after the edge has checked its first code.
        ConfirmMfa = "symbia.cmd.identity.confirm-mfa.v1" {
            user_id: String,
            secret_ref: String,
            step: u64,
            recovery_hashes: Vec<String>,
        }
        /// Uses a code that the edge has checked.
        UseMfaCode = "symbia.cmd.identity.use-mfa-code.v1" { user_id: String, step: u64 }
        /// Uses a recovery code up.
        UseRecoveryCode = "symbia.cmd.identity.use-recovery-code.v1" { user_id: String, code_hash: String }
        /// Turns the second factor off.
        RemoveMfa = "symbia.cmd.identity.remove-mfa.v1" { user_id: String }
        /// Ends whatever began before, everywhere.
        RevokeAllSessions = "symbia.cmd.identity.revoke-all-sessions.v1" { user_id: String, reason: String }
        /// Replaces the address (operators, and the edge once the address is confirmed).
        ChangeEmail = "symbia.cmd.identity.change-email.v1" { user_id: String, email: Personal, email_key: String }
        /// Makes the user an operator (operators).
        GrantSuperAdmin = "symbia.cmd.identity.grant-super-admin.v1" { user_id: String }
        /// Makes the user an operator no longer (other operators).
        RevokeSuperAdmin = "symbia.cmd.identity.revoke-super-admin.v1" { user_id: String }
        /// Closes the account.
        DeleteUser = "symbia.cmd.identity.delete-user.v1" { user_id: String }
        /// Says that the key of a closed account is destroyed.
        ConfirmErasure = "symbia.cmd.identity.confirm-erasure.v1" { user_id: String, subject_key_id: String }
    }
}

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct User {
    email_key: String,
    is_super_admin: bool,
    standing: Standing,
    pending_email: Option<email::PendingEmail>,
    /// Id and token of the live link.
    reset: Option<(String, Token)>,
    lock: Option<lock::Lock>,
    factor: Option<factor::Factor>,
}

/// A token that was sent to somebody, known by its hash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Token {
    hash: String,
    expires_at: Option<OffsetDateTime>,
}

impl Token {
    fn fits(&self, hash: &str, at: OffsetDateTime) -> bool {
        !hash.is_empty() && self.hash == hash && self.expires_at.is_some_and(|end| end > at)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Standing {
    #[default]
    Unknown,
    Registered,
    Deleted,
    Erased,
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

/// What rests on a secret is for the identity edge, which has checked it.
fn platform_only(by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() {
        return Ok(());
    }
    Err(Rejection::forbidden("this is done over the identity service, which checks the secrets"))
}

impl User {
    fn registered(&self) -> Result<(), Rejection> {
        if self.standing == Standing::Registered { Ok(()) } else { Err(Rejection::not_found("user")) }
    }

    fn may_change(&self, user_id: &str, by: &Actor) -> Result<(), Rejection> {
        self.registered()?;
        if by.is_platform() || by.super_admin || by.id == user_id {
            return Ok(());
        }
        Err(Rejection::forbidden("only the user or a super admin may change an account"))
    }

    fn sessions_revoked(user_id: &str, by: &Actor, at: OffsetDateTime, reason: &str) -> SessionsRevoked {
        SessionsRevoked {
            principal_id: user_id.to_owned(),
            before: text(at),
            by: by.id.clone(),
            reason: reason.to_owned(),
        }
    }

    fn change_email(&self, c: ChangeEmail, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        self.registered()?;
        operators_only(by)?;
        let (taken, released) = (email_claim(&c.email_key, &c.user_id), email_claim(&self.email_key, &c.user_id));
        let ChangeEmail { user_id, email, email_key } = c;
        let same = email_key == self.email_key;
        let previous_email_key = self.email_key.clone();
        let changed = Decision::one(UserEmailChanged { user_id, email, email_key, previous_email_key });
        Ok(if same { changed } else { changed.claiming(taken).releasing(released) })
    }

    fn set_super_admin(&self, wanted: bool, user_id: String, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        self.registered()?;
        operators_only(by)?;
        if self.is_super_admin == wanted {
            return Ok(Decision::nothing());
        }
        if by.id == user_id {
            return Err(Rejection::new("SELF_PROTECTION", "another super admin has to take this right away"));
        }
        let by = by.id.clone();
        Ok(if wanted {
            Decision::one(SuperAdminGranted { user_id, by })
        } else {
            Decision::one(SuperAdminRevoked { user_id, by })
        })
    }

    fn delete(&self, c: DeleteUser, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        self.may_change(&c.user_id, by)?;
        if self.is_super_admin && by.id == c.user_id {
            return Err(Rejection::new("SELF_PROTECTION", "a super admin's account is closed by another super admin"));
        }
        let claim = email_claim(&self.email_key, &c.user_id);
        Ok(Decision::one(UserDeleted { user_id: c.user_id, by: by.id.clone() }).releasing(claim))
    }

    fn confirm_erasure(&self, c: ConfirmErasure, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("keys are destroyed by the platform"));
        }
        match self.standing {
            Standing::Unknown => Err(Rejection::not_found("user")),
            Standing::Registered => Err(Rejection::new("CONFLICT", "the account is open")),
            Standing::Erased => Ok(Decision::nothing()),
            Standing::Deleted => {
                let ConfirmErasure { user_id, subject_key_id } = c;
                Ok(Decision::one(SubjectKeyDestroyed { user_id, subject_key_id }))
            }
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
    const STATE_VERSION: u32 = 2;
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
            UserEvent::SuperAdminGranted(_) => self.is_super_admin = true,
            UserEvent::SuperAdminRevoked(_) => self.is_super_admin = false,
            UserEvent::UserRenamed(_)
            | UserEvent::SessionsRevoked(_)
            | UserEvent::PasswordResetMailed(_)
            | UserEvent::PasswordResetMailFailed(_) => {}
            UserEvent::UserPasswordChanged(_) | UserEvent::PasswordResetCompleted(_) => self.reset = None,
            UserEvent::PasswordResetRequested(e) => self.apply_reset(e),
            UserEvent::EmailChangeRequested(e) => self.apply_email_request(e),
            UserEvent::UserEmailChanged(e) => {
                self.email_key.clone_from(&e.email_key);
                self.pending_email = None;
            }
            UserEvent::UserEmailVerified(_) => self.pending_email = None,
            UserEvent::UserLocked(e) => self.apply_locked(e),
            UserEvent::UserUnlocked(_) => self.lock = None,
            UserEvent::MfaEnrolled(e) => self.apply_enrolled(e),
            UserEvent::MfaConfirmed(e) => self.apply_confirmed(e),
            UserEvent::MfaUsed(e) => self.apply_used(e),
            UserEvent::RecoveryCodeUsed(e) => self.apply_recovery(e),
            UserEvent::MfaRemoved(_) => self.factor = None,
            UserEvent::UserDeleted(_) => self.standing = Standing::Deleted,
            UserEvent::SubjectKeyDestroyed(_) => self.standing = Standing::Erased,
        }
    }

    fn belongs(_command: &UserCommand, to: &AggregateRef) -> Result<(), Rejection> {
        outside_organizations(to)
    }

    fn decide(&self, command: UserCommand, by: &Actor, at: OffsetDateTime) -> Result<Decision<UserEvent>, Rejection> {
        match command {
            UserCommand::RegisterUser(c) => self.register(c, by),
            UserCommand::RenameUser(c) => {
                self.may_change(&c.user_id, by)?;
                Ok(Decision::one(UserRenamed { user_id: c.user_id, name: c.name }))
            }
            UserCommand::ChangePassword(c) => self.change_password(c, by, at),
            UserCommand::RequestPasswordReset(c) => self.request_reset(c, by),
            UserCommand::RecordResetMail(c) => self.record_reset_mail(c, by),
            UserCommand::CompletePasswordReset(c) => self.complete_reset(c, by, at),
            UserCommand::RequestEmailChange(c) => self.request_email(c, by),
            UserCommand::ConfirmEmailChange(c) => self.confirm_email(c, by, at),
            UserCommand::LockUser(c) => self.lock(c, by, at),
            UserCommand::UnlockUser(c) => self.unlock(c, by),
            UserCommand::EnrolMfa(c) => self.enrol_factor(c, by),
            UserCommand::ConfirmMfa(c) => self.confirm_factor(c, by),
            UserCommand::UseMfaCode(c) => self.use_code(c, by),
            UserCommand::UseRecoveryCode(c) => self.use_recovery_code(c, by),
            UserCommand::RemoveMfa(c) => self.remove_factor(c, by),
            UserCommand::RevokeAllSessions(c) => {
                self.may_change(&c.user_id, by)?;
                Ok(Decision::one(Self::sessions_revoked(&c.user_id, by, at, &c.reason)))
            }
            UserCommand::ChangeEmail(c) => self.change_email(c, by),
            UserCommand::GrantSuperAdmin(c) => self.set_super_admin(true, c.user_id, by),
            UserCommand::RevokeSuperAdmin(c) => self.set_super_admin(false, c.user_id, by),
            UserCommand::DeleteUser(c) => self.delete(c, by),
            UserCommand::ConfirmErasure(c) => self.confirm_erasure(c, by),
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

    pub(super) fn registered() -> UserEvent {
        let command = registration("self");
        User::default().register(command, &edge()).unwrap().events.remove(0)
    }

    pub(super) fn edge() -> Actor {
        Actor::service("identity")
    }

    pub(super) fn person(id: &str) -> Actor {
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

    #[test]
    fn operators_make_and_unmake_operators_but_not_of_themselves() {
        let root = crate::identity::testing::operator("root");
        let grant = GrantSuperAdmin { user_id: "u1".into() };
        let granted = SuperAdminGranted { user_id: "u1".into(), by: "root".into() };
        given::<User>([registered()]).when(grant.clone(), &root).then([granted.clone().into()]);
        given::<User>([registered()]).when(grant, &person("u1")).rejected("SUPERADMIN_REQUIRED");
        let history = || [registered(), granted.clone().into()];
        let own = crate::identity::testing::operator("u1");
        let revoke = RevokeSuperAdmin { user_id: "u1".into() };
        given::<User>(history()).when(revoke.clone(), &own).rejected("SELF_PROTECTION");
        given::<User>(history()).when(DeleteUser { user_id: "u1".into() }, &own).rejected("SELF_PROTECTION");
        let revoked = SuperAdminRevoked { user_id: "u1".into(), by: "root".into() };
        given::<User>(history()).when(revoke, &root).then([revoked.into()]);
    }

    #[test]
    fn a_changed_address_moves_its_claim() {
        let email = SubjectKey::from_bytes("u1", [7; 32]).seal("new@example.com");
        let change = ChangeEmail { user_id: "u1".into(), email: email.clone(), email_key: "new".into() };
        let changed = UserEmailChanged {
            user_id: "u1".into(),
            email,
            email_key: "new".into(),
            previous_email_key: "hash".into(),
        };
        let expected = Decision::one(changed).claiming(email_claim("new", "u1")).releasing(email_claim("hash", "u1"));
        given::<User>([registered()]).when(change.clone(), &edge()).then_decision(expected);
        given::<User>([registered()]).when(change, &person("u1")).rejected("SUPERADMIN_REQUIRED");
    }

    #[test]
    fn erasure_is_confirmed_once_and_only_of_a_closed_account() {
        let confirm = ConfirmErasure { user_id: "u1".into(), subject_key_id: "u1".into() };
        let deleted = UserDeleted { user_id: "u1".into(), by: "root".into() };
        let erased = SubjectKeyDestroyed { user_id: "u1".into(), subject_key_id: "u1".into() };
        given::<User>([registered()]).when(confirm.clone(), &edge()).rejected("CONFLICT");
        given::<User>([registered(), deleted.clone().into()])
            .when(confirm.clone(), &edge())
            .then([erased.clone().into()]);
        given::<User>([registered(), deleted.into(), erased.into()]).when(confirm, &edge()).then([]);
    }
}
