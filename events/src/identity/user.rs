//! Events of a user (identity.md §16.2).

use crate::{Personal, domain_events};

domain_events! {
    /// What can have happened to a user.
    UserEvent: Identity / "user" {
        /// A person has an account.
        UserRegistered = "symbia.identity.user.user-registered.v1" {
            user_id: String,
            email: Personal,
            /// Keyed hash of the normalised address, for lookups and the claim.
            email_key: String,
            name: Personal,
            /// Where the secret store keeps the password's hash.
            password_ref: String,
            password_algo: String,
            is_super_admin: bool,
            /// `self`, `bootstrap`, `seed` or `invite`.
            source: String,
        }
        /// The display name changed.
        UserRenamed = "symbia.identity.user.user-renamed.v1" { user_id: String, name: Personal }
        /// The password changed.
        UserPasswordChanged = "symbia.identity.user.user-password-changed.v1" {
            user_id: String,
            password_ref: String,
            password_algo: String,
        }
        /// Whatever began before counts no longer: sessions, tokens, refresh tokens.
        SessionsRevoked = "symbia.identity.user.sessions-revoked.v1" {
            principal_id: String,
            /// RFC 3339.
            before: String,
            by: String,
            reason: String,
        }
        /// A link to choose a new password was asked for; it is the only one that counts.
        PasswordResetRequested = "symbia.identity.user.password-reset-requested.v1" {
            user_id: String,
            reset_id: String,
            /// Keyed hash of the token.
            token_hash: String,
            /// RFC 3339.
            expires_at: String,
            /// `email`.
            channel: String,
        }
        /// The link was handed to the mail server.
        PasswordResetMailed = "symbia.identity.user.password-reset-mailed.v1" { user_id: String, reset_id: String }
        /// The link could not be sent.
        PasswordResetMailFailed = "symbia.identity.user.password-reset-mail-failed.v1" {
            user_id: String,
            reset_id: String,
            reason: String,
        }
        /// The link was used.
        PasswordResetCompleted = "symbia.identity.user.password-reset-completed.v1" { user_id: String, reset_id: String }
        /// An address is to be confirmed: another one, or the present one.
        EmailChangeRequested = "symbia.identity.user.email-change-requested.v1" {
            user_id: String,
            new_email: Personal,
            new_email_key: String,
            /// Keyed hash of the token.
            token_hash: String,
            /// RFC 3339.
            expires_at: String,
        }
        /// The account has another address, which is confirmed.
        UserEmailChanged = "symbia.identity.user.user-email-changed.v1" {
            user_id: String,
            email: Personal,
            email_key: String,
            previous_email_key: String,
        }
        /// The user operates the platform.
        SuperAdminGranted = "symbia.identity.user.super-admin-granted.v1" { user_id: String, by: String }
        /// The user does so no longer.
        SuperAdminRevoked = "symbia.identity.user.super-admin-revoked.v1" { user_id: String, by: String }
        /// The present address is confirmed.
        UserEmailVerified = "symbia.identity.user.user-email-verified.v1" { user_id: String, email_key: String }
        /// The account cannot be signed in to.
        UserLocked = "symbia.identity.user.user-locked.v1" {
            user_id: String,
            by: String,
            reason: String,
            /// RFC 3339; without it, until it is unlocked.
            until: Option<String>,
        }
        /// The account can be signed in to again.
        UserUnlocked = "symbia.identity.user.user-unlocked.v1" { user_id: String, by: String, reason: String }
        /// A second factor was set up and waits for its first code.
        MfaEnrolled = "symbia.identity.user.mfa-enrolled.v1" {
            user_id: String,
            /// `totp`.
            method: String,
            /// Where the secret store keeps the shared secret.
            secret_ref: String,
        }
        /// Signing in takes the second factor from now on.
        MfaConfirmed = "symbia.identity.user.mfa-confirmed.v1" {
            user_id: String,
            method: String,
            secret_ref: String,
            /// Keyed hashes of the codes that stand in for it, once each.
            recovery_hashes: Vec<String>,
        }
        /// A code of the second factor was used; it and older ones count no longer.
        MfaUsed = "symbia.identity.user.mfa-used.v1" {
            user_id: String,
            /// The time step of the code (RFC 6238 §5.2).
            step: u64,
        }
        /// A recovery code was used up.
        RecoveryCodeUsed = "symbia.identity.user.recovery-code-used.v1" { user_id: String, code_hash: String }
        /// Signing in takes the password alone.
        MfaRemoved = "symbia.identity.user.mfa-removed.v1" { user_id: String, method: String, secret_ref: String }
        /// The account is gone; its personal data cannot be read any more once its subject key is destroyed.
        UserDeleted = "symbia.identity.user.user-deleted.v1" { user_id: String, by: String }
        /// Nobody can read the person's data any more.
        SubjectKeyDestroyed = "symbia.identity.user.subject-key-destroyed.v1" { user_id: String, subject_key_id: String }
    }
}
