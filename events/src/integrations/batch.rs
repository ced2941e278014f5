//! Events of a batch: the lines of a file, each a request to a model, asked a few at a time (integrations.md §28).
//!
//! What a line asks for and what was answered stand in the completion that it is, and in files; here is only that it has its end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Personal, domain_events};

/// Which API the lines of a batch are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BatchEndpoint {
    /// The next message of a conversation.
    #[serde(rename = "/v1/chat/completions")]
    Chat,
    /// How a text goes on.
    #[serde(rename = "/v1/completions")]
    Text,
    /// Vectors of texts.
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
    /// A response.
    #[serde(rename = "/v1/responses")]
    Responses,
}

impl BatchEndpoint {
    /// All of them.
    pub const ALL: [BatchEndpoint; 4] =
        [BatchEndpoint::Chat, BatchEndpoint::Text, BatchEndpoint::Embeddings, BatchEndpoint::Responses];

    /// Its path.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            BatchEndpoint::Chat => "/v1/chat/completions",
            BatchEndpoint::Text => "/v1/completions",
            BatchEndpoint::Embeddings => "/v1/embeddings",
            BatchEndpoint::Responses => "/v1/responses",
        }
    }

    /// The one with a path.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        BatchEndpoint::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }
}

/// What is wrong with the input of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchError {
    /// For programs, e.g. `duplicate_custom_id`.
    pub code: String,
    /// For people.
    pub message: String,
    /// The member of the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
    /// The line of the file, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineOutcome {
    /// It was answered.
    Succeeded,
    /// It was refused, or nobody answered.
    Failed,
    /// The batch was stopped before it had an answer.
    Dropped,
}

/// Why a batch was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchStop {
    /// Whose it is wanted no more of it.
    Cancelled,
    /// Its time was over.
    Expired,
}

domain_events! {
    /// What can have happened to a batch. It ends with exactly one of failed, completed, cancelled and expired.
    BatchEvent: Integrations / "batch" {
        /// The lines of a file are to be asked.
        BatchCreated = "symbia.integrations.batch.batch-created.v1" {
            batch_id: String,
            input_file_id: String,
            endpoint: BatchEndpoint,
            completion_window: String,
            /// RFC 3339: when what has no answer gets none any more.
            expires_at: String,
            /// The JSON of an object of texts, for whose batch it is.
            metadata: Option<Personal>,
            /// In whose name models are asked: whose keys and budgets count.
            created_by: String,
            /// The API key that it was made with: which models may be asked, and whose limits count.
            key_id: Option<String>,
        }
        /// It is one of those that its organization may have under way at a time.
        BatchAdmitted = "symbia.integrations.batch.batch-admitted.v1" {
            batch_id: String,
            org_id: String,
            /// Which of the organization's places it has until its end, from 0.
            place: u32,
        }
        /// Its lines can be asked.
        BatchStarted = "symbia.integrations.batch.batch-started.v1" {
            batch_id: String,
            lines: u32,
            /// Lines that are asked at a time.
            at_once: u32,
        }
        /// Its input cannot be used.
        BatchFailed = "symbia.integrations.batch.batch-failed.v1" {
            batch_id: String,
            /// The first of them.
            errors: Vec<BatchError>,
        }
        /// A line has its one result.
        BatchLineEnded = "symbia.integrations.batch.batch-line-ended.v1" {
            batch_id: String,
            /// Which one, from 0.
            line: u32,
            /// The how many-th that ended, from 1.
            place: u32,
            outcome: LineOutcome,
        }
        /// A line met a limit, which is no result: it is asked again later.
        BatchLineDeferred = "symbia.integrations.batch.batch-line-deferred.v1" {
            batch_id: String,
            line: u32,
            /// How often it will have been asked again then.
            tries: u32,
            /// RFC 3339: when that is.
            ask_at: String,
        }
        /// A line that met a limit is to be asked again now.
        BatchLineDue = "symbia.integrations.batch.batch-line-due.v1" {
            batch_id: String,
            line: u32,
            tries: u32,
        }
        /// No further line is asked.
        BatchStopping = "symbia.integrations.batch.batch-stopping.v1" {
            batch_id: String,
            reason: BatchStop,
            by: String,
        }
        /// All lines that were asked have their results, which are put together.
        BatchFinalizing = "symbia.integrations.batch.batch-finalizing.v1" {
            batch_id: String,
        }
        /// All lines have their results.
        BatchCompleted = "symbia.integrations.batch.batch-completed.v1" {
            batch_id: String,
            /// Absent: nothing succeeded.
            output_file_id: Option<String>,
            /// Absent: nothing failed.
            error_file_id: Option<String>,
        }
        /// It was stopped by whose it is.
        BatchCancelled = "symbia.integrations.batch.batch-cancelled.v1" {
            batch_id: String,
            output_file_id: Option<String>,
            error_file_id: Option<String>,
        }
        /// Its time was over.
        BatchExpired = "symbia.integrations.batch.batch-expired.v1" {
            batch_id: String,
            output_file_id: Option<String>,
            error_file_id: Option<String>,
        }
    }
}
