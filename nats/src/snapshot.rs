//! Aggregates in memory, and their snapshots in a KV bucket, written behind: every 100 events, when an aggregate goes
//! quiet, and when it is evicted. A snapshot is a cache: signed, and dropped when anything about it is off.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::Client;
use moka::{notification::RemovalCause, sync::Cache};
use symbia_commands::Aggregate;
use symbia_events::{KeyRing, keys::role};

use crate::{
    read,
    store::{Cached, Loaded, snapshot_shape},
    topology::SNAPSHOTS,
};

/// Events after which a busy aggregate gets a new snapshot.
const EVERY: u32 = 100;
/// How long an aggregate must be left alone to count as quiet.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Snapshots {
    client: Client,
    keys: Arc<KeyRing>,
    cache: Cache<String, Arc<dyn Cached>>,
    // Aggregates changed since their last snapshot: version of that snapshot, and when they last changed.
    changed: Arc<Mutex<HashMap<String, (u32, Instant)>>>,
}

impl Snapshots {
    pub(crate) fn new(client: Client, keys: Arc<KeyRing>, capacity: u64) -> Self {
        let (evictions, mut evicted) = tokio::sync::mpsc::channel::<(String, Arc<dyn Cached>)>(1024);
        let cache = Cache::builder()
            .max_capacity(capacity)
            .eviction_listener(move |key: Arc<String>, value: Arc<dyn Cached>, cause| {
                if cause == RemovalCause::Size {
                    // A full channel only costs the snapshot: the tail is read instead.
                    let _ = evictions.try_send((key.as_ref().clone(), value));
                }
            })
            .build();
        let snapshots = Snapshots { client, keys, cache, changed: Arc::default() };
        let background = snapshots.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(QUIET);
            loop {
                tokio::select! {
                    _ = tick.tick() => background.write(QUIET).await,
                    Some((subject, value)) = evicted.recv() => {
                        background.lock().remove(&subject);
                        background.store(&subject, value.as_ref()).await;
                    }
                }
            }
        });
        snapshots
    }

    pub(crate) fn cached<A: Aggregate>(&self, subject: &str) -> Option<Loaded<A>> {
        self.cache.get(subject)?.into_any().downcast::<Loaded<A>>().ok().map(Arc::unwrap_or_clone)
    }

    // Takes it out, so that it can be changed without a copy; whoever asks meanwhile loads it from the log.
    pub(crate) fn take<A: Aggregate>(&self, subject: &str) -> Option<Loaded<A>> {
        self.cache.remove(subject)?.into_any().downcast::<Loaded<A>>().ok().map(Arc::unwrap_or_clone)
    }

    pub(crate) fn put<A: Aggregate>(&self, subject: &str, loaded: Loaded<A>) {
        self.cache.insert(subject.to_owned(), Arc::new(loaded));
    }

    pub(crate) fn put_changed<A: Aggregate>(&self, subject: &str, loaded: Loaded<A>) {
        let version = loaded.version;
        let loaded: Arc<dyn Cached> = Arc::new(loaded);
        self.cache.insert(subject.to_owned(), Arc::clone(&loaded));
        let due = {
            let mut changed = self.lock();
            let entry = changed.entry(subject.to_owned()).or_insert((version, Instant::now()));
            entry.1 = Instant::now();
            let due = version - entry.0 >= EVERY;
            if due {
                entry.0 = version;
            }
            due
        };
        if due {
            let (snapshots, subject) = (self.clone(), subject.to_owned());
            tokio::spawn(async move { snapshots.store(&subject, loaded.as_ref()).await });
        }
    }

    pub(crate) fn forget(&self) {
        self.cache.invalidate_all();
    }

    pub(crate) async fn flush(&self) {
        self.write(Duration::ZERO).await;
    }

    async fn write(&self, quiet: Duration) {
        let due: Vec<String> = {
            let mut changed = self.lock();
            let due: Vec<String> = changed
                .iter()
                .filter(|(_, (_, at))| at.elapsed() >= quiet)
                .map(|(subject, _)| subject.clone())
                .collect();
            due.iter().for_each(|subject| {
                changed.remove(subject);
            });
            due
        };
        for subject in due {
            if let Some(value) = self.cache.get(&subject) {
                self.store(&subject, value.as_ref()).await;
            }
        }
    }

    async fn store(&self, subject: &str, value: &dyn Cached) {
        let Ok(json) = value.to_json() else { return };
        let (kid, signature) = self.keys.sign(role::SNAPSHOT, &signed_bytes(subject, &json));
        let mut payload = format!("{kid} {signature}\n").into_bytes();
        payload.extend_from_slice(&json);
        if let Err(error) = self.client.publish(key(subject), payload.into()).await {
            tracing::debug!(subject, version = value.version(), %error, "snapshot not written");
        }
    }

    pub(crate) async fn stored<A: Aggregate>(&self, subject: &str) -> Option<Loaded<A>> {
        let stored = read::last(&self.client, SNAPSHOTS, &key(subject)).await.ok()??;
        let split = stored.payload.iter().position(|b| *b == b'\n')?;
        let (kid, signature) = std::str::from_utf8(&stored.payload[..split]).ok()?.split_once(' ')?;
        let json = &stored.payload[split + 1..];
        if let Err(error) = self.keys.verify(kid, &signed_bytes(subject, json), signature) {
            tracing::warn!(subject, %error, "snapshot ignored");
            return None;
        }
        let (shape, loaded): (String, Box<serde_json::value::RawValue>) = serde_json::from_slice(json).ok()?;
        if shape != snapshot_shape::<A>() {
            return None;
        }
        serde_json::from_str(loaded.get()).ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (u32, Instant)>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// Bound to its subject: a snapshot moved to another aggregate does not verify.
fn signed_bytes(subject: &str, json: &[u8]) -> Vec<u8> {
    [subject.as_bytes(), b"\n", json].concat()
}

// A KV key may not hold every character a subject may.
fn key(subject: &str) -> String {
    format!("$KV.SYMBIA_SNAP.{}", subject.trim_start_matches("symbia.evt."))
}
