//! From the log to verified batches: reads a service's stream and verifies each message before anything looks at it.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::Context;
use symbia_events::{AggregateRef, KeyRing, Position, Service, commit};
use symbia_nats::log::{LogError, LogMessage, LogReader};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    FoldEvent,
    commit::{Batch, Rejected},
};

/// The key ring as it is now: a rotation sends a new one. A ring that never changes comes from [`fixed_keys`].
pub type Keys = watch::Receiver<Arc<KeyRing>>;

/// A key ring that does not change while the process runs.
#[must_use]
pub fn fixed_keys(ring: KeyRing) -> Keys {
    watch::channel(Arc::new(ring)).1
}

/// Where reading waits for the first message, before it looks again whether anybody still listens.
const WAIT: Duration = Duration::from_secs(5);
/// Pause before a log that is missing or shorter than expected is asked for again.
const RETRY: Duration = Duration::from_millis(250);

/// Reads behind `after` for ever and sends what is there, at most `max` messages at a time, one batch for each permit of
/// `turn`: until then it gathers. Ends when nobody listens, and
/// when the log ends before `after`: the position must be read again. `trouble` hears of what keeps the log from being read,
/// and of its end.
pub(crate) async fn run(
    (jetstream, keys, service): (Context, Keys, Service),
    mut after: u64,
    max: usize,
    (batches, turn): (mpsc::Sender<Batch>, Arc<Semaphore>),
    trouble: impl Fn(Option<LogError>) + Send,
) {
    let mut reader = loop {
        match LogReader::open(jetstream.clone(), service, after, Vec::new()).await {
            Ok(reader) => break reader,
            Err(error) => {
                let ends = matches!(error, LogError::Ahead { .. });
                trouble(Some(error));
                tokio::time::sleep(RETRY).await;
                if ends || batches.is_closed() {
                    return;
                }
            }
        }
    };
    trouble(None);
    let (mut well, mut found) = (true, None);
    while !batches.is_closed() {
        let read = match found.take() {
            Some(found) => found,
            None => reader.next_batch(max, WAIT).await,
        };
        let mut batch = match read {
            Ok(messages) if messages.is_empty() => continue,
            Ok(messages) => {
                let ring = keys.borrow().clone();
                verified(&ring, service, after, messages)
            }
            Err(error @ LogError::Gap { expected, found, .. }) => gap(service, expected, found, &error),
            Err(error) => {
                well = false;
                let (lasting, ends) =
                    (!matches!(error, LogError::Unavailable(_)), matches!(error, LogError::Ahead { .. }));
                trouble(Some(error));
                if lasting {
                    tokio::time::sleep(RETRY).await;
                }
                if ends {
                    return;
                }
                continue;
            }
        };
        if !well {
            trouble(None);
            well = true;
        }
        loop {
            let room = max.saturating_sub(batch.events.len());
            tokio::select! {
                biased;
                permit = turn.acquire() => {
                    let Ok(permit) = permit else { return };
                    permit.forget();
                    break;
                }
                () = batches.closed() => return,
                more = reader.next_batch(room, WAIT), if room > 0 && found.is_none() => match more {
                    Ok(messages) => {
                        let ring = keys.borrow().clone();
                        batch.append(verified(&ring, service, batch.last, messages));
                    }
                    Err(error) => found = Some(Err(error)),
                },
            }
        }
        after = batch.last;
        if batches.send(batch).await.is_err() {
            return;
        }
    }
}

fn gap(service: Service, expected: u64, found: u64, error: &LogError) -> Batch {
    let rejected = Rejected {
        service,
        sequence: expected,
        version: 0,
        subject: String::new(),
        reason: error.to_string(),
        payload: Vec::new(),
    };
    Batch { service, after: expected - 1, last: found - 1, events: Vec::new(), rejected: vec![rejected] }
}

/// Verifies messages; those that fail stand in `rejected`.
pub(crate) fn verified(keys: &KeyRing, service: Service, after: u64, messages: Vec<LogMessage>) -> Batch {
    let mut batch =
        Batch { service, after, last: after, events: Vec::with_capacity(messages.len()), rejected: Vec::new() };
    for message in messages {
        batch.last = message.sequence;
        match open(keys, service, &message) {
            Ok(events) => batch.events.extend(events),
            Err(reason) => batch.rejected.push(Rejected {
                service,
                sequence: message.sequence,
                version: 0,
                subject: message.subject,
                reason,
                payload: message.payload.to_vec(),
            }),
        }
    }
    batch
}

fn open(keys: &KeyRing, service: Service, message: &LogMessage) -> Result<Vec<FoldEvent>, String> {
    let signed = commit::decode(keys, &message.payload).map_err(|e| e.to_string())?;
    let address = AggregateRef::of_subject(&message.subject);
    let position = Position { service, sequence: message.sequence };
    let mut events = Vec::with_capacity(signed.len());
    for one in signed {
        let own = one.event.aggregate().map_err(|e| e.to_string())?;
        if address.as_ref() != Some(&own) {
            return Err(format!("stored under {}, but it is an event of {}", message.subject, own.event_subject()));
        }
        events.push(FoldEvent { position, event: one.event, hash: one.hash });
    }
    Ok(events)
}
