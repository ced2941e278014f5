//! Events of a model: that its file is there, what it is, and where it is in memory (models.md §16.3).

use super::ModelSettings;
use crate::domain_events;

domain_events! {
    /// What can have happened to a model.
    ModelEvent: Models / "model" {
        /// Its file was found in a model directory.
        ModelDiscovered = "symbia.models.model.model-discovered.v1" {
            model_id: String,
            /// SHA-256 of the file, hexadecimal.
            digest: String,
            /// Relative to the directory.
            filename: String,
            size_bytes: u64,
            /// The inference process that found it.
            worker_id: String,
        }
        /// Another file has taken its place.
        ModelChanged = "symbia.models.model.model-changed.v1" {
            model_id: String,
            old_digest: String,
            digest: String,
            filename: String,
            size_bytes: u64,
            worker_id: String,
        }
        /// What its metadata says.
        ModelDescribed = "symbia.models.model.model-described.v1" {
            model_id: String,
            digest: String,
            name: String,
            architecture: String,
            parameters: u64,
            quantization: Option<String>,
            context_length: u64,
            embedding_length: u64,
            capabilities: Vec<String>,
            license: Option<String>,
        }
        /// No inference process has its file any more.
        ModelRemoved = "symbia.models.model.model-removed.v1" { model_id: String, digest: String }
        /// Somebody wants it in memory.
        ModelLoadRequested = "symbia.models.model.model-load-requested.v1" {
            model_id: String,
            by: String,
            /// Tokens that a sequence may hold.
            context_tokens: Option<u32>,
            /// Sequences at a time.
            slots: Option<u32>,
            /// Seconds without requests after which it is unloaded; negative: never.
            keep_alive: Option<i64>,
        }
        /// It could not be loaded.
        ModelLoadFailed = "symbia.models.model.model-load-failed.v1" {
            model_id: String,
            /// `memory`, `format` or `engine`.
            category: String,
            message: String,
        }
        /// It is in the memory of an inference process.
        ModelLoaded = "symbia.models.model.model-loaded.v1" {
            model_id: String,
            worker_id: String,
            digest: Option<String>,
            context_tokens: u32,
            slots: u32,
            weight_bytes: u64,
            cache_bytes: u64,
            compute_bytes: u64,
            load_ms: u64,
        }
        /// Somebody wants it out of memory.
        ModelUnloadRequested = "symbia.models.model.model-unload-requested.v1" {
            model_id: String,
            by: String,
            /// What is under way ends first.
            drain: bool,
        }
        /// It is out of the memory of an inference process.
        ModelUnloaded = "symbia.models.model.model-unloaded.v1" {
            model_id: String,
            worker_id: String,
            /// `unloaded`: by request, for being idle, or for another. `worker_gone`: with its process.
            reason: String,
        }
        /// Somebody has set how it is to be used.
        ModelConfigured = "symbia.models.model.model-configured.v1" {
            model_id: String,
            by: String,
            version: u64,
            settings: ModelSettings,
        }
        /// Somebody wants its file deleted, everywhere.
        ModelDeletionRequested = "symbia.models.model.model-deletion-requested.v1" {
            model_id: String,
            by: String,
            /// What the file is: another one that has taken its place stays.
            digest: String,
            /// Even when it is in memory.
            force: bool,
        }
    }
}
