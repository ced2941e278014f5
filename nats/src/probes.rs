//! What was found when a provider was asked whether it is there, and when: an entry for each tenant and provider in a KV bucket.
//! Who begins a probe writes so first, by compare-and-set, so that however many processes look, one asks.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{self, kv},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use symbia_events::integrations::ErrorCategory;
use time::OffsetDateTime;

use crate::topology::PROBES_BUCKET;

/// How long the broker may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// How long the answer took.
    pub latency_ms: u64,
    /// The models that it named, the first of them; none where it did not answer.
    pub models: Option<Vec<String>>,
    /// What was wrong.
    pub category: Option<ErrorCategory>,
    /// Finer.
    pub code: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    begun_ms: i64,
    found: Option<Finding>,
}

/// The broker does not answer.
#[derive(Debug, thiserror::Error)]
#[error("what providers were found like cannot be looked up: {0}")]
pub struct ProbesError(String);

/// The entries. Cheap to clone.
#[derive(Clone)]
pub struct Probes(jetstream::Context);

/// A probe that is this process' to make.
pub struct Turn {
    key: String,
    revision: u64,
    begun_ms: i64,
}

fn failed(error: impl std::fmt::Display) -> ProbesError {
    ProbesError(error.to_string())
}

fn key(tenant: &str, provider: &str) -> String {
    format!("{tenant}.{}", BASE64URL.encode(provider))
}

fn now_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

impl Probes {
    /// Over a connection; the bucket is made with the streams.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Probes(jetstream::new(client))
    }

    async fn store(&self) -> Result<kv::Store, ProbesError> {
        self.0.get_key_value(PROBES_BUCKET).await.map_err(failed)
    }

    /// The turn to ask a provider for a tenant, if the last one began long enough ago.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn begin(&self, tenant: &str, provider: &str, every: Duration) -> Result<Option<Turn>, ProbesError> {
        let (store, key) = (self.store().await?, key(tenant, provider));
        let found = store.entry(&key).await.map_err(failed)?;
        let revision = found.as_ref().map_or(0, |found| found.revision);
        let mut entry: Entry = found.and_then(|found| serde_json::from_slice(&found.value).ok()).unwrap_or_default();
        let (now, every) = (now_ms(), i64::try_from(every.as_millis()).unwrap_or(i64::MAX));
        if now.saturating_sub(entry.begun_ms) < every {
            return Ok(None);
        }
        entry.begun_ms = now;
        let value = serde_json::to_vec(&entry).map_err(failed)?;
        // Refused: another process was faster.
        let turn = store.update(&key, value.into(), revision).await.ok();
        Ok(turn.map(|revision| Turn { key, revision, begun_ms: now }))
    }

    /// Writes down what was found. Of a turn that another one has followed, nothing is.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn end(&self, turn: Turn, found: Finding) -> Result<(), ProbesError> {
        let entry = Entry { begun_ms: turn.begun_ms, found: Some(found) };
        let value = serde_json::to_vec(&entry).map_err(failed)?;
        let _late = self.store().await?.update(&turn.key, value.into(), turn.revision).await;
        Ok(())
    }

    /// What was found last.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn last(&self, tenant: &str, provider: &str) -> Result<Option<Finding>, ProbesError> {
        let looking = async {
            let found = self.store().await?.get(key(tenant, provider)).await.map_err(failed)?;
            Ok(found.and_then(|value| serde_json::from_slice::<Entry>(&value).ok()).and_then(|entry| entry.found))
        };
        tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|late| Err(failed(late)))
    }
}
