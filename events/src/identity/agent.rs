//! Events of an agent (identity.md §16.4).

use serde_json::{Map, Value};

use crate::domain_events;

domain_events! {
    /// What can have happened to an agent.
    AgentEvent: Identity / "agent" {
        /// A software principal exists.
        AgentRegistered = "symbia.identity.agent.agent-registered.v1" {
            agent_row_id: String,
            /// The handle, e.g. `assistant:onboarding`.
            agent_id: String,
            name: String,
            org_id: Option<String>,
            /// What it may do.
            capabilities: Vec<String>,
            /// What it asked for and was not granted.
            requested_capabilities: Vec<String>,
            metadata: Map<String, Value>,
            /// Where the secret store keeps the credential's hash.
            credential_ref: String,
            /// Who let it in: a principal, or the mode of enrolment.
            enrolled_by: String,
        }
        /// It has another credential.
        AgentCredentialRotated = "symbia.identity.agent.agent-credential-rotated.v1" {
            agent_row_id: String,
            credential_ref: String,
            /// Until when the one before is accepted too, RFC 3339.
            grace_until: Option<String>,
            by: String,
        }
        /// Sessions begun before are no longer accepted.
        AgentSessionsRevoked = "symbia.identity.agent.sessions-revoked.v1" {
            agent_row_id: String,
            /// RFC 3339.
            before: String,
            reason: String,
        }
        /// What it may do, from now on.
        AgentCapabilitiesApproved = "symbia.identity.agent.agent-capabilities-approved.v1" {
            agent_row_id: String,
            capabilities: Vec<String>,
            by: String,
        }
        /// It is let in again.
        AgentActivated = "symbia.identity.agent.agent-activated.v1" {
            agent_row_id: String,
            by: String,
            reason: Option<String>,
        }
        /// It is not let in any more.
        AgentDeactivated = "symbia.identity.agent.agent-deactivated.v1" {
            agent_row_id: String,
            by: String,
            reason: Option<String>,
        }
        /// Name or metadata changed.
        AgentUpdated = "symbia.identity.agent.agent-updated.v1" {
            agent_row_id: String,
            name: Option<String>,
            metadata: Option<Map<String, Value>>,
        }
        /// It was seen; at most once a minute.
        AgentPresenceObserved = "symbia.identity.agent.agent-presence-observed.v1" {
            agent_row_id: String,
            /// RFC 3339.
            seen_at: String,
        }
        /// It is gone. Its handle is never given to another.
        AgentDeleted = "symbia.identity.agent.agent-deleted.v1" { agent_row_id: String, by: String }
    }
}
