//! Events of an API key (identity.md §16.8).

use crate::domain_events;

domain_events! {
    /// What can have happened to an API key.
    ApiKeyEvent: Identity / "api-key" {
        /// It was minted, and shown once.
        ApiKeyCreated = "symbia.identity.api-key.api-key-created.v1" {
            key_id: String,
            name: String,
            /// `sk_` and the first eight digits.
            key_prefix: String,
            /// Keyed hash of the whole key.
            key_hash: String,
            org_id: Option<String>,
            /// What it is limited to; empty = all that its creator may do.
            scopes: Vec<String>,
            /// RFC 3339.
            expires_at: Option<String>,
            /// Whose rights it has.
            created_by: String,
            /// The key that it follows.
            rotated_from: Option<String>,
        }
        /// Another key has taken its place.
        ApiKeyRotated = "symbia.identity.api-key.api-key-rotated.v1" {
            key_id: String,
            new_key_id: String,
            /// Until when it is accepted still, RFC 3339; at once no longer when there is none.
            grace_until: Option<String>,
            by: String,
        }
        /// It is not accepted any more.
        ApiKeyRevoked = "symbia.identity.api-key.api-key-revoked.v1" {
            key_id: String,
            by: String,
            reason: Option<String>,
        }
        /// It was used; at most once a minute.
        ApiKeyUsed = "symbia.identity.api-key.api-key-used.v1" {
            key_id: String,
            /// RFC 3339.
            used_at: String,
            /// How often since the last time, as far as the process that tells has seen it.
            count: u32,
        }
        /// It is gone.
        ApiKeyDeleted = "symbia.identity.api-key.api-key-deleted.v1" { key_id: String, by: String }
    }
}
