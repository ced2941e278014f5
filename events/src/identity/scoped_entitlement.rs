//! Events of an entitlement with a quota (identity.md §16.7).

use crate::domain_events;

domain_events! {
    /// What can have happened to a scoped entitlement.
    ScopedEntitlementEvent: Identity / "scoped-entitlement" {
        /// A scope has a feature.
        ScopedEntitlementCreated = "symbia.identity.scoped-entitlement.scoped-entitlement-created.v1" {
            id: String,
            org_id: String,
            /// `org`, `project`, `application` or `service`.
            scope_type: String,
            scope_id: String,
            feature_key: String,
            /// None = no limit.
            quota: Option<u64>,
            enabled: bool,
            /// RFC 3339.
            expires_at: Option<String>,
            by: String,
        }
        /// It now reads like this.
        ScopedEntitlementUpdated = "symbia.identity.scoped-entitlement.scoped-entitlement-updated.v1" {
            id: String,
            quota: Option<u64>,
            consumed: u64,
            enabled: bool,
            expires_at: Option<String>,
            by: String,
        }
        /// Something was used.
        EntitlementConsumed = "symbia.identity.scoped-entitlement.entitlement-consumed.v1" {
            id: String,
            amount: u64,
            /// So far, this included.
            consumed: u64,
            idempotency_key: String,
        }
        /// More was wanted than was left.
        EntitlementExhausted = "symbia.identity.scoped-entitlement.entitlement-exhausted.v1" {
            id: String,
            requested: u64,
            remaining: u64,
        }
        /// Counting starts anew.
        EntitlementUsageReset = "symbia.identity.scoped-entitlement.entitlement-usage-reset.v1" {
            id: String,
            previous_consumed: u64,
            by: String,
        }
        /// It is gone.
        ScopedEntitlementDeleted = "symbia.identity.scoped-entitlement.scoped-entitlement-deleted.v1" {
            id: String,
            by: String,
        }
    }
}
