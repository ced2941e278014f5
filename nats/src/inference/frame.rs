//! What an inference process answers.

use serde::{Deserialize, Serialize};

use super::{Inspected, ModelStatus, ToolCall};

/// A frame of an answer. Exactly one terminal frame ends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Frame {
    /// A sign of life, which wants an empty reply.
    Alive,
    /// The prompt's computation begins.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Of these, tokens that need not be computed again.
        cached_tokens: u32,
    },
    /// The next piece of an answer.
    Delta {
        /// Which of the choices.
        choice: u32,
        /// The piece.
        piece: Piece,
    },
    /// Terminal: the answers are complete.
    Completed(Box<Completed>),
    /// Vectors, as base64 of little-endian f32.
    Vectors {
        /// Which input the first one belongs to.
        first: usize,
        /// One for each input from there.
        vectors: Vec<String>,
    },
    /// Terminal: all vectors came.
    Embedded {
        /// The model's id.
        model: String,
        /// Tokens of all inputs.
        prompt_tokens: u64,
    },
    /// Terminal: the model is in memory.
    Loaded(Box<ModelStatus>),
    /// Terminal: what the thing looked at is seen as.
    Inspected(Inspected),
    /// Terminal: there is no answer, or only the part already sent.
    Failed(Failure),
    /// Terminal: it was cancelled.
    Cancelled,
}

impl Frame {
    /// Whether no frame follows this one.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        !matches!(self, Frame::Alive | Frame::Started { .. } | Frame::Delta { .. } | Frame::Vectors { .. })
    }
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// Text; never a part of a character or of a stop string.
    Text(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    /// A complete call of a tool.
    ToolCall(ToolCall),
    /// How likely the tokens of the following pieces were.
    Logprobs(Vec<TokenLogprob>),
}

/// How likely a token was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<(Vec<u8>, f32)>,
}

/// Complete answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Completed {
    /// The model's id.
    pub model: String,
    /// One for each choice, in order: deltas may get lost.
    pub choices: Vec<Choice>,
    /// Tokens.
    pub usage: Usage,
    /// Times.
    pub timings: Timings,
}

/// A complete answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// Its text.
    pub text: String,
    /// What the model thought before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// Tools that it calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// How likely its tokens were, when that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Tokens of all choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, tokens that were not computed again.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
}

/// Times of an answer in milliseconds; of several choices those of the slowest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// Until the prompt's computation began, loading included.
    pub queue_ms: f64,
    /// From there to the first token.
    pub prompt_ms: f64,
    /// From there to the end.
    pub predicted_ms: f64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or wrote a stop string.
    #[default]
    Stop,
    /// `max_tokens` are generated or the context is full.
    Length,
    /// The model calls tools.
    ToolCalls,
}

impl FinishReason {
    /// Its name, OpenAI's as well.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
        }
    }
}

/// A request that was refused or could not be completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What a caller can tell apart.
    pub kind: FailureKind,
    /// What was wrong, where, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure and its message.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into() }
    }
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request contradicts itself or the model cannot do it.
    InvalidRequest,
    /// The grammar or schema cannot be used.
    InvalidFormat,
    /// No file of that name is in the model directory.
    ModelNotFound,
    /// The model's file is damaged, incomplete or of an unknown kind.
    ModelCorrupt,
    /// The prompt leaves no room for an answer.
    PromptTooLong {
        /// Tokens of the prompt; a lower bound when it is far too long.
        tokens: u32,
        /// Tokens that a prompt may have.
        limit: u32,
    },
    /// Too many requests wait for the model: try again later.
    QueueFull,
    /// The model needs more memory than there is.
    Memory,
    /// The model is being unloaded, or the engine is stopping: try again, elsewhere or later.
    Stopping,
    /// A fault of the engine itself; details are in its log.
    Internal,
}
