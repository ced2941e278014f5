//! Events of a task: something other than an answer, vectors or pictures that one model does in one piece (integrations.md §28).
//! What is to be done is sealed with what came of it; the event says what kind it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CompletionContext, Cost, ErrorCategory, GuardrailFinding, PromptPart, Upstream, Usage};
use crate::{Personal, domain_events};

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Documents are put in the order in which they answer a question.
    #[default]
    Rerank,
    /// Texts and pictures are looked at for what is harmful.
    Moderation,
    /// A text is spoken.
    Speech,
    /// What is said in audio is written down.
    Transcription,
    /// The same, in English.
    Translation,
}

impl TaskKind {
    /// The operation that it is in usage and records.
    #[must_use]
    pub fn operation(self) -> &'static str {
        match self {
            TaskKind::Rerank => "rerank",
            TaskKind::Moderation => "moderations",
            TaskKind::Speech => "audio.speech",
            TaskKind::Transcription => "audio.transcriptions",
            TaskKind::Translation => "audio.translations",
        }
    }
}

/// What a task took besides tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskUnits {
    /// Characters that were spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub characters: Option<u64>,
    /// Milliseconds of audio that were listened to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_ms: Option<u64>,
}

impl TaskUnits {
    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == TaskUnits::default()
    }
}

/// Documents to put in order: what a task of kind [`TaskKind::Rerank`] seals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RerankInput {
    /// The question.
    pub query: String,
    /// What may answer it.
    pub documents: Vec<String>,
    /// How many are wanted; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_n: Option<u32>,
}

impl RerankInput {
    /// Tokens of all of it, until a provider counts: four bytes are about one.
    #[must_use]
    pub fn estimated_tokens(&self) -> u64 {
        let bytes = self.query.len() + self.documents.iter().map(String::len).sum::<usize>();
        (bytes as u64).div_ceil(4)
    }
}

/// How well a document answers: what comes of such a task is an array of them, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankedDocument {
    /// Which of the documents, from 0.
    pub index: usize,
    /// How well, on the model's own scale.
    pub score: f64,
}

/// What to look at: what a task of kind [`TaskKind::Moderation`] seals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ModerationInput {
    /// One text.
    One(String),
    /// Several, each of which is a thing of its own.
    Many(Vec<String>),
    /// Texts and pictures that are one thing together.
    Parts(Vec<PromptPart>),
}

impl ModerationInput {
    /// What of it is text.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let (one, many, parts) = match self {
            ModerationInput::One(text) => (Some(text), &[][..], &[][..]),
            ModerationInput::Many(texts) => (None, texts.as_slice(), &[][..]),
            ModerationInput::Parts(parts) => (None, &[][..], parts.as_slice()),
        };
        let parts = parts.iter().filter_map(|part| match part {
            PromptPart::Text { text } => Some(text),
            PromptPart::Image { .. } => None,
        });
        one.into_iter().chain(many).chain(parts).map(String::as_str)
    }

    /// Tokens of its texts: four bytes are about one.
    #[must_use]
    pub fn estimated_tokens(&self) -> u64 {
        (self.texts().map(str::len).sum::<usize>() as u64).div_ceil(4)
    }
}

/// What comes of such a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModerationOutput {
    /// The provider's id of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What was found, in the provider's own words: one for each text, or one for all parts.
    pub results: Vec<Value>,
}

domain_events! {
    /// What can have happened to a task. It ends with exactly one of completed and failed.
    TaskEvent: Integrations / "task" {
        /// A model is to do it.
        TaskRequested = "symbia.integrations.task.task-requested.v1" {
            request_id: String,
            kind: TaskKind,
            provider: Option<String>,
            model: Option<String>,
            /// JSON, by its kind.
            input: Personal,
            credential_id: Option<String>,
            /// RFC 3339.
            deadline: Option<String>,
            context: CompletionContext,
            requested_by: String,
        }
        /// It is done.
        TaskCompleted = "symbia.integrations.task.task-completed.v1" {
            request_id: String,
            provider: String,
            model: String,
            /// JSON, by its kind.
            output: Personal,
            usage: Usage,
            #[serde(default, skip_serializing_if = "TaskUnits::is_empty")]
            units: TaskUnits,
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
        /// It will not be done.
        TaskFailed = "symbia.integrations.task.task-failed.v1" {
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
            /// What it took all the same, and cost.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            usage: Option<Usage>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            cost: Option<Cost>,
            budgets: Vec<String>,
            /// What guardrails found in what was asked.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            guarded: Vec<GuardrailFinding>,
        }
    }
}
