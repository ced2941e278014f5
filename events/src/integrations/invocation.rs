//! Events of an invocation: one call of an operation of the registry, and its one end (integrations.md §7, §25.4).

use super::ErrorCategory;
use crate::{Personal, domain_events};

domain_events! {
    /// What can have happened to an invocation. It ends with exactly one of completed and failed.
    InvocationEvent: Integrations / "invocation" {
        /// An operation is to be called.
        InvocationRequested = "symbia.integrations.invocation.invocation-requested.v1" {
            request_id: String,
            integration_key: String,
            operation_id: String,
            /// The JSON of an [`InvocationInput`](super::InvocationInput).
            input: Personal,
            /// RFC 3339.
            deadline: Option<String>,
            requested_by: String,
            /// Whose keys count, when it is not who asks.
            user_id: Option<String>,
        }
        /// It is being called.
        InvocationAttemptStarted = "symbia.integrations.invocation.invocation-attempt-started.v1" {
            request_id: String,
            attempt: u32,
            /// Version of the integration.
            version: u64,
            host: String,
            credential_id: Option<String>,
            /// `personal`, `org-wide` or `none`.
            credential_source: String,
        }
        /// It answered, whatever it answered.
        InvocationCompleted = "symbia.integrations.invocation.invocation-completed.v1" {
            request_id: String,
            integration_key: String,
            operation_id: String,
            /// `api-call` or `mcp-tool`.
            kind: String,
            /// HTTP status; absent for a tool.
            status_code: Option<u16>,
            success: bool,
            /// The JSON of the answer.
            response: Personal,
            response_digest: String,
            attempts: u32,
            duration_ms: u64,
            credential_id: Option<String>,
            credential_source: String,
            requested_by: String,
        }
        /// There is no answer.
        InvocationFailed = "symbia.integrations.invocation.invocation-failed.v1" {
            request_id: String,
            integration_key: String,
            operation_id: String,
            category: ErrorCategory,
            code: String,
            message: Option<Personal>,
            retryable: bool,
            attempts: u32,
            duration_ms: u64,
            credential_id: Option<String>,
            requested_by: String,
            /// When asking again is worth it.
            retry_after_ms: Option<u64>,
        }
    }
}

/// What an operation is called with. It travels sealed.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct InvocationInput {
    /// By name.
    pub params: serde_json::Map<String, serde_json::Value>,
    /// The body, or the arguments of a tool.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub body: serde_json::Value,
    /// Headers besides those of the integration.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub headers: std::collections::BTreeMap<String, String>,
}
