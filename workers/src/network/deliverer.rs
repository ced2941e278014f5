//! Delivers the mesh's events: offers each to the sockets of whom it was routed to, or posts it there, signed under the target's
//! own key, and tells the log how it went. A failed attempt is tried again when a timer says so, four times, and then it lies
//! among the dead letters; one for a target that is not there waits until it comes, for so long (network.md §8.8). The events
//! of a source, a run and a target go one after another ([`super::order`]).
//!
//! Error policy: retry for ever what the log, the read model or the key store keep from being done. A target that does not
//! answer is no error of the reactor's: it is a failed attempt.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use async_nats::{Client, jetstream};
use async_trait::async_trait;
use futures::future::try_join_all;
use symbia_commands::{
    Actor, DomainCommand,
    network::{ATTEMPTS, Letter, RedriveEvent, ReportDelivery, RoutingCommand, Then, is_reply, tells_of_message},
};
use symbia_egress::Rules;
use symbia_events::{
    AggregateRef, CommandId, Event, KeyRing, Position, Service,
    network::{Candidate, EventRouted, RoutingEvent, Transport},
};
use symbia_nats::{
    mesh::{self, Offered, Parcel},
    timers::{TimerCommand, Timers, When},
};
use symbia_projections::{ReadPool, network::EARLIER_WAITS, secrets::SecretStore};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Post, bridges::Bridges, courier::Courier, metrics, order::Order, replies::Replies, webhooks::Webhooks};
use crate::{
    assistants::log::{self, Logged},
    content_keys::ContentKeys,
    egress_policies::EgressPolicies,
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// What waits for a target that is not there.
const NOT_CONNECTED: &str = "not_connected";

/// How deliveries are made.
#[derive(Clone, Debug)]
pub struct DelivererOptions {
    /// How they are posted.
    pub post: Post,
    /// How long to wait after each failed attempt but the last.
    pub pauses: [Duration; ATTEMPTS as usize - 1],
    /// How long an event waits for a target that is not there.
    pub max_age: Duration,
}

impl Default for DelivererOptions {
    fn default() -> Self {
        DelivererOptions {
            post: Post { rules: Rules::default().any_port(), patience: Duration::from_secs(10) },
            pauses: [1, 10, 60, 220].map(Duration::from_secs),
            max_age: Duration::from_secs(300),
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
    order: Order,
    courier: Courier,
    webhooks: Webhooks,
    replies: Replies,
    options: DelivererOptions,
}

/// Why an attempt came to nothing, and what follows.
struct Failure {
    code: String,
    then: Then,
}

impl Failure {
    fn retry(code: impl Into<String>) -> Self {
        Failure { code: code.into(), then: Then::Retry }
    }

    fn last(code: impl Into<String>) -> Self {
        Failure { code: code.into(), then: Then::GiveUp }
    }
}

/// An event that was routed, at its place and time in the log.
struct Case<'c> {
    cause: &'c Event,
    routed: &'c EventRouted,
    routed_at: OffsetDateTime,
}

impl MeshDeliverer {
    /// Over a connection, the read models, and the store that holds the meshes' keys.
    #[must_use]
    pub fn new(
        client: Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        reader: ReadPool,
        secrets: SecretStore,
        options: DelivererOptions,
    ) -> Self {
        let content = ContentKeys::new(secrets.clone());
        let policies = EgressPolicies::follow(reader.clone(), client.clone());
        MeshDeliverer {
            courier: Courier {
                client: client.clone(),
                bridges: Bridges::new(reader.clone(), secrets.clone(), sender.clone()),
                post: options.post.clone(),
                policies: policies.clone(),
            },
            timers: Timers::new(jetstream::new(client.clone())),
            order: Order::follow(client.clone(), Arc::clone(&keys), reader.clone()),
            webhooks: Webhooks::new(reader, secrets, options.post.clone(), policies),
            replies: Replies::new(sender.clone(), content.clone()),
            content,
            sender,
            client,
            keys,
            options,
        }
    }

    /// Posts to addresses as this does.
    #[must_use]
    pub fn courier(&self) -> Courier {
        self.courier.clone()
    }

    // Attempt `attempt` at one target: always ends in a report.
    async fn attempt(&self, case: &Case<'_>, candidate: &Candidate, attempt: u32, at: Position) -> anyhow::Result<()> {
        let (routed, target) = (case.routed, candidate.final_target.clone());
        let since = Instant::now();
        let tried = self.tried(case, candidate, at).await?;
        if let Err(failure) = &tried {
            tracing::info!(event = routed.event_id, target, attempt, error = failure.code, "not delivered");
        }
        let (transport, failure) = (tried.as_ref().ok().copied(), tried.err());
        let command = RoutingCommand::from(ReportDelivery {
            event_id: routed.event_id.clone(),
            target: target.clone(),
            attempt,
            duration_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            transport,
            then: failure.as_ref().map(|failure| failure.then).unwrap_or_default(),
            error_code: failure.map(|failure| failure.code),
        });
        let id = CommandId::derived(case.cause.id, &format!("report {target} {attempt}"));
        self.send(case.cause, &case.cause.aggregate()?, &command, id).await
    }

    // By which way the target has it, or why it has not.
    async fn tried(
        &self,
        case: &Case<'_>,
        candidate: &Candidate,
        at: Position,
    ) -> anyhow::Result<Result<Transport, Failure>> {
        let routed = case.routed;
        if self.order.waits(&routed.org_id, &routed.event_id, &candidate.final_target, at).await? {
            return Ok(Err(Failure { code: EARLIER_WAITS.to_owned(), then: Then::Hold }));
        }
        // What it says was erased.
        let Some(key) = self.content.key(&routed.data.kid).await? else {
            return Ok(Err(Failure::last("content_erased")));
        };
        let data = serde_json::from_str(&key.open(&routed.data)?).context("an event's data")?;
        let letter = Letter::of(&self.keys, routed, &data, candidate)?;
        self.deliver(case, candidate, letter).await
    }

    async fn send(
        &self,
        cause: &Event,
        to: &AggregateRef,
        command: &RoutingCommand,
        id: CommandId,
    ) -> anyhow::Result<()> {
        self.sender.send(Some(cause), to, command, &Actor::service("network"), id).await?;
        Ok(())
    }

    // To a socket, where there is one; else to its address, where it has one; else it waits. An answer goes into its
    // conversation.
    async fn deliver(
        &self,
        case: &Case<'_>,
        candidate: &Candidate,
        letter: Letter,
    ) -> anyhow::Result<Result<Transport, Failure>> {
        let (routed, target) = (case.routed, &candidate.final_target);
        let data = &letter.body["payload"]["data"];
        if is_reply(target, &routed.payload_type) {
            let recorded = self.replies.record(case.cause, routed, data).await?;
            return Ok(recorded.map(|()| Transport::Conversation).map_err(Failure::last));
        }
        let event = serde_json::to_vec(&letter.body)?.into();
        let offered = mesh::offer(&self.client, &routed.org_id, target, event, self.options.post.patience).await?;
        if offered == Offered::Taken {
            return Ok(Ok(Transport::Socket));
        }
        if let Some(webhook) = self.webhooks.of(routed, target).await? {
            let posted = self.webhooks.post(&webhook, routed, data).await?;
            return Ok(posted.map(|()| Transport::Webhook).map_err(Failure::retry));
        }
        match offered {
            Offered::Refused(code) => return Ok(Err(Failure::retry(code))),
            Offered::Absent if candidate.endpoint.is_empty() => {
                let waited = OffsetDateTime::now_utc() - case.routed_at;
                let then = if waited >= self.options.max_age { Then::GiveUp } else { Then::Hold };
                return Ok(Err(Failure { code: NOT_CONNECTED.to_owned(), then }));
            }
            Offered::Absent | Offered::Taken => {}
        }
        let posted = self.courier.send(&Parcel::of(routed, candidate, letter)).await?;
        Ok(posted.map(|()| Transport::Http).map_err(Failure::retry))
    }

    async fn again_at(&self, event: &Event, target: String, at: OffsetDateTime) -> anyhow::Result<()> {
        let id = format!("mesh-{}", Uuid::new_v5(&event.id, target.as_bytes()));
        let command = RoutingCommand::from(RedriveEvent { event_id: event.aggregateid.clone(), target });
        let timer = TimerCommand {
            aggregate: event.aggregate()?,
            command_type: command.command_type().to_owned(),
            data: command.to_data()?,
        };
        Ok(self.timers.command(&id, &When::At(at), &timer).await?)
    }

    // What was decided, from the beginning of the event's own log.
    async fn routed(&self, event: &Event) -> anyhow::Result<(EventRouted, OffsetDateTime)> {
        let subject = event.aggregate()?.event_subject();
        let events = log::events::<RoutingEvent>(&self.client, &self.keys, Service::Network, &subject, 0).await?;
        let routed = events.into_iter().find_map(|Logged { event, what, .. }| match what {
            RoutingEvent::EventRouted(routed) => Some((routed, event.time)),
            _ => None,
        });
        routed.context("an event that was never routed is tried again")
    }

    async fn redriven(&self, event: &Event, target: &str, attempt: u32, at: Position) -> anyhow::Result<()> {
        let (routed, routed_at) = self.routed(event).await?;
        let to = |c: &&Candidate| c.verdict.delivers() && c.final_target == target;
        let Some(candidate) = routed.candidates.iter().find(to) else { return Ok(()) };
        self.attempt(&Case { cause: event, routed: &routed, routed_at }, candidate, attempt, at).await
    }

    async fn held(&self, event: &Event, target: String, code: &str, at: Position) -> anyhow::Result<()> {
        if code != EARLIER_WAITS {
            let (_, routed_at) = self.routed(event).await?;
            return self.again_at(event, target, routed_at + self.options.max_age).await;
        }
        // The earlier one may have come to its end since.
        if self.order.waits(event.orgid.as_str(), &event.aggregateid, &target, at).await? {
            return Ok(());
        }
        self.redrive(event, &event.aggregateid, target).await
    }

    // The next of the same source, run and target, when one has come to its end.
    async fn go_on(&self, event: &Event, target: String, at: Position) -> anyhow::Result<()> {
        let next = self.order.next(&event.orgid, &event.aggregateid, &target, at).await?;
        let Some(next) = next else { return Ok(()) };
        self.redrive(event, &next, target).await
    }

    async fn redrive(&self, cause: &Event, event_id: &str, target: String) -> anyhow::Result<()> {
        let to = AggregateRef::new(Service::Network, cause.orgid.clone(), "routed-event", event_id)?;
        let id = CommandId::derived(cause.id, &format!("redrive {event_id} {target}"));
        let command = RoutingCommand::from(RedriveEvent { event_id: event_id.to_owned(), target });
        self.send(cause, &to, &command, id).await
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

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        self.options.post.patience * 2
    }

    async fn react(&self, event: &Event, at: Position) -> anyhow::Result<()> {
        let what = event.decode()?;
        metrics::routing(event, &what);
        match what {
            RoutingEvent::EventRouted(routed) => {
                // Several candidates may end at one target, which gets the event once.
                let mut targets: BTreeMap<&str, &Candidate> = BTreeMap::new();
                for candidate in routed.candidates.iter().filter(|candidate| candidate.verdict.delivers()) {
                    targets.entry(&candidate.final_target).or_insert(candidate);
                }
                let case = Case { cause: event, routed: &routed, routed_at: event.time };
                try_join_all(targets.into_values().map(|candidate| self.attempt(&case, candidate, 1, at))).await?;
            }
            RoutingEvent::EventRedriven(e) => self.redriven(event, &e.target, e.attempt, at).await?,
            RoutingEvent::EventDeliveryFailed(e) => {
                let pause = self.options.pauses.get(e.attempt.saturating_sub(1) as usize).copied().unwrap_or_default();
                self.again_at(event, e.target, event.time + pause).await?;
            }
            RoutingEvent::EventHeld(e) => self.held(event, e.target, &e.error_code, at).await?,
            RoutingEvent::EventDelivered(e) => self.go_on(event, e.target, at).await?,
            RoutingEvent::EventDeadLettered(e) => {
                let (routed, _) = self.routed(event).await?;
                if tells_of_message(&routed) {
                    self.replies.missed(event, &routed, &e).await?;
                }
                self.go_on(event, e.target, at).await?;
            }
        }
        Ok(())
    }
}
