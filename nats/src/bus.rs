//! The command bus, from the sender's side: publish a command, wait for its outcome.
//!
//! Where the sender's process decides commands itself, the way over the queue makes nothing safer: nothing is acknowledged
//! before its events are stored, and a sender that saw no outcome repeats the command with the same id, whoever decides it.
//! So it is decided on the spot, and goes over the queue when that fails or takes long.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, RequestError, connection::State};
use futures::{StreamExt, future::BoxFuture};
use serde_json::Value;
use symbia_commands::{CommandEnvelope, Outcome};
use symbia_events::{AggregateRef, CommandId, OrgId};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::store::StoreError;

/// Names the subject on which the sender awaits the outcome: `symbia.out.<tenant>.<any>` with the command's tenant, or one
/// of the sender's bus.
pub const OUTCOME_HEADER: &str = "Symbia-Outcome";
/// Where outcomes are published.
pub const OUTCOME_PREFIX: &str = "symbia.out.";
/// Length of the random token that names a bus, behind [`OUTCOME_PREFIX`].
pub const BUS_TOKEN: usize = uuid::fmt::Simple::LENGTH;
/// After this long without an outcome a command is published again, with the same id.
const REPEAT: Duration = Duration::from_millis(1500);

/// Where the outcome of a command is told when its sender names no place: `symbia.out.<tenant>.<commandid>`.
#[must_use]
pub fn outcome_subject(tenant: &OrgId, command: CommandId) -> String {
    format!("{OUTCOME_PREFIX}{tenant}.{command}")
}

/// The command was not seen through. It may still be done: repeat it with the same id, or ask later.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// There is no connection to the broker.
    #[error("the command bus is not reachable; try again shortly")]
    Unavailable,
    /// The broker does not store commands: its disk is full, or JetStream is off.
    #[error("the command bus does not store commands now: {0}; free disk space on the broker, then try again")]
    NotStored(String),
    /// No outcome within the given time.
    #[error("no outcome of command {0} yet; ask again with the same id")]
    Pending(CommandId),
    /// The command cannot be written.
    #[error("the command cannot be written: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Those who wait, by command: a command that is sent twice at once has two of them, and one outcome is for all.
type Waiting = Arc<Mutex<HashMap<CommandId, Vec<oneshot::Sender<Outcome>>>>>;

/// Who decides commands in the process that sends them.
pub trait DecideHere: Send + Sync {
    /// Whether it is for this process to decide the commands of an aggregate.
    fn takes(&self, aggregate: &AggregateRef) -> bool;

    /// Decides a command and stores what follows. An error means: not now; the same command may be given again.
    fn decide<'a>(
        &'a self,
        aggregate: &'a AggregateRef,
        envelope: CommandEnvelope,
    ) -> BoxFuture<'a, Result<Outcome, StoreError>>;
}

/// Sends commands and receives their outcomes over one subscription. Cheap to clone.
#[derive(Clone)]
pub struct CommandBus {
    client: Client,
    inbox: String,
    waiting: Waiting,
    here: Arc<OnceLock<Arc<dyn DecideHere>>>,
}

impl CommandBus {
    /// Subscribes to the outcomes of what this bus will send.
    pub async fn open(client: Client) -> Result<Self, BusError> {
        let inbox = format!("{OUTCOME_PREFIX}{}", Uuid::new_v4().simple());
        let mut outcomes = client.subscribe(format!("{inbox}.*")).await.map_err(|_| BusError::Unavailable)?;
        let waiting = Waiting::default();
        let bus = CommandBus { client, inbox, waiting: Arc::clone(&waiting), here: Arc::default() };
        tokio::spawn(async move {
            while let Some(message) = outcomes.next().await {
                let Ok(outcome) = serde_json::from_slice::<Outcome>(&message.payload) else { continue };
                let waiters = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&outcome.command_id);
                for waiter in waiters.into_iter().flatten() {
                    let _ = waiter.send(outcome.clone());
                }
            }
        });
        Ok(bus)
    }

    /// From now on this bus and its clones have commands decided in this process, where `decider` takes them. The first one
    /// told stays.
    pub fn decide_here(&self, decider: Arc<dyn DecideHere>) {
        self.here.get_or_init(|| decider);
    }

    /// Sends a command and waits for its outcome, at most `patience`.
    pub async fn send(
        &self,
        aggregate: &AggregateRef,
        envelope: &CommandEnvelope,
        patience: Duration,
    ) -> Result<Outcome, BusError> {
        if self.client.connection_state() != State::Connected {
            return Err(BusError::Unavailable);
        }
        let deadline = tokio::time::Instant::now() + patience;
        if let Some(decider) = self.here.get().filter(|decider| decider.takes(aggregate)) {
            let soon = deadline.min(tokio::time::Instant::now() + REPEAT);
            match tokio::time::timeout_at(soon, decider.decide(aggregate, envelope.clone())).await {
                Ok(Ok(outcome)) => return Ok(outcome),
                Ok(Err(error)) => tracing::warn!(command = %envelope.id, %aggregate, %error, "not decided here"),
                Err(_) => tracing::warn!(command = %envelope.id, %aggregate, "deciding takes long"),
            }
        }
        self.send_over_queue(aggregate, envelope, deadline).await
    }

    async fn send_over_queue(
        &self,
        aggregate: &AggregateRef,
        envelope: &CommandEnvelope,
        deadline: tokio::time::Instant,
    ) -> Result<Outcome, BusError> {
        let payload: bytes::Bytes = serde_json::to_vec(envelope)?.into();
        let (sender, outcome) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).entry(envelope.id).or_default().push(sender);
        let _forget = Forget(&self.waiting, envelope.id);
        // Declared after `_forget`, so that it is closed when its entry is looked for.
        let mut outcome = outcome;
        let mut not_stored = None;
        for attempt in 0.. {
            // Without a message id: the broker must not drop a repetition whose outcome got lost, and need not remember any.
            let mut headers = HeaderMap::new();
            headers.insert(OUTCOME_HEADER, format!("{}.{}", self.inbox, envelope.id));
            let subject = aggregate.command_subject();
            let until = deadline.min(tokio::time::Instant::now() + REPEAT);
            if attempt == 0 {
                let sent = self.client.publish_with_headers(subject, headers, payload.clone()).await;
                sent.map_err(|_| BusError::Unavailable)?;
            } else {
                // Something is slow: ask whether it was stored at all.
                let receipt = self.client.request_with_headers(subject, headers, payload.clone());
                tokio::select! {
                    biased;
                    outcome = &mut outcome => return outcome.map_err(|_| BusError::Unavailable),
                    receipt = tokio::time::timeout_at(until, receipt) => not_stored = refusal(receipt.ok()),
                }
            }
            match tokio::time::timeout_at(until, &mut outcome).await {
                Ok(Ok(outcome)) => return Ok(outcome),
                Ok(Err(_)) => return Err(BusError::Unavailable),
                Err(_) if tokio::time::Instant::now() >= deadline => break,
                Err(_) => {}
            }
        }
        if let Some(reason) = not_stored {
            return Err(BusError::NotStored(reason));
        }
        Err(BusError::Pending(envelope.id))
    }
}

// Why a command was not stored, from the stream's receipt.
fn refusal(receipt: Option<Result<Message, RequestError>>) -> Option<String> {
    match receipt {
        Some(Ok(receipt)) => {
            let receipt: Value = serde_json::from_slice(&receipt.payload).ok()?;
            Some(receipt["error"]["description"].as_str()?.to_owned())
        }
        Some(Err(error)) => Some(error.to_string()),
        None => Some("no receipt".to_owned()),
    }
}

/// Takes the entries of a command that nobody waits for any more away.
struct Forget<'a>(&'a Waiting, CommandId);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiters) = waiting.get_mut(&self.1) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                waiting.remove(&self.1);
            }
        }
    }
}
