//! Who sits where: sockets come, are given what they missed, and go.

use std::{collections::HashSet, sync::Arc};

use serde_json::json;
use socketioxide::{extract::SocketRef, socket::Sid};
use symbia_events::OrgId;

use super::{
    hub::{Running, Seat, Tenant},
    order::{Seated, Seating, Whole},
    signs::{presence_of, sign},
    told::{Effect, Room, Told, position},
};
use crate::{
    feed::position::Place,
    socket::{NotSent, Peer, emit, end},
};

/// Lets agents listen to conversations in which they take no part.
pub(super) const OBSERVE: &str = "cap:messaging.observe";
/// More than so many events are not put into a socket's queue at once.
const AT_ONCE: usize = 128;

impl Running {
    pub(super) async fn enter(&mut self, socket: SocketRef, peer: Arc<Peer>, tenants: Vec<OrgId>) {
        let sid = peer.id;
        // One that went while it was on its way here has said so before, or will.
        if !socket.connected() {
            return;
        }
        let before = match self.seats.get_mut(&sid) {
            Some(seat) => std::mem::replace(&mut seat.tenants, tenants.clone()),
            None => Vec::new(),
        };
        for tenant in before.iter().filter(|tenant| !tenants.contains(tenant)) {
            self.retire(sid, tenant).await;
        }
        if !peer.caller().has_capability(OBSERVE) {
            let watched = self.seats.get_mut(&sid).map(|seat| std::mem::take(&mut seat.watched));
            for room in watched.into_iter().flatten() {
                self.leave(sid, &room).await;
            }
        }
        self.principals.entry(peer.caller().id.clone()).or_default().insert(sid);
        let after = self.place;
        for tenant in &tenants {
            let new = !self.tenants.contains_key(tenant);
            let here = self.tenants.entry(tenant.clone());
            here.or_insert_with(|| Tenant { since: after, seats: HashSet::new() }).seats.insert(sid);
            if new {
                self.publish_word(tenant, &self.presences.question()).await;
            }
        }
        self.seats.entry(sid).or_insert_with(|| Seat {
            socket,
            peer,
            tenants,
            rooms: HashSet::new(),
            watched: HashSet::new(),
            after,
            open: false,
        });
    }

    pub(super) async fn seat(&mut self, seating: Seating) -> Seated {
        let Seating { sid, rooms, after, above, whole } = seating;
        let Some(seat) = self.seats.get(&sid) else { return Seated::Refused };
        let at_hand = |tenant: &OrgId| self.tenants.get(tenant).is_some_and(|t| after >= t.since);
        if !self.ring.reaches(after) || !seat.tenants.iter().all(at_hand) {
            return Seated::Past(self.place);
        }
        let me = seat.peer.caller().id.clone();
        let here = |room: &Room| seat.is_of(room.tenant()) && !seat.rooms.contains(room);
        // In the rooms where it sits, it was told everything.
        let mut wanted: HashSet<Room> = rooms.iter().filter(|room| here(room)).cloned().collect();
        let mut missed = Vec::new();
        for told in self.ring.behind(after) {
            match &told.effect {
                Effect::Joined(user) if *user == me && whole == Whole::All && here(&told.room) => {
                    wanted.insert(told.room.clone());
                }
                _ => {}
            }
            if !wanted.contains(&told.room) {
                continue;
            }
            if told.message.as_ref().is_none_or(|(sequence, _)| *sequence > above) {
                missed.push(Arc::clone(told));
            }
            match &told.effect {
                Effect::Left(user) if *user == me && whole != Whole::Watched => _ = wanted.remove(&told.room),
                Effect::Ended => _ = wanted.remove(&told.room),
                _ => {}
            }
        }
        if whole != Whole::All && !rooms.iter().any(|room| wanted.contains(room) || seat.rooms.contains(room)) {
            return Seated::Refused;
        }
        if missed.len() > AT_ONCE {
            return Seated::Missed(missed, self.place);
        }
        if missed.iter().any(|told| told.send(&seat.socket) == Err(NotSent::Slow)) {
            self.cut(sid).await;
            return Seated::Refused;
        }
        let place = self.place.max(after);
        self.settle(sid, wanted, &missed, whole == Whole::Watched);
        if whole == Whole::All {
            self.welcome(sid, place).await;
        }
        Seated::Done(place)
    }

    fn settle(&mut self, sid: Sid, rooms: HashSet<Room>, told: &[Arc<Told>], watched: bool) {
        let Some(seat) = self.seats.get_mut(&sid) else { return };
        for room in rooms {
            let first = told.iter().filter(|t| t.room == room).find_map(|t| t.message.as_ref().map(|(s, _)| *s));
            self.rooms.entry(room.clone()).or_default().insert(sid, first.unwrap_or(0));
            if watched {
                seat.watched.insert(room.clone());
            }
            seat.rooms.insert(room);
        }
    }

    /// The socket is told everything from now on.
    async fn welcome(&mut self, sid: Sid, place: Place) {
        let Some(seat) = self.seats.get_mut(&sid) else { return };
        if !seat.open {
            (seat.after, seat.open) = (place, true);
            let _ = emit(&seat.socket, "opened", &json!({ "position": position(place) }));
        }
        let presence = presence_of(&seat.peer.caller());
        let (tenants, rooms) = (seat.tenants.clone(), seat.rooms.clone());
        for tenant in tenants {
            let online = self.presences.is_online(&tenant, &presence.user_id);
            let Some(word) = self.presences.came(&tenant, sid, presence.clone(), &rooms) else { continue };
            self.publish_word(&tenant, &word).await;
            for room in rooms.iter().filter(|room| !online && room.tenant() == tenant.as_str()) {
                self.publish_sign(room, &sign("participant:online", room, &presence, Some(sid))).await;
            }
        }
    }

    /// Leaves a room until it is seated there again; gives the first sequence that it was told there, 0 = none.
    pub(super) fn hold(&mut self, sid: Sid, room: &Room) -> u64 {
        if let Some(seat) = self.seats.get_mut(&sid) {
            seat.rooms.remove(room);
        }
        let Some(seats) = self.rooms.get_mut(room) else { return 0 };
        let first = seats.remove(&sid).unwrap_or(0);
        if seats.is_empty() {
            self.rooms.remove(room);
        }
        first
    }

    pub(super) async fn leave(&mut self, sid: Sid, room: &Room) {
        if self.typing.stopped(room, sid) {
            self.publish_typing(sid, room, false).await;
        }
        if let Some(seat) = self.seats.get_mut(&sid) {
            seat.rooms.remove(room);
            seat.watched.remove(room);
        }
        if let Some(seats) = self.rooms.get_mut(room) {
            seats.remove(&sid);
            if seats.is_empty() {
                self.rooms.remove(room);
                self.answers.empty(room);
            }
        }
    }

    /// A socket's principal belongs to a tenant no more, or has gone.
    async fn retire(&mut self, sid: Sid, tenant: &OrgId) {
        let Some(seat) = self.seats.get(&sid) else { return };
        let user = seat.peer.caller().id.clone();
        let rooms: Vec<Room> = seat.rooms.iter().filter(|room| room.tenant() == tenant.as_str()).cloned().collect();
        for room in rooms {
            self.leave(sid, &room).await;
        }
        self.presences.went(tenant, sid, &user);
        if let Some(here) = self.tenants.get_mut(tenant) {
            here.seats.remove(&sid);
            if here.seats.is_empty() {
                self.tenants.remove(tenant);
            }
        }
    }

    pub(super) async fn gone(&mut self, sid: Sid) {
        let Some(seat) = self.seats.get(&sid) else { return };
        let (user, tenants) = (seat.peer.caller().id.clone(), seat.tenants.clone());
        for tenant in tenants {
            self.retire(sid, &tenant).await;
        }
        self.seats.remove(&sid);
        if let Some(sockets) = self.principals.get_mut(&user) {
            sockets.remove(&sid);
            if sockets.is_empty() {
                self.principals.remove(&user);
            }
        }
    }

    /// Ends the connection of a client that takes things too slowly; it goes on from its last position when it comes again.
    pub(super) async fn cut(&mut self, sid: Sid) {
        let Some(socket) = self.seats.get(&sid).map(|seat| seat.socket.clone()) else { return };
        tracing::info!(%sid, "a slow socket is cut");
        self.gone(sid).await;
        end(socket, 4008, "slow consumer: connect again and go on from the last position");
    }
}
