//! Places that all processes share: so many calls of a thing at once, whoever makes them. They are kept with the limits.
//!
//! Who has a place has it until a time at the latest, so that a process that dies gives its places back. An entry lists the
//! holders and is changed by compare-and-set; those of one process who want the same stand in line.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::jetstream::{self, kv};
use moka::sync::Cache;
use tokio::sync::{Mutex, OnceCell};

use crate::{
    limits::{LimitsError, PATIENCE, subject_of},
    topology::LIMITS_BUCKET,
};

/// How often a compare-and-set is repeated when others were faster.
const ATTEMPTS: usize = 16;
/// Lines that are known of.
const KNOWN_MAX: u64 = 10_000;
/// The longest that a place is had for: entries of the bucket last no longer than a quarter of an hour.
const LONGEST: Duration = Duration::from_secs(14 * 60);

/// Who has a place, and until when, in milliseconds since 1970.
type Holders = BTreeMap<String, u64>;

/// The places. Cheap to clone.
#[derive(Clone)]
pub struct Places(Arc<Inner>);

struct Inner {
    js: jetstream::Context,
    store: OnceCell<kv::Store>,
    lines: Cache<String, Arc<Mutex<()>>>,
}

impl Places {
    /// Places over a connection; the KV bucket is made with the streams.
    #[must_use]
    pub fn new(client: async_nats::Client) -> Self {
        let lines = Cache::builder().max_capacity(KNOWN_MAX).time_to_idle(LONGEST).build();
        Places(Arc::new(Inner { js: jetstream::new(client), store: OnceCell::new(), lines }))
    }

    /// Takes a place of `most`, for `lasting` at the longest; false when others have all of them. Who has one keeps it.
    ///
    /// # Errors
    /// [`LimitsError`] when the broker does not answer in time.
    pub async fn take(&self, key: &str, most: u32, holder: &str, lasting: Duration) -> Result<bool, LimitsError> {
        self.change(key, |holders, now| taken(holders, most, (holder, lasting), now)).await
    }

    /// Gives a place back.
    ///
    /// # Errors
    /// Those of [`Places::take`].
    pub async fn leave(&self, key: &str, holder: &str) -> Result<(), LimitsError> {
        self.change(key, |holders, _| holders.remove(holder).is_some()).await.map(|_| ())
    }

    // What `step` makes of the holders, stored where it says that they are others now; gives what it says.
    async fn change(&self, key: &str, step: impl Fn(&mut Holders, u64) -> bool) -> Result<bool, LimitsError> {
        // The limits of the same key are another entry.
        let key = subject_of(&format!("places:{key}"));
        let line = self.0.lines.get_with_by_ref(&key, Arc::default);
        let changing = async {
            let _turn = line.lock().await;
            self.try_change(&key, step).await
        };
        let changed = tokio::time::timeout(PATIENCE, changing).await;
        changed.unwrap_or_else(|_| Err(LimitsError::new("the broker does not answer")))
    }

    async fn try_change(&self, key: &str, step: impl Fn(&mut Holders, u64) -> bool) -> Result<bool, LimitsError> {
        let store = self.0.store.get_or_try_init(|| self.0.js.get_key_value(LIMITS_BUCKET)).await;
        let store = store.map_err(LimitsError::new)?;
        for _ in 0..ATTEMPTS {
            let entry = store.entry(key).await.map_err(LimitsError::new)?;
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let mut holders: Holders =
                entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default();
            if !step(&mut holders, now()) {
                return Ok(false);
            }
            let stored = serde_json::to_vec(&holders).map_err(LimitsError::new)?;
            match store.update(key, stored.into(), revision).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(LimitsError::new(error)),
            }
        }
        Err(LimitsError::new("others change it all the time"))
    }
}

// Places of holders whose time is over are free.
fn taken(holders: &mut Holders, most: u32, (holder, lasting): (&str, Duration), now: u64) -> bool {
    holders.retain(|other, until| *until > now && other != holder);
    if holders.len() >= most as usize {
        return false;
    }
    holders.insert(holder.to_owned(), now.saturating_add(millis(lasting.min(LONGEST))));
    true
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn now() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_had_once_and_is_free_when_its_time_is_over() {
        let (mut holders, second) = (Holders::new(), Duration::from_secs(1));
        assert!(taken(&mut holders, 2, ("a", second), 0));
        assert!(taken(&mut holders, 2, ("a", second * 3), 0), "it is the same place");
        assert!(taken(&mut holders, 2, ("b", second), 0));
        assert!(!taken(&mut holders, 2, ("c", second), 999));
        assert!(taken(&mut holders, 2, ("c", Duration::MAX), 1000), "b's time is over");
        assert_eq!(holders, Holders::from([("a".to_owned(), 3000), ("c".to_owned(), 841_000)]));
    }
}
