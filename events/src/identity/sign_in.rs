//! Events of attempts to sign in with an identifier, known or not (identity.md §16.3).

use crate::{Personal, domain_events};

domain_events! {
    /// What can have happened at the door.
    SignInEvent: Identity / "sign-in" {
        /// Somebody did not prove to be who they said.
        SignInFailed = "symbia.identity.sign-in.sign-in-failed.v1" {
            /// Keyed hash of what was typed as e-mail address.
            identifier_key: String,
            /// `password`, `mfa`.
            reason: String,
            client_ip: Option<Personal>,
            /// RFC 3339.
            failed_at: String,
        }
        /// Too many did not: nobody signs in under this identifier until a time.
        SignInBlocked = "symbia.identity.sign-in.sign-in-blocked.v1" {
            identifier_key: String,
            /// How many failed.
            failures: u32,
            /// RFC 3339.
            until: String,
        }
        /// Its owner proved themselves in another way.
        SignInUnblocked = "symbia.identity.sign-in.sign-in-unblocked.v1" { identifier_key: String }
    }
}
