//! The hub: follows the mesh's log and the words of other processes once for this process, and tells the sockets that see the
//! topology or watch. It starts with the first of them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::Subscriber;
use futures::StreamExt;
use serde_json::{Value, json};
use socketioxide::socket::Sid;
use symbia_events::{DomainEvent, Event, OrgId, Position, Service, network::RoutingEvent};
use symbia_nats::mesh::{self, WORDS, Word};
use symbia_projections::{Scope, network as model};
use tokio::{
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};

use super::{
    super::{
        Network,
        shapes::{self, Trace},
    },
    seats::{Seat, Seats},
    signs::{Audience, signs},
    watch::{Filter, Seen},
};
use crate::feed::source::{Chunk, Entry, Source};

const SUBJECTS: &str = "symbia.evt.network.>";
/// How often those are told again who were too slow.
const FLUSH: Duration = Duration::from_millis(200);
/// How long the hub may take to begin to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(5);
/// Pause before the log is followed again after it could not be.
const PAUSE: Duration = Duration::from_secs(1);
/// Events on their way that are remembered.
const UNDER_WAY_MAX: usize = 50_000;
/// Events that are not kept, of all organizations, that can still be listed.
const PASSED_MAX: usize = 1_000;

/// What the hub is asked for.
pub(super) enum Order {
    Enter(Seat),
    Gone(Sid),
    /// Whether it may watch.
    Watch {
        sid: Sid,
        id: String,
        filter: Filter,
        reply: oneshot::Sender<bool>,
    },
    /// Whether it was a subscription of this socket.
    Unwatch {
        sid: Sid,
        id: String,
        reply: oneshot::Sender<bool>,
    },
    /// Whether the hub listens.
    Listens(oneshot::Sender<bool>),
}

/// Events that were not kept, the newest last, by organization.
type Passed = Arc<Mutex<VecDeque<(OrgId, Arc<Seen>)>>>;

/// Asks the hub. Cheap to clone.
#[derive(Clone)]
pub(in crate::network) struct Hub {
    orders: mpsc::UnboundedSender<Order>,
    /// How far it has come in the log.
    place: Arc<AtomicU64>,
    passed: Passed,
}

impl Hub {
    pub(super) fn start(network: Network) -> Self {
        let (orders, taken) = mpsc::unbounded_channel();
        let hub = Hub { orders, place: Arc::default(), passed: Passed::default() };
        let running = Running {
            place: Arc::clone(&hub.place),
            passed: Arc::clone(&hub.passed),
            network,
            seats: Seats::default(),
            under_way: HashMap::new(),
        };
        tokio::spawn(running.run(taken));
        hub
    }

    pub(super) fn tell(&self, order: Order) {
        // It ends with the service, and then there is nobody to tell.
        let _ = self.orders.send(order);
    }

    /// What the hub says, when it listens; false when it cannot.
    async fn ask(&self, order: impl FnOnce(oneshot::Sender<bool>) -> Order) -> bool {
        let (reply, answer) = oneshot::channel();
        self.tell(order(reply));
        matches!(tokio::time::timeout(LISTENS_WITHIN, answer).await, Ok(Ok(true)))
    }

    pub(super) async fn watch(&self, sid: Sid, id: String, filter: Filter) -> bool {
        self.ask(|reply| Order::Watch { sid, id, filter, reply }).await
    }

    pub(super) async fn unwatch(&self, sid: Sid, id: String) -> bool {
        self.ask(|reply| Order::Unwatch { sid, id, reply }).await
    }

    /// Waits until nothing that happens from now on escapes the hub.
    pub(super) async fn listens(&self) -> bool {
        self.ask(Order::Listens).await
    }

    /// What happened before this place in the log is known here.
    pub(super) fn place(&self) -> Position {
        Position { service: Service::Network, sequence: self.place.load(Ordering::Acquire) }
    }

    /// The newest events that were not kept.
    pub(in crate::network) fn passed(&self, org: &OrgId) -> Vec<(Value, Value)> {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let of = passed.iter().filter(|(of, _)| of == org);
        of.map(|(_, seen)| (seen.event.clone(), seen.trace.clone())).collect()
    }
}

struct Running {
    network: Network,
    place: Arc<AtomicU64>,
    passed: Passed,
    seats: Seats,
    /// Targets whose first attempt has not ended, by event.
    under_way: HashMap<(OrgId, String), HashSet<String>>,
}

impl Running {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let drained = self.network.drained.clone();
        while !drained.is_cancelled() {
            tokio::select! {
                () = drained.cancelled() => return,
                () = self.listen(&mut orders) => {}
            }
            tracing::warn!("those who watch the mesh wait: its log cannot be followed");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ears(&mut self) -> Option<(Source, Subscriber)> {
        let words = self.network.platform.nats.subscribe(WORDS).await.ok()?;
        let (place, log) = self.network.feed.tail(Service::Network, vec![SUBJECTS.to_owned()]).await.ok()?;
        self.place.store(place.passed, Ordering::Release);
        Some((log, words))
    }

    async fn listen(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) {
        let Some((mut log, mut words)) = self.ears().await else { return };
        let every = |period| {
            let mut interval = tokio::time::interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let (mut flush, mut renew) = (every(FLUSH), every(self.network.leases.length() / 3));
        loop {
            tokio::select! {
                chunk = log.next() => match chunk {
                    Ok(chunk) => self.stored(chunk).await,
                    Err(_) => return,
                },
                word = words.next() => match word {
                    Some(word) => self.word(&word.subject, &word.payload),
                    None => return,
                },
                Some(order) = orders.recv() => self.order(order),
                _ = flush.tick() => self.seats.flush(),
                _ = renew.tick() => {
                    tokio::spawn(self.network.gateway.clone().renew());
                }
            }
        }
    }

    fn order(&mut self, order: Order) {
        // Who asked may have gone meanwhile.
        match order {
            Order::Enter(seat) => self.seats.enter(seat),
            Order::Gone(sid) => self.seats.leave(sid),
            Order::Watch { sid, id, filter, reply } => _ = reply.send(self.seats.watch(sid, id, filter)),
            Order::Unwatch { sid, id, reply } => _ = reply.send(self.seats.unwatch(sid, &id)),
            Order::Listens(reply) => _ = reply.send(true),
        }
    }

    async fn stored(&mut self, chunk: Chunk) {
        let Some(last) = chunk.entries.last().map(|(sequence, _)| *sequence) else { return };
        let mut ready = Vec::new();
        for (_, entry) in chunk.entries {
            let Entry::Event(signed, _) = entry else { continue };
            let event = signed.event;
            if event.aggregatetype == RoutingEvent::AGGREGATE {
                if let Ok(what) = event.decode() {
                    ready.extend(self.routing(&event, what));
                }
            } else {
                self.registry(&event);
            }
        }
        self.place.store(last, Ordering::Release);
        if !ready.is_empty() {
            self.tell_ready(ready, Position { service: Service::Network, sequence: last }).await;
        }
    }

    // The event, when all of its targets have been tried once.
    fn routing(&mut self, event: &Event, what: RoutingEvent) -> Option<(OrgId, String)> {
        let key = (event.orgid.clone(), event.aggregateid.clone());
        let target = match what {
            RoutingEvent::EventRouted(routed) => {
                if !self.seats.watched(&key.0) {
                    return None;
                }
                let delivering = routed.candidates.into_iter().filter(|candidate| candidate.verdict.delivers());
                let targets: HashSet<String> = delivering.map(|candidate| candidate.final_target).collect();
                if targets.is_empty() {
                    return Some(key);
                }
                if self.under_way.len() >= UNDER_WAY_MAX {
                    self.under_way.clear();
                }
                self.under_way.insert(key, targets);
                return None;
            }
            RoutingEvent::EventHeld(e) => {
                self.is_back(event, &e.target);
                e.target
            }
            RoutingEvent::EventDelivered(e) => e.target,
            RoutingEvent::EventDeliveryFailed(e) => e.target,
            RoutingEvent::EventDeadLettered(e) => e.target,
            RoutingEvent::EventRedriven(_) => return None,
        };
        let waiting = self.under_way.get_mut(&key)?;
        waiting.remove(&target);
        if !waiting.is_empty() {
            return None;
        }
        self.under_way.remove(&key);
        Some(key)
    }

    // What waits for a node that has come while it was being put aside.
    fn is_back(&self, event: &Event, target: &str) {
        if self.network.gateway.has(&(event.orgid.clone(), target.to_owned())) {
            let (network, org) = (self.network.clone(), event.orgid.clone());
            let (id, target) = (event.aggregateid.clone(), target.to_owned());
            tokio::spawn(async move { network.redrive_for(&org, id, &target).await });
        }
    }

    async fn tell_ready(&mut self, ready: Vec<(OrgId, String)>, at: Position) {
        let platform = self.network.platform.clone();
        platform.positions.wait_for(Service::Network.name(), at, platform.settings.visible_within).await;
        for (org, id) in ready {
            match self.seen(&org, &id).await {
                Ok(Some(seen)) => self.seats.tell(&org, &Arc::new(seen)),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "those who watch are not told of an event"),
            }
        }
    }

    async fn seen(&self, org: &OrgId, id: &str) -> crate::http::ApiResult<Option<Seen>> {
        let mut tx = self.network.platform.read(&Scope::platform()).await?;
        let Some(row) = model::event(&mut tx, org.as_str(), id).await? else { return Ok(None) };
        drop(tx);
        let key = self.network.reading_key(org).await?;
        Ok(Some(Seen { event: shapes::event(&row, key.as_ref()), trace: json!(Trace::from(&row)) }))
    }

    fn registry(&self, event: &Event) {
        if event.event_type.starts_with("symbia.network.node.node-unregistered.") {
            self.network.gateway.left(&(event.orgid.clone(), event.aggregateid.clone()));
        }
        for (audience, name, data) in signs(event) {
            self.seats.sign(&event.orgid, audience, &name, &data);
        }
    }

    fn word(&mut self, subject: &str, payload: &[u8]) {
        let org = mesh::org_of_word(subject).and_then(|org| org.parse::<OrgId>().ok());
        let (Some(org), Ok(word)) = (org, serde_json::from_slice(payload)) else { return };
        match word {
            Word::Sign { name, data } => self.seats.sign(&org, Audience::Topology, &name, &data),
            Word::Passing { event, trace } => {
                let seen = Arc::new(Seen { event, trace });
                let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
                if passed.len() == PASSED_MAX {
                    passed.pop_front();
                }
                passed.push_back((org.clone(), Arc::clone(&seen)));
                drop(passed);
                self.seats.tell(&org, &seen);
            }
        }
    }
}
