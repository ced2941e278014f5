//! The sealer: once an hour it closes what each event stream has grown by with a Merkle root, recorded in the log itself.
//!
//! Error policy: repeat. The call to seal is acknowledged when every stream is sealed; the id of each command is derived
//! from the stretch's start, so two sealers cannot seal it twice. A stretch with anything in it that does not verify is left
//! open until it is mended: a seal must not vouch for what was tampered with.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use async_nats::{
    Client,
    jetstream::{
        self, AckKind, Message,
        consumer::{AckPolicy, pull},
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use futures::StreamExt;
use serde::Serialize;
use symbia_commands::{
    Actor, CommandEnvelope,
    logging::{SealCommand, SealLog},
};
use symbia_events::{
    AggregateRef, CommandId, KeyRing, OrgId, Service,
    audit::{self, merkle::Tree},
    commit,
    logging::SealEvent,
};
use symbia_nats::{
    bus::CommandBus,
    log::{self, LogMessage, LogReader},
    read,
    timers::{DUE_SEAL, Timers},
    topology::TIMERS,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::again;

/// Longest time between signs of life while sealing; then another sealer gets the call.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one read of the log, and one command, may take.
const WAIT: Duration = Duration::from_secs(15);

/// A stretch that was sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sealed {
    /// Whose event stream.
    pub service: Service,
    /// First sequence.
    pub from: u64,
    /// Last sequence.
    pub to: u64,
    /// Events in between.
    pub events: u64,
    /// Merkle root over them, base64url.
    pub root: String,
}

/// Seals the log.
#[derive(Clone)]
pub struct Sealer {
    client: Client,
    keys: Arc<KeyRing>,
    bus: CommandBus,
}

impl Sealer {
    /// A sealer over a connection, which sends its commands over a bus.
    #[must_use]
    pub fn new(client: Client, keys: Arc<KeyRing>, bus: CommandBus) -> Self {
        Sealer { client, keys, bus }
    }

    /// Sets the hourly timer and seals whenever it fires, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        again::consume(&stop, "calls to seal the log", || self.consume()).await;
    }

    async fn consume(&self) -> anyhow::Result<std::convert::Infallible> {
        let js = jetstream::new(self.client.clone());
        Timers::new(js.clone()).seal_hourly().await?;
        let config = pull::Config {
            durable_name: Some("sealer".to_owned()),
            filter_subject: DUE_SEAL.to_owned(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: PATIENCE,
            max_ack_pending: 1,
            ..pull::Config::default()
        };
        let consumer = js.get_stream(TIMERS).await?.create_consumer(config).await?;
        let mut calls = consumer.messages().await?;
        while let Some(call) = calls.next().await {
            let call = call?;
            let ack = match self.seal_alive(&call).await {
                Ok(_) => AckKind::Ack,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the log is not sealed, trying again");
                    AckKind::Nak(Some(Duration::from_secs(5)))
                }
            };
            call.ack_with(ack).await.map_err(anyhow::Error::from_boxed)?;
        }
        bail!("the subscription ended")
    }

    async fn seal_alive(&self, call: &Message) -> anyhow::Result<Vec<Sealed>> {
        let mut alive = tokio::time::interval(PATIENCE / 3);
        let work = self.seal_all();
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                _ = alive.tick() => { let _ = call.ack_with(AckKind::Progress).await; }
            }
        }
    }

    /// Seals what is not sealed yet, of every stream. A stream that cannot be sealed does not keep the others open.
    pub async fn seal_all(&self) -> anyhow::Result<Vec<Sealed>> {
        let (mut sealed, mut failed) = (Vec::new(), None);
        // The stream that holds the seals comes last, so that it closes over those of the others.
        let others = Service::ALL.into_iter().filter(|service| *service != Service::Logging);
        for service in others.chain([Service::Logging]) {
            match self.seal(service).await.with_context(|| format!("sealing the log of {service}")) {
                Ok(Some(stretch)) => {
                    tracing::info!(%service, from = stretch.from, to = stretch.to, events = stretch.events, "sealed");
                    sealed.push(stretch);
                }
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(sealed), Err)
    }

    async fn seal(&self, service: Service) -> anyhow::Result<Option<Sealed>> {
        let js = jetstream::new(self.client.clone());
        let aggregate = AggregateRef::new(Service::Logging, OrgId::global(), "seal", service.name())?;
        let from = self.sealed_to(&aggregate).await? + 1;
        let (_, to) = log::head(&js, service).await?;
        if to < from {
            return Ok(None);
        }
        let own = aggregate.event_subject();
        let (mut tree, mut only_own_seals) = (Tree::default(), true);
        let mut reader = LogReader::open(js, service, from - 1, Vec::new()).await?;
        while reader.position() < to {
            let batch = reader.next_batch(2000, WAIT).await?;
            if batch.is_empty() {
                bail!("the broker gives nothing behind {service}:{}", reader.position());
            }
            for message in batch.iter().filter(|m| m.sequence <= to) {
                only_own_seals &= message.subject == own;
                self.leaves(service, message)?.iter().for_each(|leaf| tree.push(leaf));
            }
        }
        // Or the stream of the seals would grow by one each hour for nothing but the hour before.
        if only_own_seals {
            return Ok(None);
        }
        let now = OffsetDateTime::now_utc();
        let stretch = Sealed { service, from, to, events: tree.size(), root: BASE64URL.encode(tree.root()) };
        let command = SealCommand::from(SealLog {
            service: service.name().to_owned(),
            from_sequence: from,
            to_sequence: to,
            events: stretch.events,
            root: stretch.root.clone(),
            sealed_through: now.format(&Rfc3339)?,
        });
        let id = CommandId::derived(Uuid::NAMESPACE_OID, &format!("seal:{service}:{from}"));
        let envelope = CommandEnvelope::new(&self.keys, &aggregate, &command, &Actor::system("sealer"), id, now)?;
        let outcome = self.bus.send(&aggregate, &envelope, WAIT).await?;
        match outcome.rejection {
            // Another sealer was faster.
            Some(rejection) if rejection.code == "NOT_CONTIGUOUS" => Ok(None),
            Some(rejection) => bail!("the seal was refused: {rejection}"),
            None if outcome.repeated => Ok(None),
            None => Ok(Some(stretch)),
        }
    }

    // A seal that does not verify must not decide where the next one begins.
    async fn sealed_to(&self, aggregate: &AggregateRef) -> anyhow::Result<u64> {
        let stream = aggregate.service.event_stream();
        let Some(last) = read::last(&self.client, &stream, &aggregate.event_subject()).await? else { return Ok(0) };
        let events = commit::decode(&self.keys, &last.payload)
            .with_context(|| format!("{}:{}; run `symbia audit verify`", aggregate.service, last.sequence))?;
        let Some(event) = events.last() else { return Ok(0) };
        let SealEvent::LogSealed(sealed) = event.event.decode()?;
        Ok(sealed.to_sequence)
    }

    fn leaves(&self, service: Service, message: &LogMessage) -> anyhow::Result<Vec<audit::merkle::Digest32>> {
        let sound = commit::decode(&self.keys, &message.payload).map_err(anyhow::Error::from).and_then(|events| {
            let address = AggregateRef::of_subject(&message.subject);
            let at_home = events.iter().all(|e| e.event.aggregate().ok() == address);
            if at_home { Ok(()) } else { bail!("an event of another aggregate") }
        });
        sound.with_context(|| format!("{service}:{}; run `symbia audit verify`", message.sequence))?;
        let LogMessage { sequence, subject, payload, .. } = message;
        Ok(audit::leaves(&self.keys, &audit::Message { service, sequence: *sequence, subject, payload }))
    }
}
