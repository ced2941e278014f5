//! From the log to one follower: a reader per service's stream, limited by the broker to the tenant's subjects. Everything
//! is verified before it goes on. The queue is short, and a reader waits for room in it: the log itself is the buffer.

use std::time::Duration;

use async_nats::jetstream::Context;
use futures::future::try_join_all;
use symbia_events::{AggregateRef, KeyRing, OrgId, Service, Signed, commit};
use symbia_nats::log::{self, LogError, LogMessage, LogReader};
use symbia_projections::Keys;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    follow::{Follow, type_matches},
    position::{Cursor, From, Place},
};
use crate::http::{ApiError, ApiResult};

/// The queue: so many chunks, of so many messages or about so many bytes each.
const CHUNKS: usize = 4;
const CHUNK_MESSAGES: usize = 64;
const CHUNK_BYTES: usize = 256 * 1024;
/// Where a reader waits for the next message before it looks at its errors again.
const WAIT: Duration = Duration::from_secs(5);
/// Pause before a broker that cannot be read is asked again.
const RETRY: Duration = Duration::from_millis(250);

/// What was read from one service's stream.
pub(crate) enum Entry {
    /// An event, and the place behind it.
    Event(Box<Signed>, Place),
    /// A message that does not verify. Nothing in it can be believed, not even whose it is.
    Quarantined,
}

/// Some entries of one service's stream, with the sequences of their messages, in order.
pub(crate) struct Chunk {
    pub service: Service,
    pub entries: Vec<(u64, Entry)>,
}

/// Messages that the stream no longer has.
pub(super) struct Gap {
    pub service: Service,
    pub from: u64,
    pub to: u64,
}

/// The log is no longer the one that was followed: it ends before what was already read.
pub(crate) struct Replaced;

/// The chunks of all followed services. Dropping it ends the reading.
pub(crate) struct Source {
    chunks: mpsc::Receiver<Result<Chunk, Replaced>>,
    _readers: JoinSet<()>,
}

impl Source {
    /// Reads on from each place of the cursor.
    pub fn start(js: &Context, keys: &Keys, tenant: &OrgId, follow: &Follow, at: &Cursor) -> Self {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let mut readers = JoinSet::new();
        for (service, place) in at.places() {
            let reader = Reader {
                service,
                place,
                subjects: follow.subjects(service, tenant),
                types: follow.types.clone(),
                keys: keys.clone(),
                sender: sender.clone(),
            };
            readers.spawn(reader.run(js.clone()));
        }
        Self { chunks, _readers: readers }
    }

    /// Reads on from one place in one service's stream: these subjects, whoever's they are.
    pub(super) fn of(js: &Context, keys: &Keys, service: Service, place: Place, subjects: Vec<String>) -> Self {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let mut readers = JoinSet::new();
        let reader = Reader { service, place, subjects, types: Vec::new(), keys: keys.clone(), sender };
        readers.spawn(reader.run(js.clone()));
        Self { chunks, _readers: readers }
    }

    /// The next chunk. Cancel-safe.
    pub async fn next(&mut self) -> Result<Chunk, Replaced> {
        match self.chunks.recv().await {
            Some(chunk) => chunk,
            // All readers are gone, which only happens after one said why.
            None => Err(Replaced),
        }
    }
}

/// Where to begin, as a cursor over all followed services, and what is missing there.
///
/// # Errors
/// 400 when a place lies beyond the end of its stream; 503 when the log cannot be asked.
pub(super) async fn begin(js: &Context, follow: &Follow) -> ApiResult<(Cursor, Vec<Gap>)> {
    let heads = follow.services.iter().map(|service| async { Ok((*service, log::head(js, *service).await?)) });
    let heads = try_join_all(heads).await.map_err(|error: LogError| {
        tracing::warn!(%error, "a feed cannot begin");
        ApiError::unavailable("The event log", 2)
    })?;
    let (mut cursor, mut gaps) = (Cursor::default(), Vec::new());
    for (service, (first, last)) in heads {
        let mut place = match &follow.from {
            From::Latest => Place::behind(last),
            From::Earliest => Place::default(),
            From::Cursor(cursor) => cursor.get(service).unwrap_or_default(),
        };
        if place.passed > last || (place.events > 0 && place.passed == last) {
            let message = format!("names {service}:{place}, but that stream ends at {service}:{last}");
            return Err(ApiError::invalid("from", "range", message).with_hint(
                "The position belongs to another or a newer log. Begin with from=earliest, or with from=latest after \
                 reading the current state over REST.",
            ));
        }
        if place.passed + 1 < first {
            gaps.push(Gap { service, from: place.passed + 1, to: first - 1 });
            place = Place::behind(first - 1);
        }
        cursor.set(service, place);
    }
    Ok((cursor, gaps))
}

struct Reader {
    service: Service,
    place: Place,
    subjects: Vec<String>,
    types: Vec<String>,
    keys: Keys,
    sender: mpsc::Sender<Result<Chunk, Replaced>>,
}

impl Reader {
    async fn run(self, js: Context) {
        let mut log = loop {
            match LogReader::open(js.clone(), self.service, self.place.passed, self.subjects.clone()).await {
                Ok(log) => break log,
                Err(error) => {
                    if self.is_lasting(&error).await {
                        return;
                    }
                }
            }
        };
        loop {
            let read = match log.next_batch(CHUNK_MESSAGES, WAIT).await {
                Ok(messages) => self.deliver(messages).await,
                Err(error) if self.is_lasting(&error).await => return,
                Err(_) => Some(()),
            };
            if read.is_none() {
                return;
            }
        }
    }

    // A broker that is away comes back, and the log is read on. A log that ends too early does not grow its end back.
    async fn is_lasting(&self, error: &LogError) -> bool {
        if matches!(error, LogError::Ahead { .. }) {
            tracing::warn!(service = %self.service, %error, "a feed ends");
            let _ = self.sender.send(Err(Replaced)).await;
            return true;
        }
        // Every open feed sees the same: health and projections report it.
        tracing::debug!(service = %self.service, %error, "a feed waits for the log");
        tokio::time::sleep(RETRY).await;
        false
    }

    async fn deliver(&self, messages: Vec<LogMessage>) -> Option<()> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for message in messages {
            bytes += message.payload.len();
            self.read(&message, &mut entries);
            if bytes >= CHUNK_BYTES {
                bytes = 0;
                self.send(std::mem::take(&mut entries)).await?;
            }
        }
        self.send(entries).await
    }

    async fn send(&self, entries: Vec<(u64, Entry)>) -> Option<()> {
        if entries.is_empty() {
            return Some(());
        }
        self.sender.send(Ok(Chunk { service: self.service, entries })).await.ok()
    }

    fn read(&self, message: &LogMessage, entries: &mut Vec<(u64, Entry)>) {
        let sequence = message.sequence;
        let keys = self.keys.borrow().clone();
        let events = match verified(&keys, message) {
            Ok(events) => events,
            Err(reason) => {
                tracing::debug!(service = %self.service, sequence, reason, "a message is not delivered: it does not verify");
                entries.push((sequence, Entry::Quarantined));
                return;
            }
        };
        let seen = if sequence == self.place.passed + 1 { self.place.events as usize } else { 0 };
        let count = events.len();
        for (index, event) in events.into_iter().enumerate().skip(seen) {
            if type_matches(&self.types, &event.event.event_type) {
                let place = Place::behind_event(sequence, index, count);
                entries.push((sequence, Entry::Event(Box::new(event), place)));
            }
        }
    }
}

/// The events of a message, when it is what it says it is.
pub(super) fn verified(keys: &KeyRing, message: &LogMessage) -> Result<Vec<Signed>, String> {
    let events = commit::decode(keys, &message.payload).map_err(|e| e.to_string())?;
    let address = AggregateRef::of_subject(&message.subject);
    for one in &events {
        let own = one.event.aggregate().map_err(|e| e.to_string())?;
        if address.as_ref() != Some(&own) {
            return Err(format!("stored under {}, but it is an event of {}", message.subject, own.event_subject()));
        }
    }
    Ok(events)
}
