//! Events of an organization and its members (identity.md §16.5).

use crate::domain_events;

domain_events! {
    /// What can have happened to an organization.
    OrganizationEvent: Identity / "organization" {
        /// A tenant exists.
        OrganizationCreated = "symbia.identity.organization.organization-created.v1" {
            org_id: String,
            name: String,
            slug: String,
            plan_id: Option<String>,
            by: String,
        }
        /// The display name changed.
        OrganizationRenamed = "symbia.identity.organization.organization-renamed.v1" { org_id: String, name: String }
        /// A user belongs to it.
        MemberAdded = "symbia.identity.organization.member-added.v1" {
            membership_id: String,
            org_id: String,
            user_id: String,
            role: String,
            by: String,
        }
        /// A member has another role.
        MemberRoleChanged = "symbia.identity.organization.member-role-changed.v1" {
            org_id: String,
            membership_id: String,
            user_id: String,
            role: String,
            previous_role: String,
            by: String,
        }
        /// A member is gone.
        MemberRemoved = "symbia.identity.organization.member-removed.v1" {
            org_id: String,
            membership_id: String,
            user_id: String,
            by: String,
            reason: String,
        }
        /// The tenant is gone.
        OrganizationDeleted = "symbia.identity.organization.organization-deleted.v1" { org_id: String, by: String }
    }
}
