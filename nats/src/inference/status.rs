//! What an inference process tells about itself and its models.

use serde::{Deserialize, Serialize};

/// A process, as it was when it spoke.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its id, another one after each start.
    pub worker: String,
    /// Version of the program.
    pub build: String,
    /// Threads that compute.
    pub threads: usize,
    /// Bytes that models may take; none without a limit.
    pub memory_budget: Option<u64>,
    /// Bytes that they take.
    pub memory_used: u64,
    /// It is ending and takes no more jobs.
    pub draining: bool,
    /// The models of its directory.
    pub models: Vec<ModelStatus>,
    /// The models that it was told to leave in memory, sorted.
    #[serde(default)]
    pub pinned: Vec<String>,
    /// What it has done since its start.
    pub totals: Totals,
    /// What it has done in this hour and the one before, for whom.
    #[serde(default)]
    pub usage: Vec<UsageRow>,
}

/// What a process has done in an hour for an organization with a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRow {
    /// When the hour began, in seconds since 1970.
    pub hour: u64,
    /// The organization; none when nobody said.
    pub org: Option<String>,
    /// The model's id.
    pub model: String,
    /// Requests that have ended.
    pub requests: u64,
    /// Of these, requests that failed or were cancelled.
    pub errors: u64,
    /// Tokens of prompts.
    pub tokens_in: u64,
    /// Of these, tokens that were not computed again.
    pub tokens_cached: u64,
    /// Tokens generated.
    pub tokens_out: u64,
    /// Milliseconds from a request's arrival to its first token that half of them were below.
    pub ttft_ms_p50: Option<f64>,
    /// And 95 of 100.
    pub ttft_ms_p95: Option<f64>,
    /// Tokens a second of an answer that half of them were below.
    pub tokens_per_sec_p50: Option<f64>,
    /// Milliseconds of waiting that 95 of 100 requests were below.
    pub queue_ms_p95: Option<f64>,
}

/// What a process has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Requests that have ended.
    pub requests: u64,
    /// Of these, requests that failed.
    pub errors: u64,
    /// Requests that are computed.
    pub active: u64,
    /// Requests that wait.
    pub queued: u64,
    /// Tokens of prompts.
    pub tokens_in: u64,
    /// Of these, tokens that were not computed again.
    pub tokens_cached: u64,
    /// Tokens generated.
    pub tokens_out: u64,
    /// Milliseconds from the beginning of a prompt to its first token, summed over `first_tokens`.
    pub first_token_ms: f64,
    /// Requests whose first token came.
    pub first_tokens: u64,
    /// Milliseconds from first tokens to the end, summed over requests.
    pub predicted_ms: f64,
}

/// A model file of the directory; split files count as one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// Its id, made from the file's name.
    pub id: String,
    /// The file's name without `.gguf`.
    pub name: String,
    /// The file, relative to the directory.
    pub filename: String,
    /// Length in bytes, of all its files.
    pub bytes: u64,
    /// When the file was last changed, in seconds since 1970.
    pub modified: u64,
    /// SHA-256 of the file in hexadecimal, once it is computed.
    pub digest: Option<String>,
    /// What its metadata says; none of a file that cannot be used.
    pub details: Option<Details>,
    /// Whether it can be used, and is in memory.
    pub state: ModelState,
    /// Why it cannot be used.
    pub reason: Option<String>,
    /// What it takes, while it is in memory.
    pub loaded: Option<LoadedModel>,
}

impl ModelStatus {
    /// Whether `name` means this model: its id, its file's name without `.gguf`, or that part of it before a dot.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.id == name || self.name == name || self.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// Whether a model can be used, and is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// On disk.
    #[default]
    Available,
    /// On the way to memory.
    Loading,
    /// In memory.
    Loaded,
    /// Parts of a split file are missing.
    Incomplete,
    /// It cannot be used.
    Error,
}

impl ModelState {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ModelState::Available => "available",
            ModelState::Loading => "loading",
            ModelState::Loaded => "loaded",
            ModelState::Incomplete => "incomplete",
            ModelState::Error => "error",
        }
    }
}

/// What a model's metadata says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// `general.name`, or the file's name.
    pub title: String,
    /// `general.architecture`, for example `llama`.
    pub architecture: String,
    /// `general.license`.
    pub license: Option<String>,
    /// How most weights are stored, for example `Q8_0`.
    pub quantization: Option<String>,
    /// Weights.
    pub parameters: u64,
    /// Tokens of context that the model was trained on.
    pub context_length: u64,
    /// Tokens in its vocabulary.
    pub vocabulary: u64,
    /// Numbers in a vector of it.
    pub embedding_length: u64,
    /// Heads that look back over the context; 0 when nobody said.
    #[serde(default)]
    pub attention_heads: u64,
    /// Whether it generates text; otherwise it embeds.
    pub generates: bool,
    /// `chat`, `completion`, `embedding`, `function_calling`, `reasoning`.
    pub capabilities: Vec<String>,
    /// Bytes of the cache of keys and values for each token of context.
    pub cache_bytes_per_token: u64,
}

/// What a model in memory takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadedModel {
    /// Tokens that a sequence may hold.
    pub context_tokens: u32,
    /// Sequences at a time.
    pub parallel: u32,
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Bytes of the cache of keys and values.
    pub cache_bytes: u64,
    /// Bytes to compute with.
    pub compute_bytes: u64,
    /// How long loading took.
    pub load_ms: u64,
    /// When it was loaded, in seconds since 1970.
    pub loaded_at: u64,
    /// When it was last asked, in seconds since 1970.
    pub last_used: u64,
    /// Requests that it computes, and that wait for it.
    pub requests: u64,
    /// Seconds without requests after which it is unloaded; none: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_seconds: Option<u64>,
}

impl LoadedModel {
    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.weight_bytes + self.cache_bytes + self.compute_bytes
    }
}
