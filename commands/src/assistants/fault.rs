//! What is said when no answer can be given: clear, actionable, and never an upstream's own words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use symbia_events::integrations::ErrorCategory;

/// Why a run or one of its actions failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// What kind of failure.
    pub category: ErrorCategory,
    /// Finer reason.
    #[serde(default)]
    pub code: Option<String>,
    /// For people.
    pub error: String,
}

impl Failure {
    /// A failure with its finer reason.
    #[must_use]
    pub fn new(category: ErrorCategory, code: &str, error: impl Into<String>) -> Self {
        Failure { category, code: Some(code.to_owned()), error: error.into() }
    }

    /// The failure that a failed completion means to a reader of the conversation.
    #[must_use]
    pub fn of_completion(category: ErrorCategory, code: Option<&str>) -> Self {
        let code = code.map(str::to_owned);
        Failure { category, error: explain(category, code.as_deref()).to_owned(), code }
    }

    /// The message in the conversation.
    #[must_use]
    pub fn text(&self) -> String {
        format!("⚠️ I could not answer: {}.", self.error.trim_end_matches('.'))
    }
}

fn explain(category: ErrorCategory, code: Option<&str>) -> &'static str {
    match code {
        Some("context_length_exceeded") => {
            return "the conversation and the question are longer than the model can read; ask a shorter question or \
                    start a new conversation";
        }
        Some("no_model" | "no_provider") => {
            return "no language model is available; an operator can add a model file or configure a provider";
        }
        Some("model_invalid") => return "the model file is damaged or of an unknown kind; an operator must replace it",
        Some("empty_response") => return "the model gave an empty answer; ask again or put it differently",
        _ => {}
    }
    match category {
        ErrorCategory::Timeout => "the model took too long; try again",
        ErrorCategory::Network => "the model's provider cannot be reached; try again shortly",
        ErrorCategory::Auth => "the model's provider refused our key; an operator must renew it",
        ErrorCategory::RateLimit => "the model's provider is asked too often just now; try again in a minute",
        ErrorCategory::Quota => "the budget with the model's provider is used up; an operator must raise it",
        ErrorCategory::ContentFilter => "the model's provider declined this content; put it differently",
        ErrorCategory::Provider => "the model's provider failed or gave an unusable answer; try again",
        ErrorCategory::Validation => {
            "the model does not accept the request; an operator must check the assistant's rule"
        }
        ErrorCategory::NotFound => {
            "the model that the assistant asks for does not exist; an operator must choose another"
        }
        ErrorCategory::Internal => "something went wrong on our side; it is recorded, try again",
    }
}
