//! A provider's server over HTTP: asked with one key, patiently but not for ever, in bounded memory. What it says is not ours
//! to trust.

use std::time::Duration;

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::Value;
use symbia_egress::{Blocked, Egress, EgressError, Rules};
use symbia_events::integrations::{ErrorCategory, Upstream};

use super::{
    provider::{ApiKey, Fault, not_looked_up},
    sse::Frames,
};
use crate::egress_policies::{EgressPolicies, WayOut};

/// Longest error body that is looked at, and longest excerpt of what a provider says.
const MAX_ERROR: usize = 64 * 1024;
const MAX_EXCERPT: usize = 300;

/// A server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    base_url: String,
    key: Option<ApiKey>,
    idle: Duration,
    out: WayOut,
}

/// The server, as asked once.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    server: &'a Server,
    org: &'a str,
    key: Option<&'a ApiKey>,
    idle: Duration,
}

impl Server {
    /// Fails when no HTTP client can be made, or the base URL is none. `idle` is its longest silence, before the first byte
    /// and between two.
    pub fn new(base_url: &str, key: Option<ApiKey>, idle: Duration) -> Result<Self, String> {
        let base_url = base_url.trim_end_matches('/').to_owned();
        let url = Url::parse(&base_url).map_err(|e| format!("'{base_url}': {e}"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(format!("'{base_url}' is no http(s) URL"));
        }
        // No other host gets the key, whatever a model's name makes of the URL.
        let egress = Egress::new(Rules::only(&url)).map_err(|e| e.to_string())?;
        let out = WayOut::new(egress, EgressPolicies::default());
        Ok(Server { base_url, key, idle, out })
    }

    /// The same, for organizations with policies.
    pub fn narrowed(self, policies: EgressPolicies) -> Self {
        Server { out: self.out.narrowed(policies), ..self }
    }

    /// Whether it has a key of its own.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// For an organization, with somebody's key, else with its own.
    pub fn call<'a>(&'a self, org: &'a str, key: Option<&'a ApiKey>) -> Call<'a> {
        Call { server: self, org, key: key.or(self.key.as_ref()), idle: self.idle }
    }
}

impl Call<'_> {
    /// The same for what takes its time: its longest silence is this one.
    pub fn patient(self, idle: Duration) -> Self {
        Call { idle, ..self }
    }

    /// Where it is.
    pub fn base_url(&self) -> &str {
        &self.server.base_url
    }

    /// The key, for the header that carries it.
    pub fn key(&self) -> Option<&str> {
        self.key.map(ApiKey::reveal)
    }

    /// A request that `with` completes; what is no success is a fault.
    pub async fn post(
        &self,
        url: String,
        body: &Value,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Fault> {
        self.send(Method::POST, &url, |request| with(request.json(body))).await
    }

    /// The same without a body.
    pub async fn get(
        &self,
        url: String,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Fault> {
        self.send(Method::GET, &url, with).await
    }

    /// A request with a body that is no JSON, which `with` puts there.
    pub async fn post_as(
        &self,
        url: String,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Fault> {
        self.send(Method::POST, &url, with).await
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Fault> {
        let url = Url::parse(url).map_err(|e| self.blocked(&e))?;
        let egress = self.server.out.of(self.org).await.map_err(|error| not_looked_up(&error))?;
        let request = with(egress.request(method, url).map_err(|blocked| match blocked {
            Blocked::Policy(_) => EgressError::from(blocked).into(),
            blocked => self.blocked(&blocked),
        })?);
        let response = self.patiently("no answer began", request.send()).await?.map_err(|e| self.network(&e))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    /// The data of each frame of a streamed answer until `take` wants no more. A stream that breaks off ends the same way as
    /// one that ends: what was taken tells whether it is whole.
    pub async fn frames(
        &self,
        response: Response,
        mut take: impl FnMut(&[u8]) -> Result<bool, Fault> + Send,
    ) -> Result<(), Fault> {
        if content_type(response.headers()).starts_with("text/html") {
            return Err(self.invalid("it is a page for people (text/html)"));
        }
        let mut frames = Frames::default();
        let mut stream = response.bytes_stream();
        while let Some(bytes) = self.patiently("the answer stopped", stream.next()).await? {
            let Ok(bytes) = bytes else { break };
            for data in frames.push(&bytes).map_err(|e| self.invalid(&e.to_string()))? {
                if !take(&data)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A whole JSON answer, of so many bytes at most.
    pub async fn json(&self, response: Response, most: usize) -> Result<Value, Fault> {
        let body = self.limited(response, most).await?;
        serde_json::from_slice(&body).map_err(|e| self.invalid(&e.to_string()))
    }

    /// A whole answer that is text, of so many bytes at most.
    pub async fn text(&self, response: Response, most: usize) -> Result<String, Fault> {
        let body = self.limited(response, most).await?;
        String::from_utf8(body).map_err(|_| self.invalid("it is no text"))
    }

    /// What an answer is made of, as it comes.
    pub fn pieces<'a>(self, response: Response) -> BoxStream<'a, Result<Bytes, Fault>>
    where
        Self: 'a,
    {
        let next = move |mut response: Response| async move {
            let piece = self.patiently("the answer stopped", response.chunk()).await?.map_err(|e| self.network(&e))?;
            Ok(piece.map(|piece| (piece, response)))
        };
        stream::try_unfold(response, next).boxed()
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

    async fn patiently<T>(&self, what: &str, work: impl Future<Output = T>) -> Result<T, Fault> {
        let idle = self.idle;
        let late = |_| Fault::timeout(&format!("{what} at {}", self.base_url()), idle);
        tokio::time::timeout(idle, work).await.map_err(late)
    }

    fn network(&self, error: &reqwest::Error) -> Fault {
        let source = std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default();
        let what = if error.is_connect() { "cannot be reached" } else { "broke the connection" };
        let message = format!("{} {what}{}", self.base_url(), self.excerpt(&source));
        Fault::new(ErrorCategory::Network, "network", message)
    }

    fn blocked(&self, why: &dyn std::error::Error) -> Fault {
        let message = format!("{} is not asked: {why}", self.base_url());
        Fault::new(ErrorCategory::Validation, "bad_endpoint", message)
    }

    /// The answer is none.
    pub fn invalid(&self, what: &str) -> Fault {
        let message = format!("{} gave an answer that is none: {what}", self.base_url());
        Fault::new(ErrorCategory::Provider, "invalid_response", message)
    }

    /// The answer has no end.
    pub fn broken(&self) -> Fault {
        let message = format!("the answer of {} broke off", self.base_url());
        Fault::new(ErrorCategory::Provider, "truncated_stream", message)
    }

    async fn refused(&self, response: Response) -> Fault {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.limited(response, MAX_ERROR).await.unwrap_or_default();
        let said = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        self.classified(Some(status), &headers, &said)
    }

    /// An error of the provider (integrations.md §9), by what it gives as data: its body is
    /// `{"error": {"message", "type", "code"}}` or `{"error": "…", "estimated_time": s}`. Without a status it came within a
    /// stream.
    pub fn classified(&self, status: Option<StatusCode>, headers: &HeaderMap, body: &Value) -> Fault {
        let error = &body["error"];
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        let vendor = text("code").or_else(|| text("type"));
        let is = |what: &str| [text("code"), text("type")].iter().flatten().any(|v| v.contains(what));
        let said = error.as_str().map(str::to_owned).or_else(|| text("message")).unwrap_or_default();
        let too_long = said.contains("maximum context length") || said.contains("prompt is too long");
        let (category, code) = match status.map(|s| s.as_u16()) {
            _ if is("insufficient_quota") || is("billing") => (ErrorCategory::Quota, "quota_exceeded"),
            _ if is("context_length") => (ErrorCategory::Validation, "context_length_exceeded"),
            Some(400 | 413 | 422) if too_long => (ErrorCategory::Validation, "context_length_exceeded"),
            _ if is("content_filter") || is("content_policy") => (ErrorCategory::ContentFilter, "content_filter"),
            Some(401 | 403) => (ErrorCategory::Auth, "key_refused"),
            Some(402) => (ErrorCategory::Quota, "quota_exceeded"),
            Some(404) => (ErrorCategory::NotFound, "model_not_found"),
            Some(408) => (ErrorCategory::Timeout, "timeout"),
            Some(429) => (ErrorCategory::RateLimit, "rate_limited"),
            None if is("rate_limit") => (ErrorCategory::RateLimit, "rate_limited"),
            None if is("invalid_request") => (ErrorCategory::Validation, "request_refused"),
            // 503 is also a model that is being loaded.
            Some(409 | 425 | 500..) | None => (ErrorCategory::Provider, "provider_error"),
            Some(_) => (ErrorCategory::Validation, "request_refused"),
        };
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let seconds = |v: f64| Duration::try_from_secs_f64(v).ok();
        let retry_after = header("retry-after-ms").and_then(|v| seconds(v.parse::<f64>().ok()? / 1000.0));
        let retry_after = retry_after.or_else(|| seconds(header("retry-after")?.parse().ok()?));
        let retry_after = retry_after.or_else(|| seconds(body["estimated_time"].as_f64()?));
        let mut message = format!("{} refused", self.base_url());
        if let Some(status) = status {
            message.push_str(&format!(" with HTTP {}", status.as_u16()));
        }
        if let Some(after) = retry_after {
            message.push_str(&format!("; try again after {} s", after.as_secs_f64()));
        }
        if !said.is_empty() {
            message.push_str(&format!("; it says: {}", self.excerpt(&said)));
        }
        let request_id = header("x-request-id").or_else(|| header("request-id"));
        let upstream =
            Upstream { status: status.map(|s| s.as_u16()), code: vendor.map(|v| self.excerpt(&v)), request_id };
        Fault { upstream: Some(Box::new(upstream)), retry_after, ..Fault::new(category, code, message) }
    }

    /// What a provider says: short, on one line, and without the key should it echo it.
    pub fn excerpt(&self, text: &str) -> String {
        let text = match self.key().filter(|key| !key.is_empty()) {
            Some(key) => text.replace(key, "[REDACTED]"),
            None => text.to_owned(),
        };
        text.chars().take(MAX_EXCERPT).map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// The largest share of what a provider grants in a window that is used, 0 to 1, as its headers tell.
pub(super) fn quota_used(headers: &HeaderMap) -> Option<f64> {
    let number = |name: String| headers.get(name)?.to_str().ok()?.parse::<f64>().ok();
    let used = |limit: Option<f64>, left: Option<f64>| {
        let limit = limit.filter(|limit| *limit > 0.0)?;
        Some((1.0 - left? / limit).clamp(0.0, 1.0))
    };
    let openai = ["requests", "tokens"]
        .map(|of| used(number(format!("x-ratelimit-limit-{of}")), number(format!("x-ratelimit-remaining-{of}"))));
    let anthropic = ["requests", "tokens", "input-tokens", "output-tokens"].map(|of| {
        used(number(format!("anthropic-ratelimit-{of}-limit")), number(format!("anthropic-ratelimit-{of}-remaining")))
    });
    openai.into_iter().chain(anthropic).flatten().max_by(f64::total_cmp)
}

/// The media type that an answer names.
pub(super) fn content_type(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default()
}
