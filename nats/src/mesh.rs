//! The live side of the mesh, over core NATS: an event is offered to whichever process holds a socket of its target, and what
//! is not stored is told to all of them.

use std::time::Duration;

use async_nats::{Client, Request, RequestErrorKind, Subscriber};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use symbia_commands::network::Letter;
use symbia_events::network::{Candidate, EventRouted};

/// Processes with sockets of one node: one of them gets an event.
const GROUP: &str = "mesh";

/// What one process tells the others of an organization's mesh.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Word {
    /// Something that those who see the topology are told.
    Sign {
        /// Name of the event.
        name: String,
        /// What it says.
        data: Value,
    },
    /// An event that is not stored, with its trace.
    Passing {
        /// The event.
        event: Value,
        /// Its trace.
        trace: Value,
    },
}

/// Where events go that are not kept and that no socket takes: a worker posts them.
pub const PARCELS: &str = "symbia.mesh.parcel";
/// The workers that do.
pub const COURIERS: &str = "couriers";

/// An event for the address of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names say it")]
pub struct Parcel {
    pub org: String,
    pub node: String,
    pub endpoint: String,
    pub event_id: String,
    pub run_id: String,
    pub timestamp: String,
    pub hash: String,
    pub signature: String,
    pub body: Value,
}

impl Parcel {
    /// An event as one target gets it.
    #[must_use]
    pub fn of(routed: &EventRouted, candidate: &Candidate, letter: Letter) -> Self {
        Parcel {
            org: routed.org_id.clone(),
            node: candidate.final_target.clone(),
            endpoint: candidate.endpoint.clone(),
            event_id: routed.event_id.clone(),
            run_id: routed.run_id.clone(),
            timestamp: routed.timestamp.clone(),
            hash: letter.hash,
            signature: letter.signature,
            body: letter.body,
        }
    }
}

/// What came of offering an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// A socket has it.
    Taken,
    /// No socket of the node is connected.
    Absent,
    /// There is one, and it did not take it: a code.
    Refused(String),
}

/// The broker could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("the sockets of {node} could not be asked: {reason}")]
pub struct MeshError {
    node: String,
    reason: String,
}

/// Where the sockets of a node take events.
#[must_use]
pub fn node_subject(org: &str, node: &str) -> String {
    format!("symbia.mesh.{org}.node.{node}")
}

/// Where words of an organization go.
#[must_use]
pub fn word_subject(org: &str) -> String {
    format!("symbia.mesh.{org}.word")
}

/// Words of all organizations.
pub const WORDS: &str = "symbia.mesh.*.word";

/// Whose word a subject carries.
#[must_use]
pub fn org_of_word(subject: &str) -> Option<&str> {
    subject.strip_prefix("symbia.mesh.")?.strip_suffix(".word")
}

/// Takes events for a node, until the subscription is dropped. The server knows of it when this returns.
///
/// # Errors
/// The broker is away.
pub async fn take(client: &Client, org: &str, node: &str) -> Result<Subscriber, MeshError> {
    let fail = |reason: String| MeshError { node: node.to_owned(), reason };
    let taking = client.queue_subscribe(node_subject(org, node), GROUP.to_owned()).await;
    let taking = taking.map_err(|e| fail(e.to_string()))?;
    client.flush().await.map_err(|e| fail(e.to_string()))?;
    Ok(taking)
}

/// Offers an event to the sockets of a node. An answer without a text says that one has it.
///
/// # Errors
/// The broker is away.
pub async fn offer(
    client: &Client,
    org: &str,
    node: &str,
    event: Bytes,
    patience: Duration,
) -> Result<Offered, MeshError> {
    asked(client, node_subject(org, node), node, event, patience).await
}

/// Hands an event over to be posted once. Absent: no worker is there to do it.
///
/// # Errors
/// The broker is away.
pub async fn post(client: &Client, parcel: &Parcel, patience: Duration) -> Result<Offered, MeshError> {
    let fail = |reason: String| MeshError { node: parcel.node.clone(), reason };
    let text = serde_json::to_vec(parcel).map_err(|e| fail(e.to_string()))?;
    asked(client, PARCELS.to_owned(), &parcel.node, text.into(), patience).await
}

async fn asked(
    client: &Client,
    subject: String,
    node: &str,
    event: Bytes,
    patience: Duration,
) -> Result<Offered, MeshError> {
    let fail = |reason: String| MeshError { node: node.to_owned(), reason };
    let request = Request::new().payload(event).timeout(Some(patience));
    match client.send_request(subject, request).await {
        Ok(answer) if answer.payload.is_empty() => Ok(Offered::Taken),
        Ok(answer) if &*answer.payload == ABSENT => Ok(Offered::Absent),
        Ok(answer) => Ok(Offered::Refused(String::from_utf8_lossy(&answer.payload).into_owned())),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(Offered::Absent),
        Err(error) if error.kind() == RequestErrorKind::TimedOut => Ok(Offered::Refused("timeout".to_owned())),
        Err(error) => Err(fail(error.to_string())),
    }
}

/// The answer of a process whose last socket of the node has just gone.
pub const ABSENT: &[u8] = b"absent";

/// Tells a word to the processes that hold sockets.
///
/// # Errors
/// The broker is away.
pub async fn tell(client: &Client, org: &str, word: &Word) -> Result<(), MeshError> {
    let fail = |reason: String| MeshError { node: "the mesh".to_owned(), reason };
    let text = serde_json::to_vec(word).map_err(|e| fail(e.to_string()))?;
    client.publish(word_subject(org), text.into()).await.map_err(|e| fail(e.to_string()))
}
