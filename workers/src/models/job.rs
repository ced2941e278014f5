//! A request on its way through the engine, with the promise of exactly one terminal event.

use std::sync::Arc;
use std::time::Instant;

use symbia_nats::inference::{Embed, Failure, FailureKind, Inspect, Request};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::Event;
use super::totals::Counters;

/// What a lane is asked to do.
#[derive(Debug)]
pub(super) enum Task {
    Generate(Box<Request>),
    Embed(Embed),
    Inspect(Inspect),
    /// Nothing but to be there.
    Load,
}

/// A place among the requests of a model; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Ticket(Arc<Counters>);

impl Ticket {
    /// Takes a place unless `most` are taken.
    pub(super) fn take(counters: &Arc<Counters>, most: usize) -> Option<Self> {
        counters.enter(most).then(|| Self(Arc::clone(counters)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) task: Task,
    pub(super) arrived: Instant,
    events: UnboundedSender<Event>,
    cancel: CancellationToken,
    /// Taken by the terminal event.
    ticket: Option<Ticket>,
}

impl Job {
    pub(super) fn new(task: Task, events: UnboundedSender<Event>, cancel: CancellationToken, ticket: Ticket) -> Self {
        Self { task, arrived: Instant::now(), events, cancel, ticket: Some(ticket) }
    }

    /// Whom it is for; empty when nobody said.
    pub(super) fn organization(&self) -> &str {
        let organization = match &self.task {
            Task::Generate(request) => &request.org,
            Task::Embed(embed) => &embed.org,
            Task::Inspect(_) | Task::Load => &None,
        };
        organization.as_deref().unwrap_or_default()
    }

    /// Whether nobody wants the answer any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled() || self.events.is_closed()
    }

    /// Counts of the lane, while the job is in it.
    pub(super) fn counters(&self) -> Option<&Counters> {
        self.ticket.as_ref().map(|ticket| ticket.0.as_ref())
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
        if let Some(ticket) = self.ticket.take() {
            ticket.0.ended(&event);
            drop(ticket);
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
