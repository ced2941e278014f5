//! Events of an embedding: texts turned into vectors by one model (integrations.md §25.4).

use super::{CompletionContext, Cost, ErrorCategory, GuardrailFinding, Upstream, Usage};
use crate::{Personal, domain_events};

domain_events! {
    /// What can have happened to an embedding. It ends with exactly one of completed and failed.
    EmbeddingEvent: Integrations / "embedding" {
        /// A model is to read texts.
        EmbeddingRequested = "symbia.integrations.embedding.embedding-requested.v1" {
            request_id: String,
            provider: Option<String>,
            model: Option<String>,
            /// A JSON array of texts.
            inputs: Personal,
            count: u32,
            /// Absent: the model's own.
            dimensions: Option<u32>,
            credential_id: Option<String>,
            /// RFC 3339.
            deadline: Option<String>,
            context: CompletionContext,
            requested_by: String,
        }
        /// Here are the vectors.
        EmbeddingCompleted = "symbia.integrations.embedding.embedding-completed.v1" {
            request_id: String,
            provider: String,
            model: String,
            /// Base64 of the vectors one after another, each number a little-endian `f32`.
            vectors: Personal,
            count: u32,
            dimensions: u32,
            usage: Usage,
            cost: Option<Cost>,
            total_ms: u64,
            credential_id: Option<String>,
            credential_source: String,
            context: CompletionContext,
            requested_by: String,
            budgets: Vec<String>,
            /// What guardrails found in what was asked.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            guarded: Vec<GuardrailFinding>,
        }
        /// There will be none.
        EmbeddingFailed = "symbia.integrations.embedding.embedding-failed.v1" {
            request_id: String,
            category: ErrorCategory,
            code: Option<String>,
            message: Option<Personal>,
            retryable: bool,
            status_code: u16,
            upstream: Option<Upstream>,
            retry_after_ms: Option<u64>,
            context: CompletionContext,
            requested_by: String,
            budgets: Vec<String>,
            /// What guardrails found in what was asked.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            guarded: Vec<GuardrailFinding>,
        }
    }
}
