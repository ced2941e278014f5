//! Local models: the GGUF files of a directory, and the engine that generates text and makes vectors with them.
//!
//! The engine needs the feature `llama`; what is in the directory can be listed without it. [`Options`] start a
//! `Service`, its `Handle` takes a request and gives back a channel of [`Event`]s, of which exactly one is terminal.
//! llama.cpp aborts the process on some errors, so the engine belongs into a process of its own, which is talked to as
//! [`symbia_nats::inference`] says.

pub mod bootstrap;
#[cfg(feature = "llama")]
mod constraint;
mod counting;
pub mod directory;
pub mod downloader;
#[cfg(feature = "llama")]
mod embedder;
#[cfg(all(test, feature = "llama"))]
mod families;
#[cfg(feature = "llama")]
mod gbnf;
mod gguf;
#[cfg(feature = "llama")]
mod job;
pub mod keeper;
#[cfg(feature = "llama")]
mod lane;
#[cfg(feature = "llama")]
mod lanes;
#[cfg(feature = "llama")]
mod ledger;
#[cfg(feature = "llama")]
mod native;
#[cfg(feature = "llama")]
mod processor;
#[cfg(feature = "llama")]
mod prompt;
pub mod pull;
#[cfg(feature = "llama")]
mod sampler;
#[cfg(feature = "llama")]
mod scheduler;
#[cfg(feature = "llama")]
mod sequence;
#[cfg(feature = "llama")]
mod service;
#[cfg(feature = "llama")]
mod shelf;
#[cfg(feature = "llama")]
mod speech;
pub mod stub;
#[cfg(feature = "llama")]
mod template;
#[cfg(all(test, feature = "llama"))]
mod tests;
#[cfg_attr(not(feature = "llama"), allow(dead_code, reason = "only the engine looks at parts of markers"))]
mod text;
#[cfg(feature = "llama")]
mod totals;
#[cfg(feature = "llama")]
mod turns;
#[cfg(feature = "llama")]
mod worker;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use symbia_nats::inference::{Choice, Failure, Inspected, Piece, Timings, Usage};

#[cfg(feature = "llama")]
pub use lane::probe;
#[cfg(feature = "llama")]
pub use service::{Handle, Service};
#[cfg(feature = "llama")]
pub use worker::{InferenceWorker, InferenceWorkerError};

/// How the engine runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that holds the `*.gguf` files.
    pub model_dir: PathBuf,
    /// The model of a request that names none: an id, a file's name without `.gguf`, or the part before its first dot.
    pub default_model: String,
    /// The model that makes vectors, when none is named.
    pub default_embedding: String,
    /// Tokens that one sequence may hold, prompt and answer together; a model trained on less has less.
    pub context_tokens: u32,
    /// Threads that compute. As many as there are cores makes decoding collapse when anything else runs.
    pub threads: usize,
    /// Sequences that one model decodes at a time, 1 to 256. Memory for their contexts is taken at loading.
    pub parallel: u32,
    /// Tokens of a step at most, 32 to 4 096, and no fewer than `parallel`. Memory to compute as many is taken at loading.
    pub batch_tokens: u32,
    /// Requests that may wait for a model beyond those that it decodes.
    pub max_queue: usize,
    /// A model without requests for so long is unloaded.
    pub idle_unload: Duration,
    /// Models that are never unloaded for being idle.
    pub pinned: Vec<String>,
    /// Models in memory at most; 0 without a limit.
    pub max_loaded: usize,
    /// Bytes that models may take together; none without a limit.
    pub memory_budget: Option<u64>,
    /// A program and its arguments that loads the file whose path follows them, and so finds out whether that is safe.
    pub probe: Option<Vec<OsString>>,
}

impl Options {
    /// The defaults with models from `model_dir`: pico-chat, 8 sequences of at most 4 096 tokens, all cores but one, four
    /// fifths of the memory that is available now.
    pub fn new(model_dir: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            model_dir: model_dir.into(),
            default_model: "pico-chat".to_owned(),
            default_embedding: "all-minilm-l6-v2".to_owned(),
            context_tokens: 4096,
            threads: cores.saturating_sub(1).max(1),
            parallel: 8,
            batch_tokens: 512,
            max_queue: 64,
            idle_unload: Duration::from_secs(300),
            pinned: Vec::new(),
            max_loaded: 0,
            memory_budget: available_memory().map(|bytes| bytes / 5 * 4),
            probe: None,
        }
    }
}

/// Bytes that programs can still take (Linux).
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What happens to a request: at most one `Started`, pieces, then exactly one terminal event.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt is tokenized and its computation begins.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Of these, tokens that need not be computed again.
        cached_tokens: u32,
    },
    /// The next piece of the answer; never empty.
    Piece(Piece),
    /// Vectors of the texts from `first` on.
    Vectors {
        /// The text that the first vector belongs to.
        first: usize,
        /// One for each text.
        vectors: Vec<Vec<f32>>,
    },
    /// Terminal: the answer is complete.
    Completed(Box<Answered>),
    /// Terminal: all vectors are made.
    Embedded {
        /// Tokens of all texts.
        prompt_tokens: u64,
    },
    /// Terminal: the model is in memory.
    Loaded,
    /// Terminal: what was looked at is seen as this.
    Inspected(Inspected),
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
        !matches!(self, Self::Started { .. } | Self::Piece(_) | Self::Vectors { .. })
    }
}

/// A complete answer, and what it took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answered {
    /// The answer.
    pub choice: Choice,
    /// Tokens.
    pub usage: Usage,
    /// Times.
    pub timings: Timings,
}
