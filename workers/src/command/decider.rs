//! Deciding a command: who asks, which aggregate answers, in the command's own span.
//!
//! The worker decides what comes over the bus. A reactor decides what follows from its event itself, where it concerns
//! aggregates that others hardly write to ([`crate::sender::Sender`]): the event comes again until it is handled, so that a
//! queue between the two would make nothing safer.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use symbia_commands::{Actor, CommandEnvelope, Outcome, OutcomeStatus, Rejection, identity::AccessKind};
use symbia_events::{AggregateRef, OrgId};
use symbia_nats::{
    bus::CommandBus,
    store::{EventStore, StoreError},
    telemetry::{self, KeyValue, SpanExt},
    witness::{DENIALS, Seen, Witness},
};
use time::OffsetDateTime;
use tracing::{Instrument, Span};

use super::Handlers;
use crate::metrics;

/// Decides commands. Cheap to clone; those of a process share one, so that each finds in memory what another stored.
#[derive(Clone)]
pub struct Decider {
    store: EventStore,
    handlers: Arc<Handlers>,
    witness: Arc<OnceLock<Witness>>,
}

impl Decider {
    /// Decides for these aggregates.
    #[must_use]
    pub fn new(store: EventStore, handlers: Handlers) -> Self {
        Decider { store, handlers: Arc::new(handlers), witness: Arc::default() }
    }

    /// From now on what is refused for lack of a right is noted for the audit trail.
    pub(super) fn noting_denials(&self, bus: CommandBus) {
        self.witness.get_or_init(|| Witness::open(bus, Arc::new(self.store.keys().clone())));
    }

    /// Whether there is such a kind of aggregate.
    #[must_use]
    pub fn knows(&self, aggregate: &AggregateRef) -> bool {
        self.handlers.find(aggregate).is_some()
    }

    /// Decides a command and stores what follows; `received` is when a trusted clock first saw it. An error means: not now,
    /// and the same command may be given again.
    pub async fn decide(
        &self,
        aggregate: &AggregateRef,
        mut envelope: CommandEnvelope,
        received: OffsetDateTime,
    ) -> Result<Outcome, StoreError> {
        let since = Instant::now();
        let span = span(aggregate, &mut envelope);
        let outcome = self.execute(aggregate, &envelope, received).instrument(span.clone()).await;
        let ended = ending(&outcome);
        metrics::command_ended(self.knows(aggregate).then_some(aggregate), ended, since.elapsed());
        span.record("symbia.outcome", ended);
        for event in outcome.iter().flat_map(|outcome| &outcome.events) {
            span.add_event("symbia.event", vec![KeyValue::new("type", event.event_type.clone())]);
        }
        outcome
    }

    async fn execute(
        &self,
        aggregate: &AggregateRef,
        envelope: &CommandEnvelope,
        received: OffsetDateTime,
    ) -> Result<Outcome, StoreError> {
        let actor = match envelope.authenticate(self.store.keys(), aggregate, received, OffsetDateTime::now_utc()) {
            Ok(actor) => actor,
            Err(error) => {
                tracing::warn!(command = %envelope.id, %aggregate, %error, "command refused");
                return Ok(Outcome::rejected(envelope.id, Rejection::new(error.code(), error.to_string())));
            }
        };
        let Some(execute) = self.handlers.find(aggregate) else {
            let unknown = format!("'{}' is no aggregate of {}", aggregate.kind, aggregate.service);
            return Ok(Outcome::rejected(envelope.id, Rejection::new("UNKNOWN_COMMAND", unknown)));
        };
        let outcome = execute(&self.store, aggregate, envelope, &actor).await?;
        self.note_denial(aggregate, envelope, &actor, &outcome);
        Ok(outcome)
    }

    // Of the platform's own commands a refusal is an answer like others.
    fn note_denial(&self, aggregate: &AggregateRef, envelope: &CommandEnvelope, actor: &Actor, outcome: &Outcome) {
        let (Some(rejection), Some(witness)) = (&outcome.rejection, self.witness.get()) else { return };
        if actor.is_platform() || !DENIALS.contains(&rejection.code.as_ref()) {
            return;
        }
        witness.tell(Seen {
            principal: actor.id.clone(),
            org: Some(aggregate.tenant.as_str().to_owned()).filter(|org| org != OrgId::GLOBAL),
            operation: envelope.command_type.clone(),
            kind: AccessKind::Denied { code: rejection.code.to_string() },
        });
    }

    /// Writes the snapshots that are due, now.
    pub async fn flush(&self) {
        self.store.flush().await;
    }
}

// The span of a command, in the trace of whoever sent it; the events that follow are in the trace of this span.
fn span(aggregate: &AggregateRef, envelope: &mut CommandEnvelope) -> Span {
    let span = tracing::debug_span!("command", otel.name = format!("command {}/{}", aggregate.service, aggregate.kind),
        otel.kind = "consumer", symbia.command.id = %envelope.id, symbia.command.type = envelope.command_type,
        symbia.aggregate = %aggregate, symbia.outcome = tracing::field::Empty);
    telemetry::follow(&span, envelope.traceparent.as_deref());
    if let Some(own) = telemetry::traceparent(&span) {
        envelope.traceparent = Some(own);
    }
    span
}

fn ending(outcome: &Result<Outcome, StoreError>) -> &'static str {
    match outcome {
        Err(_) => "returned",
        Ok(outcome) if outcome.repeated => "repeated",
        Ok(outcome) => match outcome.status {
            OutcomeStatus::Accepted => "accepted",
            OutcomeStatus::Rejected => "rejected",
            OutcomeStatus::Dead => "dead",
        },
    }
}
