//! What becomes of a request: pieces of its answer, and its one end.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_events::{
    Personal, SubjectKey,
    integrations::{
        AnswerChoice, AnswerMore, CompletionCompleted, CompletionEvent, Cost, ErrorCategory, Spent, Timing,
        TokenLogprob, Upstream, Usage,
    },
};

use crate::http::ApiError;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Reasoning(String),
    Tool {
        index: usize,
        id: Option<String>,
        name: Option<String>,
        arguments: String,
    },
    /// How likely the tokens of the next text are.
    Logprobs(Vec<TokenLogprob>),
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub provider: String,
    pub model: String,
    pub first: AnswerChoice,
    /// The answers beside it, where several were asked for.
    pub others: Vec<AnswerChoice>,
    /// Why the first ended, in the provider's word.
    pub raw_finish_reason: Option<String>,
    pub usage: Usage,
    pub cost: Option<Cost>,
    pub timing: Timing,
    pub attempts: u32,
    pub warnings: Vec<String>,
    pub provider_request_id: Option<String>,
    /// It was given before, and the model was not asked.
    pub cached: bool,
    /// How near the message that it was given to is to that of this request, where they are not the same.
    pub similarity: Option<f64>,
}

impl Answer {
    /// All answers, the first one first.
    pub fn choices(&self) -> impl Iterator<Item = &AnswerChoice> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    pub category: ErrorCategory,
    pub code: Option<String>,
    pub message: String,
    pub provider: Option<String>,
    pub upstream: Option<Box<Upstream>>,
    pub retry_after_ms: Option<u64>,
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Said {
    /// The attempt with this number is made.
    Started {
        attempt: u32,
        provider: String,
        model: String,
    },
    /// A piece, with its attempt and its place in it.
    Piece {
        attempt: u32,
        index: u64,
        /// Which of several answers it belongs to.
        choice: u32,
        piece: Piece,
    },
    /// What came of earlier attempts is to be forgotten.
    Reset {
        attempt: u32,
    },
    Completed(Box<Answer>),
    Failed(Failure),
}

/// The end that an event is, opened.
pub(super) fn ended(key: &SubjectKey, event: CompletionEvent) -> Option<Said> {
    match event {
        CompletionEvent::CompletionCompleted(e) => Some(match opened(key, e) {
            Some(answer) => Said::Completed(Box::new(answer)),
            None => {
                let message = "the answer cannot be read: its key was destroyed";
                Said::Failed(Failure::new(ErrorCategory::NotFound, "key_destroyed", message))
            }
        }),
        CompletionEvent::CompletionFailed(e) => {
            let message = e.message.and_then(|message| key.open(&message).ok());
            Some(Said::Failed(Failure {
                category: e.category,
                code: e.code,
                message: message.unwrap_or_else(|| "the model gave no answer".to_owned()),
                provider: e.provider,
                upstream: e.upstream.map(Box::new),
                retry_after_ms: e.retry_after_ms,
            }))
        }
        CompletionEvent::CompletionCancelled(e) => {
            let message = format!("the request was cancelled: {}", e.reason);
            Some(Said::Failed(Failure::new(ErrorCategory::Internal, "cancelled", message)))
        }
        CompletionEvent::CompletionRequested(_)
        | CompletionEvent::CompletionAdmitted(_)
        | CompletionEvent::CompletionGuarded(_)
        | CompletionEvent::CompletionAttemptStarted(_)
        | CompletionEvent::CompletionAttemptFailed(_)
        | CompletionEvent::CompletionPartialKept(_)
        | CompletionEvent::CompletionForgotten(_) => None,
    }
}

/// What was sealed of an answer, in clear; none where its key is gone.
fn opened(key: &SubjectKey, e: CompletionCompleted) -> Option<Answer> {
    let open = |sealed: Option<Personal>| sealed.map(|sealed| key.open(&sealed)).transpose().ok();
    let (text, reasoning) = (key.open(&e.content).ok()?, open(e.reasoning)?.unwrap_or_default());
    let tool_calls = open(e.tool_calls)?.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    let more: AnswerMore = open(e.more)?.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    let AnswerMore { logprobs, others } = more;
    Some(Answer {
        provider: e.provider,
        model: e.model,
        first: AnswerChoice { text, reasoning, tool_calls, finish_reason: e.finish_reason, logprobs },
        others,
        raw_finish_reason: e.raw_finish_reason,
        usage: e.usage,
        cost: Spent { usage: e.usage, cost: e.cost }.and(e.hedged).cost,
        timing: e.timing,
        attempts: e.attempts,
        warnings: e.warnings,
        provider_request_id: e.provider_request_id,
        cached: e.cached,
        similarity: e.similarity,
    })
}

/// What a live message says.
pub(super) fn live(message: &Value) -> Option<Said> {
    let attempt = u32::try_from(message["attempt"].as_u64()?).ok()?;
    match message["type"].as_str()? {
        "reset" => Some(Said::Reset { attempt }),
        "delta" => {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let tool = &message["tool"];
            let piece = if let Some(said) = text(&message["text"]) {
                Piece::Text(said)
            } else if let Some(thought) = text(&message["reasoning"]) {
                Piece::Reasoning(thought)
            } else if message["logprobs"].is_array() {
                Piece::Logprobs(Vec::deserialize(&message["logprobs"]).ok()?)
            } else {
                Piece::Tool {
                    index: usize::try_from(tool["index"].as_u64()?).ok()?,
                    id: text(&tool["id"]),
                    name: text(&tool["name"]),
                    arguments: text(&tool["arguments"]).unwrap_or_default(),
                }
            };
            let choice = message["choice"].as_u64().map_or(Ok(0), u32::try_from).ok()?;
            Some(Said::Piece { attempt, index: message["index"].as_u64()?, choice, piece })
        }
        _ => None,
    }
}

impl Failure {
    pub fn new(category: ErrorCategory, code: &str, message: impl Into<String>) -> Self {
        let (code, message) = (Some(code.to_owned()), message.into());
        Failure { category, code, message, provider: None, upstream: None, retry_after_ms: None }
    }

    /// HTTP status (integrations.md §9).
    pub fn status(&self) -> StatusCode {
        let status = match self.code.as_deref() {
            Some("circuit_open") => 503,
            Some("model_not_allowed" | "egress_policy" | "own_key_needed" | "not_screened") => 403,
            _ => self.category.status(),
        };
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The answer that a caller gets of a request.
    pub fn error(&self, request_id: &str) -> ApiError {
        self.refusal().with_extra("completionId", request_id)
    }

    /// The same where there is no request.
    pub fn refusal(&self) -> ApiError {
        let category = json!(self.category);
        let code = self.code.as_deref().or(category.as_str()).unwrap_or("internal").to_uppercase();
        let mut message = self.message.clone();
        if let Some(first) = message.get(..1).map(str::to_uppercase) {
            message.replace_range(..1, &first);
        }
        let error = ApiError::new(self.status(), code, message)
            .with_extra("success", false)
            .with_extra("category", category.clone())
            .with_extra("errorCategory", category)
            .with_extra("retryable", self.category.is_retryable())
            .with_extra("provider", self.provider.clone())
            .with_extra("upstream", json!(self.upstream));
        match self.retry_after_ms {
            Some(wait) => error.with_retry_after(u32::try_from(wait.div_ceil(1000)).unwrap_or(u32::MAX)),
            None => error,
        }
    }
}
