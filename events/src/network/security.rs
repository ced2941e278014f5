//! Events of what a mesh refused (network.md §13.3). Repetitions that lie close together are one event.

use crate::domain_events;

domain_events! {
    /// What was refused to a principal on an organization's mesh.
    SecurityEvent: Network / "security" {
        /// It sent as a node of somebody else's, or wanted its id.
        SourceSpoofRejected = "symbia.network.security.source-spoof-rejected.v1" {
            principal_id: String,
            /// The node that it claimed to be, where it named one.
            claimed_source: Option<String>,
            /// What it asked for.
            operation: String,
            /// Why it was refused.
            error_code: String,
            /// How often.
            count: u32,
            /// RFC 3339.
            first_at: String,
            /// RFC 3339.
            last_at: String,
        }
        /// What it sent did not carry its publisher's signature, was too old, or was not what it had been before.
        SignatureRejected = "symbia.network.security.signature-rejected.v1" {
            principal_id: String,
            claimed_source: Option<String>,
            operation: String,
            error_code: String,
            count: u32,
            /// RFC 3339.
            first_at: String,
            /// RFC 3339.
            last_at: String,
        }
        /// A right was missing.
        PermissionDenied = "symbia.network.security.permission-denied.v1" {
            principal_id: String,
            claimed_source: Option<String>,
            operation: String,
            error_code: String,
            count: u32,
            /// RFC 3339.
            first_at: String,
            /// RFC 3339.
            last_at: String,
        }
        /// Routing let its event not reach a target: no contract, a policy, no such node, a circle.
        CallRefused = "symbia.network.security.call-refused.v1" {
            principal_id: String,
            claimed_source: Option<String>,
            operation: String,
            /// The verdict.
            error_code: String,
            count: u32,
            /// RFC 3339.
            first_at: String,
            /// RFC 3339.
            last_at: String,
        }
        /// It sent more than a contract lets pass, or called too often.
        RateExceeded = "symbia.network.security.rate-exceeded.v1" {
            principal_id: String,
            claimed_source: Option<String>,
            operation: String,
            error_code: String,
            count: u32,
            /// RFC 3339.
            first_at: String,
            /// RFC 3339.
            last_at: String,
        }
    }
}
