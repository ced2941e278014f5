//! Rate-limit buckets that all processes share, in a KV bucket of the broker: a limit holds across replicas and restarts.
//!
//! The broker and not the database, since an API process may write nothing there, and whoever signs in needs the broker
//! anyway. Large buckets are drawn from in small lots that a process spends on its own, so that a request of a busy caller
//! costs no round trip; a lot that is not spent in time is lost, never spent twice. While the broker is away, each process
//! limits by itself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use symbia_nats::limits::{Bucket, Limits};
use tokio::sync::Mutex;

use super::rate::{Decision, Quota, RateLimiter, TokenBuckets};

/// A bucket of this many tokens or fewer is drawn from one by one.
const EXACT: u32 = 20;
/// Lots that a full bucket holds.
const LOTS: u32 = 20;
/// How long a lot may be spent.
const LOT_LASTS: Duration = Duration::from_secs(5);
/// Callers whose lots are kept.
const LOTS_MAX: u64 = 100_000;

/// Buckets shared by all processes. Cheap to clone.
#[derive(Clone)]
pub struct SharedBuckets(Arc<Inner>);

struct Inner {
    limits: Limits,
    lots: moka::sync::Cache<String, Arc<Mutex<Lot>>>,
    alone: TokenBuckets,
}

/// Tokens that were drawn and not spent, and what was last known of the bucket.
#[derive(Default)]
struct Lot {
    left: u32,
    until: Option<Instant>,
    full_at: Option<Instant>,
}

impl SharedBuckets {
    /// Buckets over a connection; the KV bucket is made with the streams.
    #[must_use]
    pub fn new(client: async_nats::Client) -> Self {
        SharedBuckets(Arc::new(Inner {
            limits: Limits::new(client),
            lots: moka::sync::Cache::builder().max_capacity(LOTS_MAX).time_to_idle(Duration::from_secs(300)).build(),
            alone: TokenBuckets::default(),
        }))
    }
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
        let slot = self.0.lots.get_with_by_ref(key, Arc::default);
        let mut lot = slot.lock().await;
        if lot.left == 0 || lot.until.is_none_or(|until| until <= Instant::now()) {
            let wanted = if quota.burst <= EXACT { 1 } else { quota.burst.div_ceil(LOTS) };
            let bucket = Bucket { size: quota.burst.max(1).into(), per: quota.per };
            match self.0.limits.draw(key, bucket, 1, wanted.into()).await {
                Ok(drawn) => {
                    lot.left = u32::try_from(drawn.tokens).unwrap_or(u32::MAX);
                    lot.full_at = Some(Instant::now() + drawn.full_in);
                    lot.until = Some(Instant::now() + LOT_LASTS);
                }
                Err(error) => {
                    tracing::debug!(%error, "rate limits are kept by this process alone");
                    drop(lot);
                    return self.0.alone.take(key, quota).await;
                }
            }
        }
        let allowed = lot.left > 0;
        lot.left = lot.left.saturating_sub(1);
        let interval = quota.per / quota.burst.max(1);
        let filling = lot.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        let room = quota.per.saturating_sub(filling).as_nanos() / interval.as_nanos().max(1);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        Decision {
            allowed,
            limit: quota.burst,
            remaining: room.saturating_add(lot.left).min(quota.burst),
            reset: if allowed { filling } else { (filling + interval).saturating_sub(quota.per) },
        }
    }
}
