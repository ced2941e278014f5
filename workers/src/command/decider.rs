//! Deciding a command: who asks, which aggregate answers, in the command's own span.
//!
//! The worker decides what comes over the queue; the buses of its process have theirs decided on the spot ([`Decider::here`]).

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, OnceLock},
    time::Instant,
};

use futures::future::BoxFuture;
use symbia_commands::{
    Actor, CommandEnvelope, Outcome, OutcomeStatus, Rejection,
    identity::AccessKind,
    integrations::{Completion, CompletionCommand},
};
use symbia_events::{AggregateRef, KeyRing, OrgId, Service};
use symbia_nats::{
    bus::{CommandBus, DecideHere},
    store::{EventStore, StoreError},
    telemetry::{self, KeyValue, SpanExt},
    witness::{DENIALS, Seen, Witness},
};
use time::OffsetDateTime;
use tokio::sync::Mutex;
use tracing::{Instrument, Span};

use super::Handlers;
use crate::metrics;

/// Lines in which commands stand, so that those of an aggregate are decided one after the other; few enough to be kept, and
/// enough that hardly two aggregates share one.
const LINES: usize = 4096;
/// What reactors write, one after the other: a way over the queue would cost a delivery and keep nobody from a conflict.
const REACTORS_OWN: [(Service, &str); 2] = [(Service::Assistants, "rule-run"), (Service::Integrations, "completion")];

/// Decides commands. Cheap to clone; those of a process share one, so that each finds in memory what another stored.
#[derive(Clone)]
pub struct Decider {
    store: EventStore,
    handlers: Arc<Handlers>,
    witness: Arc<OnceLock<Witness>>,
    lines: Arc<[Mutex<()>]>,
}

/// A request to a model whose envelope was read, and its actor authenticated.
pub(crate) struct Known {
    pub command: CompletionCommand,
    pub by: Actor,
    /// What the platform does at once when it is accepted: both are one commit.
    pub next: Option<(CompletionCommand, Actor)>,
}

/// Which commands of its own a process decides itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// All: it is a command worker, too.
    All,
    /// Those of runs and completions, which hardly anybody writes to but who acts on their events.
    ReactorsOwn,
}

impl Decider {
    /// Decides for these aggregates.
    #[must_use]
    pub fn new(store: EventStore, handlers: Handlers) -> Self {
        let lines = std::iter::repeat_with(Mutex::default).take(LINES).collect();
        Decider { store, handlers: Arc::new(handlers), witness: Arc::default(), lines }
    }

    /// The key ring that it verifies with.
    pub(crate) fn keys(&self) -> &KeyRing {
        self.store.keys()
    }

    /// For the buses of this process, which then have these commands decided where they are sent.
    #[must_use]
    pub fn here(&self, share: Share) -> Arc<dyn DecideHere> {
        Arc::new(Here { decider: self.clone(), share })
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
        envelope: CommandEnvelope,
        received: OffsetDateTime,
    ) -> Result<Outcome, StoreError> {
        self.decide_known(aggregate, envelope, received, None).await
    }

    /// The same; a request to a model may be known already.
    pub(crate) async fn decide_known(
        &self,
        aggregate: &AggregateRef,
        mut envelope: CommandEnvelope,
        received: OffsetDateTime,
        known: Option<Known>,
    ) -> Result<Outcome, StoreError> {
        metrics::command_taken();
        let since = Instant::now();
        let span = span(aggregate, &mut envelope);
        let _turn = self.line(aggregate).lock().await;
        let outcome = self.execute(aggregate, &envelope, received, known).instrument(span.clone()).await;
        let ended = ending(&outcome);
        metrics::command_ended(self.knows(aggregate).then_some(aggregate), ended, since.elapsed());
        span.record("symbia.outcome", ended);
        for event in outcome.iter().flat_map(|outcome| &outcome.events) {
            span.add_event("symbia.event", vec![KeyValue::new("type", event.event_type.clone())]);
        }
        outcome
    }

    fn line(&self, aggregate: &AggregateRef) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        aggregate.hash(&mut hasher);
        // At most LINES - 1, whatever the width.
        &self.lines[usize::try_from(hasher.finish() % LINES as u64).unwrap_or_default()]
    }

    async fn execute(
        &self,
        aggregate: &AggregateRef,
        envelope: &CommandEnvelope,
        received: OffsetDateTime,
        known: Option<Known>,
    ) -> Result<Outcome, StoreError> {
        if let Some(Known { command, by, next }) = known {
            let outcome = self.store.execute_and::<Completion>(aggregate, envelope, (command, &by), next).await?;
            self.note_denial(aggregate, envelope, &by, &outcome);
            return Ok(outcome);
        }
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
            address: None,
        });
    }

    /// Writes the snapshots that are due, now.
    pub async fn flush(&self) {
        self.store.flush().await;
    }
}

struct Here {
    decider: Decider,
    share: Share,
}

impl DecideHere for Here {
    fn takes(&self, aggregate: &AggregateRef) -> bool {
        match self.share {
            // What nobody knows is refused by whoever takes it from the queue.
            Share::All => self.decider.knows(aggregate),
            Share::ReactorsOwn => REACTORS_OWN.contains(&(aggregate.service, aggregate.kind.as_str())),
        }
    }

    fn decide<'a>(
        &'a self,
        aggregate: &'a AggregateRef,
        envelope: CommandEnvelope,
    ) -> BoxFuture<'a, Result<Outcome, StoreError>> {
        Box::pin(self.decider.decide(aggregate, envelope, OffsetDateTime::now_utc()))
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
