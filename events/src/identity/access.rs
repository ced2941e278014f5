//! Events about rights: refused to somebody, or used in an organization that is not one's own (platform.md §26.4).

use crate::domain_events;

domain_events! {
    /// What is worth a look by those who guard an organization. Repetitions that lie close together are one event.
    AccessEvent: Identity / "access" {
        /// A principal asked for what it may not.
        AccessDenied = "symbia.identity.access.access-denied.v1" {
            principal_id: String,
            /// The organization that it was about, where one was named.
            org_id: Option<String>,
            /// Type of the command, or method and route of the request.
            operation: String,
            /// Why: the code of the refusal.
            code: String,
            /// How often.
            count: u32,
            /// RFC 3339.
            first_at: String,
            /// RFC 3339.
            last_at: String,
        }
        /// An operator used its right to act in an organization that it does not belong to.
        CrossTenantAccessed = "symbia.identity.access.cross-tenant-accessed.v1" {
            principal_id: String,
            org_id: String,
            operation: String,
            /// What it said why; empty when it said nothing.
            reason: String,
            count: u32,
            /// RFC 3339.
            first_at: String,
            /// RFC 3339.
            last_at: String,
        }
    }
}
