//! The nodes that sockets of this process speak for. Each takes events of its node from the broker, which gives one of all
//! processes with such sockets each event; here, one of the sockets gets it (network.md §8.1, 8.8).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{Client, Message, Subscriber};
use futures::StreamExt;
use moka::sync::Cache;
use serde_json::{Value, json};
use socketioxide::{ack::AckStream, extract::SocketRef, socket::Sid};
use symbia_events::OrgId;
use symbia_nats::{
    leases::{Leases, Sign},
    mesh::{self, ABSENT, MeshError, Word},
};
use time::OffsetDateTime;
use tokio::task::AbortHandle;

use crate::socket::{NotSent, emit};

/// How long an event is remembered that a socket has: offered again, it is not told again.
const REMEMBERED: Duration = Duration::from_secs(600);
const REMEMBERED_MOST: u64 = 100_000;

const RECEIVED: &str = "event:received";
const TAKEN: &[u8] = b"";
const SLOW: &[u8] = b"slow";

/// What came of telling a socket.
enum Told {
    Already(&'static [u8]),
    /// It was asked to say that it has it.
    Asked(AckStream<Value>),
}

/// Organization and node.
pub(super) type NodeKey = (OrgId, String);

/// A socket that speaks for a node.
#[derive(Clone)]
struct Speaker {
    socket: SocketRef,
    /// It says that it has an event.
    acknowledges: bool,
}

struct Attached {
    speakers: Vec<Speaker>,
    /// Whose turn it is.
    turn: usize,
    taking: AbortHandle,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.taking.abort();
    }
}

/// The nodes that are connected here. Cheap to clone.
#[derive(Clone)]
pub(in crate::network) struct Gateway(Arc<Inner>);

struct Inner {
    nats: Client,
    leases: Leases,
    nodes: Mutex<HashMap<NodeKey, Attached>>,
    /// By organization, node and event.
    has: Cache<(NodeKey, String), ()>,
}

impl Gateway {
    pub fn new(nats: Client, leases: Leases) -> Self {
        Gateway(Arc::new(Inner {
            nats,
            leases,
            nodes: Mutex::default(),
            has: Cache::builder().max_capacity(REMEMBERED_MOST).time_to_live(REMEMBERED).build(),
        }))
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeKey, Attached>> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a socket speak for a node. Events are offered to it when this returns.
    pub async fn attach(&self, key: &NodeKey, socket: SocketRef, acknowledges: bool) -> Result<(), MeshError> {
        let speaker = Speaker { socket, acknowledges };
        if self.joins(key, &speaker) {
            return Ok(());
        }
        let subscription = mesh::take(&self.0.nats, key.0.as_str(), &key.1).await?;
        // Another socket of the node may have come meanwhile.
        if self.joins(key, &speaker) {
            return Ok(());
        }
        let taking = tokio::spawn(self.clone().serve(key.clone(), subscription)).abort_handle();
        self.nodes().insert(key.clone(), Attached { speakers: vec![speaker], turn: 0, taking });
        Ok(())
    }

    fn joins(&self, key: &NodeKey, speaker: &Speaker) -> bool {
        let mut nodes = self.nodes();
        let Some(attached) = nodes.get_mut(key) else { return false };
        attached.speakers.retain(|known| known.socket.id != speaker.socket.id);
        attached.speakers.push(speaker.clone());
        true
    }

    /// Whether a node is connected here.
    pub fn has(&self, key: &NodeKey) -> bool {
        self.nodes().contains_key(key)
    }

    /// A node has left the mesh: nobody speaks for it.
    pub fn left(&self, key: &NodeKey) {
        self.nodes().remove(key);
    }

    /// A socket has gone, with it the connection of the nodes that only it spoke for.
    pub fn gone(&self, sid: Sid) {
        let mut alone = Vec::new();
        self.nodes().retain(|key, attached| {
            let before = attached.speakers.len();
            attached.speakers.retain(|speaker| speaker.socket.id != sid);
            let ends = before > 0 && attached.speakers.is_empty();
            if ends {
                alone.push(key.clone());
            }
            !ends
        });
        for key in alone {
            tokio::spawn(self.clone().disconnected(key));
        }
    }

    // The lease stands until it runs out: the node may come back.
    async fn disconnected(self, (org, node): NodeKey) {
        let data = json!({ "nodeId": node });
        let word = Word::Sign { name: "network:node:disconnected".to_owned(), data };
        let told = mesh::tell(&self.0.nats, org.as_str(), &word).await;
        let sign = Sign { at: OffsetDateTime::now_utc(), socket: None };
        if self.0.leases.renew(org.as_str(), &node, sign).await.is_err() || told.is_err() {
            tracing::debug!(%org, node, "nobody is told that a node is disconnected");
        }
    }

    /// A socket is a sign of life: renews the leases of the nodes that are connected here.
    pub async fn renew(self) {
        let connected = |(key, attached): (&NodeKey, &Attached)| {
            attached.speakers.last().map(|speaker| (key.clone(), speaker.socket.id))
        };
        let here: Vec<_> = self.nodes().iter().filter_map(connected).collect();
        for (key, sid) in here {
            self.lives(&key, sid).await;
        }
    }

    /// A node lives, and is connected by this socket.
    pub async fn lives(&self, (org, node): &NodeKey, sid: Sid) {
        let sign = Sign { at: OffsetDateTime::now_utc(), socket: Some(sid.to_string()) };
        if let Err(error) = self.0.leases.renew(org.as_str(), node, sign).await {
            tracing::warn!(%error, "a sign of life is not kept");
        }
    }

    async fn serve(self, key: NodeKey, mut offered: Subscriber) {
        while let Some(message) = offered.next().await {
            self.offered(&key, message);
        }
    }

    // Written in the order in which events come; who acknowledges is waited for beside.
    fn offered(&self, key: &NodeKey, message: Message) {
        let Some(reply) = message.reply else { return };
        let Ok(event) = serde_json::from_slice::<Value>(&message.payload) else { return };
        let seen = (key.clone(), event["wrapper"]["id"].as_str().unwrap_or_default().to_owned());
        let (told, gateway) = (self.tell(key, &event, &seen), self.clone());
        tokio::spawn(async move {
            let answer = match told {
                Told::Already(answer) => answer,
                Told::Asked(acknowledged) => match acknowledged.await {
                    Ok(_) => {
                        gateway.0.has.insert(seen, ());
                        TAKEN
                    }
                    Err(_) => b"not_acknowledged",
                },
            };
            // Without an answer it is offered again.
            let _ = gateway.0.nats.publish(reply, answer.into()).await;
        });
    }

    fn tell(&self, key: &NodeKey, event: &Value, seen: &(NodeKey, String)) -> Told {
        if self.0.has.contains_key(seen) {
            return Told::Already(TAKEN);
        }
        let Some(speaker) = self.next(key) else { return Told::Already(ABSENT) };
        if speaker.acknowledges {
            let asked = speaker.socket.emit_with_ack(RECEIVED, event);
            return asked.map_or(Told::Already(SLOW), Told::Asked);
        }
        Told::Already(match emit(&speaker.socket, RECEIVED, event) {
            Ok(()) => {
                self.0.has.insert(seen.clone(), ());
                TAKEN
            }
            Err(NotSent::Slow) => SLOW,
            Err(NotSent::Gone) => ABSENT,
        })
    }

    // One of the sockets that are connected, each in its turn.
    fn next(&self, key: &NodeKey) -> Option<Speaker> {
        let mut nodes = self.nodes();
        let attached = nodes.get_mut(key)?;
        for _ in 0..attached.speakers.len() {
            attached.turn = (attached.turn + 1) % attached.speakers.len();
            let speaker = &attached.speakers[attached.turn];
            if speaker.socket.connected() {
                return Some(speaker.clone());
            }
        }
        None
    }
}
