//! Events of one source and run reach a target in the order they came (network.md §8.9): before each delivery it is looked whether
//! an earlier one has yet to come to its end. What waits is known from the read model, as far as that has come when this
//! begins, and from the log since: a projector that stands still holds no delivery up.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use async_nats::{Client, jetstream};
use moka::sync::Cache;
use symbia_events::{AggregateRef, KeyRing, OrgId, Position, Service, commit, network::RoutingEvent};
use symbia_nats::log::{LogMessage, LogReader};
use symbia_projections::{ReadPool, Scope, network as model};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::queue::{Lane, Queue, lane};
use crate::{again, assistants::log};

const SUBJECTS: &str = "symbia.evt.network.*.routed-event.*";
const BATCH: usize = 1000;
const WAIT: Duration = Duration::from_secs(10);
/// How long following the log may take to come to an event.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(5);
/// An earlier event that is under way is waited for, for so long; beyond it, the log keeps the place of the later one.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// Events whose lane is remembered, and for how long; that of others is read from the log.
const LANES: u64 = 100_000;
const LANES_FOR: Duration = Duration::from_secs(600);

/// The order of deliveries. It ends when it is dropped.
pub(super) struct Order {
    known: Arc<Known>,
    _stop: DropGuard,
}

struct Known {
    client: Client,
    keys: Arc<KeyRing>,
    reader: ReadPool,
    queue: Mutex<Queue>,
    /// By organization and event.
    lanes: Cache<(String, String), Lane>,
    /// How far the log is followed.
    place: watch::Sender<u64>,
}

impl Order {
    pub fn follow(client: Client, keys: Arc<KeyRing>, reader: ReadPool) -> Self {
        let lanes = Cache::builder().max_capacity(LANES).time_to_live(LANES_FOR).build();
        let (queue, place) = (Mutex::default(), watch::Sender::new(0));
        let known = Arc::new(Known { client, keys, reader, queue, lanes, place });
        let (following, stop) = (Arc::clone(&known), CancellationToken::new());
        let ends = stop.clone();
        tokio::spawn(async move { again::consume(&ends, "events that wait", || following.follow()).await });
        Order { known, _stop: stop.drop_guard() }
    }

    async fn followed(&self, at: Position) -> anyhow::Result<()> {
        let mut place = self.known.place.subscribe();
        match tokio::time::timeout(FOLLOWED_WITHIN, place.wait_for(|place| *place >= at.sequence)).await {
            Ok(Ok(_)) => Ok(()),
            _ => bail!("the log of the mesh is not followed to {at}: does the broker answer?"),
        }
    }

    /// Whether an earlier event goes before this one, which is in the log at `at`.
    pub async fn waits(&self, org: &str, event: &str, target: &str, at: Position) -> anyhow::Result<bool> {
        self.followed(at).await?;
        let deadline = Instant::now() + UNDER_WAY;
        let mut place = self.known.place.subscribe();
        loop {
            place.mark_unchanged();
            if !self.known.queue().waits(org, event, target) {
                return Ok(false);
            }
            if !matches!(tokio::time::timeout_at(deadline, place.changed()).await, Ok(Ok(()))) {
                return Ok(true);
            }
        }
    }

    /// The event that goes after this one, of those that wait for it.
    pub async fn next(&self, org: &OrgId, event: &str, target: &str, at: Position) -> anyhow::Result<Option<String>> {
        self.followed(at).await?;
        let lane = self.known.lane(org, event).await?;
        Ok(self.known.queue().next(&lane, target).map(str::to_owned))
    }
}

impl Known {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow(&self) -> anyhow::Result<Infallible> {
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let (at, unsettled) = model::unsettled(&mut tx).await?;
        drop(tx);
        let at = at.context("the read model of the mesh is being replaced")?;
        *self.queue() = Queue::of(unsettled);
        let jetstream = jetstream::new(self.client.clone());
        let mut log = LogReader::open(jetstream, Service::Network, at, vec![SUBJECTS.to_owned()]).await?;
        self.place.send_replace(at);
        loop {
            for message in log.next_batch(BATCH, WAIT).await? {
                self.take(&message).await?;
            }
            self.place.send_if_modified(|place| std::mem::replace(place, log.position()) != log.position());
        }
    }

    // What cannot be believed decides nothing; the reactor that comes upon it says so.
    async fn take(&self, message: &LogMessage) -> anyhow::Result<()> {
        let Ok(events) = commit::decode(&self.keys, &message.payload) else { return Ok(()) };
        for event in events.into_iter().map(|signed| signed.event) {
            let Ok(what) = event.decode::<RoutingEvent>() else { continue };
            let org = event.orgid.as_str();
            if let RoutingEvent::EventRouted(routed) = &what {
                self.lanes.insert((org.to_owned(), routed.event_id.clone()), lane(org, routed));
            }
            let known = self.queue().apply(org, message.sequence, &what);
            if !known {
                let past = self.past(&event.orgid, &event.aggregateid).await?;
                self.queue().again(org, &past);
            }
        }
        Ok(())
    }

    async fn past(&self, org: &OrgId, id: &str) -> anyhow::Result<Vec<(u64, RoutingEvent)>> {
        let subject = AggregateRef::new(Service::Network, org.clone(), "routed-event", id)?.event_subject();
        let past = log::events::<RoutingEvent>(&self.client, &self.keys, Service::Network, &subject, 0).await?;
        Ok(past.into_iter().map(|logged| (logged.sequence, logged.what)).collect())
    }

    async fn lane(&self, org: &OrgId, id: &str) -> anyhow::Result<Lane> {
        let key = (org.to_string(), id.to_owned());
        if let Some(lane) = self.lanes.get(&key) {
            return Ok(lane);
        }
        let routed = self.past(org, id).await?.into_iter().find_map(|(_, what)| match what {
            RoutingEvent::EventRouted(routed) => Some(lane(&key.0, &routed)),
            _ => None,
        });
        let lane = routed.context("an event that was never routed came to its end")?;
        self.lanes.insert(key, lane.clone());
        Ok(lane)
    }
}
