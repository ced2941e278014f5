//! Buckets that all processes draw from, in a KV bucket of the broker: a limit holds across replicas and restarts.
//!
//! A bucket is one number, the time at which it will be full again (GCRA), changed by compare-and-set; it expires by itself.
//! Those of one process who draw from the same bucket stand in line, so that only other processes can be faster.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::jetstream::{self, kv};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use moka::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OnceCell};

use crate::topology::{DAYS_BUCKET, LIMITS_BUCKET};

/// How often a compare-and-set is repeated when others were faster.
const ATTEMPTS: usize = 8;
/// How long the broker may take.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);
/// Buckets of which is known how they stood last.
const KNOWN_MAX: u64 = 100_000;
const KNOWN_FOR: Duration = Duration::from_secs(300);

/// So many tokens, which an empty bucket has again after `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Tokens of a full bucket; at least one.
    pub size: u64,
    /// Time in which an empty one becomes full.
    pub per: Duration,
}

/// What came of drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Tokens that were drawn.
    pub tokens: u64,
    /// Until the bucket is full.
    pub full_in: Duration,
    /// When nothing was drawn: until there is as much as was wanted at least.
    pub enough_in: Duration,
}

/// The broker does not answer, or the bucket could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("a bucket of limits cannot be drawn from: {0}")]
pub struct LimitsError(String);

impl LimitsError {
    pub(crate) fn new(reason: impl std::fmt::Display) -> Self {
        LimitsError(reason.to_string())
    }
}

/// The buckets. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
    js: jetstream::Context,
    bucket: &'static str,
    store: OnceCell<kv::Store>,
    known: Cache<String, Arc<Mutex<Known>>>,
}

/// How a bucket stood last: when it will be full, in nanoseconds since 1970, and at which revision.
#[derive(Default)]
struct Known {
    full_at: u64,
    revision: Option<u64>,
}

impl Limits {
    /// Buckets over a connection; the KV bucket is made with the streams.
    #[must_use]
    pub fn new(client: async_nats::Client) -> Self {
        Self::in_bucket(client, LIMITS_BUCKET)
    }

    /// The same for buckets that take up to a day to become full.
    #[must_use]
    pub fn of_days(client: async_nats::Client) -> Self {
        Self::in_bucket(client, DAYS_BUCKET)
    }

    fn in_bucket(client: async_nats::Client, bucket: &'static str) -> Self {
        let known = Cache::builder().max_capacity(KNOWN_MAX).time_to_idle(KNOWN_FOR).build();
        Limits(Arc::new(Inner { js: jetstream::new(client), bucket, store: OnceCell::new(), known }))
    }

    /// Draws `most` tokens, or as many as there are if these are `least` or more, else none.
    ///
    /// # Errors
    /// [`LimitsError`] when the broker does not answer in time.
    pub async fn draw(&self, key: &str, bucket: Bucket, least: u64, most: u64) -> Result<Drawn, LimitsError> {
        self.change(key, |full_at, now| take(bucket, full_at, now, least, most)).await
    }

    /// Puts back what was drawn in excess, or takes what was drawn too little, whether it is there or not.
    ///
    /// # Errors
    /// Those of [`Limits::draw`].
    pub async fn settle(&self, key: &str, bucket: Bucket, drawn: u64, spent: u64) -> Result<(), LimitsError> {
        if drawn == spent {
            return Ok(());
        }
        let shift = |full_at: u64, now: u64| {
            let full_at = full_at.max(now).saturating_add(bucket.time_of(spent)).saturating_sub(bucket.time_of(drawn));
            (Some(full_at), bucket.drawn(0, full_at, now, 0))
        };
        self.change(key, shift).await.map(|_| ())
    }

    // What `step` makes of the bucket, stored before it counts.
    async fn change(&self, key: &str, step: impl Fn(u64, u64) -> (Option<u64>, Drawn)) -> Result<Drawn, LimitsError> {
        let key = subject_of(key);
        let known = self.0.known.get_with_by_ref(&key, Arc::default);
        let mut known = known.lock().await;
        let changing = tokio::time::timeout(PATIENCE, self.try_change(&key, &mut known, step)).await;
        let changed = changing.unwrap_or_else(|_| Err(LimitsError::new("the broker does not answer")));
        if changed.is_err() {
            known.revision = None;
        }
        changed
    }

    async fn try_change(
        &self,
        key: &str,
        known: &mut Known,
        step: impl Fn(u64, u64) -> (Option<u64>, Drawn),
    ) -> Result<Drawn, LimitsError> {
        let store = self.0.store.get_or_try_init(|| self.0.js.get_key_value(self.0.bucket)).await;
        let store = store.map_err(LimitsError::new)?;
        for _ in 0..ATTEMPTS {
            let revision = match known.revision {
                Some(revision) => revision,
                None => {
                    let entry = store.entry(key).await.map_err(LimitsError::new)?;
                    let number = entry.as_ref().and_then(|e| std::str::from_utf8(&e.value).ok()?.parse().ok());
                    known.full_at = number.unwrap_or(0);
                    entry.map_or(0, |e| e.revision)
                }
            };
            known.revision = Some(revision);
            let (full_at, drawn) = step(known.full_at, now());
            let Some(full_at) = full_at else {
                // Somebody may have known better, or given it time: look anew the next time.
                known.revision = None;
                return Ok(drawn);
            };
            match store.update(key, full_at.to_string().into(), revision).await {
                Ok(revision) => {
                    (known.full_at, known.revision) = (full_at, Some(revision));
                    return Ok(drawn);
                }
                Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => known.revision = None,
                Err(error) => return Err(LimitsError::new(error)),
            }
        }
        Err(LimitsError::new("others change it all the time"))
    }
}

impl Bucket {
    // How long so many tokens take to be there again, in nanoseconds.
    fn time_of(self, tokens: u64) -> u64 {
        let time = self.per.as_nanos() * u128::from(tokens) / u128::from(self.size.max(1));
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    fn drawn(self, tokens: u64, full_at: u64, now: u64, wanted: u64) -> Drawn {
        let (filling, per) = (full_at.saturating_sub(now), nanos(self.per));
        let enough_in = (filling + self.time_of(wanted)).saturating_sub(per);
        Drawn { tokens, full_in: Duration::from_nanos(filling), enough_in: Duration::from_nanos(enough_in) }
    }
}

/// Where something is kept: keys hold addresses and names, and subjects are seen by operators of the broker.
pub(crate) fn subject_of(key: &str) -> String {
    BASE64URL.encode(Sha256::digest(key.as_bytes()))
}

// A bucket that will be full at `full_at`, and what it gives; none: it stays as it is.
fn take(bucket: Bucket, full_at: u64, now: u64, least: u64, most: u64) -> (Option<u64>, Drawn) {
    let full_at = full_at.max(now);
    let room = (now.saturating_add(nanos(bucket.per))).saturating_sub(full_at);
    // Halves of tokens are none.
    let there = u128::from(room) * u128::from(bucket.size) / bucket.per.as_nanos().max(1);
    let tokens = most.min(u64::try_from(there).unwrap_or(u64::MAX));
    if tokens < least || tokens == 0 {
        return (None, bucket.drawn(0, full_at, now, least));
    }
    let full_at = full_at.saturating_add(bucket.time_of(tokens));
    (Some(full_at), bucket.drawn(tokens, full_at, now, 0))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn now() -> u64 {
    nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_bucket_gives_what_it_has_and_then_one_token_per_interval() {
        let (bucket, start) = (Bucket { size: 10, per: Duration::from_secs(60) }, 1_000_000 * SECOND);
        let (mut full_at, mut left) = (0, 10);
        while left > 0 {
            let (next, drawn) = take(bucket, full_at, start, 1, 1);
            (full_at, left) = (next.unwrap_or(0), left - 1);
            assert_eq!(drawn.tokens, 1);
        }
        let tokens = |after: u64, least, most| take(bucket, full_at, start + after, least, most).1.tokens;
        assert_eq!(tokens(0, 1, 1), 0);
        assert_eq!(take(bucket, full_at, start, 1, 1).1.enough_in, Duration::from_secs(6));
        assert_eq!((tokens(5 * SECOND, 1, 1), tokens(6 * SECOND, 1, 1)), (0, 1));
        assert_eq!((tokens(6 * SECOND, 1, 5), tokens(6 * SECOND, 5, 5)), (1, 0), "as many as there are, or all");
        assert_eq!(tokens(3600 * SECOND, 1, 100), 10, "never more than its size");
    }
}
