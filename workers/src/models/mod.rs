//! Local models: the GGUF files of a directory, and the engine that generates text with them.
//!
//! The engine needs the feature `llama`; what is in the directory can be listed without it. [`Options`] start a
//! `Service`, its `Handle` takes a [`Request`] and gives back a channel of [`Event`]s, of which exactly one is
//! terminal. llama.cpp aborts the process on some errors, so the engine belongs into a process of its own.

pub mod directory;
mod gguf;
#[cfg(feature = "llama")]
mod job;
#[cfg(feature = "llama")]
mod lane;
#[cfg(feature = "llama")]
mod prompt;
#[cfg(feature = "llama")]
mod scheduler;
#[cfg(feature = "llama")]
mod sequence;
#[cfg(feature = "llama")]
mod service;
#[cfg(all(test, feature = "llama"))]
mod tests;
#[cfg_attr(not(feature = "llama"), allow(dead_code, reason = "only the engine writes text"))]
mod text;
pub mod wire;
#[cfg(feature = "llama")]
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use directory::{Details, Model};
#[cfg(feature = "llama")]
pub use service::{Handle, Service};
#[cfg(feature = "llama")]
pub use worker::{InferenceWorker, InferenceWorkerError};

/// How the engine runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that holds the `*.gguf` files.
    pub model_dir: PathBuf,
    /// The model of a request that names none: a file's name without `.gguf`, or the part before its first dot.
    pub default_model: String,
    /// Tokens that one sequence may hold, prompt and answer together; a model trained on less has less.
    pub context_tokens: u32,
    /// Threads that compute. As many as there are cores makes decoding collapse when anything else runs.
    pub threads: usize,
    /// Sequences that one model decodes at a time, 1 to 256. Memory for their contexts is taken at loading.
    pub parallel: u32,
    /// Requests that may wait for a model beyond those that it decodes.
    pub max_queue: usize,
    /// A model without requests for so long is unloaded.
    pub idle_unload: Duration,
}

impl Options {
    /// The defaults with models from `model_dir`: pico-chat, 8 sequences of at most 4 096 tokens, all cores but one.
    pub fn new(model_dir: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            model_dir: model_dir.into(),
            default_model: "pico-chat".to_owned(),
            context_tokens: 4096,
            threads: cores.saturating_sub(1).max(1),
            parallel: 8,
            max_queue: 64,
            idle_unload: Duration::from_secs(300),
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the model's chat template knows.
    pub role: String,
    /// The text. Control tokens written in it lose their meaning, so it cannot open a turn of another role.
    pub content: String,
}

/// A completion to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model; none means [`Options::default_model`].
    pub model: Option<String>,
    /// The conversation, oldest turn first; at least one.
    pub messages: Vec<Message>,
    /// Tokens to generate at most; none means as many as the context holds.
    pub max_tokens: Option<u32>,
    /// 0 takes the likeliest token each time and is deterministic; 1 samples as the model says.
    pub temperature: f32,
    /// Sample only among the likeliest tokens that together have this probability; more than 0, at most 1.
    pub top_p: f32,
    /// Seed of the sampling; none takes a random one.
    pub seed: Option<u32>,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Generate on when the model ends its turn, up to `max_tokens`: for load tests of a fixed length.
    pub ignore_eos: bool,
    /// Cancels the request while it waits or generates. Dropping the receiver of its events does the same.
    pub cancel: CancellationToken,
}

impl Request {
    /// The default model's likeliest answer to `messages`, of any length.
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            model: None,
            messages,
            max_tokens: None,
            temperature: 0.0,
            top_p: 1.0,
            seed: None,
            stop: Vec::new(),
            ignore_eos: false,
            cancel: CancellationToken::new(),
        }
    }
}

/// What happens to a request: at most one `Started`, deltas, then exactly one terminal event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The prompt is tokenized and its computation begins.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: u32,
    },
    /// The next piece of the answer; never empty, never a part of a character or of a stop string.
    Delta {
        /// The piece.
        text: String,
    },
    /// Terminal: the answer is complete.
    Completed {
        /// Why it ended.
        finish_reason: FinishReason,
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens generated.
        completion_tokens: u32,
    },
    /// Terminal: no answer, or only the part already sent.
    Failed(Failure),
    /// Terminal: cancelled by the caller.
    Cancelled {
        /// Tokens of the prompt; 0 when it had not started.
        prompt_tokens: u32,
        /// Tokens generated until then.
        completion_tokens: u32,
    },
}

impl Event {
    /// Whether no event follows this one.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed { .. } | Self::Failed(_) | Self::Cancelled { .. })
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or wrote a stop string.
    Stop,
    /// `max_tokens` are generated or the context is full.
    Length,
}

/// A request that was refused or could not be completed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What a caller can tell apart.
    pub kind: FailureKind,
    /// What was wrong, where, and what to do.
    pub message: String,
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request contradicts itself or the model cannot do it.
    InvalidRequest,
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
    /// The engine is stopping: try again, elsewhere or later.
    Stopping,
    /// A fault of the engine itself; details are in its log.
    Internal,
}

#[cfg(feature = "llama")]
impl Failure {
    fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}
