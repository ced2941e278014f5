//! Anthropic's messages API, and servers that speak it (integrations.md §8.2). Always streamed.

mod body;
mod reading;

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use symbia_events::integrations::DroppedParam;
use symbia_nats::enquiry::ListedModel;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use self::reading::Reading;
use super::{
    openai::no_key,
    provider::{Answer, ApiKey, Deltas, Fault, Prompt, Provider},
    upstream::{Call, Server, quota_used},
};
use crate::egress_policies::EgressPolicies;

/// Where Anthropic is.
pub const ANTHROPIC: &str = "https://api.anthropic.com/v1";
/// The API's version that this is written for.
const VERSION: &str = "2023-06-01";
/// Longest answer that is no stream.
const MAX_BODY: usize = 2 * 1024 * 1024;

/// How a server is asked.
#[derive(Clone, Debug)]
pub struct AnthropicOptions {
    /// Base URL, with its version: `https://api.anthropic.com/v1`.
    pub base_url: String,
    /// The installation's own key.
    pub key: Option<ApiKey>,
    /// The model of a request that names none.
    pub default_model: String,
    /// Longest silence of the server, before the first byte and between two.
    pub idle: Duration,
}

impl AnthropicOptions {
    /// A server, with the model `claude-sonnet-4-20250514` unless told otherwise, and a minute of patience.
    #[must_use]
    pub fn new(base_url: &str, key: Option<ApiKey>) -> Self {
        AnthropicOptions {
            base_url: base_url.trim_end_matches('/').to_owned(),
            key,
            default_model: "claude-sonnet-4-20250514".to_owned(),
            idle: Duration::from_secs(60),
        }
    }
}

/// The provider `anthropic`.
#[derive(Clone, Debug)]
pub struct Anthropic {
    options: AnthropicOptions,
    server: Server,
}

impl Anthropic {
    /// A provider; fails when no HTTP client can be made, or the base URL is none.
    pub fn new(options: AnthropicOptions) -> Result<Self, String> {
        let server = Server::new(&options.base_url, options.key.clone(), options.idle)?;
        Ok(Anthropic { options, server })
    }

    /// The same, which calls for organizations only what their policies let out.
    #[must_use]
    pub fn narrowed(self, policies: EgressPolicies) -> Self {
        Anthropic { server: self.server.narrowed(policies), ..self }
    }

    fn call<'a>(&'a self, org: &'a str, key: Option<&'a ApiKey>) -> Result<Call<'a>, Fault> {
        let call = self.server.call(org, key);
        if call.key().is_none() && !self.is_ready() { Err(no_key(self.key())) } else { Ok(call) }
    }
}

fn authorized(request: reqwest::RequestBuilder, call: Call<'_>) -> reqwest::RequestBuilder {
    let request = request.header("anthropic-version", VERSION);
    match call.key() {
        Some(key) => request.header("x-api-key", key),
        None => request,
    }
}

#[async_trait]
impl Provider for Anthropic {
    fn key(&self) -> &'static str {
        "anthropic"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["claude"]
    }

    fn default_model(&self) -> &str {
        &self.options.default_model
    }

    fn is_ready(&self) -> bool {
        self.server.has_key() || self.options.base_url != ANTHROPIC
    }

    fn dropped(&self, prompt: &Prompt) -> Vec<DroppedParam> {
        body::dropped(prompt)
    }

    async fn complete(&self, prompt: &Prompt, key: Option<&ApiKey>, deltas: Deltas<'_>) -> Result<Answer, Fault> {
        let call = self.call(&prompt.org, key)?;
        let body = body::body(prompt)?;
        let with = |r: reqwest::RequestBuilder| authorized(r.header("Accept", "text/event-stream"), call);
        let response = call.post(format!("{}/messages", call.base_url()), &body, with).await?;
        let headers = response.headers().clone();
        let quota_used = quota_used(&headers);
        let mut reading = Reading::new(call, headers, prompt);
        call.frames(response, |data| reading.frame(data, &mut *deltas)).await?;
        Ok(Answer { quota_used, ..reading.end()? })
    }

    async fn models(&self, org: &str, key: Option<&ApiKey>) -> Result<Vec<ListedModel>, Fault> {
        let call = self.call(org, key)?;
        let response = call.get(format!("{}/models?limit=1000", call.base_url()), |r| authorized(r, call)).await?;
        let said = call.json(response, MAX_BODY).await?;
        let Some(data) = said["data"].as_array() else { return Err(call.invalid("it has no 'data'")) };
        let model = |model: &Value| -> Option<ListedModel> {
            let created = model["created_at"].as_str().and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
            Some(ListedModel {
                id: model["id"].as_str()?.to_owned(),
                name: model["display_name"].as_str().map(str::to_owned),
                context_tokens: model["max_input_tokens"].as_u64(),
                created: created.map(OffsetDateTime::unix_timestamp),
                embeds: false,
            })
        };
        Ok(data.iter().filter_map(model).collect())
    }

    fn counts(&self) -> bool {
        true
    }

    async fn count(&self, prompt: &Prompt, key: Option<&ApiKey>) -> Result<u64, Fault> {
        let call = self.call(&prompt.org, key)?;
        let mut body = body::body(prompt)?;
        if let Some(body) = body.as_object_mut() {
            // What is of the answer is not known there.
            for field in ["max_tokens", "stream", "temperature", "top_p", "top_k", "stop_sequences"] {
                body.remove(field);
            }
        }
        let response =
            call.post(format!("{}/messages/count_tokens", call.base_url()), &body, |r| authorized(r, call)).await?;
        let said = call.json(response, MAX_BODY).await?;
        said["input_tokens"].as_u64().ok_or_else(|| call.invalid("it has no 'input_tokens'"))
    }
}
