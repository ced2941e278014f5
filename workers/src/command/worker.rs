//! The worker's loop: one pinned consumer per partition, one lane per aggregate.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{
    Client,
    jetstream::{
        self, AckKind, Message,
        consumer::{AckPolicy, PriorityPolicy, pull},
    },
};
use futures::StreamExt;
use symbia_commands::{CommandEnvelope, Outcome, OutcomeStatus, Rejection};
use symbia_events::{AggregateRef, CommandId, OrgId, check_token};
use symbia_nats::{
    bus::{BUS_TOKEN, CommandBus, OUTCOME_HEADER, OUTCOME_PREFIX, outcome_subject},
    topology,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Decider,
    acks::{self, Done},
    lanes::Lanes,
};
use crate::{again, metrics};

/// Deliveries of a command before it goes to the dead letters.
pub const MAX_DELIVERIES: i64 = 5;
const GROUP: &str = "worker";

/// How a command worker is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a command may be worked on before another worker gets it.
    pub ack_wait: Duration,
    /// How long a worker that does not pull keeps its partitions.
    pub takeover: Duration,
    /// Commands under way per partition.
    pub in_flight: i64,
}

impl Default for Options {
    fn default() -> Self {
        Options { ack_wait: Duration::from_secs(5), takeover: Duration::from_secs(2), in_flight: 512 }
    }
}

/// Takes commands, decides them, answers.
#[derive(Clone)]
pub struct CommandWorker {
    client: Client,
    decider: Decider,
    options: Options,
}

impl CommandWorker {
    /// A worker over a connection.
    #[must_use]
    pub fn new(client: Client, decider: Decider, options: Options) -> Self {
        CommandWorker { client, decider, options }
    }

    /// Works until `stop`; then finishes what it has begun and writes the snapshots that are due.
    pub async fn run(self, stop: CancellationToken) {
        match CommandBus::open(self.client.clone()).await {
            Ok(bus) => self.decider.noting_denials(bus),
            Err(error) => tracing::error!(%error, "what this worker refuses is not noted"),
        }
        let lanes = Lanes::default();
        let mut partitions = JoinSet::new();
        let (done, acknowledged) = mpsc::unbounded_channel();
        let acks = tokio::spawn(acks::run(self.client.clone(), acknowledged));
        let worker = Arc::new(self);
        for partition in 0..topology::PARTITIONS {
            let (worker, lanes, done, stop) = (Arc::clone(&worker), lanes.clone(), done.clone(), stop.clone());
            partitions.spawn(async move {
                let what = format!("commands of partition {partition}");
                again::consume(&stop, &what, || worker.consume(partition, &lanes, &done)).await;
            });
        }
        drop(done);
        while partitions.join_next().await.is_some() {}
        while !lanes.idle() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        worker.decider.flush().await;
        let _ = acks.await;
        let _ = worker.client.flush().await;
    }

    async fn consume(
        self: &Arc<Self>,
        partition: u32,
        lanes: &Lanes<Message>,
        done: &Done,
    ) -> Result<Infallible, async_nats::Error> {
        let js = jetstream::new(self.client.clone());
        let stream = js.get_stream(topology::COMMANDS).await?;
        let name = format!("command-worker-{partition}");
        let config = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: format!("symbia.cmd.{partition}.>"),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.options.ack_wait,
            max_ack_pending: self.options.in_flight,
            priority_policy: PriorityPolicy::PinnedClient,
            priority_groups: vec![GROUP.to_owned()],
            priority_timeout: self.options.takeover,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        let mut messages = consumer
            .stream()
            .group(GROUP)
            .max_messages_per_batch(256)
            .expires(Duration::from_secs(1))
            .heartbeat(Duration::from_millis(500))
            .messages()
            .await?;
        while let Some(message) = messages.next().await {
            let message = message?;
            let (worker, done) = (Arc::clone(self), done.clone());
            lanes.push(message.subject.to_string(), message, move |message| {
                let (worker, done) = (Arc::clone(&worker), done.clone());
                async move { worker.handle(message, &done).await }
            });
        }
        Err("the subscription ended".into())
    }

    async fn handle(&self, message: Message, done: &Done) {
        let (received, deliveries) = match message.info() {
            Ok(info) => (info.published, info.delivered),
            Err(error) => {
                tracing::error!(%error, "a message without JetStream metadata on the command stream");
                return;
            }
        };
        let Some(aggregate) = address(&message.subject) else {
            self.bury(&message, "its subject names no aggregate").await;
            return;
        };
        let since = Instant::now();
        let known = self.decider.knows(&aggregate).then_some(&aggregate);
        let envelope = match CommandEnvelope::parse(&message.payload) {
            Ok(envelope) => envelope,
            Err(error) => {
                metrics::command_taken();
                metrics::command_ended(known, "dead", since.elapsed());
                self.bury(&message, &error.to_string()).await;
                // Whoever waits for it can be told, when it has at least an id.
                if let Ok(Identified { id }) = serde_json::from_slice(&message.payload) {
                    let rejection = Rejection::new(error.code(), error.to_string());
                    self.publish_outcome(&message, &aggregate.tenant, Outcome::rejected(id, rejection)).await;
                }
                return;
            }
        };
        if deliveries > MAX_DELIVERIES {
            metrics::command_taken();
            metrics::command_ended(known, "dead", since.elapsed());
            self.bury(&message, "it could not be decided in 5 deliveries").await;
            let rejection =
                Rejection::new("DEAD_LETTER", "the command could not be decided; it waits in the dead letters");
            let outcome = Outcome { status: OutcomeStatus::Dead, ..Outcome::rejected(envelope.id, rejection) };
            self.publish_outcome(&message, &aggregate.tenant, outcome).await;
            return;
        }
        let command = envelope.id;
        let outcome = match self.decider.decide(&aggregate, envelope, received).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(%command, %aggregate, %error, "command not decided, giving it back");
                let _ = message.ack_with(AckKind::Nak(Some(Duration::from_millis(500)))).await;
                return;
            }
        };
        self.publish_outcome(&message, &aggregate.tenant, outcome).await;
        if let Some(reply) = &message.reply {
            let _ = done.send(reply.clone());
        }
    }

    async fn publish_outcome(&self, message: &Message, tenant: &OrgId, mut outcome: Outcome) {
        let named = message.headers.as_ref().and_then(|h| h.get(OUTCOME_HEADER)).map(|v| v.to_string());
        let place = named.as_deref().and_then(|named| place(named, tenant));
        if place != Some(Place::Bus) {
            // All members of a tenant may read its outcomes, but not all of its events.
            outcome.stored.clear();
        }
        let subject = named.filter(|_| place.is_some()).unwrap_or_else(|| outcome_subject(tenant, outcome.command_id));
        match serde_json::to_vec(&outcome) {
            Ok(payload) => {
                if let Err(error) = self.client.publish(subject, payload.into()).await {
                    tracing::warn!(command = %outcome.command_id, %error, "outcome not published");
                }
            }
            Err(error) => tracing::error!(command = %outcome.command_id, %error, "outcome cannot be written"),
        }
    }

    // Into the dead letters, and off the queue only once it is there.
    async fn bury(&self, message: &Message, reason: &str) {
        let mut headers = message.headers.clone().unwrap_or_default();
        headers.insert("Symbia-Reason", reason);
        headers.insert("Nats-Msg-Id", format!("dead-{}", message.info().map_or(0, |i| i.stream_sequence)));
        let subject = format!("symbia.dlq.{}", message.subject.trim_start_matches("symbia."));
        let js = jetstream::new(self.client.clone());
        let stored = match js.publish_with_headers(subject, headers, message.payload.clone()).await {
            Ok(ack) => ack.await.map(|_| ()).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match stored {
            Ok(()) => {
                tracing::error!(subject = %message.subject, reason, "command buried in the dead letters");
                let _ = message.ack_with(AckKind::Term).await;
            }
            Err(error) => tracing::error!(subject = %message.subject, error, "dead letter not stored, trying again"),
        }
    }
}

// What a command that is no envelope may still have.
#[derive(serde::Deserialize)]
struct Identified {
    id: CommandId,
}

// `symbia.cmd.<partition>.<service>.<tenant>.<aggregate>.<id>` as the stream stores it.
fn address(subject: &str) -> Option<AggregateRef> {
    let (_, rest) = subject.strip_prefix("symbia.cmd.")?.split_once('.')?;
    AggregateRef::of_subject(&format!("symbia.cmd.{rest}"))
}

// Senders name their own place: in the tenant of the command, or a bus's, which nobody can guess. Else a tenant could have
// something told to another.
fn place(named: &str, tenant: &OrgId) -> Option<Place> {
    let (place, name) = named.strip_prefix(OUTCOME_PREFIX)?.split_once('.')?;
    check_token(name).ok()?;
    let is_bus = place.len() == BUS_TOKEN && place.bytes().all(|b| b.is_ascii_hexdigit());
    match place == tenant.as_str() {
        true => Some(Place::Tenant),
        false => is_bus.then_some(Place::Bus),
    }
}

/// Where an outcome is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Tenant,
    Bus,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_told_to_the_tenant_of_the_command_or_to_a_bus() {
        let (tenant, bus) = ("o1".parse().unwrap(), uuid::Uuid::new_v4().simple());
        assert_eq!(place("symbia.out.o1.x", &tenant), Some(Place::Tenant));
        assert_eq!(place(&format!("symbia.out.{bus}.x"), &tenant), Some(Place::Bus));
        for elsewhere in ["o2.x", "o1", "x", "", "o1.x.y", "o1.*", "o1.>", "o1.", ".x"] {
            assert_eq!(place(&format!("symbia.out.{elsewhere}"), &tenant), None, "{elsewhere}");
        }
    }
}
