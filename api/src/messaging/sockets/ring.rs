//! The last events that were told, so that who was away for a moment need not read the log.

use std::{collections::VecDeque, sync::Arc};

use super::told::Told;
use crate::feed::position::Place;

/// It holds so many events, of about so many bytes.
const EVENTS: usize = 4096;
const BYTES: usize = 8 << 20;

pub(super) struct Ring {
    told: VecDeque<Arc<Told>>,
    bytes: usize,
    /// Everything behind this place is here.
    since: Place,
}

impl Ring {
    pub fn new(since: Place) -> Self {
        Ring { told: VecDeque::new(), bytes: 0, since }
    }

    pub fn push(&mut self, told: Arc<Told>) {
        self.bytes += told.bytes();
        self.told.push_back(told);
        while self.told.len() > EVENTS || self.bytes > BYTES {
            let Some(oldest) = self.told.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.since = oldest.place;
        }
    }

    /// Whether everything behind a place is here.
    pub fn reaches(&self, place: Place) -> bool {
        place >= self.since
    }

    /// Everything behind a place.
    pub fn behind(&self, place: Place) -> impl Iterator<Item = &Arc<Told>> {
        let first = self.told.partition_point(|told| told.place <= place);
        self.told.range(first..)
    }
}
