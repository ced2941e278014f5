//! Places that all processes share: so many calls of a thing at once, whoever makes them. They are kept with the limits.
//!
//! A place is held for moments only, and for further ones as long as its holder lives, so that a process that dies gives its
//! places back. Each holder has a place of its own, also where two make the same call, since one took the other for dead. An
//! entry lists the holders and is changed by compare-and-set; those of one process who want the same stand in line.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::jetstream::{self, kv};
use moka::sync::Cache;
use tokio::{
    runtime::Handle,
    sync::{Mutex, OnceCell},
    task::AbortHandle,
    time::Instant,
};
use uuid::Uuid;

use crate::{
    limits::{LimitsError, PATIENCE, subject_of},
    topology::LIMITS_BUCKET,
};

/// How often a compare-and-set is repeated when others were faster.
const ATTEMPTS: usize = 16;
/// Lines that are known of, and how long.
const KNOWN_MAX: u64 = 10_000;
const KNOWN_FOR: Duration = Duration::from_secs(14 * 60);
/// How long a place is held that nobody says to need still; clocks of processes may differ by less.
const LEASE: Duration = Duration::from_secs(15);
/// How often its holder says so.
const RENEWED: Duration = Duration::from_secs(5);
/// How often it is looked whether an earlier maker of the same call has given its place back.
const LOOK: Duration = Duration::from_millis(500);

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

/// A place that is had until it is given back or dropped.
#[must_use]
pub struct Place {
    held: Option<(Places, String, String)>,
    renewing: AbortHandle,
}

impl Places {
    /// Places over a connection; the KV bucket is made with the streams.
    #[must_use]
    pub fn new(client: async_nats::Client) -> Self {
        let lines = Cache::builder().max_capacity(KNOWN_MAX).time_to_idle(KNOWN_FOR).build();
        Places(Arc::new(Inner { js: jetstream::new(client), store: OnceCell::new(), lines }))
    }

    /// Takes a place of `most` for a call; none when others have all of them. Where one of them is had by an earlier maker of
    /// the same call, it is waited up to `patience` for it: one that died gives it back within moments, one that lives makes the
    /// call still.
    ///
    /// # Errors
    /// [`LimitsError`] when the broker does not answer in time. A place that was taken all the same is free again soon.
    pub async fn take(
        &self,
        key: &str,
        most: u32,
        call: &str,
        patience: Duration,
    ) -> Result<Option<Place>, LimitsError> {
        let until = Instant::now() + patience;
        let holder = format!("{call}/{}", Uuid::new_v4().simple());
        loop {
            let (mut taken, mut of_call) = (false, false);
            let step = |holders: &mut Holders, now: u64| {
                taken = take(holders, most, &holder, now);
                of_call = holders.keys().any(|other| is_of(other, call));
                taken
            };
            self.change(key, step).await?;
            if taken {
                return Ok(Some(self.held(key.to_owned(), holder)));
            }
            if !of_call || Instant::now() + LOOK >= until {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn held(&self, key: String, holder: String) -> Place {
        let (places, of, by) = (self.clone(), key.clone(), holder.clone());
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEWED).await;
                // Where it was given to others meanwhile, it counts all the same: the call is under way.
                let renew = |holders: &mut Holders, now: u64| {
                    holders.insert(by.clone(), until(now));
                    true
                };
                if let Err(error) = places.change(&of, renew).await {
                    tracing::warn!(key = of, %error, "a place is not held on to");
                }
            }
        });
        Place { held: Some((self.clone(), key, holder)), renewing: renewing.abort_handle() }
    }

    async fn leave(&self, key: &str, holder: &str) -> Result<(), LimitsError> {
        self.change(key, |holders, _| holders.remove(holder).is_some()).await
    }

    // What `step` makes of the holders, stored where it says that they are others now.
    async fn change(&self, key: &str, step: impl FnMut(&mut Holders, u64) -> bool) -> Result<(), LimitsError> {
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

    async fn try_change(&self, key: &str, mut step: impl FnMut(&mut Holders, u64) -> bool) -> Result<(), LimitsError> {
        let store = self.0.store.get_or_try_init(|| self.0.js.get_key_value(LIMITS_BUCKET)).await;
        let store = store.map_err(LimitsError::new)?;
        for _ in 0..ATTEMPTS {
            let entry = store.entry(key).await.map_err(LimitsError::new)?;
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let mut holders: Holders =
                entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default();
            if !step(&mut holders, now()) {
                return Ok(());
            }
            let stored = serde_json::to_vec(&holders).map_err(LimitsError::new)?;
            match store.update(key, stored.into(), revision).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(LimitsError::new(error)),
            }
        }
        Err(LimitsError::new("others change it all the time"))
    }
}

impl Place {
    /// Gives it back, at once.
    pub async fn leave(mut self) {
        self.renewing.abort();
        if let Some((places, key, holder)) = self.held.take() {
            left(places, key, holder).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.renewing.abort();
        // Where nothing runs any more, it is free when its time is over.
        if let (Some((places, key, holder)), Ok(runtime)) = (self.held.take(), Handle::try_current()) {
            runtime.spawn(left(places, key, holder));
        }
    }
}

async fn left(places: Places, key: String, holder: String) {
    if let Err(error) = places.leave(&key, &holder).await {
        tracing::warn!(key, %error, "a place is not given back before its time");
    }
}

// Places of holders whose time is over are free.
fn take(holders: &mut Holders, most: u32, holder: &str, now: u64) -> bool {
    holders.retain(|_, until| *until > now);
    if holders.len() >= most as usize {
        return false;
    }
    holders.insert(holder.to_owned(), until(now));
    true
}

fn is_of(holder: &str, call: &str) -> bool {
    holder.strip_prefix(call).is_some_and(|rest| rest.starts_with('/'))
}

fn until(now: u64) -> u64 {
    now.saturating_add(millis(LEASE))
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
    fn each_holder_has_a_place_and_it_is_free_when_its_time_is_over() {
        let mut holders = Holders::new();
        assert!(take(&mut holders, 2, "a/1", 0));
        assert!(take(&mut holders, 2, "a/2", 1), "who makes the same call has another place");
        assert!(!take(&mut holders, 2, "b/1", 14_999));
        assert!(take(&mut holders, 2, "b/1", 15_000), "the first one's time is over");
        assert_eq!(holders, Holders::from([("a/2".to_owned(), 15_001), ("b/1".to_owned(), 30_000)]));
        assert!(is_of("a/2", "a") && !is_of("ab/2", "a") && !is_of("a", "a"));
    }
}
