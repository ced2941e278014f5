//! Events of an authorization: a person lets a client (an app, an MCP client) use the platform in their name (RFC 6749).

use crate::domain_events;

domain_events! {
    /// What can have happened to an authorization.
    AuthorizationEvent: Identity / "authorization" {
        /// The person agreed; the client holds a code.
        AuthorizationGranted = "symbia.identity.authorization.authorization-granted.v1" {
            authorization_id: String,
            user_id: String,
            /// Where the client describes itself.
            client_id: String,
            redirect_uri: String,
            /// Keyed hash of the code.
            code_hash: String,
            /// S256 of what the client keeps to itself (RFC 7636).
            code_challenge: String,
            scopes: Vec<String>,
            /// For which resource tokens are (RFC 8707).
            resource: String,
            /// Until when the code works (RFC 3339).
            expires_at: String,
        }
        /// The code was exchanged: a session of the client began.
        AuthorizationRedeemed = "symbia.identity.authorization.authorization-redeemed.v1" {
            authorization_id: String,
            session_id: String,
        }
        /// The code was presented a second time: its session ends.
        AuthorizationReuseDetected = "symbia.identity.authorization.authorization-reuse-detected.v1" {
            authorization_id: String,
            session_id: String,
        }
    }
}
