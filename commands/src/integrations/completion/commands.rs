//! What a completion can be asked to do (integrations.md §25.3).

use symbia_events::{
    Personal,
    integrations::{
        CompletionContext, Cost, DroppedParam, ErrorCategory, FinishReason, GuardrailFinding, PromptMessage, Sampling,
        Spent, Target, Timing, Upstream, Usage,
    },
};

use crate::domain_commands;

domain_commands! {
    /// What a completion can be asked to do. All but the request and the cancellation come from workers.
    CompletionCommand: Integrations / "completion" {
        /// Asks a model.
        RequestCompletion = "symbia.cmd.integrations.request-completion.v1" {
            request_id: String,
            /// Absent: the router chooses.
            #[serde(default)]
            provider: Option<String>,
            #[serde(default)]
            model: Option<String>,
            operation: String,
            messages: Vec<PromptMessage>,
            #[serde(default)]
            sampling: Sampling,
            #[serde(default)]
            stream: bool,
            #[serde(default)]
            credential_id: Option<String>,
            #[serde(default)]
            idempotency_key: Option<String>,
            /// RFC 3339.
            #[serde(default)]
            deadline: Option<String>,
            #[serde(default)]
            context: CompletionContext,
            /// Keyed digest of the prompt.
            prompt_digest: String,
            /// The JSON of a `PromptOptions`.
            #[serde(default)]
            options: Option<Personal>,
            #[serde(default)]
            fallbacks: Vec<Target>,
        }
        /// Budgets have room for it. Before the first attempt.
        AdmitCompletion = "symbia.cmd.integrations.admit-completion.v1" {
            request_id: String,
            budgets: Vec<String>,
        }
        /// A worker takes it. The next number while an attempt is open: the worker of that one is lost, unless it is made beside
        /// that one.
        StartCompletionAttempt = "symbia.cmd.integrations.start-completion-attempt.v1" {
            request_id: String,
            attempt: u32,
            provider: String,
            model: String,
            #[serde(default)]
            model_digest: Option<String>,
            worker_id: String,
            #[serde(default)]
            credential_id: Option<String>,
            credential_source: String,
            #[serde(default)]
            dropped_params: Vec<DroppedParam>,
            /// The attempt beside which it is made.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            hedges: Option<u32>,
            /// What guardrails found in the prompt.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            guarded: Vec<GuardrailFinding>,
        }
        /// An attempt came to nothing, another will follow.
        FailCompletionAttempt = "symbia.cmd.integrations.fail-completion-attempt.v1" {
            request_id: String,
            attempt: u32,
            category: ErrorCategory,
            #[serde(default)]
            code: Option<String>,
            #[serde(default)]
            upstream: Option<Upstream>,
            #[serde(default)]
            message: Option<Personal>,
            #[serde(default)]
            retry_after_ms: Option<u64>,
            /// What it took all the same, when it is given up for another.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            spent: Option<Spent>,
        }
        /// The model answered.
        CompleteCompletion = "symbia.cmd.integrations.complete-completion.v1" {
            request_id: String,
            attempt: u32,
            model: String,
            content: Personal,
            content_digest: String,
            finish_reason: FinishReason,
            #[serde(default)]
            raw_finish_reason: Option<String>,
            usage: Usage,
            timing: Timing,
            #[serde(default)]
            provider_request_id: Option<String>,
            #[serde(default)]
            warnings: Vec<String>,
            /// The JSON of a list of `ToolCall`s.
            #[serde(default)]
            tool_calls: Option<Personal>,
            #[serde(default)]
            reasoning: Option<Personal>,
            /// The JSON of an `AnswerMore`.
            #[serde(default)]
            more: Option<Personal>,
            #[serde(default)]
            cached: bool,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            similarity: Option<f64>,
            #[serde(default)]
            cost: Option<Cost>,
            /// What guardrails found in the answer.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            guarded: Vec<GuardrailFinding>,
        }
        /// No answer will come. Without an attempt when none could be made.
        FailCompletion = "symbia.cmd.integrations.fail-completion.v1" {
            request_id: String,
            /// The attempt that failed; absent when none was made.
            #[serde(default)]
            attempt: Option<u32>,
            category: ErrorCategory,
            #[serde(default)]
            code: Option<String>,
            #[serde(default)]
            message: Option<Personal>,
            #[serde(default)]
            upstream: Option<Upstream>,
            #[serde(default)]
            partial_content: Option<Personal>,
            #[serde(default)]
            usage: Option<Usage>,
            #[serde(default)]
            retry_after_ms: Option<u64>,
            /// What it cost all the same.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            cost: Option<Cost>,
            /// What guardrails found: in the answer, or in the prompt when no attempt was made.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            guarded: Vec<GuardrailFinding>,
        }
        /// Stops it.
        CancelCompletion = "symbia.cmd.integrations.cancel-completion.v1" {
            request_id: String,
            /// `client_disconnect`, `user`, `preempt`, `deadline` or `admin`.
            reason: String,
            #[serde(default)]
            partial_content: Option<Personal>,
            #[serde(default)]
            usage: Option<Usage>,
            /// Whoever works on it is to hand in what the model had said.
            #[serde(default)]
            keep_partial: bool,
        }
        /// Its answer is given to nobody any more.
        ForgetCompletion = "symbia.cmd.integrations.forget-completion.v1" { request_id: String }
        /// Hands in what the model had said when it was stopped, where that is wanted.
        KeepPartialAnswer = "symbia.cmd.integrations.keep-partial-answer.v1" {
            request_id: String,
            content: Personal,
            content_digest: String,
        }
    }
}
