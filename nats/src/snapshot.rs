//! Aggregates in memory, and their snapshots in a KV bucket, written behind: every 100 events, and when an aggregate goes
//! quiet, evicted or not, unless its first message is all there is of it. One that has its end is kept in neither. A snapshot
//! is a cache: signed, and dropped when anything about it is off.

use std::{
    any::Any,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::Client;
use moka::sync::Cache;
use symbia_commands::Aggregate;
use symbia_events::{KeyRing, keys::role};

use crate::{
    read,
    store::{Loaded, snapshot_shape},
    topology::SNAPSHOTS,
};

/// Events after which a busy aggregate gets a new snapshot.
const EVERY: u32 = 100;
/// How long an aggregate must be left alone to count as quiet. A worker that dies before leaves a tail to be read, at the
/// end of the log, where reading is quick.
const QUIET: Duration = Duration::from_secs(10);
/// How often quiet aggregates are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Writing snapshots of quiet aggregates pauses for this many times as long as it took: commands come first.
const PACE: u32 = 9;

/// Where one aggregate is kept. Whoever works on it takes it out; who comes meanwhile loads it from the log.
pub(crate) struct Slot<A>(Mutex<Kept<A>>);

struct Kept<A> {
    loaded: Option<Loaded<A>>,
    // Version of the last snapshot, as far as it is known.
    snapshot: Option<u32>,
    // When it last changed; none when it has not since the last snapshot.
    changed: Option<Instant>,
}

impl<A> Default for Slot<A> {
    fn default() -> Self {
        Slot(Mutex::new(Kept { loaded: None, snapshot: None, changed: None }))
    }
}

impl<A: Aggregate> Slot<A> {
    /// Takes it out, if it is there.
    pub(crate) fn take(&self) -> Option<Loaded<A>> {
        self.lock().loaded.take()
    }

    /// Puts it back as it was taken, or as it was found in the log.
    pub(crate) fn put(&self, loaded: Loaded<A>) {
        self.lock().loaded = Some(loaded);
    }

    fn lock(&self) -> MutexGuard<'_, Kept<A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot, whatever the aggregate.
trait AnySlot: Send + Sync {
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
    fn due(&self, quiet: Duration) -> Due;
}

/// Whether a changed aggregate needs its snapshot now.
enum Due {
    Now(Vec<u8>),
    Later,
    Never,
}

impl<A: Aggregate> AnySlot for Slot<A> {
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }

    fn due(&self, quiet: Duration) -> Due {
        let mut kept = self.lock();
        let Some(changed) = kept.changed else { return Due::Never };
        let Some(loaded) = kept.loaded.as_ref().filter(|_| changed.elapsed() >= quiet) else { return Due::Later };
        if loaded.commands.is_first() {
            kept.changed = None;
            return Due::Never;
        }
        let (version, json) = (loaded.version, to_json(loaded));
        kept.changed = None;
        kept.snapshot = Some(version);
        json.map_or(Due::Never, Due::Now)
    }
}

/// A slot that has changed since its last snapshot, and when it was looked at.
struct Changed {
    subject: String,
    slot: Arc<dyn AnySlot>,
    seen: Instant,
}

#[derive(Clone)]
pub(crate) struct Snapshots {
    client: Client,
    keys: Arc<KeyRing>,
    cache: Cache<String, Arc<dyn AnySlot>>,
    capacity: u64,
    // Each slot once, the one looked at longest ago first. It keeps evicted slots until their snapshot is written.
    changed: Arc<Mutex<VecDeque<Changed>>>,
}

impl Snapshots {
    pub(crate) fn new(client: Client, keys: Arc<KeyRing>, capacity: u64) -> Self {
        let cache = Cache::new(capacity);
        let snapshots = Snapshots { client, keys, cache, capacity, changed: Arc::default() };
        let background = snapshots.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(TICK);
            loop {
                tick.tick().await;
                background.write_quiet().await;
            }
        });
        snapshots
    }

    /// An aggregate's slot, a new one when it has none.
    pub(crate) fn slot<A: Aggregate>(&self, subject: &str) -> Arc<Slot<A>> {
        self.find(subject).unwrap_or_else(|| {
            let slot: Arc<Slot<A>> = Arc::default();
            self.cache.insert(subject.to_owned(), Arc::clone(&slot) as Arc<dyn AnySlot>);
            slot
        })
    }

    /// A copy of an aggregate in memory.
    pub(crate) fn cached<A: Aggregate>(&self, subject: &str) -> Option<Loaded<A>> {
        self.find::<A>(subject)?.lock().loaded.clone()
    }

    fn find<A: Aggregate>(&self, subject: &str) -> Option<Arc<Slot<A>>> {
        self.cache.get(subject)?.into_any().downcast().ok()
    }

    /// Puts an aggregate back that has new events; one that has its end is let go.
    pub(crate) async fn put_changed<A: Aggregate>(&self, subject: &str, slot: &Arc<Slot<A>>, loaded: Loaded<A>) {
        if loaded.state.has_ended() {
            slot.lock().changed = None;
            self.cache.invalidate(subject);
            return;
        }
        let (first, due) = {
            let mut kept = slot.lock();
            let since = loaded.version - (*kept.snapshot.get_or_insert(loaded.version)).min(loaded.version);
            let due = (since >= EVERY).then(|| to_json(&loaded)).flatten();
            if due.is_some() {
                kept.snapshot = Some(loaded.version);
            }
            kept.loaded = Some(loaded);
            (kept.changed.replace(Instant::now()).is_none(), due)
        };
        if first {
            let slot = Arc::clone(slot) as Arc<dyn AnySlot>;
            self.changed().push_back(Changed { subject: subject.to_owned(), slot, seen: Instant::now() });
        }
        if let Some(json) = due {
            self.store(subject, &json).await;
        }
    }

    pub(crate) fn forget(&self) {
        self.cache.invalidate_all();
    }

    /// Writes every snapshot that is missing, and returns when the broker has them.
    pub(crate) async fn flush(&self) {
        let changed = std::mem::take(&mut *self.changed());
        for one in changed {
            match one.slot.due(Duration::ZERO) {
                Due::Now(json) => self.store(&one.subject, &json).await,
                Due::Later => self.changed().push_back(one),
                Due::Never => {}
            }
        }
        if let Err(error) = self.client.flush().await {
            tracing::debug!(%error, "snapshots not written");
        }
    }

    async fn write_quiet(&self) {
        while let Some(mut one) = self.next_changed() {
            let began = Instant::now();
            match one.slot.due(QUIET) {
                Due::Now(json) => self.store(&one.subject, &json).await,
                Due::Later => {
                    one.seen = began;
                    self.changed().push_back(one);
                }
                Due::Never => {}
            }
            // When more are waiting than are kept in memory, memory comes first.
            if self.changed().len() as u64 <= self.capacity {
                tokio::time::sleep(began.elapsed() * PACE).await;
            }
        }
    }

    fn next_changed(&self) -> Option<Changed> {
        let mut changed = self.changed();
        changed.pop_front_if(|one| one.seen.elapsed() >= QUIET)
    }

    async fn store(&self, subject: &str, json: &[u8]) {
        let (kid, signature) = self.keys.sign(role::SNAPSHOT, &signed_bytes(subject, json));
        let mut payload = format!("{kid} {signature}\n").into_bytes();
        payload.extend_from_slice(json);
        if let Err(error) = self.client.publish(key(subject), payload.into()).await {
            tracing::debug!(subject, %error, "snapshot not written");
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

    fn changed(&self) -> MutexGuard<'_, VecDeque<Changed>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_json<A: Aggregate>(loaded: &Loaded<A>) -> Option<Vec<u8>> {
    serde_json::to_vec(&(snapshot_shape::<A>(), loaded)).ok()
}

// Bound to its subject: a snapshot moved to another aggregate does not verify.
fn signed_bytes(subject: &str, json: &[u8]) -> Vec<u8> {
    [subject.as_bytes(), b"\n", json].concat()
}

// A KV key may not hold every character a subject may.
fn key(subject: &str) -> String {
    format!("$KV.SYMBIA_SNAP.{}", subject.trim_start_matches("symbia.evt."))
}
