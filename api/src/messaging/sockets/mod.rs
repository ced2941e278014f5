//! Conversations over Socket.IO (messaging.md §7): rooms that are fed from the log, in every process alike.
//!
//! What is stored is told with the place behind it as second argument, `{"position": "messaging:40"}`. A client that connects
//! with its last position in the handshake's `auth` gets what it missed, once and in order, wherever it connects.

mod answers;
mod calls;
mod catch_up;
mod hub;
mod join;
mod order;
mod presence;
mod ring;
mod seating;
mod signs;
mod told;
mod typing;

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use serde_json::Value;
use socketioxide::extract::SocketRef;
use tokio::sync::mpsc;

use self::order::{Hub, Order};
use super::Messaging;
use crate::{
    feed::position::{Cursor, Place},
    socket::{Peer, SocketService},
};

/// What the sockets of conversations do.
pub(super) struct MessagingSockets {
    messaging: Messaging,
    hub: OnceLock<Hub>,
}

impl MessagingSockets {
    pub fn new(messaging: Messaging) -> Self {
        MessagingSockets { messaging, hub: OnceLock::new() }
    }

    /// The hub; it starts with the first socket, so that a process without any reads nothing.
    fn hub(&self) -> &Hub {
        self.hub.get_or_init(|| {
            let (orders, taken) = mpsc::unbounded_channel();
            let Messaging { platform, keys, feed, drained, .. } = self.messaging.clone();
            tokio::spawn(hub::run(platform, keys, feed, taken, drained));
            Hub(orders)
        })
    }
}

/// The position that a client names; one that cannot be read is none.
fn named(auth: &Value) -> Option<Place> {
    let cursor: Cursor = auth.get("position")?.as_str()?.parse().ok()?;
    cursor.get(symbia_events::Service::Messaging)
}

#[async_trait]
impl SocketService for MessagingSockets {
    async fn opened(&self, socket: SocketRef, peer: &Arc<Peer>, auth: Value) {
        self.welcome(socket, peer, named(&auth)).await;
    }

    async fn called(&self, peer: &Arc<Peer>, socket: &SocketRef, call: &str, arguments: Vec<Value>) -> Value {
        self.answer(peer, socket, call, arguments).await
    }

    async fn changed(&self, socket: SocketRef, peer: &Arc<Peer>) {
        self.welcome(socket, peer, None).await;
    }

    fn closed(&self, peer: &Peer) {
        if let Some(hub) = self.hub.get() {
            hub.tell(Order::Gone { sid: peer.id });
        }
    }
}
