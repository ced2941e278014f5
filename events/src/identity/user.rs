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
        /// The address changed.
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
        /// The account is gone; its personal data cannot be read any more once its subject key is destroyed.
        UserDeleted = "symbia.identity.user.user-deleted.v1" { user_id: String, by: String }
        /// Nobody can read the person's data any more.
        SubjectKeyDestroyed = "symbia.identity.user.subject-key-destroyed.v1" { user_id: String, subject_key_id: String }
    }
}
