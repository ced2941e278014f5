//! Sends the commands that follow from an event, in its trace and correlation.

use std::{sync::Arc, time::Duration};

use symbia_commands::{Actor, CommandEnvelope, DomainCommand, Outcome, OutcomeStatus};
use symbia_events::{AggregateRef, CommandId, Event, KeyRing};
use symbia_nats::{
    bus::{BusError, CommandBus},
    refusals::Refusals,
    telemetry,
};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::Span;

/// How long a command may wait for its outcome, a broker that is away included. Beyond it the event is handled again.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// What went wrong with a command that was not refused but could not be seen through.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No outcome.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// It lies in the dead letters.
    #[error("command {0} could not be decided and waits in the dead letters")]
    Dead(CommandId),
}

/// Sends commands. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    bus: CommandBus,
    keys: Arc<KeyRing>,
}

impl Sender {
    /// A sender over a bus; the key ring asserts who sends.
    #[must_use]
    pub fn new(bus: CommandBus, keys: Arc<KeyRing>) -> Self {
        Sender { bus, keys }
    }

    /// What tells a mesh's log of refusals over the same bus.
    pub(crate) fn refusals(&self) -> Refusals {
        Refusals::open(self.bus.clone(), Arc::clone(&self.keys))
    }

    /// Sends a command that follows from `cause` and waits for its outcome: accepted or rejected.
    pub async fn send(
        &self,
        cause: Option<&Event>,
        to: &AggregateRef,
        command: &impl DomainCommand,
        by: &Actor,
        id: CommandId,
    ) -> Result<Outcome, SendError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = OffsetDateTime::now_utc();
            let envelope = CommandEnvelope::new(&self.keys, to, command, by, id, now).map_err(BusError::Malformed)?;
            let envelope = CommandEnvelope {
                source: "symbia/workers".to_owned(),
                correlationid: cause.map(|event| event.correlationid.clone()),
                causationid: cause.map(|event| event.id.to_string()),
                traceparent: telemetry::traceparent(&Span::current()).or_else(|| cause?.traceparent.clone()),
                ..envelope
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match self.bus.send(to, &envelope, left).await {
                Ok(outcome) if outcome.status == OutcomeStatus::Dead => return Err(SendError::Dead(id)),
                // What was computed for this command may be dear: it waits for the broker to come back.
                Err(BusError::Unavailable) if !left.is_zero() => tokio::time::sleep(PAUSE).await,
                sent => return Ok(sent?),
            }
        }
    }
}
