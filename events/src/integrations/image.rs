//! Events of an image request: pictures that a model makes of a text (integrations.md §28).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CompletionContext, Cost, ErrorCategory, GuardrailFinding, Upstream, Usage};
use crate::{Personal, domain_events};

/// How pictures are to be; what is absent is the model's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageShape {
    /// Width and height, e.g. `1024x1024`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// e.g. `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<String>,
    /// e.g. `natural`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
    /// e.g. `transparent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<String>,
    /// `png`, `jpeg` or `webp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_format: Option<String>,
    /// How much of it is kept when it is made smaller, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_compression: Option<u32>,
    /// `url` or `b64_json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<String>,
}

/// A picture, by its address or whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Picture {
    /// Where it is, for a while, or the address of a [`KeptPicture`](super::KeptPicture).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its file in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64_json: Option<String>,
    /// What it was made of in the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revised_prompt: Option<String>,
}

domain_events! {
    /// What can have happened to an image request. It ends with exactly one of completed and failed.
    ImageEvent: Integrations / "image" {
        /// A model is to make pictures.
        ImageRequested = "symbia.integrations.image.image-requested.v1" {
            request_id: String,
            provider: Option<String>,
            model: Option<String>,
            prompt: Personal,
            count: u32,
            shape: ImageShape,
            credential_id: Option<String>,
            /// RFC 3339.
            deadline: Option<String>,
            context: CompletionContext,
            requested_by: String,
        }
        /// Here they are.
        ImageCompleted = "symbia.integrations.image.image-completed.v1" {
            request_id: String,
            provider: String,
            model: String,
            /// A JSON array of `Picture`s.
            pictures: Personal,
            count: u32,
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
        ImageFailed = "symbia.integrations.image.image-failed.v1" {
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
