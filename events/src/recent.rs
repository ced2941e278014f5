//! What was verified or signed a moment ago: in one process the same message comes to whoever decides, follows, projects and
//! waits, and is parsed and verified once.

use std::{
    hash::{DefaultHasher, Hasher},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use crate::Signed;

/// Messages that are remembered.
const SLOTS: usize = 512;
/// Larger ones are not: bytes.
const LARGEST: usize = 16 * 1024;

/// Messages of late, by their bytes; a newer one takes the place of an older.
pub(crate) struct Recent(Box<[Slot]>);

type Slot = Mutex<Option<(Bytes, Vec<Signed>)>>;

impl Default for Recent {
    fn default() -> Self {
        Recent((0..SLOTS).map(|_| Slot::default()).collect())
    }
}

impl Recent {
    /// The events of a message with exactly these bytes.
    pub fn find(&self, payload: &[u8]) -> Option<Vec<Signed>> {
        let slot = self.slot(payload)?.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().filter(|(known, _)| known == payload).map(|(_, events)| events.clone())
    }

    /// Remembers what these bytes hold.
    pub fn keep(&self, payload: &Bytes, events: &[Signed]) {
        let Some(slot) = self.slot(payload) else { return };
        let entry = Some((payload.clone(), events.to_vec()));
        let before = std::mem::replace(&mut *slot.lock().unwrap_or_else(PoisonError::into_inner), entry);
        drop(before);
    }

    fn slot(&self, payload: &[u8]) -> Option<&Slot> {
        if payload.len() > LARGEST {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(payload);
        self.0.get(usize::try_from(hasher.finish() % SLOTS as u64).ok()?)
    }
}
