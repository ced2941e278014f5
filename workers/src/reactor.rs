//! Reactors: durable consumers of the log that act on what happened (DESIGN §6).
//!
//! A reactor sees every event that its subjects name, verified, at least once and in order per aggregate. What it causes
//! must therefore be recognisable: commands with ids derived from the event. Each states its [`OnError`].

mod together;

use std::{borrow::Cow, fmt::Display, sync::Arc, time::Duration};

use anyhow::Context;
use async_nats::{
    Client,
    jetstream::{
        self, AckKind, Message,
        consumer::{AckPolicy, DeliverPolicy, pull},
        context::ConsumerInfoErrorKind,
        stream::{ConsumerErrorKind, Stream},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use symbia_events::{Event, KeyRing, Position, Service, commit};
use symbia_nats::{jobs, read, telemetry, topology};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use self::together::Together;
use crate::{again, command::Lanes, metrics};

/// How long a reactor that is stopped may take to finish what it has begun.
pub const GRACE: Duration = Duration::from_secs(5);

/// What happens to an event whose handling failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// It comes again, at growing intervals, for ever: for effects that must happen.
    Retry,
    /// It is put into the dead letters after this many deliveries.
    Bury {
        /// Deliveries.
        after: i64,
    },
}

/// Acts on events.
#[async_trait]
pub trait Reactor: Send + Sync + 'static {
    /// Name of its consumers: its position survives under it.
    fn name(&self) -> &'static str;
    /// The streams it follows, each with subject filters after `symbia.evt.<service>.`, e.g. `*.conversation.*`.
    fn follows(&self) -> Vec<(Service, &'static [&'static str])>;
    /// The kind of [jobs] that it takes: it sees their events, in no order.
    fn takes(&self) -> Option<&'static str> {
        None
    }
    /// Beginnings of the types of the events that it acts on; what holds none of them is passed over without a look.
    fn acts_on(&self) -> &'static [&'static str] {
        &["symbia."]
    }
    /// Whether a message stored under this subject may hold such an event.
    fn is_concerned(&self, _subject: &str, payload: &[u8]) -> bool {
        holds(payload, self.acts_on())
    }
    /// Names of reactors whose work it goes on with: their consumers' positions become its own.
    fn replaces(&self) -> Vec<&'static str> {
        Vec::new()
    }
    /// What happens when handling fails.
    fn on_error(&self) -> OnError;
    /// Longest time one event may take without a sign of life; beyond it another process gets the event too.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
    /// Events that are under way at a time, in all processes; further ones wait at the broker.
    fn at_once(&self) -> i64 {
        1024
    }
    /// Acts on one event.
    async fn react(&self, event: &Event, at: Position) -> anyhow::Result<()>;
}

/// Where events come from.
#[derive(Clone, Copy)]
enum Source {
    Log(Service, &'static [&'static str]),
    Queue(&'static str),
}

impl Source {
    fn stream(self) -> Cow<'static, str> {
        match self {
            Source::Log(service, _) => service.event_stream().into(),
            Source::Queue(_) => topology::JOBS.into(),
        }
    }

    fn subjects(self) -> Vec<String> {
        match self {
            Source::Log(service, filters) => filters.iter().map(|f| format!("symbia.evt.{service}.{f}")).collect(),
            Source::Queue(kind) => vec![jobs::subjects(kind)],
        }
    }
}

/// Runs one reactor.
#[derive(Clone)]
pub struct ReactorRunner {
    client: Client,
    keys: Arc<KeyRing>,
    reactor: Arc<dyn Reactor>,
}

impl ReactorRunner {
    /// A runner over a connection.
    #[must_use]
    pub fn new(client: Client, keys: Arc<KeyRing>, reactor: Arc<dyn Reactor>) -> Self {
        ReactorRunner { client, keys, reactor }
    }

    /// Works until `stop`, then finishes what it has begun; what takes longer than [`GRACE`] comes again elsewhere.
    pub async fn run(self, stop: CancellationToken) {
        let lanes = Lanes::default();
        let mut streams = JoinSet::new();
        let followed = self.reactor.follows().into_iter().map(|(service, filters)| Source::Log(service, filters));
        for source in followed.chain(self.reactor.takes().map(Source::Queue)) {
            let (runner, lanes, stop) = (self.clone(), lanes.clone(), stop.clone());
            streams.spawn(async move { runner.follow(source, lanes, stop).await });
        }
        while streams.join_next().await.is_some() {}
        let until = Instant::now() + GRACE;
        while !lanes.idle() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn follow(self, source: Source, lanes: Lanes<Message>, stop: CancellationToken) {
        let what = format!("{} for {}", source.stream(), self.reactor.name());
        again::consume(&stop, &what, || self.consume(source, &lanes)).await;
    }

    async fn consume(
        &self,
        source: Source,
        lanes: &Lanes<Message>,
    ) -> Result<std::convert::Infallible, async_nats::Error> {
        let stream = jetstream::new(self.client.clone()).get_stream(source.stream()).await?;
        let name = consumer_name(self.reactor.name());
        let config = pull::Config {
            deliver_policy: self.begins_at(&stream, &name).await?,
            durable_name: Some(name),
            filter_subjects: source.subjects(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.reactor.patience(),
            max_ack_pending: self.reactor.at_once(),
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        for replaced in self.reactor.replaces() {
            delete(&stream, &consumer_name(replaced)).await?;
        }
        let messages = consumer.stream().max_messages_per_batch(256).expires(Duration::from_secs(5));
        let mut messages = messages.heartbeat(Duration::from_secs(2)).messages().await?;
        let is_log = matches!(source, Source::Log(..));
        while let Some(message) = messages.next().await {
            let message = message?;
            if is_log && !self.reactor.is_concerned(&message.subject, &message.payload) {
                acknowledge(self.reactor.name(), &message).await;
                continue;
            }
            let runner = self.clone();
            lanes.push(message.subject.to_string(), message, move |message| {
                let runner = runner.clone();
                async move { runner.handle(source, message).await }
            });
        }
        Err("the subscription ended".into())
    }

    // A consumer keeps what it began with. One that goes on with the work of others begins at the first event that any of them
    // has not done.
    async fn begins_at(&self, stream: &Stream, name: &str) -> Result<DeliverPolicy, async_nats::Error> {
        let own = known(stream, name).await?;
        let mut done = Vec::new();
        for replaced in self.reactor.replaces() {
            done.extend(known(stream, &consumer_name(replaced)).await?.map(|(_, done)| done));
        }
        done.extend(own.filter(|_| !done.is_empty()).map(|(_, done)| done));
        let Some(first) = done.into_iter().min() else {
            return Ok(own.map_or(DeliverPolicy::All, |(began, _)| began));
        };
        delete(stream, name).await?;
        Ok(DeliverPolicy::ByStartSequence { start_sequence: first + 1 })
    }

    async fn handle(&self, source: Source, message: Message) {
        let (sequence, deliveries) = match message.info() {
            Ok(info) => (info.stream_sequence, info.delivered),
            Err(error) => {
                tracing::error!(%error, "an event without JetStream metadata");
                return;
            }
        };
        let stored = match source {
            Source::Log(service, _) => Ok((Position { service, sequence }, message.payload.clone())),
            Source::Queue(_) => self.of_job(&message.payload).await,
        };
        let (at, commit) = match stored {
            Ok(stored) => stored,
            Err(error) => return self.put_off(&message, deliveries, &message.subject, (&error, Duration::ZERO)).await,
        };
        let events = match commit::decode(&self.keys, &commit) {
            Ok(events) => events,
            // What does not verify is not acted on; the projector quarantines it and the audit names it.
            Err(error) => {
                metrics::reacted(self.reactor.name(), "not believed", Duration::ZERO);
                tracing::error!(reactor = self.reactor.name(), position = %at, %error, "event not believed, passed over");
                let _ = message.ack().await;
                return;
            }
        };
        for signed in &events {
            let since = Instant::now();
            let name = self.reactor.name();
            let Err(error) = self.react(&message, &signed.event, at).await else {
                metrics::reacted(name, "handled", since.elapsed());
                continue;
            };
            match self.reactor.on_error() {
                OnError::Bury { after } if deliveries >= after => {
                    metrics::reacted(name, "buried", since.elapsed());
                    self.bury(&js(&self.client), &message, &error).await;
                }
                _ => self.put_off(&message, deliveries, &at, (&error, since.elapsed())).await,
            }
            return;
        }
        acknowledge(self.reactor.name(), &message).await;
    }

    async fn put_off(
        &self,
        message: &Message,
        deliveries: i64,
        position: &(dyn Display + Sync),
        (error, took): (&anyhow::Error, Duration),
    ) {
        let (reactor, pause) = (self.reactor.name(), Duration::from_millis(200 << deliveries.clamp(0, 7)));
        metrics::reacted(reactor, "failed", took);
        tracing::warn!(reactor, %position, %error, ?pause, "event not handled, trying again");
        let _ = message.ack_with(AckKind::Nak(Some(pause))).await;
    }

    async fn of_job(&self, job: &[u8]) -> anyhow::Result<(Position, Bytes)> {
        let at: Position = std::str::from_utf8(job)?.parse()?;
        let stored = read::at(&self.client, &at.service.event_stream(), at.sequence).await?;
        Ok((at, stored.with_context(|| format!("there is no event at {at}"))?.payload))
    }

    // Long work shows signs of life, so that nobody else begins it too.
    async fn react(&self, message: &Message, event: &Event, at: Position) -> anyhow::Result<()> {
        let mut alive = tokio::time::interval(self.reactor.patience() / 3);
        alive.tick().await;
        let span = tracing::info_span!("react", reactor = self.reactor.name(), event = %event.id, what = event.event_type,
            request = event.correlationid, otel.kind = "consumer", otel.status_code = tracing::field::Empty);
        telemetry::follow(&span, event.traceparent.as_deref());
        telemetry::rename(&span, format!("react {}", self.reactor.name()));
        let work = self.reactor.react(event, at).instrument(span.clone());
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => {
                    if result.is_err() {
                        span.record("otel.status_code", "ERROR");
                    }
                    return result;
                }
                _ = alive.tick() => { let _ = message.ack_with(AckKind::Progress).await; }
            }
        }
    }

    async fn bury(&self, js: &jetstream::Context, message: &Message, error: &anyhow::Error) {
        let mut headers = message.headers.clone().unwrap_or_default();
        headers.insert("Symbia-Reason", format!("{error:#}").replace(['\r', '\n'], " "));
        headers.insert("Symbia-Reactor", self.reactor.name());
        let subject = format!("symbia.dlq.{}.{}", self.reactor.name(), message.subject.trim_start_matches("symbia."));
        let stored = async { js.publish_with_headers(subject, headers, message.payload.clone()).await?.await };
        match stored.await {
            Ok(_) => {
                tracing::error!(reactor = self.reactor.name(), subject = %message.subject, %error, "event buried in the dead letters");
                let _ = message.ack_with(AckKind::Term).await;
            }
            Err(error) => tracing::error!(subject = %message.subject, %error, "dead letter not stored, trying again"),
        }
    }
}

/// Whether one of these words stands in a message.
pub(crate) fn holds(payload: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| memchr::memmem::find(payload, word.as_bytes()).is_some())
}

fn consumer_name(reactor: &str) -> String {
    format!("reactor-{reactor}")
}

async fn acknowledge(reactor: &str, message: &Message) {
    if let Err(error) = message.ack().await {
        tracing::warn!(reactor, subject = %message.subject, %error, "event not acknowledged; it will come again");
    }
}

// What a consumer began with, and up to where all is done.
async fn known(stream: &Stream, name: &str) -> Result<Option<(DeliverPolicy, u64)>, async_nats::Error> {
    match stream.consumer_info(name).await {
        Ok(info) => Ok(Some((info.config.deliver_policy, info.ack_floor.stream_sequence))),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn delete(stream: &Stream, name: &str) -> Result<(), async_nats::Error> {
    match stream.delete_consumer(name).await {
        Err(error) if !is_gone(error.kind()) => Err(error.into()),
        _ => Ok(()),
    }
}

fn is_gone(error: ConsumerErrorKind) -> bool {
    matches!(error, ConsumerErrorKind::JetStream(error) if error.error_code() == jetstream::ErrorCode::CONSUMER_NOT_FOUND)
}

fn js(client: &Client) -> jetstream::Context {
    jetstream::new(client.clone())
}
