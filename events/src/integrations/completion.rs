//! Events of a completion: one request to a language model, its attempts and its one end (integrations.md §25.3).
//!
//! Local inference is an attempt like any other (models.md §16.1). Deltas are live and not stored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    GuardrailFinding, GuardrailHook,
    prompt::{Cost, Target},
};
use crate::{Personal, domain_events};

/// What kind of failure (integrations.md §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "described in integrations.md §9")]
pub enum ErrorCategory {
    Auth,
    Validation,
    RateLimit,
    Timeout,
    Provider,
    Network,
    NotFound,
    ContentFilter,
    Quota,
    Internal,
}

impl ErrorCategory {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        use ErrorCategory::{Network, Provider, RateLimit, Timeout};
        matches!(self, Timeout | Network | RateLimit | Provider)
    }

    /// HTTP status for it.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            ErrorCategory::Validation => 400,
            ErrorCategory::Auth => 401,
            ErrorCategory::Quota => 402,
            ErrorCategory::NotFound => 404,
            ErrorCategory::ContentFilter => 422,
            ErrorCategory::RateLimit => 429,
            ErrorCategory::Internal => 500,
            ErrorCategory::Provider | ErrorCategory::Network => 502,
            ErrorCategory::Timeout => 504,
        }
    }
}

/// Why the model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "named as in integrations.md §3.1")]
pub enum FinishReason {
    Stop,
    Length,
    ContentFilter,
    ToolCalls,
    Error,
    Incomplete,
}

/// Who speaks in a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "named as in integrations.md §3.2")]
pub enum PromptRole {
    System,
    User,
    Assistant,
    Tool,
}

/// One message of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PromptMessage {
    /// Who speaks.
    pub role: PromptRole,
    /// What they say.
    pub content: Personal,
    /// Which of several speakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is besides text: the JSON of a [`PromptMore`](super::PromptMore).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<Personal>,
}

impl PromptMessage {
    /// A message of text alone.
    #[must_use]
    pub fn text(role: PromptRole, content: Personal) -> Self {
        PromptMessage { role, content, name: None, more: None }
    }
}

/// How tokens are chosen; what is absent is the model's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "named as in integrations.md §3.2")]
pub struct Sampling {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
}

/// On whose behalf a model is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "named as in integrations.md §25.3")]
pub struct CompletionContext {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assistant_id: Option<String>,
    /// The person whom an assistant answers: whose budgets and keys count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The API key that it was asked with: whose limits count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_run_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_id: Option<String>,
    /// The evaluation that it is a case of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case_id: Option<String>,
    /// The batch that it is a line of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<String>,
    /// Which line, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_line: Option<u32>,
    /// The request whose answer is graded by this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graded_id: Option<String>,
    /// Words of the asker's own, by which requests are found again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Id of the message that will carry the answer: live deltas name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_message_id: Option<String>,
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Their sum.
    pub total_tokens: u64,
    /// Prompt tokens that were in a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_prompt_tokens: Option<u64>,
    /// Counted by us, not by the provider.
    #[serde(default)]
    pub estimated: bool,
}

/// How long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timing {
    /// From the request to the attempt, milliseconds.
    pub queue_ms: u64,
    /// From the attempt to its first token, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<u64>,
    /// From the request to the end, milliseconds.
    pub total_ms: u64,
    /// Speed of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_sec: Option<f64>,
}

/// What an attempt took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Spent {
    /// Tokens.
    pub usage: Usage,
    /// What they cost; absent where no price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

impl Spent {
    /// Together with what another attempt took.
    #[must_use]
    pub fn and(self, other: Option<Spent>) -> Spent {
        let Some(other) = other else { return self };
        let usage = Usage {
            prompt_tokens: self.usage.prompt_tokens.saturating_add(other.usage.prompt_tokens),
            completion_tokens: self.usage.completion_tokens.saturating_add(other.usage.completion_tokens),
            total_tokens: self.usage.total_tokens.saturating_add(other.usage.total_tokens),
            cached_prompt_tokens: self.usage.cached_prompt_tokens,
            estimated: self.usage.estimated || other.usage.estimated,
        };
        let sum = |one: Cost, two: Cost| Cost {
            input_micros: one.input_micros.saturating_add(two.input_micros),
            output_micros: one.output_micros.saturating_add(two.output_micros),
            total_micros: one.total_micros.saturating_add(two.total_micros),
            price_version: one.price_version,
        };
        let cost = match (self.cost, other.cost) {
            (Some(one), Some(two)) => Some(sum(one, two)),
            (one, two) => one.or(two),
        };
        Spent { usage, cost }
    }
}

/// What the provider said of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "named as in integrations.md §25.3")]
pub struct Upstream {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// A parameter that the chosen model does not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "named as in integrations.md §25.3")]
pub struct DroppedParam {
    pub param: String,
    pub reason: String,
}

domain_events! {
    /// What can have happened to a completion. It ends with exactly one of completed, failed and cancelled; what was said until
    /// it was cancelled may follow.
    CompletionEvent: Integrations / "completion" {
        /// A model is to answer.
        CompletionRequested = "symbia.integrations.completion.completion-requested.v1" {
            request_id: String,
            /// Absent: the router chooses.
            provider: Option<String>,
            /// Absent: the provider's default.
            model: Option<String>,
            /// `chat.completions`.
            operation: String,
            messages: Vec<PromptMessage>,
            sampling: Sampling,
            stream: bool,
            credential_id: Option<String>,
            idempotency_key: Option<String>,
            /// RFC 3339; past it the request times out.
            deadline: Option<String>,
            context: CompletionContext,
            /// Keyed digest of the prompt.
            prompt_digest: String,
            requested_by: String,
            /// The JSON of a [`PromptOptions`](super::PromptOptions).
            options: Option<Personal>,
            /// What is asked instead, in order, when the first is at fault.
            #[serde(default)]
            fallbacks: Vec<Target>,
        }
        /// Budgets have room for it, and keep it.
        CompletionAdmitted = "symbia.integrations.completion.completion-admitted.v1" {
            request_id: String,
            /// Ids of the budgets.
            budgets: Vec<String>,
        }
        /// Guardrails found something, before the attempt or the end that follows.
        CompletionGuarded = "symbia.integrations.completion.completion-guarded.v1" {
            request_id: String,
            /// The attempt; absent when none was made.
            attempt: Option<u32>,
            hook: GuardrailHook,
            findings: Vec<GuardrailFinding>,
        }
        /// A worker asks a provider.
        CompletionAttemptStarted = "symbia.integrations.completion.completion-attempt-started.v1" {
            request_id: String,
            /// From 1; readers of the stream drop what belongs to an earlier one.
            attempt: u32,
            provider: String,
            model: String,
            /// Digest of the weights, for a local model.
            model_digest: Option<String>,
            worker_id: String,
            credential_id: Option<String>,
            /// `personal`, `org-wide` or `none`.
            credential_source: String,
            dropped_params: Vec<DroppedParam>,
            /// The attempt beside which it is made, since that one does not begin to answer: the first that does goes on.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            hedges: Option<u32>,
        }
        /// An attempt came to nothing; another may follow.
        CompletionAttemptFailed = "symbia.integrations.completion.completion-attempt-failed.v1" {
            request_id: String,
            attempt: u32,
            category: ErrorCategory,
            /// Finer reason, e.g. `worker_lost`.
            code: Option<String>,
            upstream: Option<Upstream>,
            message: Option<Personal>,
            retry_after_ms: Option<u64>,
            will_retry: bool,
            /// What it took all the same, where it was given up for another.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            spent: Option<Spent>,
        }
        /// The model answered.
        CompletionCompleted = "symbia.integrations.completion.completion-completed.v1" {
            request_id: String,
            attempt: u32,
            provider: String,
            requested_model: Option<String>,
            /// As the provider names it.
            model: String,
            operation: String,
            content: Personal,
            /// Keyed digest of the content.
            content_digest: String,
            finish_reason: FinishReason,
            raw_finish_reason: Option<String>,
            usage: Usage,
            timing: Timing,
            /// How many attempts it took.
            attempts: u32,
            provider_request_id: Option<String>,
            context: CompletionContext,
            warnings: Vec<String>,
            /// The JSON of a list of [`ToolCall`](super::ToolCall)s.
            tool_calls: Option<Personal>,
            /// What the model thought, where it tells.
            reasoning: Option<Personal>,
            /// The JSON of an [`AnswerMore`](super::AnswerMore).
            more: Option<Personal>,
            /// It was given before, and nobody was asked.
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            cached: bool,
            /// How near the message that it was given to is to this one, where they are not the same.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            similarity: Option<f64>,
            /// Absent where no price is known.
            cost: Option<Cost>,
            /// What attempts took besides that were given up for this one.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            hedged: Option<Spent>,
            credential_id: Option<String>,
            credential_source: Option<String>,
            requested_by: Option<String>,
            /// The budgets that kept room for it.
            #[serde(default)]
            budgets: Vec<String>,
        }
        /// No answer will come.
        CompletionFailed = "symbia.integrations.completion.completion-failed.v1" {
            request_id: String,
            category: ErrorCategory,
            /// Finer reason, e.g. `context_length_exceeded`.
            code: Option<String>,
            message: Option<Personal>,
            retryable: bool,
            status_code: u16,
            upstream: Option<Upstream>,
            attempts: u32,
            partial_content: Option<Personal>,
            usage: Option<Usage>,
            /// What it cost all the same, where that is known.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            cost: Option<Cost>,
            /// What attempts took besides that were given up for another.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            hedged: Option<Spent>,
            context: CompletionContext,
            /// The provider of the last attempt.
            provider: Option<String>,
            model: Option<String>,
            /// When asking again is worth it.
            retry_after_ms: Option<u64>,
            requested_by: Option<String>,
            #[serde(default)]
            budgets: Vec<String>,
        }
        /// It was stopped.
        CompletionCancelled = "symbia.integrations.completion.completion-cancelled.v1" {
            request_id: String,
            by: String,
            /// `client_disconnect`, `user`, `preempt`, `deadline` or `admin`.
            reason: String,
            attempts: u32,
            partial_content: Option<Personal>,
            usage: Option<Usage>,
            /// What attempts took besides that were given up for another.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            hedged: Option<Spent>,
            context: CompletionContext,
            requested_by: Option<String>,
            #[serde(default)]
            budgets: Vec<String>,
            /// Who stopped it wants what the model had said.
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            keep_partial: bool,
        }
        /// Whose request it was wants its answer given to nobody any more. It stays sealed where it stands in the log.
        CompletionForgotten = "symbia.integrations.completion.completion-forgotten.v1" {
            request_id: String,
            by: String,
        }
        /// What the model had said when it was stopped.
        CompletionPartialKept = "symbia.integrations.completion.completion-partial-kept.v1" {
            request_id: String,
            content: Personal,
            /// Keyed digest of the content.
            content_digest: String,
            context: CompletionContext,
        }
    }
}
