//! What router and inference process say to each other.
//!
//! A job is a core NATS request to a queue group, its answer a sequence of frames to the reply subject. Nothing of it is
//! stored: the durable part is the `CompletionRequested` event, which comes to a router again until the completion has its
//! end. So it does not matter who is killed when:
//!
//! - no inference process: the broker says at once that nobody listens, and the router asks again until its patience ends;
//! - the process dies: [`Frame::Alive`] stops coming, and after [`SILENCE`] the router records the attempt as lost;
//! - the router dies: [`Frame::Alive`] is itself a request, to which nobody listens any more, and the model is stopped;
//! - the broker dies: both sides see silence.
//!
//! A work queue (`SYMBIA_JOB`) would keep jobs of routers that are gone, and need the same heartbeats besides.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FailureKind, FinishReason, Message};

/// Where jobs go; the processes share them as one queue group.
pub const JOBS: &str = "symbia.inference.job";
/// The queue group.
pub const GROUP: &str = "inference";
/// Where cancellations go, to every process; the payload is the job's id.
pub const CANCEL: &str = "symbia.inference.cancel";
/// How often a process says of each job that it is alive.
pub const HEARTBEAT: Duration = Duration::from_millis(500);
/// Silence after which the other side is taken for dead.
pub const SILENCE: Duration = Duration::from_secs(2);

/// A completion to generate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Unique; an attempt of its own for each attempt.
    pub id: String,
    /// The model: a file's name without `.gguf`, or the part before its first dot.
    pub model: String,
    /// The conversation, oldest turn first.
    pub messages: Vec<Message>,
    /// Tokens to generate at most.
    pub max_tokens: Option<u32>,
    /// 0 takes the likeliest token each time.
    pub temperature: f32,
    /// Sample only among the likeliest tokens that together have this probability.
    pub top_p: f32,
    /// Seed of the sampling.
    pub seed: Option<u32>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// W3C trace context of who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A frame of an answer. Exactly one of the last three ends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Frame {
    /// A sign of life, which wants an empty reply.
    Alive,
    /// The next piece of the text.
    Delta {
        /// The piece.
        text: String,
    },
    /// The answer is complete.
    Completed {
        /// All of it: deltas may get lost.
        text: String,
        /// Why it ended.
        finish_reason: FinishReason,
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens generated.
        completion_tokens: u32,
    },
    /// There is no answer.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// What was wrong and what to do.
        message: String,
    },
    /// It was cancelled.
    Cancelled,
}
