//! What is said about models that are being got, over core NATS: progress, and what cannot wait. That a download begins and
//! ends are events.

use std::time::Duration;

use async_nats::Client;
use serde::{Deserialize, Serialize};

/// Where cancellations go, to whoever is at it; the payload is the download's id.
pub const CANCEL: &str = "symbia.models.download.cancel";
/// Where a [`Search`] goes; one process answers with [`Searched`].
pub const SEARCH: &str = "symbia.models.search";
/// The queue group of those that answer.
pub const GROUP: &str = "downloads";

/// A hub answers within so long, or not at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the [`Progress`] of a download is told.
#[must_use]
pub fn progress_subject(download: &str) -> String {
    format!("symbia.live.global.download.{download}")
}

/// How far a download is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes of all of it, where that is known.
    pub total: Option<u64>,
    /// How many came in the last second.
    pub bytes_per_sec: u64,
}

/// What to look for among the hub's repositories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    /// Words.
    pub query: String,
    /// Repositories at most.
    pub limit: u32,
}

/// A repository that has model files of our kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// `ORG/NAME`.
    pub repo: String,
    /// How often it was got.
    pub downloads: u64,
    /// How many people like it.
    pub likes: u64,
    /// Its licence, where it names one.
    pub license: Option<String>,
}

/// What was found, or why nothing could be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Searched {
    /// Repositories.
    Found(Vec<Repository>),
    /// A reason's name and what was wrong.
    Failed(String, String),
}

/// Has the hub searched; none when no process is there that gets models.
pub async fn search(client: &Client, search: &Search) -> Option<Searched> {
    let payload = serde_json::to_vec(search).ok()?;
    let asked = client.request(SEARCH, payload.into());
    let answer = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}
