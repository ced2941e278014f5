//! What was verified or signed a moment ago: in one process the same message comes to whoever decides, follows, projects and
//! waits, and is parsed and verified once.

use std::{
    hash::BuildHasher,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::Signed;

/// Messages that are remembered.
const SLOTS: usize = 512;
/// Larger ones are not: bytes.
const LARGEST: usize = 16 * 1024;

/// Messages of late, by their bytes; a newer one takes the place of an older.
pub(crate) struct Recent {
    slots: Box<[Slot]>,
    // Every message is hashed as often as it comes, and a slot taken twice does no harm: speed counts.
    hash: RandomState,
}

type Slot = Mutex<Option<(Bytes, Vec<Signed>)>>;

impl Default for Recent {
    fn default() -> Self {
        Recent { slots: (0..SLOTS).map(|_| Slot::default()).collect(), hash: RandomState::default() }
    }
}

impl Recent {
    /// The events of a message with exactly these bytes; `read` when they are not known.
    pub fn events<E>(
        &self,
        payload: &[u8],
        read: impl FnOnce(&Bytes) -> Result<Vec<Signed>, E>,
    ) -> Result<Vec<Signed>, E> {
        let slot = self.slot(payload);
        if let Some(slot) = slot {
            let kept = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, events)) = kept.as_ref().filter(|(known, _)| known == payload) {
                return Ok(events.clone());
            }
        }
        // In memory of its own: what it came in would hold all that was read with it.
        let payload = Bytes::copy_from_slice(payload);
        let events = read(&payload)?;
        if let Some(slot) = slot {
            put(slot, payload, &events);
        }
        Ok(events)
    }

    /// Remembers what these bytes hold.
    pub fn keep(&self, payload: &Bytes, events: &[Signed]) {
        if let Some(slot) = self.slot(payload) {
            put(slot, payload.clone(), events);
        }
    }

    fn slot(&self, payload: &[u8]) -> Option<&Slot> {
        if payload.len() > LARGEST {
            return None;
        }
        self.slots.get(usize::try_from(self.hash.hash_one(payload) % SLOTS as u64).ok()?)
    }
}

fn put(slot: &Slot, payload: Bytes, events: &[Signed]) {
    let entry = Some((payload, events.to_vec()));
    let before = std::mem::replace(&mut *slot.lock().unwrap_or_else(PoisonError::into_inner), entry);
    drop(before);
}
