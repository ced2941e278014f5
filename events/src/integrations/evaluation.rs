//! Events of an evaluation: one model tried with the cases of one benchmark (integrations.md §16), and of what became of its
//! models' scores.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ErrorCategory, Target};
use crate::{Personal, domain_events};

/// What a model must be good at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "named as in integrations.md §3.1")]
pub enum TaskType {
    Routing,
    Conversational,
    Code,
    Reasoning,
    FunctionCalling,
    Embedding,
}

impl TaskType {
    /// All of them.
    pub const ALL: [TaskType; 6] = [
        TaskType::Routing,
        TaskType::Conversational,
        TaskType::Code,
        TaskType::Reasoning,
        TaskType::FunctionCalling,
        TaskType::Embedding,
    ];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TaskType::Routing => "routing",
            TaskType::Conversational => "conversational",
            TaskType::Code => "code",
            TaskType::Reasoning => "reasoning",
            TaskType::FunctionCalling => "function_calling",
            TaskType::Embedding => "embedding",
        }
    }
}

/// A case that is tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluatedCase {
    /// Its id in the benchmark.
    pub id: String,
    /// How much it counts beside the others.
    pub weight: f64,
}

/// How a model is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunConfig {
    /// Longest answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// How much chance there is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Where the chance begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// How long a case may take.
    pub timeout_ms: u64,
    /// Cases at once.
    pub parallelism: u32,
    /// How often a case that failed is tried again.
    pub retries: u32,
    /// Nobody is asked: the expected answers are graded.
    pub mock: bool,
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaseResult {
    /// Its id in the benchmark.
    pub test_case_id: String,
    /// The request to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The JSON of what was answered, sealed for whom it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Personal>,
    /// Whether it was good enough.
    pub passed: bool,
    /// 0 to 1.
    pub score: f64,
    /// What that stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it took.
    pub latency_ms: u64,
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// What it cost, where a price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micros: Option<u64>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

domain_events! {
    /// What can have happened to an evaluation. It ends with exactly one of completed, failed and cancelled.
    EvaluationEvent: Integrations / "evaluation" {
        /// A model is tried.
        EvaluationStarted = "symbia.integrations.evaluation.evaluation-started.v1" {
            evaluation_id: String,
            provider: String,
            model_id: String,
            benchmark_id: String,
            benchmark_version: String,
            cases: Vec<EvaluatedCase>,
            run_config: RunConfig,
            /// In whose name the model is asked: whose keys and budgets count.
            started_by: String,
            /// The API key that it was started with: which models may be asked, and whose limits count.
            key_id: Option<String>,
            /// Who judges answers whose meaning counts; absent: the default model.
            judge: Option<Target>,
        }
        /// A case was answered, and the answer graded.
        EvaluationCaseScored = "symbia.integrations.evaluation.evaluation-case-scored.v1" {
            evaluation_id: String,
            /// The how many-th it is, from 1.
            place: u32,
            result: CaseResult,
        }
        /// All cases have their grades.
        EvaluationCompleted = "symbia.integrations.evaluation.evaluation-completed.v1" {
            evaluation_id: String,
            /// 0 to 1, by the weights of the cases.
            overall_score: f64,
            /// The share of the cases that passed.
            accuracy: f64,
            latency_p50_ms: u64,
            latency_p95_ms: u64,
            latency_p99_ms: u64,
            total_input_tokens: u64,
            total_output_tokens: u64,
            /// Of the cases whose cost is known.
            cost_micros: u64,
        }
        /// The model cannot be tried.
        EvaluationFailed = "symbia.integrations.evaluation.evaluation-failed.v1" {
            evaluation_id: String,
            category: ErrorCategory,
            message: String,
        }
        /// It was stopped.
        EvaluationCancelled = "symbia.integrations.evaluation.evaluation-cancelled.v1" {
            evaluation_id: String,
            by: String,
        }
    }
}

domain_events! {
    /// What can have happened to the scores of a model for a task.
    ModelScoreEvent: Integrations / "model-score" {
        /// They were summed up anew. Each is 0 to 100.
        ModelScoreUpdated = "symbia.integrations.model-score.model-score-updated.v1" {
            score_id: String,
            provider: String,
            model_id: String,
            task_type: TaskType,
            quality_score: f64,
            speed_score: f64,
            cost_score: f64,
            reliability_score: f64,
            composite_score: f64,
            /// What they were summed up from.
            evaluation_ids: Vec<String>,
            by: String,
        }
    }
}
