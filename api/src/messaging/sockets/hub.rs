//! The hub: follows the log and the live messages of all conversations once for this process, and tells the sockets seated in
//! their rooms. One task does everything, in the order of the log, so that nobody is told the next event before who it
//! concerns has come and gone.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_nats::Subscriber;
use futures::StreamExt;
use socketioxide::{extract::SocketRef, socket::Sid};
use symbia_events::{OrgId, Service};
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    answers::Answers,
    order::Order,
    presence::Presences,
    ring::Ring,
    told::{Effect, Room, Told, raw},
    typing::Typing,
};
use crate::{
    feed::{
        Feed,
        position::Place,
        source::{Chunk, Entry, Source},
    },
    messaging::words::ContentKeys,
    platform::Platform,
    socket::{NotSent, Peer, end},
};

const TICK: Duration = Duration::from_millis(500);
/// Pause before the log is followed again after it could not be.
const PAUSE: Duration = Duration::from_secs(1);
const CONVERSATIONS: &str = "symbia.evt.messaging.*.conversation.*";
const RUNS: &str = "symbia.evt.assistants.*.rule-run.*";
const LIVE: &str = "symbia.live.*.conversation.*";
const PRESENCE: &str = "symbia.live.*.presence";

/// A socket.
pub(super) struct Seat {
    pub socket: SocketRef,
    pub peer: Arc<Peer>,
    pub tenants: Vec<OrgId>,
    pub rooms: HashSet<Room>,
    /// Of these, those in which its principal takes no part.
    pub watched: HashSet<Room>,
    /// It has had everything up to here.
    pub after: Place,
    /// It is told things; before, it is still being given what it missed.
    pub open: bool,
}

impl Seat {
    pub fn is_of(&self, tenant: &str) -> bool {
        self.tenants.iter().any(|own| own.as_str() == tenant)
    }
}

/// The sockets in a conversation, each with the first sequence that it was told here, 0 = none yet.
pub(super) type Seats = HashMap<Sid, u64>;

/// A tenant with sockets here.
pub(super) struct Tenant {
    /// Its events behind this place are in the ring.
    pub since: Place,
    pub seats: HashSet<Sid>,
}

pub(super) struct Running {
    pub(super) platform: Platform,
    pub(super) keys: ContentKeys,
    pub(super) feed: Feed,
    pub(super) place: Place,
    pub(super) ring: Ring,
    pub(super) seats: HashMap<Sid, Seat>,
    pub(super) rooms: HashMap<Room, Seats>,
    pub(super) tenants: HashMap<OrgId, Tenant>,
    pub(super) principals: HashMap<String, HashSet<Sid>>,
    pub(super) answers: Answers,
    pub(super) typing: Typing,
    pub(super) presences: Presences,
}

/// What the hub listens to.
struct Ears {
    log: Source,
    runs: Source,
    live: Subscriber,
    presence: Subscriber,
}

/// Something cannot be heard any more: the hub listens anew.
struct Deaf;

/// Runs the hub until the service stops.
pub(super) async fn run(
    platform: Platform,
    keys: ContentKeys,
    feed: Feed,
    mut orders: mpsc::UnboundedReceiver<Order>,
    drained: CancellationToken,
) {
    let mut hub = Running {
        answers: Answers::new(platform.clone()),
        platform,
        keys,
        feed,
        place: Place::default(),
        ring: Ring::new(Place::default()),
        seats: HashMap::new(),
        rooms: HashMap::new(),
        tenants: HashMap::new(),
        principals: HashMap::new(),
        typing: Typing::default(),
        presences: Presences::new(),
    };
    loop {
        tokio::select! {
            () = drained.cancelled() => return,
            () = hub.listen(&mut orders) => {}
        }
        // The log is another one than before, or cannot be read: nobody can go on from where they were.
        for (_, seat) in hub.seats.drain() {
            end(seat.socket, 4009, "the log is read anew: connect again");
        }
        hub.rooms.clear();
        hub.tenants.clear();
        hub.principals.clear();
        tokio::time::sleep(PAUSE).await;
    }
}

impl Running {
    async fn ears(&mut self) -> Option<Ears> {
        let nats = &self.platform.nats;
        let live = nats.subscribe(LIVE).await.ok()?;
        let presence = nats.subscribe(PRESENCE).await.ok()?;
        let (place, log) = self.feed.tail(Service::Messaging, vec![CONVERSATIONS.to_owned()]).await.ok()?;
        let (_, runs) = self.feed.tail(Service::Assistants, vec![RUNS.to_owned()]).await.ok()?;
        (self.place, self.ring) = (place, Ring::new(place));
        Some(Ears { log, runs, live, presence })
    }

    async fn listen(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) {
        let Some(mut ears) = self.ears().await else {
            tracing::warn!("sockets wait: the log cannot be followed");
            return;
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let heard = tokio::select! {
                chunk = ears.log.next() => match chunk {
                    Ok(chunk) => { self.stored(chunk).await; Ok(()) }
                    Err(_) => Err(Deaf),
                },
                order = orders.recv() => match order {
                    Some(order) => { self.order(order).await; Ok(()) }
                    // Nobody can ask any more: the service is gone.
                    None => std::future::pending().await,
                },
                chunk = ears.runs.next() => match chunk {
                    Ok(chunk) => { self.ran(chunk).await; Ok(()) }
                    Err(_) => Err(Deaf),
                },
                message = ears.live.next() => match message {
                    Some(message) => { self.live(message.subject.as_str(), &message.payload); Ok(()) }
                    None => Err(Deaf),
                },
                message = ears.presence.next() => match message {
                    Some(message) => { self.presence(message.subject.as_str(), &message.payload).await; Ok(()) }
                    None => Err(Deaf),
                },
                _ = tick.tick() => { self.tick().await; Ok(()) }
            };
            if let Err(Deaf) = heard {
                return;
            }
        }
    }

    async fn stored(&mut self, chunk: Chunk) {
        for (sequence, entry) in chunk.entries {
            let Entry::Event(signed, place) = entry else {
                self.place = Place::behind(sequence);
                continue;
            };
            self.place = place;
            if !self.tenants.contains_key(&signed.event.orgid) {
                continue;
            }
            let told = Told::of(&self.platform, &self.keys, &signed.event, place).await;
            if let Some(told) = told.map(Arc::new) {
                self.ring.push(Arc::clone(&told));
                self.tell(&told).await;
            }
        }
    }

    async fn tell(&mut self, told: &Told) {
        if let Effect::Joined(user) = &told.effect {
            for sid in self.principals.get(user).into_iter().flatten() {
                let Some(seat) = self.seats.get_mut(sid) else { continue };
                if seat.open && seat.is_of(told.room.tenant()) && told.place > seat.after {
                    seat.rooms.insert(told.room.clone());
                    self.rooms.entry(told.room.clone()).or_default().entry(*sid).or_insert(0);
                }
            }
        }
        let mut slow = Vec::new();
        for (sid, first) in self.rooms.get_mut(&told.room).into_iter().flatten() {
            let Some(seat) = self.seats.get(sid).filter(|seat| told.place > seat.after) else { continue };
            if let (0, Some((sequence, _))) = (*first, &told.message) {
                *first = *sequence;
            }
            if told.send(&seat.socket) == Err(NotSent::Slow) {
                slow.push(*sid);
            }
        }
        match &told.effect {
            Effect::Left(user) => {
                for sid in self.principals.get(user).cloned().into_iter().flatten() {
                    self.leave(sid, &told.room).await;
                }
            }
            Effect::Ended => {
                for (sid, _) in self.rooms.remove(&told.room).into_iter().flatten() {
                    self.leave(sid, &told.room).await;
                }
            }
            Effect::Joined(_) | Effect::Nothing => {}
        }
        if let Some(id) = told.message_id.as_ref().filter(|_| self.rooms.contains_key(&told.room)) {
            self.answers.stored(&told.room, id);
        }
        if let Some((_, sender)) = &told.message {
            for sid in self.typing.in_room(&told.room) {
                if self.seats.get(&sid).is_some_and(|seat| seat.peer.caller().id == *sender) {
                    self.typed(sid, &told.room, false).await;
                }
            }
        }
        for sid in slow {
            self.cut(sid).await;
        }
    }

    async fn ran(&mut self, chunk: Chunk) {
        for (_, entry) in chunk.entries {
            let Entry::Event(signed, _) = entry else { continue };
            if !self.tenants.contains_key(&signed.event.orgid) {
                continue;
            }
            let Some((room, state)) = self.answers.run(&signed.event).await else { continue };
            if let Some(state) = raw(&state) {
                self.show(&room, "turn:state", &state, |_| false);
            }
        }
    }

    async fn order(&mut self, order: Order) {
        // Who asked may have gone meanwhile.
        match order {
            Order::Enter { socket, peer, tenants, reply } => {
                self.enter(socket, peer, tenants).await;
                let _ = reply.send(self.place);
            }
            Order::Seat(seating, reply) => {
                let seated = self.seat(seating).await;
                let _ = reply.send(seated);
            }
            Order::Hold { sid, room, reply } => {
                let first = self.hold(sid, &room);
                let _ = reply.send((self.place, first));
            }
            Order::Leave { sid, conversation } => {
                if let Some(room) = self.room_of(sid, &conversation) {
                    self.leave(sid, &room).await;
                }
            }
            Order::Typing { sid, conversation, started } => {
                if let Some(room) = self.room_of(sid, &conversation) {
                    self.typed(sid, &room, started).await;
                }
            }
            Order::Present { sid, status } => self.says(sid, status).await,
            Order::Announce { sid, conversation } => self.announce(sid, &conversation).await,
            Order::Online { tenant, users, reply } => {
                let online = users.into_iter().filter(|user| self.presences.is_online(&tenant, user)).collect();
                let _ = reply.send(online);
            }
            Order::Gone { sid } => self.gone(sid).await,
        }
    }

    /// The room of a conversation in which a socket sits.
    pub(super) fn room_of(&self, sid: Sid, conversation: &str) -> Option<Room> {
        self.seats.get(&sid)?.rooms.iter().find(|room| room.conversation() == conversation).cloned()
    }
}
