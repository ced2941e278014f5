//! The sockets that may be told of a mesh, by organization, with their subscriptions.

use std::{
    collections::{HashMap, hash_map::Values},
    sync::Arc,
};

use serde_json::Value;
use socketioxide::{extract::SocketRef, socket::Sid};
use symbia_events::OrgId;

use super::{
    signs::Audience,
    watch::{Filter, Seen, Watch},
};
use crate::socket::emit;

/// A socket, and what it may be told.
pub(super) struct Seat {
    pub socket: SocketRef,
    pub org: OrgId,
    /// It sees who is on the mesh.
    pub topology: bool,
    /// It sees the policies.
    pub policies: bool,
    /// It may watch.
    pub events: bool,
}

struct Seated {
    seat: Seat,
    watches: Vec<Watch>,
}

/// The sockets of this process.
#[derive(Default)]
pub(super) struct Seats {
    by_org: HashMap<OrgId, HashMap<Sid, Seated>>,
    orgs: HashMap<Sid, OrgId>,
}

impl Seats {
    /// A socket is there, or may be told something else than before. Its subscriptions stay, while it may watch.
    pub fn enter(&mut self, seat: Seat) {
        // One that went while it was on its way here has said so before, or will.
        if !seat.socket.connected() {
            return;
        }
        let (sid, org) = (seat.socket.id, seat.org.clone());
        let before = self.gone(sid).filter(|before| before.seat.org == org && seat.events);
        let watches = before.map(|before| before.watches).unwrap_or_default();
        self.orgs.insert(sid, org.clone());
        self.by_org.entry(org).or_default().insert(sid, Seated { seat, watches });
    }

    /// A socket has gone.
    pub fn leave(&mut self, sid: Sid) {
        self.gone(sid);
    }

    fn gone(&mut self, sid: Sid) -> Option<Seated> {
        let org = self.orgs.remove(&sid)?;
        let seats = self.by_org.get_mut(&org)?;
        let seated = seats.remove(&sid);
        if seats.is_empty() {
            self.by_org.remove(&org);
        }
        seated
    }

    fn of(&mut self, sid: Sid) -> Option<&mut Seated> {
        self.by_org.get_mut(self.orgs.get(&sid)?)?.get_mut(&sid)
    }

    fn among(&self, org: &OrgId) -> Option<Values<'_, Sid, Seated>> {
        self.by_org.get(org).map(HashMap::values)
    }

    /// Begins a subscription. False when the socket may not watch, or has gone.
    pub fn watch(&mut self, sid: Sid, id: String, filter: Filter) -> bool {
        let Some(seated) = self.of(sid).filter(|seated| seated.seat.events) else { return false };
        seated.watches.push(Watch::new(id, filter));
        true
    }

    /// Ends a subscription. False when it is none of this socket's.
    pub fn unwatch(&mut self, sid: Sid, id: &str) -> bool {
        let Some(seated) = self.of(sid) else { return false };
        let before = seated.watches.len();
        seated.watches.retain(|watch| watch.id != id);
        seated.watches.len() < before
    }

    /// Whether somebody watches an organization's mesh.
    pub fn watched(&self, org: &OrgId) -> bool {
        self.among(org).is_some_and(|mut seats| seats.any(|seated| !seated.watches.is_empty()))
    }

    /// Tells an event to those who watch for it.
    pub fn tell(&mut self, org: &OrgId, seen: &Arc<Seen>) {
        for seated in self.by_org.get_mut(org).into_iter().flat_map(HashMap::values_mut) {
            seated.watches.iter_mut().for_each(|watch| watch.push(seen));
            seated.flush();
        }
    }

    /// Tells those again who were too slow.
    pub fn flush(&mut self) {
        self.by_org.values_mut().flat_map(HashMap::values_mut).for_each(Seated::flush);
    }

    /// Tells a change of a mesh to those who may know of it.
    pub fn sign(&self, org: &OrgId, audience: Audience, name: &str, data: &Value) {
        let may = |seat: &Seat| match audience {
            Audience::Topology => seat.topology,
            Audience::Policies => seat.policies,
        };
        for seated in self.among(org).into_iter().flatten().filter(|seated| may(&seated.seat)) {
            // A slow one asks for the topology when it wants to know.
            let _ = emit(&seated.seat.socket, name, data);
        }
    }
}

impl Seated {
    fn flush(&mut self) {
        for watch in &mut self.watches {
            // One that is slow is told later; one that has gone is about to be left out.
            if watch.flush(&self.seat.socket).is_err() {
                break;
            }
        }
    }
}
