//! Events of a session (identity.md §16.3).

use crate::{Personal, domain_events};

domain_events! {
    /// What can have happened to a session.
    SessionEvent: Identity / "session" {
        /// Somebody proved who they are.
        PrincipalSignedIn = "symbia.identity.session.principal-signed-in.v1" {
            principal_id: String,
            principal_type: String,
            /// `password`, `register`, `credential`.
            method: String,
            client_ip: Option<Personal>,
            user_agent: Option<Personal>,
            /// When the proof was looked at (RFC 3339): a revocation in between counts.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            authenticated_at: Option<String>,
        }
        /// Tokens may be issued for it.
        SessionStarted = "symbia.identity.session.session-started.v1" {
            session_id: String,
            principal_id: String,
            /// Keyed hash of the refresh token.
            refresh_hash: String,
            /// RFC 3339.
            expires_at: String,
        }
        /// The refresh token was exchanged for the next.
        SessionRefreshed = "symbia.identity.session.session-refreshed.v1" {
            session_id: String,
            refresh_hash: String,
            generation: u32,
            /// RFC 3339.
            expires_at: String,
        }
        /// A refresh token was presented a second time.
        SessionReuseDetected = "symbia.identity.session.session-reuse-detected.v1" {
            session_id: String,
            generation: u32,
        }
        /// Its tokens are no longer accepted.
        SessionRevoked = "symbia.identity.session.session-revoked.v1" {
            session_id: String,
            principal_id: String,
            by: String,
            reason: String,
        }
    }
}
