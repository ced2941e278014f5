//! What sockets are told, written once for all of them.

use std::{fmt, sync::Arc};

use serde::Serialize;
use serde_json::{Value, value::RawValue};
use socketioxide::{extract::SocketRef, socket::Sid};
use symbia_events::{Event, OrgId, messaging::ConversationEvent};

use super::super::words::{self, CONTROL, ContentKeys};
use crate::{
    feed::position::Place,
    platform::Platform,
    socket::{NotSent, emit},
};

/// A conversation of a tenant. Ids alone do not do: who writes commands chooses them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Room(Arc<str>);

impl Room {
    pub fn new(tenant: &str, conversation: &str) -> Self {
        Room(format!("{tenant}/{conversation}").into())
    }

    pub fn tenant(&self) -> &str {
        self.0.split_once('/').map_or("", |(tenant, _)| tenant)
    }

    pub fn conversation(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, conversation)| conversation)
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an event does to who is told of the next one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// Takes part from now on.
    Joined(String),
    /// Takes no part any more.
    Left(String),
    /// The conversation is no more.
    Ended,
}

/// One event for the client.
pub(super) struct Frame {
    pub name: &'static str,
    pub data: Box<RawValue>,
}

/// The second argument of what is stored: where to go on after it.
#[derive(Serialize)]
struct Mark {
    position: String,
}

/// Something that the sockets of a room are told.
pub(super) struct Told {
    pub room: Room,
    /// Behind it in the log.
    pub place: Place,
    /// Of a message: its sequence and who wrote it.
    pub message: Option<(u64, String)>,
    /// Its id.
    pub message_id: Option<String>,
    pub effect: Effect,
    frames: Vec<Frame>,
    mark: Mark,
}

/// The text of a position in the messaging stream.
pub(super) fn position(place: Place) -> String {
    format!("messaging:{place}")
}

/// JSON that is sent as it stands.
pub(super) fn raw(data: &Value) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(data).ok()
}

/// The frames of a message or a signal: a signal goes out under its own name, and once more as it shows among the messages.
pub(super) fn frames(name: &'static str, data: &Value) -> Vec<Frame> {
    let control = (name == CONTROL).then(|| &data["metadata"]["control"]);
    let signal = control.and_then(|control| Some((signal(control["event"].as_str()?)?, control)));
    let all = signal.into_iter().chain([(name, data)]);
    all.filter_map(|(name, data)| Some(Frame { name, data: raw(data)? })).collect()
}

fn signal(name: &str) -> Option<&'static str> {
    symbia_events::messaging::Signal::named(name).map(symbia_events::messaging::Signal::name)
}

impl Told {
    /// Reads an event of a conversation.
    pub async fn of(platform: &Platform, keys: &ContentKeys, event: &Event, place: Place) -> Option<Self> {
        let change: ConversationEvent = event.decode().ok()?;
        let (mut message, mut message_id) = (None, None);
        let effect = match &change {
            ConversationEvent::MessageSent(e) => {
                (message, message_id) = (Some((e.sequence, e.sender_id.clone())), Some(e.message_id.clone()));
                Effect::Nothing
            }
            ConversationEvent::ControlIssued(e) => {
                message = Some((e.sequence, e.issued_by.clone()));
                Effect::Nothing
            }
            ConversationEvent::ParticipantAdded(e) => Effect::Joined(e.principal_id.clone()),
            ConversationEvent::ParticipantRemoved(e) => Effect::Left(e.principal_id.clone()),
            ConversationEvent::ConversationDeleted(_) => Effect::Ended,
            _ => Effect::Nothing,
        };
        let words = words::of(platform, keys, event, change).await?;
        Some(Told {
            room: Room::new(event.orgid.as_str(), &event.aggregateid),
            place,
            message,
            message_id,
            effect,
            frames: frames(words.name, &words.data),
            mark: Mark { position: position(place) },
        })
    }

    /// Puts it into a client's queue.
    pub fn send(&self, socket: &SocketRef) -> Result<(), NotSent> {
        self.frames.iter().try_for_each(|frame| emit(socket, frame.name, &(&*frame.data, &self.mark)))
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        256 + self.frames.iter().map(|frame| frame.data.get().len()).sum::<usize>()
    }
}

/// What is said of somebody in a room and not stored, as it travels between processes.
#[derive(Debug, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sign {
    /// `typing:started`, `typing:stopped`, `participant:online` or `participant:offline`.
    #[serde(rename = "type")]
    pub kind: String,
    pub conversation_id: String,
    pub user_id: String,
    pub user_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// The socket that it comes from, which is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

impl Sign {
    /// Its name, when it is one of ours.
    pub fn name(&self) -> Option<&'static str> {
        ["typing:started", "typing:stopped", "participant:online", "participant:offline"]
            .into_iter()
            .find(|name| *name == self.kind)
    }

    /// What clients get of it.
    pub fn data(&self) -> Option<Box<RawValue>> {
        let mut data = serde_json::json!({ "conversationId": self.conversation_id, "userId": self.user_id,
            "userType": self.user_type });
        if let Some(agent) = &self.agent_id {
            data["agentId"] = serde_json::json!(agent);
        }
        raw(&data)
    }

    /// Whether it comes from this socket.
    pub fn is_of(&self, sid: Sid) -> bool {
        self.origin.as_deref() == Some(&*sid.to_string())
    }
}

/// The subject of what is said in a conversation and not stored.
pub(super) fn live_subject(tenant: &str, conversation: &str) -> String {
    format!("symbia.live.{tenant}.conversation.{conversation}")
}

/// Tenant and conversation of such a subject.
pub(super) fn of_live_subject(subject: &str) -> Option<Room> {
    let (tenant, conversation) = subject.strip_prefix("symbia.live.")?.split_once(".conversation.")?;
    (!conversation.contains('.')).then(|| Room::new(tenant, conversation))
}

/// The organizations that somebody is told about.
pub(super) fn tenants(caller: &crate::http::Caller) -> Vec<OrgId> {
    caller.organizations.iter().filter_map(|org| org.id.parse().ok()).collect()
}
