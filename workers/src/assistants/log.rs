//! The events of one aggregate, read from the log and verified.

use std::sync::Arc;

use async_nats::Client;
use symbia_events::{
    DecodeError, DomainEvent, Event, KeyRing, Service, commit,
    integrations::{CompletionContext, CompletionEvent},
};
use symbia_nats::read::{self, ReadError};

/// Events could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log cannot be read now.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It holds something that must not be believed.
    #[error("{subject}, stream sequence {sequence}: {error}; run `symbia audit verify`")]
    Untrusted {
        /// The subject read.
        subject: String,
        /// Where.
        sequence: u64,
        /// Why.
        error: DecodeError,
    },
}

/// An event at its place.
#[derive(Clone, Debug)]
pub struct Logged<E> {
    /// Stream sequence of its message.
    pub sequence: u64,
    /// The envelope.
    pub event: Arc<Event>,
    /// What happened.
    pub what: E,
}

/// The events under a subject from stream sequence `from` on; those of other kinds (claims) are left out.
pub async fn events<E: DomainEvent>(
    client: &Client,
    keys: &KeyRing,
    service: Service,
    subject: &str,
    from: u64,
) -> Result<Vec<Logged<E>>, LogError> {
    let mut events = Vec::new();
    for stored in read::tail(client, &service.event_stream(), subject, from).await? {
        let untrusted =
            |error| LogError::Untrusted { subject: stored.subject.clone(), sequence: stored.sequence, error };
        for signed in commit::decode(keys, &stored.payload).map_err(untrusted)? {
            let what = match signed.event.decode::<E>() {
                Ok(what) => what,
                Err(DecodeError::UnknownType(_)) => continue,
                Err(error) => return Err(untrusted(error)),
            };
            events.push(Logged { sequence: stored.sequence, event: signed.event, what });
        }
    }
    Ok(events)
}

/// On whose behalf a completion was requested, from an event that ends it.
pub(super) fn context(event: &CompletionEvent) -> Option<&CompletionContext> {
    match event {
        CompletionEvent::CompletionCompleted(e) => Some(&e.context),
        CompletionEvent::CompletionFailed(e) => Some(&e.context),
        CompletionEvent::CompletionCancelled(e) => Some(&e.context),
        CompletionEvent::CompletionPartialKept(e) => Some(&e.context),
        _ => None,
    }
}
