//! Timers on JetStream's message schedules: the platform's only timers (DESIGN §3). A due timer becomes a message under
//! `symbia.timer.due.`; the timer worker turns it into a command.

use async_nats::{HeaderMap, jetstream};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use symbia_events::AggregateRef;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::topology::TIMERS;

/// Where due timers that send a command appear.
pub const DUE_COMMANDS: &str = "symbia.timer.due.command.>";
/// Where the hourly call to seal the log appears.
pub const DUE_SEAL: &str = "symbia.timer.due.seal.log";

/// When a timer fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Once.
    At(OffsetDateTime),
    /// By a six-field cron expression, `@hourly` and the like, or `@every 5s`.
    Each(String),
}

/// The command that a due timer sends, as the platform's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TimerCommand {
    /// The aggregate it is for.
    pub aggregate: AggregateRef,
    /// Command type.
    pub command_type: String,
    /// Its data.
    pub data: Box<RawValue>,
}

/// The schedule could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("the timer {timer} was not set: {reason}")]
pub struct TimerError {
    timer: String,
    reason: String,
}

/// Sets and cancels timers. Cheap to clone.
#[derive(Clone)]
pub struct Timers(jetstream::Context);

impl Timers {
    /// Timers over a connection.
    #[must_use]
    pub fn new(js: jetstream::Context) -> Self {
        Timers(js)
    }

    /// Sends a command at a time. Setting a timer of the same id again replaces it.
    pub async fn command(&self, id: &str, when: &When, command: &TimerCommand) -> Result<(), TimerError> {
        let payload = serde_json::to_vec(command).map_err(|e| fail(id, &e))?;
        self.set(&schedule("command", id), &format!("symbia.timer.due.command.{id}"), when, payload).await
    }

    /// Calls the sealer, every hour.
    pub async fn seal_hourly(&self) -> Result<(), TimerError> {
        self.set(&schedule("seal", "log"), DUE_SEAL, &When::Each("@hourly".to_owned()), b"{}".to_vec()).await
    }

    /// Cancels a timer; one that is not set, or has fired, is no error.
    pub async fn cancel(&self, id: &str) -> Result<(), TimerError> {
        let stream = self.0.get_stream(TIMERS).await.map_err(|e| fail(id, &e))?;
        stream.purge().filter(schedule("command", id)).await.map(|_| ()).map_err(|e| fail(id, &e))
    }

    async fn set(&self, subject: &str, target: &str, when: &When, payload: Vec<u8>) -> Result<(), TimerError> {
        let schedule = match when {
            When::At(at) => format!("@at {}", at.format(&Rfc3339).map_err(|e| fail(subject, &e))?),
            When::Each(pattern) => pattern.clone(),
        };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Schedule", schedule);
        headers.insert("Nats-Schedule-Target", target);
        // A due message that every worker has had a day to take is of no use any more.
        headers.insert("Nats-Schedule-TTL", "24h");
        headers.insert("Nats-Rollup", "sub");
        let ack = self.0.publish_with_headers(subject.to_owned(), headers, payload.into()).await;
        ack.map_err(|e| fail(subject, &e))?.await.map(|_| ()).map_err(|e| fail(subject, &e))
    }
}

fn schedule(kind: &str, id: &str) -> String {
    format!("symbia.timer.at.{kind}.{id}")
}

fn fail(timer: &str, error: &dyn std::fmt::Display) -> TimerError {
    TimerError { timer: timer.to_owned(), reason: error.to_string() }
}
