//! What the hub is asked for, and the handle to ask it.

use std::sync::Arc;

use socketioxide::{extract::SocketRef, socket::Sid};
use symbia_events::OrgId;
use tokio::sync::{mpsc, oneshot};

use super::{
    presence::Status,
    told::{Room, Told},
};
use crate::{feed::position::Place, socket::Peer};

/// Which rooms a socket is to be seated in.
pub(super) struct Seating {
    pub sid: Sid,
    pub rooms: Vec<Room>,
    /// The socket has had everything up to here.
    pub after: Place,
    /// It has had messages up to this sequence as well.
    pub above: u64,
    /// What for.
    pub whole: Whole,
}

/// How much of a socket's rooms a seating is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// All of them: the socket is served from now on.
    All,
    /// One more.
    One,
    /// One more, that its principal takes no part in.
    Watched,
}

/// What came of a seating.
pub(super) enum Seated {
    /// It is told everything from now on; so far the hub had come.
    Done(Place),
    /// It has missed more than is put into its queue at once: this, up to here.
    Missed(Vec<Arc<Told>>, Place),
    /// What it missed is no longer at hand here: the log has it, up to here.
    Past(Place),
    /// It takes no part any more, or has gone.
    Refused,
}

pub(super) enum Order {
    /// A socket is there. The answer: where the hub stands.
    Enter {
        socket: SocketRef,
        peer: Arc<Peer>,
        tenants: Vec<OrgId>,
        reply: oneshot::Sender<Place>,
    },
    Seat(Seating, oneshot::Sender<Seated>),
    /// Where the hub stands, and the first sequence that the socket was told in a room, 0 = none. The room is left until the
    /// socket is seated again.
    Hold {
        sid: Sid,
        room: Room,
        reply: oneshot::Sender<(Place, u64)>,
    },
    /// Whether the socket is in the room.
    Leave {
        sid: Sid,
        conversation: String,
    },
    Typing {
        sid: Sid,
        conversation: String,
        started: bool,
    },
    Present {
        sid: Sid,
        status: Status,
    },
    Announce {
        sid: Sid,
        conversation: String,
    },
    /// Who of a tenant is online.
    Online {
        tenant: OrgId,
        users: Vec<String>,
        reply: oneshot::Sender<Vec<String>>,
    },
    Gone {
        sid: Sid,
    },
}

/// Asks the hub. Cheap to clone.
#[derive(Clone)]
pub(super) struct Hub(pub mpsc::UnboundedSender<Order>);

/// The hub has ended with its service.
#[derive(Debug)]
pub(super) struct Stopped;

impl Hub {
    pub fn tell(&self, order: Order) {
        // It ends with the service, and then there is nobody to tell.
        let _ = self.0.send(order);
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.tell(order(reply));
        answer.await.map_err(|_| Stopped)
    }

    pub async fn enter(&self, socket: SocketRef, peer: Arc<Peer>, tenants: Vec<OrgId>) -> Result<Place, Stopped> {
        self.ask(|reply| Order::Enter { socket, peer, tenants, reply }).await
    }

    pub async fn seat(&self, seating: Seating) -> Result<Seated, Stopped> {
        self.ask(|reply| Order::Seat(seating, reply)).await
    }

    pub async fn hold(&self, sid: Sid, room: Room) -> Result<(Place, u64), Stopped> {
        self.ask(|reply| Order::Hold { sid, room, reply }).await
    }

    pub async fn online(&self, tenant: OrgId, users: Vec<String>) -> Result<Vec<String>, Stopped> {
        self.ask(|reply| Order::Online { tenant, users, reply }).await
    }
}
