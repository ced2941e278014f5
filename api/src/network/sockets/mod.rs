//! The mesh over Socket.IO (network.md §7): the calls of REST, deliveries to the nodes that sockets speak for, and what those
//! who watch are told. Any process serves any node: what is stored comes from the log, what is not over core NATS.

mod calls;
mod gateway;
mod hub;
mod seats;
mod signs;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use socketioxide::extract::SocketRef;

use self::hub::Order;
pub(super) use self::{gateway::Gateway, hub::Hub};
use super::{Network, metrics, strangers::Strangers};
use crate::socket::{Peer, SocketService};

/// What the sockets of the mesh do.
pub(super) struct NetworkSockets(pub Network, pub Strangers);

impl Network {
    /// The hub; it starts when it is first needed, so that a process without sockets reads nothing.
    pub(super) fn hub(&self) -> &Hub {
        self.hub.get_or_init(|| Hub::start(self.clone()))
    }
}

#[async_trait]
impl SocketService for NetworkSockets {
    // As in the original; but nobody does nothing.
    fn admits_anybody(&self) -> bool {
        true
    }

    fn unknown(&self, token: Option<&str>) {
        self.1.note(token);
    }

    async fn opened(&self, socket: SocketRef, peer: &Arc<Peer>, _: Value) {
        let caller = peer.caller();
        metrics::connected((!peer.is_nobody()).then_some((caller.kind, caller.id.as_str())));
        if let Some(seat) = self.0.seat(socket, peer) {
            self.0.hub().tell(Order::Enter(seat));
        }
    }

    async fn called(&self, peer: &Arc<Peer>, socket: &SocketRef, call: &str, arguments: Vec<Value>) -> Value {
        self.answer(peer, socket, call, arguments).await
    }

    async fn changed(&self, socket: SocketRef, peer: &Arc<Peer>) {
        match self.0.seat(socket, peer) {
            Some(seat) => self.0.hub().tell(Order::Enter(seat)),
            // It belongs nowhere any more.
            None => self.closed(peer),
        }
    }

    fn gone(&self) {
        metrics::disconnected();
    }

    fn closed(&self, peer: &Peer) {
        self.0.gateway.gone(peer.id);
        if let Some(hub) = self.0.hub.get() {
            hub.tell(Order::Gone(peer.id));
        }
    }
}
