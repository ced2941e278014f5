//! Events of a passthrough: a call of a provider's own API that is passed on as it came (integrations.md §28). What is said in it
//! is in no event.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CompletionContext, Cost, ErrorCategory, Usage};
use crate::{Personal, domain_events};

/// What the tokens of a model cost, in millionths of a US dollar for a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenPrice {
    /// For reading.
    pub input: u64,
    /// For writing.
    pub output: u64,
    /// For reading from the provider's cache; absent: as other input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<u64>,
    /// Which version of the price.
    pub version: u64,
}

impl TokenPrice {
    /// What tokens cost; parts of a millionth are rounded up.
    #[must_use]
    pub fn of(&self, usage: &Usage) -> Cost {
        let micros = |tokens: u64, price: u64| {
            let cost = (u128::from(tokens) * u128::from(price)).div_ceil(1_000_000);
            u64::try_from(cost).unwrap_or(u64::MAX)
        };
        let cached = usage.cached_prompt_tokens.unwrap_or(0).min(usage.prompt_tokens);
        let input_micros = micros(usage.prompt_tokens - cached, self.input)
            .saturating_add(micros(cached, self.cached_input.unwrap_or(self.input)));
        let output_micros = micros(usage.completion_tokens, self.output);
        let total_micros = input_micros.saturating_add(output_micros);
        Cost { input_micros, output_micros, total_micros, price_version: self.version }
    }
}

domain_events! {
    /// What can have happened to a passthrough. It ends with exactly one of completed and failed.
    PassthroughEvent: Integrations / "passthrough" {
        /// A call is to be passed on.
        PassthroughRequested = "symbia.integrations.passthrough.passthrough-requested.v1" {
            request_id: String,
            provider: String,
            method: String,
            /// Below the provider's base URL, without the query.
            path: String,
            /// The model that the body names.
            model: Option<String>,
            /// What it is expected to take, at least.
            estimated_tokens: u64,
            /// RFC 3339; a call without an end by then is taken for lost soon after.
            deadline: String,
            context: CompletionContext,
            requested_by: String,
        }
        /// It may be made: there is room in the budgets that count it.
        PassthroughAdmitted = "symbia.integrations.passthrough.passthrough-admitted.v1" {
            request_id: String,
            budgets: Vec<String>,
            /// The model's, where it is known.
            price: Option<TokenPrice>,
        }
        /// The provider answered, and the answer was passed on whole.
        PassthroughCompleted = "symbia.integrations.passthrough.passthrough-completed.v1" {
            request_id: String,
            provider: String,
            model: Option<String>,
            /// HTTP status of the answer.
            status_code: u16,
            usage: Usage,
            cost: Option<Cost>,
            response_bytes: u64,
            total_ms: u64,
            credential_id: Option<String>,
            credential_source: String,
            estimated_tokens: u64,
            context: CompletionContext,
            requested_by: String,
            budgets: Vec<String>,
        }
        /// It was not made, or refused by the provider, or broke off. It may have taken something all the same.
        PassthroughFailed = "symbia.integrations.passthrough.passthrough-failed.v1" {
            request_id: String,
            provider: String,
            model: Option<String>,
            category: ErrorCategory,
            code: Option<String>,
            message: Option<Personal>,
            /// HTTP status of the answer, where there was one.
            status_code: Option<u16>,
            retry_after_ms: Option<u64>,
            usage: Option<Usage>,
            cost: Option<Cost>,
            credential_id: Option<String>,
            credential_source: Option<String>,
            estimated_tokens: u64,
            context: CompletionContext,
            requested_by: String,
            budgets: Vec<String>,
        }
    }
}
