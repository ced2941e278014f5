//! Events of what a principal was granted (identity.md §16.7).

use crate::domain_events;

domain_events! {
    /// What can have happened to a principal's grants.
    GrantsEvent: Identity / "grants" {
        /// The principal holds a capability.
        EntitlementGranted = "symbia.identity.grants.entitlement-granted.v1" {
            grant_id: String,
            principal_id: String,
            key: String,
            /// RFC 3339.
            expires_at: Option<String>,
            by: String,
        }
        /// The principal holds it no longer.
        EntitlementRevoked = "symbia.identity.grants.entitlement-revoked.v1" {
            grant_id: String,
            principal_id: String,
            key: String,
            by: String,
        }
        /// The principal holds a global role.
        RoleGranted = "symbia.identity.grants.role-granted.v1" {
            grant_id: String,
            principal_id: String,
            key: String,
            /// RFC 3339.
            expires_at: Option<String>,
            by: String,
        }
        /// The principal holds it no longer.
        RoleRevoked = "symbia.identity.grants.role-revoked.v1" {
            grant_id: String,
            principal_id: String,
            key: String,
            by: String,
        }
        /// Its time is over.
        GrantExpired = "symbia.identity.grants.grant-expired.v1" {
            grant_id: String,
            principal_id: String,
            key: String,
        }
    }
}
