//! Sends the commands that follow from an event, in its trace and correlation: over the bus, or decided on the spot.

use std::{sync::Arc, time::Duration};

use symbia_commands::{Actor, CommandEnvelope, DomainCommand, Outcome, OutcomeStatus};
use symbia_events::{AggregateRef, CommandId, Event, KeyRing, Service};
use symbia_nats::{
    append::AppendError,
    bus::{BusError, CommandBus},
    store::StoreError,
    telemetry,
};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::Span;

use crate::command::Decider;

/// How long a command may wait for its outcome, a broker that is away included. Beyond it the event is handled again.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// What reactors write, one after the other: here a way over the bus would cost a delivery and keep nobody from a conflict.
const OWN: [(Service, &str); 2] = [(Service::Assistants, "rule-run"), (Service::Integrations, "completion")];

/// What went wrong with a command that was not refused but could not be seen through.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No outcome.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Not decided here.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It lies in the dead letters.
    #[error("command {0} could not be decided and waits in the dead letters")]
    Dead(CommandId),
}

/// Sends commands. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    bus: CommandBus,
    keys: Arc<KeyRing>,
    decider: Option<Decider>,
}

impl Sender {
    /// A sender over a bus; the key ring asserts who sends.
    #[must_use]
    pub fn new(bus: CommandBus, keys: Arc<KeyRing>) -> Self {
        Sender { bus, keys, decider: None }
    }

    /// Decides on the spot what concerns runs and completions. Nobody waits in line for them but who acts on their events,
    /// and whose event it is comes again if this process dies.
    #[must_use]
    pub fn deciding(self, decider: Decider) -> Self {
        Sender { decider: Some(decider), ..self }
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
            let sent = match self.decider.as_ref().filter(|_| OWN.contains(&(to.service, to.kind.as_str()))) {
                Some(decider) => decider.decide(to, envelope, now).await.map_err(SendError::from),
                None => self.bus.send(to, &envelope, left).await.map_err(SendError::from),
            };
            match sent {
                Ok(outcome) if outcome.status == OutcomeStatus::Dead => return Err(SendError::Dead(id)),
                // What was computed for this command may be dear: it waits for the broker to come back.
                Err(error) if error.is_passing() && !left.is_zero() => tokio::time::sleep(PAUSE).await,
                sent => return sent,
            }
        }
    }
}

impl SendError {
    fn is_passing(&self) -> bool {
        matches!(
            self,
            SendError::Bus(BusError::Unavailable)
                | SendError::Store(StoreError::Append(AppendError::Unavailable(_)) | StoreError::Read(_))
        )
    }
}
