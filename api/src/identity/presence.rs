//! Telling the log now and then that a principal was seen: its aggregate is asked at most once a minute by each process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;

/// Principals remembered.
const MOST: u64 = 100_000;
/// What an aggregate records is not asked for more often.
const INTERVAL: Duration = Duration::from_secs(60);

/// Sightings of each principal or key. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sightings {
    recent: Cache<String, ()>,
    counts: Cache<String, Arc<AtomicU32>>,
}

impl Default for Sightings {
    fn default() -> Self {
        Sightings {
            recent: Cache::builder().max_capacity(MOST).time_to_live(INTERVAL).build(),
            counts: Cache::builder().max_capacity(MOST).time_to_idle(INTERVAL * 10).build(),
        }
    }
}

impl Sightings {
    /// Counts a sighting. When it is time to tell: how many there were since the last time.
    pub fn of(&self, id: &str) -> Option<u32> {
        let count = self.counts.get_with_by_ref(id, Arc::default);
        count.fetch_add(1, Ordering::Relaxed);
        let first = self.recent.entry_by_ref(id).or_insert(()).is_fresh();
        first.then(|| count.swap(0, Ordering::Relaxed)).filter(|seen| *seen > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_sighting_within_a_minute_is_told() {
        let sightings = Sightings::default();
        assert_eq!(sightings.of("a"), Some(1));
        assert_eq!(sightings.of("a"), None);
        assert_eq!(sightings.of("b"), Some(1));
    }
}
