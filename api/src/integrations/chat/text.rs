//! Requests to go on with a text, as OpenAI's older API has them.

use serde::Deserialize;
use symbia_events::integrations::{PromptOptions, PromptRole, Sampling};
use utoipa::ToSchema;

use super::{
    request::{OneOrMany, StreamOptions, checked_logprobs, choices, target},
    unsupported,
};
use crate::{
    http::ApiResult,
    integrations::ask::{Message, Question},
};

/// What a model is to go on with.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::integrations) struct CompletionRequest {
    #[serde(default)]
    model: Option<String>,
    /// One text.
    prompt: OneOrMany,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    stop: Option<OneOrMany>,
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    frequency_penalty: Option<f64>,
    #[serde(default)]
    presence_penalty: Option<f64>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    /// Answers, 1 to 8.
    #[serde(default)]
    n: Option<u32>,
    /// Tells how likely each token was, and so many of the likeliest in its place, 0 to 20.
    #[serde(default)]
    logprobs: Option<u32>,
    /// Only false.
    #[serde(default)]
    echo: Option<bool>,
    #[serde(default)]
    credential_id: Option<String>,
}

impl CompletionRequest {
    pub fn counts(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    pub fn question(self) -> ApiResult<Question> {
        if self.echo == Some(true) {
            return Err(unsupported("echo", "must be false: the text is not repeated"));
        }
        let mut prompts = self.prompt.into_vec();
        let (Some(prompt), true) = (prompts.pop(), prompts.is_empty()) else {
            return Err(unsupported("prompt", "must be one text"));
        };
        Ok(Question {
            operation: "text.generation",
            target: target(self.model),
            fallbacks: Vec::new(),
            messages: vec![Message::text(PromptRole::User, prompt)],
            sampling: Sampling {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: None,
                max_tokens: self.max_tokens,
                stop: self.stop.map(OneOrMany::into_vec).unwrap_or_default(),
                seed: self.seed,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
            },
            options: PromptOptions {
                choices: choices(self.n)?,
                logprobs: checked_logprobs("logprobs", self.logprobs)?,
                ..PromptOptions::default()
            },
            stream: self.stream.unwrap_or(false),
            credential_id: self.credential_id,
        })
    }
}
