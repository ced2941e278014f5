//! Events of an organization and its members (identity.md §16.5).

use crate::{Personal, domain_events};

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
        /// The unique short name changed.
        OrganizationSlugChanged = "symbia.identity.organization.organization-slug-changed.v1" {
            org_id: String,
            slug: String,
            previous_slug: String,
            by: String,
        }
        /// It has another plan, or none.
        PlanAssigned = "symbia.identity.organization.plan-assigned.v1" {
            org_id: String,
            plan_id: Option<String>,
            previous_plan_id: Option<String>,
            /// Most members under this plan; none = as many as there are.
            member_limit: Option<u32>,
            by: String,
        }
        /// It has a feature, or has it switched off.
        OrgEntitlementSet = "symbia.identity.organization.org-entitlement-set.v1" {
            org_id: String,
            feature_key: String,
            enabled: bool,
            /// RFC 3339.
            expires_at: Option<String>,
            by: String,
        }
        /// It has a feature no longer.
        OrgEntitlementRemoved = "symbia.identity.organization.org-entitlement-removed.v1" {
            org_id: String,
            feature_key: String,
            by: String,
        }
        /// Somebody without a membership may join.
        MemberInvited = "symbia.identity.organization.member-invited.v1" {
            invitation_id: String,
            org_id: String,
            /// Sealed under a key of this invitation's own.
            email: Personal,
            email_key: String,
            role: String,
            by: String,
            /// Keyed hash of what the invited person presents.
            token_hash: String,
            /// RFC 3339.
            expires_at: String,
        }
        /// The invited person joined.
        InvitationAccepted = "symbia.identity.organization.invitation-accepted.v1" {
            invitation_id: String,
            org_id: String,
            user_id: String,
        }
        /// An invitation holds no longer.
        InvitationRevoked = "symbia.identity.organization.invitation-revoked.v1" {
            invitation_id: String,
            org_id: String,
            by: String,
        }
        /// An operator of the platform looked at, or acted in, an organization that is not theirs.
        OrganizationAccessed = "symbia.identity.organization.organization-accessed.v1" {
            org_id: String,
            principal_id: String,
            /// Method and path.
            operation: String,
            /// The operator's own words.
            reason: String,
        }
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
