//! Events of a rule run: why an assistant answered as it did, and what became of it (assistants.md §21.4).
//!
//! They name content by reference and digest and never repeat it: prompts and answers stand in the completion, replies in
//! the conversation. Digests of what people wrote are keyed with the content key.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LlmConfig, Rule};
use crate::{
    domain_events,
    integrations::{ErrorCategory, Usage},
};

/// How one condition came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConditionResult {
    /// The field compared.
    pub path: String,
    /// The comparison.
    pub operator: String,
    /// Whether it holds.
    pub result: bool,
    /// Why it could not be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The beginning of an answer that was stopped is kept as a message (messaging.md §8.8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeepPartial {
    /// What it was given up for: a message or a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preempted_by: Option<String>,
}

domain_events! {
    /// What can have happened to a rule run. It ends with exactly one of completed, failed and cancelled.
    RuleRunEvent: Assistants / "rule-run" {
        /// A message set it off; its inputs are pinned.
        RuleRunStarted = "symbia.assistants.rule-run.rule-run-started.v1" {
            rule_run_id: String,
            trigger: String,
            /// Id of the event that set it off.
            event_ref: String,
            conversation_id: String,
            message_id: String,
            sender_id: String,
            assistant_key: String,
            /// Why this assistant: `mentioned`, `only-candidate`, `priority` or `no-match`.
            award_reason: String,
            /// Keys of the assistants that could have answered.
            candidates: Vec<String>,
            rule_set_key: String,
            /// None when there is no such assistant or rule set.
            rule_set_id: Option<String>,
            rule_set_version: Option<u32>,
            rule_set_digest: Option<String>,
            /// The rule that matched, as it was then.
            rule: Option<Rule>,
            /// Its place in the rule set.
            rule_index: Option<u32>,
            /// Model settings before the action's own.
            llm_config: Option<LlmConfig>,
            /// Keyed digest of the context the conditions saw.
            context_digest: String,
            /// Earlier messages at hand for a prompt, oldest first.
            history: Vec<String>,
            state_at_start: String,
            engine_version: u32,
            /// The run's logical clock, RFC 3339.
            now: String,
        }
        /// A rule was tried.
        RuleEvaluated = "symbia.assistants.rule-run.rule-evaluated.v1" {
            rule_id: String,
            rule_name: String,
            matched: bool,
            conditions: Vec<ConditionResult>,
        }
        /// An action is to be done.
        ActionRequested = "symbia.assistants.rule-run.action-requested.v1" {
            action_id: String,
            /// `<ruleIndex>/<actionIndex>`.
            path: String,
            #[serde(rename = "type")]
            action_type: String,
            rule_id: String,
            /// `completion/<requestId>` or `message/<messageId>`: where the resolved parameters stand.
            resolved_params_ref: String,
            /// Keyed digest of the resolved parameters.
            resolved_digest: String,
            idempotency_key: String,
            attempt: u32,
            /// References of its templates that led nowhere.
            unresolved_refs: Vec<String>,
        }
        /// An action is done.
        ActionCompleted = "symbia.assistants.rule-run.action-completed.v1" {
            action_id: String,
            output_ref: String,
            /// Keyed digest of the output.
            digest: String,
            duration_ms: u64,
            usage: Option<Usage>,
        }
        /// An action could not be done.
        ActionFailed = "symbia.assistants.rule-run.action-failed.v1" {
            action_id: String,
            category: ErrorCategory,
            /// Finer reason, e.g. `context_length_exceeded`.
            code: Option<String>,
            /// For people; never an upstream's own words.
            error: String,
            retryable: bool,
            will_retry: bool,
            duration_ms: u64,
        }
        /// It came to its end.
        RuleRunCompleted = "symbia.assistants.rule-run.rule-run-completed.v1" {
            rules_evaluated: u32,
            rules_matched: u32,
            /// The messages it sent.
            message_ids: Vec<String>,
            duration_ms: u64,
        }
        /// It could not.
        RuleRunFailed = "symbia.assistants.rule-run.rule-run-failed.v1" {
            category: ErrorCategory,
            code: Option<String>,
            error: String,
            duration_ms: u64,
        }
        /// It was stopped.
        RuleRunCancelled = "symbia.assistants.rule-run.rule-run-cancelled.v1" {
            by: String,
            reason: String,
            duration_ms: u64,
            /// Absent: what the model had said is dropped.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            keep_partial: Option<KeepPartial>,
        }
    }
}
