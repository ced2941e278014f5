//! A request on its way through the engine, with the promise of exactly one terminal event.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::UnboundedSender;

use super::{Event, Failure, FailureKind, Request};

/// A place among the requests of a model; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Ticket(Arc<AtomicUsize>);

impl Ticket {
    /// Takes a place unless `most` are taken.
    pub(super) fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let next = |count| (count < most).then_some(count + 1);
        taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok().map(|_| Self(taken.clone()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: Request,
    events: UnboundedSender<Event>,
    /// Taken by the terminal event.
    ticket: Option<Ticket>,
}

impl Job {
    pub(super) fn new(request: Request, events: UnboundedSender<Event>, ticket: Ticket) -> Self {
        Self { request, events, ticket: Some(ticket) }
    }

    /// Whether nobody wants the answer any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.request.cancel.is_cancelled() || self.events.is_closed()
    }

    /// Sends an event that is not terminal.
    pub(super) fn emit(&self, event: Event) {
        debug_assert!(!event.is_terminal());
        // A caller who has gone is noticed by `is_cancelled`.
        let _ = self.events.send(event);
    }

    /// Sends the terminal event.
    pub(super) fn finish(mut self, event: Event) {
        self.end(event);
    }

    pub(super) fn fail(self, failure: Failure) {
        self.finish(Event::Failed(failure));
    }

    fn end(&mut self, event: Event) {
        debug_assert!(event.is_terminal());
        // The place is free before the caller learns that it is.
        if self.ticket.take().is_some() {
            let _ = self.events.send(event);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.end(Event::Failed(Failure::new(
            FailureKind::Internal,
            "the inference thread ended unexpectedly; its log says why, and the next request starts it again",
        )));
    }
}
