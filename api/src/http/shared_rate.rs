//! Rate-limit buckets that all processes share, in a KV bucket of the broker: a limit holds across replicas and restarts.
//!
//! The broker and not the database, since an API process may write nothing there, and whoever signs in needs the broker
//! anyway. A bucket is one number, the time at which it will be full again (GCRA), changed by compare-and-set; it expires by
//! itself. Large buckets are drawn from in small lots that a process spends on its own, so that a request of a busy caller
//! costs no round trip; a lot that is not spent in time is lost, never spent twice. While the broker is away, each process
//! limits by itself.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_nats::jetstream::{self, kv};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use sha2::{Digest, Sha256};
use symbia_nats::topology::LIMITS_BUCKET;
use tokio::sync::{Mutex, OnceCell};

use super::rate::{Decision, Quota, RateLimiter, TokenBuckets};

/// A bucket of this many tokens or fewer is drawn from one by one.
const EXACT: u32 = 20;
/// Lots that a full bucket holds.
const LOTS: u32 = 20;
/// How long a lot may be spent.
const LOT_LASTS: Duration = Duration::from_secs(5);
/// How often a compare-and-set is repeated when others were faster.
const ATTEMPTS: usize = 8;
/// How long the broker may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// Callers whose lots are kept.
const LOTS_MAX: u64 = 100_000;

/// Buckets shared by all processes. Cheap to clone.
#[derive(Clone)]
pub struct SharedBuckets(Arc<Inner>);

struct Inner {
    js: jetstream::Context,
    store: OnceCell<kv::Store>,
    lots: moka::sync::Cache<String, Arc<Mutex<Lot>>>,
    alone: TokenBuckets,
}

/// Tokens that were drawn and not spent, and what was last known of the bucket.
#[derive(Default)]
struct Lot {
    left: u32,
    until: Option<Instant>,
    full_at: u64,
    revision: Option<u64>,
}

/// What came of drawing.
struct Drawn {
    tokens: u32,
    /// Microseconds since 1970 at which the bucket will be full.
    full_at: u64,
}

impl SharedBuckets {
    /// Buckets over a connection; the KV bucket is made with the streams.
    #[must_use]
    pub fn new(client: async_nats::Client) -> Self {
        SharedBuckets(Arc::new(Inner {
            js: jetstream::new(client),
            store: OnceCell::new(),
            lots: moka::sync::Cache::builder().max_capacity(LOTS_MAX).time_to_idle(Duration::from_secs(300)).build(),
            alone: TokenBuckets::default(),
        }))
    }

    async fn draw(&self, key: &str, quota: Quota, wanted: u32, lot: &mut Lot) -> Result<Drawn, async_nats::Error> {
        let store = self.0.store.get_or_try_init(|| self.0.js.get_key_value(LIMITS_BUCKET)).await?;
        for _ in 0..ATTEMPTS {
            if lot.revision.is_none() {
                let entry = store.entry(key).await?;
                lot.full_at =
                    entry.as_ref().and_then(|e| std::str::from_utf8(&e.value).ok()?.parse().ok()).unwrap_or(0);
                lot.revision = Some(entry.map_or(0, |e| e.revision));
            }
            let drawn = take(quota, lot.full_at, now(), wanted);
            if drawn.tokens == 0 {
                // Somebody may have known better, or given it time: look anew the next time.
                lot.revision = None;
                return Ok(drawn);
            }
            let value = drawn.full_at.to_string().into();
            match store.update(key, value, lot.revision.unwrap_or(0)).await {
                Ok(revision) => {
                    (lot.full_at, lot.revision) = (drawn.full_at, Some(revision));
                    return Ok(drawn);
                }
                Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => lot.revision = None,
                Err(error) => return Err(error.into()),
            }
        }
        Err("others change this bucket all the time".into())
    }
}

/// Draws up to `wanted` tokens from a bucket that will be full at `full_at`.
fn take(quota: Quota, full_at: u64, now: u64, wanted: u32) -> Drawn {
    let per = micros(quota.per).max(1);
    let interval = (per / u64::from(quota.burst.max(1))).max(1);
    let full_at = full_at.max(now);
    let room = (now + per).saturating_sub(full_at) / interval;
    let tokens = wanted.min(u32::try_from(room).unwrap_or(u32::MAX));
    Drawn { tokens, full_at: full_at + u64::from(tokens) * interval }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn now() -> u64 {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Shared buckets for what must be quick more than it must be exact: a quarter of each quota is every process's own, so that
/// who asks for little costs no round trip. Several processes allow a little more than one.
pub struct NearBuckets {
    own: TokenBuckets,
    shared: SharedBuckets,
}

impl NearBuckets {
    /// Buckets over a connection.
    #[must_use]
    pub fn new(client: async_nats::Client) -> Self {
        NearBuckets { own: TokenBuckets::default(), shared: SharedBuckets::new(client) }
    }
}

#[async_trait]
impl RateLimiter for NearBuckets {
    async fn take(&self, key: &str, quota: Quota) -> Decision {
        let own = Quota { burst: quota.burst.div_ceil(4), ..quota };
        let decision = self.own.take(key, own).await;
        if decision.allowed || own.burst == quota.burst {
            return decision;
        }
        self.shared.take(key, Quota { burst: quota.burst - own.burst, ..quota }).await
    }
}

#[async_trait]
impl RateLimiter for SharedBuckets {
    async fn take(&self, key: &str, quota: Quota) -> Decision {
        // Keys hold addresses and names; subjects are seen by operators of the broker.
        let hashed = BASE64URL.encode(Sha256::digest(key.as_bytes()));
        let slot = self.0.lots.get_with_by_ref(&hashed, Arc::default);
        let mut lot = slot.lock().await;
        if lot.left == 0 || lot.until.is_none_or(|until| until <= Instant::now()) {
            let wanted = if quota.burst <= EXACT { 1 } else { quota.burst.div_ceil(LOTS) };
            let drawing = tokio::time::timeout(PATIENCE, self.draw(&hashed, quota, wanted, &mut lot)).await;
            match drawing.unwrap_or_else(|_| Err("the broker does not answer".into())) {
                Ok(drawn) => {
                    lot.left = drawn.tokens;
                    lot.full_at = drawn.full_at;
                    lot.until = Some(Instant::now() + LOT_LASTS);
                }
                Err(error) => {
                    tracing::debug!(%error, "rate limits are kept by this process alone");
                    lot.revision = None;
                    drop(lot);
                    return self.0.alone.take(key, quota).await;
                }
            }
        }
        let allowed = lot.left > 0;
        lot.left = lot.left.saturating_sub(1);
        let (per, now) = (micros(quota.per), now());
        let interval = (per / u64::from(quota.burst.max(1))).max(1);
        let filling = lot.full_at.saturating_sub(now);
        let room = u32::try_from(per.saturating_sub(filling) / interval).unwrap_or(u32::MAX);
        let reset = if allowed { filling } else { (filling + interval).saturating_sub(per) };
        Decision {
            allowed,
            limit: quota.burst,
            remaining: room.saturating_add(lot.left).min(quota.burst),
            reset: Duration::from_micros(reset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_token_per_interval() {
        let (quota, start) = (Quota::per_minute(10), 1_000_000_000);
        let mut full_at = 0;
        for _ in 0..10 {
            let drawn = take(quota, full_at, start, 1);
            assert_eq!(drawn.tokens, 1);
            full_at = drawn.full_at;
        }
        assert_eq!(take(quota, full_at, start, 1).tokens, 0);
        assert_eq!(take(quota, full_at, start + 5_900_000, 1).tokens, 0);
        assert_eq!(take(quota, full_at, start + 6_000_000, 1).tokens, 1);
        assert_eq!(take(quota, full_at, start + 6_000_000, 5).tokens, 1, "no more than there is");
        assert_eq!(take(quota, full_at, start + 3_600_000_000, 100).tokens, 10, "never more than its size");
    }
}
