//! Any server that speaks OpenAI's chat completions, streamed (integrations.md §8.1).

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use reqwest::{Response, StatusCode, header::HeaderMap};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use symbia_events::integrations::{DroppedParam, ErrorCategory, FinishReason, PromptRole, Sampling, Upstream, Usage};
use zeroize::Zeroizing;

use super::{
    provider::{Answer, Deltas, Fault, Prompt, Provider, append},
    sse::Frames,
};

const CONNECT: Duration = Duration::from_secs(5);
/// Longest error body that is looked at, and longest excerpt of what a provider says.
const MAX_ERROR: usize = 64 * 1024;
const MAX_EXCERPT: usize = 300;
/// Most stop texts that the API takes.
const MAX_STOP: usize = 4;
/// Longest answer of a server that does not stream.
const MAX_BODY: usize = 2 * 1024 * 1024;

/// A key of a provider. It cannot be printed.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// The key.
    #[must_use]
    pub fn new(key: Zeroizing<String>) -> Self {
        ApiKey(key)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// How a server is asked.
#[derive(Clone, Debug)]
pub struct OpenAiOptions {
    /// Base URL, with its version: `https://api.openai.com/v1`.
    pub base_url: String,
    /// Its key; servers of one's own often need none.
    pub key: Option<ApiKey>,
    /// The model of a request that names none.
    pub default_model: String,
    /// Longest silence of the server, before the first byte and between two.
    pub idle: Duration,
}

impl OpenAiOptions {
    /// A server, with the model `gpt-4o-mini` unless told otherwise, and a minute of patience.
    #[must_use]
    pub fn new(base_url: &str, key: Option<ApiKey>) -> Self {
        let base_url = base_url.trim_end_matches('/').to_owned();
        OpenAiOptions { base_url, key, default_model: "gpt-4o-mini".to_owned(), idle: Duration::from_secs(60) }
    }
}

/// The provider `openai`.
#[derive(Clone, Debug)]
pub struct OpenAi {
    options: OpenAiOptions,
    http: reqwest::Client,
}

impl OpenAi {
    /// A provider; fails when no HTTP client can be made, or the base URL is none.
    pub fn new(options: OpenAiOptions) -> Result<Self, String> {
        let url = reqwest::Url::parse(&options.base_url).map_err(|e| format!("'{}': {e}", options.base_url))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(format!("'{}' is no http(s) URL", options.base_url));
        }
        // A redirect could carry the key to another host.
        let http = reqwest::Client::builder().connect_timeout(CONNECT).redirect(reqwest::redirect::Policy::none());
        Ok(OpenAi { options, http: http.build().map_err(|e| e.to_string())? })
    }

    fn body(&self, prompt: &Prompt) -> Value {
        let role = |role| match role {
            PromptRole::System if is_reasoning(&prompt.model) => "developer",
            PromptRole::System => "system",
            PromptRole::User => "user",
            PromptRole::Assistant => "assistant",
            PromptRole::Tool => "tool",
        };
        let messages: Vec<Value> = prompt
            .turns
            .iter()
            .map(|turn| match &turn.name {
                Some(name) => json!({ "role": role(turn.role), "content": turn.content, "name": name }),
                None => json!({ "role": role(turn.role), "content": turn.content }),
            })
            .collect();
        let mut body = Map::new();
        body.insert("model".to_owned(), json!(prompt.model));
        body.insert("messages".to_owned(), json!(messages));
        body.insert("stream".to_owned(), json!(true));
        body.insert("stream_options".to_owned(), json!({ "include_usage": true }));
        let dropped = self.dropped(&prompt.model, &prompt.sampling);
        let mut give = |name: &str, wire: &str, value: Option<Value>| {
            if let Some(value) = value.filter(|_| dropped.iter().all(|d| d.param != name)) {
                body.insert(wire.to_owned(), value);
            }
        };
        let s = &prompt.sampling;
        let max_tokens = if is_reasoning(&prompt.model) { "max_completion_tokens" } else { "max_tokens" };
        give("temperature", "temperature", s.temperature.map(Value::from));
        give("topP", "top_p", s.top_p.map(Value::from));
        give("maxTokens", max_tokens, s.max_tokens.map(Value::from));
        let stop: Vec<_> = s.stop.iter().take(MAX_STOP).collect();
        give("stop", "stop", (!stop.is_empty()).then(|| json!(stop)));
        give("seed", "seed", s.seed.map(Value::from));
        give("frequencyPenalty", "frequency_penalty", s.frequency_penalty.map(Value::from));
        give("presencePenalty", "presence_penalty", s.presence_penalty.map(Value::from));
        Value::Object(body)
    }

    async fn send(&self, prompt: &Prompt) -> Result<Response, Fault> {
        let url = format!("{}/chat/completions", self.options.base_url);
        let mut request = self.http.post(url).json(&self.body(prompt)).header("Accept", "text/event-stream");
        if let Some(key) = &self.options.key {
            request = request.bearer_auth(key.0.as_str());
        }
        let response = self.patiently("no answer began", request.send()).await?.map_err(|e| self.network(&e))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    async fn patiently<T>(&self, what: &str, work: impl Future<Output = T>) -> Result<T, Fault> {
        let idle = self.options.idle;
        tokio::time::timeout(idle, work)
            .await
            .map_err(|_| Fault::timeout(&format!("{what} at {}", self.options.base_url), idle))
    }

    fn network(&self, error: &reqwest::Error) -> Fault {
        let source = std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default();
        let what = if error.is_connect() { "cannot be reached" } else { "broke the connection" };
        let message = format!("{} {what}{}", self.options.base_url, self.excerpt(&source));
        Fault::new(ErrorCategory::Network, "network", message)
    }

    fn invalid(&self, what: &str) -> Fault {
        let message = format!("{} gave an answer that is none: {what}", self.options.base_url);
        Fault::new(ErrorCategory::Provider, "invalid_response", message)
    }

    async fn refused(&self, response: Response) -> Fault {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.limited(response, MAX_ERROR).await.unwrap_or_default();
        let said = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        self.classified(Some(status), &headers, &said["error"])
    }

    // A body up to a limit; the rest is not read.
    async fn limited(&self, mut response: Response, most: usize) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::new();
        while let Some(piece) =
            self.patiently("the answer stopped", response.chunk()).await?.map_err(|e| self.network(&e))?
        {
            body.extend_from_slice(&piece);
            if body.len() > most {
                return Err(self.invalid(&format!("it is longer than {most} bytes")));
            }
        }
        Ok(body)
    }

    // integrations.md §9, by what the provider gives as data.
    fn classified(&self, status: Option<StatusCode>, headers: &HeaderMap, error: &Value) -> Fault {
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        let vendor = text("code").or_else(|| text("type"));
        let is = |what: &str| [text("code"), text("type")].iter().flatten().any(|v| v.contains(what));
        let said = error.as_str().map(str::to_owned).or_else(|| text("message")).unwrap_or_default();
        let (category, code) = match status.map(|s| s.as_u16()) {
            _ if is("insufficient_quota") || is("billing") => (ErrorCategory::Quota, "quota_exceeded"),
            _ if is("context_length") => (ErrorCategory::Validation, "context_length_exceeded"),
            Some(400 | 413 | 422) if said.contains("maximum context length") => {
                (ErrorCategory::Validation, "context_length_exceeded")
            }
            _ if is("content_filter") || is("content_policy") => (ErrorCategory::ContentFilter, "content_filter"),
            Some(401 | 403) => (ErrorCategory::Auth, "key_refused"),
            Some(402) => (ErrorCategory::Quota, "quota_exceeded"),
            Some(404) => (ErrorCategory::NotFound, "model_not_found"),
            Some(408) => (ErrorCategory::Timeout, "timeout"),
            Some(429) => (ErrorCategory::RateLimit, "rate_limited"),
            None if is("rate_limit") => (ErrorCategory::RateLimit, "rate_limited"),
            Some(409 | 425 | 500..) | None => (ErrorCategory::Provider, "provider_error"),
            Some(_) => (ErrorCategory::Validation, "request_refused"),
        };
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut message = format!("{} refused", self.options.base_url);
        if let Some(status) = status {
            message.push_str(&format!(" with HTTP {}", status.as_u16()));
        }
        if let Some(after) = header("retry-after").and_then(|v| v.parse::<u64>().ok()) {
            message.push_str(&format!("; try again after {after} s"));
        }
        if !said.is_empty() {
            message.push_str(&format!("; it says: {}", self.excerpt(&said)));
        }
        let request_id = header("x-request-id");
        let upstream =
            Upstream { status: status.map(|s| s.as_u16()), code: vendor.map(|v| self.excerpt(&v)), request_id };
        Fault { upstream: Some(upstream), ..Fault::new(category, code, message) }
    }

    // What a provider says is not ours to trust: short, on one line, and without the key should it echo it.
    fn excerpt(&self, text: &str) -> String {
        let text = match &self.options.key {
            Some(key) if !key.0.is_empty() => text.replace(key.0.as_str(), "[REDACTED]"),
            _ => text.to_owned(),
        };
        text.chars().take(MAX_EXCERPT).map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    async fn read(&self, response: Response, prompt: &Prompt, deltas: Deltas<'_>) -> Result<Answer, Fault> {
        let headers = response.headers().clone();
        let mut reading =
            Reading { provider: self, headers: &headers, answer: empty(prompt), finished: false, cut: false };
        let kind = headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        if kind.starts_with("application/json") {
            let body = self.limited(response, MAX_BODY).await?;
            let chunk = serde_json::from_slice(&body).map_err(|e| self.invalid(&e.to_string()))?;
            reading.take(chunk, deltas)?;
            return reading.end();
        }
        let mut frames = Frames::default();
        let mut stream = response.bytes_stream();
        while let Some(bytes) = self.patiently("the answer stopped", stream.next()).await? {
            // Broken off: what is there may still be whole.
            let Ok(bytes) = bytes else { break };
            for data in frames.push(&bytes).map_err(|e| self.invalid(&e.to_string()))? {
                if data == b"[DONE]" {
                    reading.finished = true;
                    return reading.end();
                }
                let chunk = serde_json::from_slice(&data).map_err(|e| self.invalid(&e.to_string()))?;
                reading.take(chunk, deltas)?;
                if reading.cut {
                    return reading.end();
                }
            }
        }
        reading.end()
    }
}

#[async_trait]
impl Provider for OpenAi {
    fn key(&self) -> &'static str {
        "openai"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["openai-compatible"]
    }

    fn default_model(&self) -> &str {
        &self.options.default_model
    }

    fn dropped(&self, model: &str, s: &Sampling) -> Vec<DroppedParam> {
        let reason = |text: &str| text.to_owned();
        let mut dropped = Vec::new();
        if s.top_k.is_some() {
            dropped.push(DroppedParam { param: "topK".to_owned(), reason: reason("the API has no such parameter") });
        }
        if is_reasoning(model) {
            let given = [
                ("temperature", s.temperature.is_some()),
                ("topP", s.top_p.is_some()),
                ("frequencyPenalty", s.frequency_penalty.is_some()),
                ("presencePenalty", s.presence_penalty.is_some()),
                ("stop", !s.stop.is_empty()),
            ];
            for (param, _) in given.into_iter().filter(|(_, given)| *given) {
                let param = param.to_owned();
                dropped.push(DroppedParam { param, reason: reason("reasoning models do not take it") });
            }
        }
        dropped
    }

    async fn complete(&self, prompt: &Prompt, deltas: Deltas<'_>) -> Result<Answer, Fault> {
        let response = self.send(prompt).await?;
        self.read(response, prompt, deltas).await
    }
}

// o1, o3-mini, gpt-5 and the like.
fn is_reasoning(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let o_series = name.strip_prefix('o').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let generation = name.strip_prefix("gpt-").and_then(|rest| rest.split(['.', '-']).next()?.parse::<u32>().ok());
    o_series || generation.is_some_and(|generation| generation >= 5)
}

#[derive(Deserialize)]
struct Chunk {
    id: Option<String>,
    model: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<VendorUsage>,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    // `message` from a server that does not stream.
    #[serde(alias = "message")]
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct VendorUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

fn empty(prompt: &Prompt) -> Answer {
    let too_many = prompt.sampling.stop.len() > MAX_STOP;
    let warning = too_many.then(|| format!("only the first {MAX_STOP} stop texts were used: the API takes no more"));
    Answer {
        text: String::new(),
        model: prompt.model.clone(),
        finish_reason: FinishReason::Stop,
        raw_finish_reason: None,
        // Until the provider counts: four bytes are about a token.
        usage: Usage {
            prompt_tokens: prompt.turns.iter().map(|turn| turn.content.len() as u64).sum::<u64>().div_ceil(4),
            estimated: true,
            ..Usage::default()
        },
        provider_request_id: None,
        warnings: warning.into_iter().collect(),
    }
}

struct Reading<'a> {
    provider: &'a OpenAi,
    headers: &'a HeaderMap,
    answer: Answer,
    finished: bool,
    cut: bool,
}

impl Reading<'_> {
    fn take(&mut self, chunk: Chunk, deltas: Deltas<'_>) -> Result<(), Fault> {
        if !chunk.error.is_null() {
            return Err(self.provider.classified(None, self.headers, &chunk.error));
        }
        self.answer.provider_request_id = self.answer.provider_request_id.take().or(chunk.id);
        if let Some(model) = chunk.model.filter(|model| !model.is_empty()) {
            self.answer.model = model;
        }
        if let Some(usage) = chunk.usage {
            self.answer.usage = Usage {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                total_tokens: usage.prompt_tokens + usage.completion_tokens,
                cached_prompt_tokens: usage.prompt_tokens_details.and_then(|d| d.cached_tokens),
                estimated: false,
            };
        }
        let Some(choice) = chunk.choices.into_iter().find(|choice| choice.index == 0) else { return Ok(()) };
        if let Some(text) = choice.delta.and_then(|delta| delta.content).filter(|text| !text.is_empty()) {
            let before = self.answer.text.len();
            self.cut = !append(&mut self.answer.text, &text);
            deltas(&self.answer.text[before..]);
        }
        if let Some(reason) = choice.finish_reason {
            self.answer.finish_reason = match reason.as_str() {
                "stop" | "end_turn" => FinishReason::Stop,
                "length" | "max_tokens" => FinishReason::Length,
                "content_filter" | "safety" => FinishReason::ContentFilter,
                "tool_calls" | "function_call" => FinishReason::ToolCalls,
                "incomplete" => FinishReason::Incomplete,
                _ => FinishReason::Error,
            };
            self.answer.raw_finish_reason = Some(reason);
            self.finished = true;
        }
        Ok(())
    }

    fn end(mut self) -> Result<Answer, Fault> {
        if self.cut {
            self.answer.finish_reason = FinishReason::Length;
            self.answer.warnings.push("the answer was longer than 128 kB and is cut off".to_owned());
        } else if !self.finished {
            let message = format!("the answer of {} broke off", self.provider.options.base_url);
            return Err(Fault::new(ErrorCategory::Provider, "truncated_stream", message));
        }
        let usage = &mut self.answer.usage;
        if usage.estimated {
            usage.completion_tokens = (self.answer.text.len() as u64).div_ceil(4);
            usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
        }
        Ok(self.answer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::integrations::Turn;

    fn openai() -> OpenAi {
        let key = ApiKey::new(Zeroizing::new("sk-secret".to_owned()));
        OpenAi::new(OpenAiOptions::new("http://localhost:1/v1/", Some(key))).unwrap()
    }

    fn prompt(model: &str) -> Prompt {
        let turn = |role, content: &str| Turn { role, content: content.to_owned(), name: None };
        Prompt {
            request_id: "r".to_owned(),
            attempt: 1,
            model: model.to_owned(),
            turns: vec![turn(PromptRole::System, "be kind"), turn(PromptRole::User, "hi")],
            sampling: Sampling {
                temperature: Some(0.5),
                top_p: Some(0.9),
                top_k: Some(40),
                max_tokens: Some(100),
                stop: vec!["END".to_owned()],
                seed: Some(7),
                frequency_penalty: Some(0.1),
                presence_penalty: Some(0.2),
            },
        }
    }

    #[test]
    fn each_parameter_goes_under_its_name_to_the_models_that_take_it_and_what_is_dropped_is_told() {
        let (openai, plain, reasoning) = (openai(), prompt("gpt-4o"), prompt("o3-mini"));
        let expected = json!({
            "model": "gpt-4o",
            "messages": [{ "role": "system", "content": "be kind" }, { "role": "user", "content": "hi" }],
            "stream": true, "stream_options": { "include_usage": true },
            "temperature": 0.5, "top_p": 0.9, "max_tokens": 100, "stop": ["END"], "seed": 7,
            "frequency_penalty": 0.1, "presence_penalty": 0.2,
        });
        assert_eq!(openai.body(&plain), expected);
        let expected = json!({
            "model": "o3-mini",
            "messages": [{ "role": "developer", "content": "be kind" }, { "role": "user", "content": "hi" }],
            "stream": true, "stream_options": { "include_usage": true },
            "max_completion_tokens": 100, "seed": 7,
        });
        assert_eq!(openai.body(&reasoning), expected);
        let dropped = |p: &Prompt| -> Vec<String> {
            openai.dropped(&p.model, &p.sampling).into_iter().map(|d| d.param).collect()
        };
        assert_eq!(dropped(&plain), ["topK"]);
        assert_eq!(dropped(&reasoning).len(), 6);
        let names = ["o1", "o4-mini", "gpt-5", "gpt-5.2-pro", "openai/o3", "gpt-4o", "gpt-4.1", "omni", "llama-3"];
        assert_eq!(names.map(is_reasoning), [true, true, true, true, true, false, false, false, false]);
    }

    #[test]
    fn a_key_is_never_printed_and_never_repeated() {
        let openai = openai();
        assert!(!format!("{openai:?}").contains("sk-secret"));
        assert_eq!(openai.excerpt("bad key sk-secret\nsorry"), "bad key [REDACTED] sorry");
        assert!(OpenAi::new(OpenAiOptions::new("ftp://x", None)).is_err());
    }
}
