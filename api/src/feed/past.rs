//! A stretch of a service's stream that has passed, for one who missed it.

use std::time::Duration;

use symbia_events::{Service, Signed};
use symbia_nats::log::{self, LogError, LogReader};
use time::OffsetDateTime;

use super::{Feed, position::Place, source::verified};

/// Messages read at once.
const BATCH: usize = 256;
/// How long the broker may be away before a stretch is given up.
const WAIT: Duration = Duration::from_secs(5);

/// What can be read of a stretch.
pub(crate) enum Stretch {
    /// All of it, piece by piece.
    Whole(Box<Past>),
    /// Too much was stored meanwhile.
    TooLong,
    /// The log does not reach back so far, or not forward: it is another one.
    NotHere,
}

/// Events of a stretch, in their order.
pub(crate) struct Past {
    feed: Feed,
    reader: LogReader,
    after: Place,
    until: u64,
}

impl Feed {
    /// What was stored under these subjects behind a place, up to a sequence: at most `most` messages.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(crate) async fn past(
        &self,
        service: Service,
        subjects: Vec<String>,
        after: Place,
        until: u64,
        most: u64,
    ) -> Result<Stretch, LogError> {
        let (first, last) = log::head(&self.0.jetstream, service).await?;
        if after.passed + 1 < first || after.passed > last {
            return Ok(Stretch::NotHere);
        }
        let reader = LogReader::open(self.0.jetstream.clone(), service, after.passed, subjects).await?;
        if reader.pending() > most {
            return Ok(Stretch::TooLong);
        }
        Ok(Stretch::Whole(Box::new(Past { feed: self.clone(), reader, after, until })))
    }
}

impl Feed {
    /// Whether a service's stream has come to a place.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(crate) async fn holds(&self, service: Service, place: Place) -> Result<bool, LogError> {
        let (_, last) = log::head(&self.0.jetstream, service).await?;
        Ok(place.passed < last || (place.passed == last && place.events == 0))
    }

    /// When a message of a service's stream was stored; `None` when that cannot be told.
    pub(crate) async fn stored_at(&self, service: Service, sequence: u64) -> Option<OffsetDateTime> {
        let stream = self.0.jetstream.get_stream(service.event_stream()).await.ok()?;
        Some(stream.get_raw_message(sequence).await.ok()?.time)
    }
}

impl Past {
    /// The next events, each with the place behind it; `None` at the end of the stretch.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<(Signed, Place)>>, LogError> {
        if self.reader.pending() == 0 || self.reader.position() >= self.until {
            return Ok(None);
        }
        let (mut events, keys) = (Vec::new(), self.feed.0.keys.borrow().clone());
        for message in self.reader.next_batch(BATCH, WAIT).await? {
            // What does not verify is nobody's.
            let Ok(found) = verified(&keys, &message) else { continue };
            let count = found.len();
            for (index, event) in found.into_iter().enumerate() {
                let place = Place::behind_event(message.sequence, index, count);
                if place > self.after && message.sequence <= self.until {
                    events.push((event, place));
                }
            }
        }
        Ok(Some(events))
    }
}
