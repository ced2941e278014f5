//! Events of delegations and approvals: what an agent may do in a person's name, and what that person let it do (RFC 8693).

use crate::{Personal, domain_events};

domain_events! {
    /// What can have happened to a delegation.
    DelegationEvent: Identity / "delegation" {
        /// A person lets an agent act in their name.
        DelegationGranted = "symbia.identity.delegation.delegation-granted.v1" {
            delegation_id: String,
            /// The person.
            subject_id: String,
            /// The agent.
            agent_id: String,
            /// Capabilities, `cap:…` and `role:…`: a ceiling, never a right.
            scopes: Vec<String>,
            /// Resources that tokens may be for beside the platform (RFC 8707).
            audiences: Vec<String>,
            /// Agents that the agent may pass it on to.
            may_act: Vec<String>,
            /// Longest chain of agents.
            max_depth: u32,
            /// `ordinary`: what weighs more needs an approval each time. `grave`: nothing does.
            limit: String,
            /// RFC 3339.
            expires_at: String,
        }
        /// It counts no longer.
        DelegationRevoked = "symbia.identity.delegation.delegation-revoked.v1" {
            delegation_id: String,
            subject_id: String,
            by: String,
            reason: String,
        }
    }
}

domain_events! {
    /// What can have happened to a request for approval.
    ApprovalEvent: Identity / "approval" {
        /// An agent asks the person whether it may do one thing.
        ApprovalRequested = "symbia.identity.approval.approval-requested.v1" {
            approval_id: String,
            delegation_id: String,
            subject_id: String,
            agent_id: String,
            /// The command, e.g. `identity.delete-organization`.
            action: String,
            /// The aggregate, e.g. `organization/<id>`.
            target: String,
            /// Why, in the agent's words.
            reason: Option<Personal>,
            /// RFC 3339.
            expires_at: String,
        }
        /// It may, once.
        ApprovalApproved = "symbia.identity.approval.approval-approved.v1" {
            approval_id: String,
            by: String,
            /// RFC 3339.
            usable_until: String,
        }
        /// It may not.
        ApprovalDenied = "symbia.identity.approval.approval-denied.v1" { approval_id: String, by: String }
        /// Nobody answered in time.
        ApprovalExpired = "symbia.identity.approval.approval-expired.v1" { approval_id: String }
        /// A token was given out for it; there is no second one.
        ApprovalUsed = "symbia.identity.approval.approval-used.v1" { approval_id: String }
    }
}
