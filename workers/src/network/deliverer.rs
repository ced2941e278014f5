//! Delivers the mesh's events: posts each to whom it was routed to, signed under the target's own key, and tells the log how it
//! went. A failed attempt is tried again when a timer says so, four times, and then it lies among the dead letters
//! (network.md §8.8).
//!
//! Error policy: retry for ever what the log or the key store keep from being done. A target that does not answer is no error
//! of the reactor's: it is a failed attempt.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use async_nats::{Client, jetstream};
use async_trait::async_trait;
use futures::future::try_join_all;
use reqwest::{Url, redirect::Policy};
use serde_json::{Value, json};
use symbia_commands::{
    Actor, DomainCommand,
    network::{ATTEMPTS, RedriveEvent, ReportDelivery, RoutingCommand, transformed},
};
use symbia_events::{
    CommandId, Event, KeyRing, Position, Service,
    network::{Candidate, EventRouted, HashedEvent, RoutingEvent, event_hash, service_hash, target_key},
};
use symbia_nats::{
    bus::{BusError, CommandBus},
    timers::{TimerCommand, Timers, When},
};
use symbia_projections::secrets::SecretStore;
use uuid::Uuid;

use super::Allowed;
use crate::{
    assistants::log,
    content_keys::ContentKeys,
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// How deliveries are made.
#[derive(Clone, Debug)]
pub struct DelivererOptions {
    /// Where they may go besides public addresses.
    pub allowed: Allowed,
    /// How long a target may take.
    pub patience: Duration,
    /// How long to wait after each failed attempt but the last.
    pub pauses: [Duration; ATTEMPTS as usize - 1],
}

impl Default for DelivererOptions {
    fn default() -> Self {
        DelivererOptions {
            allowed: Allowed::default(),
            patience: Duration::from_secs(10),
            pauses: [1, 10, 45, 120].map(Duration::from_secs),
        }
    }
}

/// The reactor.
pub struct MeshDeliverer {
    client: Client,
    keys: Arc<KeyRing>,
    content: ContentKeys,
    timers: Timers,
    sender: Sender,
    options: DelivererOptions,
}

/// An event as one target gets it.
struct Letter {
    body: Value,
    hash: String,
    signature: String,
}

impl MeshDeliverer {
    /// Over a connection and the store that holds the meshes' keys.
    ///
    /// # Errors
    /// The command bus cannot be opened.
    pub async fn open(
        client: Client,
        keys: Arc<KeyRing>,
        secrets: SecretStore,
        options: DelivererOptions,
    ) -> Result<Self, BusError> {
        Ok(MeshDeliverer {
            content: ContentKeys::new(secrets),
            timers: Timers::new(jetstream::new(client.clone())),
            sender: Sender::new(CommandBus::open(client.clone()).await?, Arc::clone(&keys)),
            client,
            keys,
            options,
        })
    }

    // Attempt `attempt` at one target: always ends in a report.
    async fn attempt(
        &self,
        cause: &Event,
        routed: &EventRouted,
        candidate: &Candidate,
        attempt: u32,
    ) -> anyhow::Result<()> {
        let since = Instant::now();
        let error = match self.letter(routed, candidate).await? {
            Some(letter) => self.post(routed, candidate, &letter).await.err(),
            None => Some("content_erased".to_owned()),
        };
        let target = candidate.final_target.clone();
        if let Some(error) = &error {
            tracing::info!(event = routed.event_id, target, attempt, error, "not delivered");
        }
        let command = RoutingCommand::from(ReportDelivery {
            event_id: routed.event_id.clone(),
            target: target.clone(),
            attempt,
            duration_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            error_code: error,
        });
        let id = CommandId::derived(cause.id, &format!("report {target} {attempt}"));
        self.sender.send(Some(cause), &cause.aggregate()?, &command, &Actor::service("network"), id).await?;
        Ok(())
    }

    /// None when what it says was erased.
    async fn letter(&self, routed: &EventRouted, candidate: &Candidate) -> anyhow::Result<Option<Letter>> {
        let Some(key) = self.content.key(&routed.data.kid).await? else { return Ok(None) };
        let data: Value = serde_json::from_str(&key.open(&routed.data)?).context("an event's data")?;
        let data = candidate.mapping.as_ref().map_or_else(|| data.clone(), |mapping| transformed(&data, mapping));
        let hashed = HashedEvent {
            v: 1,
            id: &routed.event_id,
            event_type: &routed.payload_type,
            data: &data,
            source: &routed.source,
            target: routed.target.as_deref(),
            run_id: &routed.run_id,
            timestamp: &routed.timestamp,
            boundary: routed.boundary,
            caused_by: routed.caused_by.as_deref(),
            source_entity_id: routed.source_entity_id.as_deref(),
            target_entity_id: routed.target_entity_id.as_deref(),
            org_id: Some(&routed.org_id),
        };
        let bytes = hashed.bytes()?;
        // Changed data has a hash of its own; that of the original stays in the trace.
        let hash = match candidate.mapping {
            Some(_) => service_hash(&self.keys, &bytes).1,
            None => routed.hash.clone(),
        };
        let signing = target_key(&self.keys, &routed.org_id, &candidate.final_target);
        let mut wrapper: BTreeMap<&str, Value> = BTreeMap::from([
            ("id", json!(routed.event_id)),
            ("runId", json!(routed.run_id)),
            ("timestamp", json!(routed.timestamp)),
            ("source", json!(routed.source)),
            ("path", json!([routed.source, candidate.final_target])),
            ("boundary", json!(routed.boundary)),
        ]);
        for (name, value) in [
            ("target", &routed.target),
            ("causedBy", &routed.caused_by),
            ("sourceEntityId", &routed.source_entity_id),
            ("targetEntityId", &routed.target_entity_id),
        ] {
            if let Some(value) = value {
                wrapper.insert(name, json!(value));
            }
        }
        let payload = json!({ "type": routed.payload_type, "data": data });
        let body = json!({ "payload": payload, "wrapper": wrapper, "hash": hash });
        Ok(Some(Letter { body, hash, signature: event_hash(signing.as_bytes(), &bytes) }))
    }

    // The error is a code, without anything that the target said.
    async fn post(&self, routed: &EventRouted, candidate: &Candidate, letter: &Letter) -> Result<(), String> {
        if candidate.endpoint.is_empty() {
            return Err("no_transport".to_owned());
        }
        let url = Url::parse(&candidate.endpoint).map_err(|_| "bad_endpoint".to_owned())?;
        let (host, addresses) = self.options.allowed.resolve(&url).await?;
        let http = reqwest::Client::builder().redirect(Policy::none()).no_proxy().resolve_to_addrs(&host, &addresses);
        let http = http.timeout(self.options.patience).build().map_err(|_| "no_client".to_owned())?;
        let sent = http
            .post(url)
            .header("X-Symbia-Event-Id", &routed.event_id)
            .header("X-Symbia-Run-Id", routed.run_id.as_bytes())
            .header("X-Symbia-Timestamp", &routed.timestamp)
            .header("X-Symbia-Hash", &letter.hash)
            .header("X-Symbia-Signature", &letter.signature)
            .json(&letter.body)
            .send()
            .await;
        match sent {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("http_{}", answer.status().as_u16())),
            Err(error) if error.is_timeout() => Err("timeout".to_owned()),
            Err(error) if error.is_connect() => Err("unreachable".to_owned()),
            Err(_) => Err("transport".to_owned()),
        }
    }

    async fn again_later(&self, event: &Event, target: String, attempt: u32) -> anyhow::Result<()> {
        let pause = self.options.pauses.get(attempt.saturating_sub(1) as usize).copied().unwrap_or_default();
        let id = format!("mesh-{}", Uuid::new_v5(&event.id, target.as_bytes()));
        let command = RoutingCommand::from(RedriveEvent { event_id: event.aggregateid.clone(), target });
        let timer = TimerCommand {
            aggregate: event.aggregate()?,
            command_type: command.command_type().to_owned(),
            data: command.to_data()?,
        };
        Ok(self.timers.command(&id, &When::At(event.time + pause), &timer).await?)
    }

    // What was decided, from the beginning of the event's own log.
    async fn routed(&self, event: &Event) -> anyhow::Result<EventRouted> {
        let subject = event.aggregate()?.event_subject();
        let events = log::events::<RoutingEvent>(&self.client, &self.keys, Service::Network, &subject, 0).await?;
        let routed = events.into_iter().find_map(|logged| match logged.what {
            RoutingEvent::EventRouted(routed) => Some(routed),
            _ => None,
        });
        routed.context("an event that was never routed is tried again")
    }
}

#[async_trait]
impl Reactor for MeshDeliverer {
    fn name(&self) -> &'static str {
        "mesh-deliverer"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Network, &["*.routed-event.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &[
            "symbia.network.routed-event.event-routed.",
            "symbia.network.routed-event.event-redriven.",
            "symbia.network.routed-event.event-delivery-failed.",
        ]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        self.options.patience * 2
    }

    async fn react(&self, event: &Event, _: Position) -> anyhow::Result<()> {
        match event.decode()? {
            RoutingEvent::EventRouted(routed) => {
                // Several candidates may end at one target, which gets the event once.
                let mut targets: BTreeMap<&str, &Candidate> = BTreeMap::new();
                for candidate in routed.candidates.iter().filter(|candidate| candidate.verdict.delivers()) {
                    targets.entry(&candidate.final_target).or_insert(candidate);
                }
                try_join_all(targets.into_values().map(|candidate| self.attempt(event, &routed, candidate, 1))).await?;
            }
            RoutingEvent::EventRedriven(e) => {
                let routed = self.routed(event).await?;
                let to = |c: &&Candidate| c.verdict.delivers() && c.final_target == e.target;
                if let Some(candidate) = routed.candidates.iter().find(to) {
                    self.attempt(event, &routed, candidate, e.attempt).await?;
                }
            }
            RoutingEvent::EventDeliveryFailed(e) => self.again_later(event, e.target, e.attempt).await?,
            RoutingEvent::EventDelivered(_) | RoutingEvent::EventDeadLettered(_) => {}
        }
        Ok(())
    }
}
