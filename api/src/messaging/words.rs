//! What an event of a conversation says to those who take part: its name among their events, and its texts opened.

use std::sync::Arc;

use serde_json::{Value, json};
use symbia_events::{Event, Personal, SubjectKey, messaging::ConversationEvent};
use symbia_projections::{
    Scope,
    messaging::{self as model, content_key_id, is_content_key},
    secrets::{SecretError, SecretStore},
};

use super::shapes::{ConversationRow, MessageRow, ParticipantRow};
use crate::{iso, platform::Platform};

/// Name of a message that is new.
pub(super) const MESSAGE: &str = "message:new";
/// Name under which a signal shows among the messages.
pub(super) const CONTROL: &str = "control:recorded";

/// The keys of conversations that are being read. Cheap to clone.
#[derive(Clone)]
pub(super) struct ContentKeys(SecretStore);

impl ContentKeys {
    pub fn new(platform: &Platform) -> Self {
        ContentKeys(platform.secrets.clone())
    }

    /// The key of a conversation; `None` when it was destroyed, or cannot be had now.
    pub async fn key(&self, org: &str, conversation: &str) -> Option<Arc<SubjectKey>> {
        self.find(org, conversation).await.ok().flatten()
    }

    /// The key of a conversation; `None` when it was destroyed.
    pub async fn find(&self, org: &str, conversation: &str) -> Result<Option<Arc<SubjectKey>>, SecretError> {
        self.0.recent_subject_key(&content_key_id(org, conversation)).await
    }

    /// The key that a text of a conversation is sealed under; `None` as well when it is another conversation's.
    pub async fn key_of(&self, org: &str, conversation: &str, text: &Personal) -> Option<Arc<SubjectKey>> {
        if !is_content_key(&text.kid, org, conversation) {
            return None;
        }
        self.0.recent_subject_key(&text.kid).await.ok().flatten()
    }

    // Rare enough for all of them to be looked up again.
    fn forget(&self) {
        self.0.forget_recent();
    }
}

/// An event as readers get it.
pub(super) struct Told {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub data: Value,
}

/// What an event says; `None` for what readers are not told.
pub(super) async fn of(
    platform: &Platform,
    keys: &ContentKeys,
    event: &Event,
    change: ConversationEvent,
) -> Option<Told> {
    let (org, id) = (event.orgid.as_str(), event.aggregateid.as_str());
    let key = async || keys.key(org, id).await;
    let (name, data) = match change {
        ConversationEvent::ConversationCreated(_) => return None,
        ConversationEvent::ConversationErased(_) => {
            keys.forget();
            return None;
        }
        ConversationEvent::ConversationDeleted(_) => ("conversation:deleted", json!({ "conversationId": id })),
        ConversationEvent::ConversationSettingsChanged(e) => {
            let key = key().await;
            let opened = |sealed: Option<Personal>| {
                sealed.map(|s| model::open(key.as_deref(), &s).unwrap_or_else(|| model::ERASED.to_owned()))
            };
            let metadata = opened(e.metadata).map(|text| serde_json::from_str::<Value>(&text).unwrap_or_default());
            let mut changed = json!({ "id": id, "name": opened(e.name), "description": opened(e.description),
                "metadata": metadata, "updated_at": iso(event.time) });
            // Only what changed.
            if let Value::Object(changed) = &mut changed {
                changed.retain(|_, value| !value.is_null());
            }
            ("conversation:updated", over(conversation(platform, org, id).await, changed))
        }
        ConversationEvent::RetentionScheduled(e) => {
            let changed = json!({ "id": id, "retention_days": (e.days > 0).then_some(e.days) });
            ("conversation:updated", over(conversation(platform, org, id).await, changed))
        }
        ConversationEvent::ParticipantRoleChanged(e) => {
            let row = participant(platform, org, id, &e.principal_id).await;
            let changed = json!({ "conversationId": id, "userId": e.principal_id, "role": e.to });
            ("participant:role_changed", over(row, changed))
        }
        ConversationEvent::OwnershipTransferred(e) => {
            let row = participant(platform, org, id, &e.to).await;
            let changed = json!({ "conversationId": id, "userId": e.to, "role": "owner", "previousOwner": e.from });
            ("participant:role_changed", over(row, changed))
        }
        ConversationEvent::ControlIssued(e) => {
            let key = match e.reason.as_ref().or(e.metadata.as_ref()) {
                Some(text) => keys.key_of(org, id, text).await,
                None => None,
            };
            (CONTROL, json!(MessageRow::from(model::Message::signalled(event, e, key.as_deref()))))
        }
        ConversationEvent::ConversationRouted(e) => {
            ("conversation:routed", json!({ "conversationId": id, "to": e.to, "messageId": e.message_id }))
        }
        ConversationEvent::HandoffRecorded(e) => (
            "conversation:handed_off",
            json!({ "conversationId": id, "from": e.from, "to": e.to, "assistantsMuted": e.assistants_muted }),
        ),
        ConversationEvent::AssistantNotificationFailed(e) => (
            "turn:state",
            json!({ "conversationId": id, "turnId": e.event_id, "state": "failed", "assistantId": e.principal_id,
                "messageId": e.message_id, "errorCode": e.error_code, "at": iso(event.time) }),
        ),
        ConversationEvent::ParticipantAdded(e) => (
            "participant:added",
            json!({ "id": e.participant_id, "conversation_id": id, "user_id": e.principal_id,
                "user_type": e.principal_type, "role": e.role, "entity_id": e.entity_id,
                "joined_at": iso(event.time), "last_read_at": null }),
        ),
        ConversationEvent::ParticipantRemoved(e) => (
            "participant:removed",
            json!({ "conversationId": id, "userId": e.principal_id, "conversation_id": id, "user_id": e.principal_id }),
        ),
        ConversationEvent::MessageSent(e) => {
            let key = keys.key_of(org, id, &e.content).await;
            (MESSAGE, json!(MessageRow::from(model::Message::sent(event, e, key.as_deref()))))
        }
        ConversationEvent::MessageEdited(e) => {
            let content = keys.key_of(org, id, &e.content).await.and_then(|key| key.open(&e.content).ok());
            let content = content.unwrap_or_else(|| model::ERASED.to_owned());
            let changed = json!({ "id": e.message_id, "conversation_id": id, "content": content,
                "version": e.version, "updated_at": iso(event.time) });
            ("message:updated", over(message(platform, org, id, &e.message_id).await, changed))
        }
        ConversationEvent::MessageDeleted(e) => {
            ("message:deleted", json!({ "id": e.message_id, "conversationId": id }))
        }
    };
    Some(Told { name, data })
}

/// A row of the read model, which may be older or newer than the event, with what the event says.
fn over(row: Option<Value>, changed: Value) -> Value {
    match (row, changed) {
        (Some(Value::Object(mut row)), Value::Object(changed)) => {
            row.extend(changed);
            Value::Object(row)
        }
        (_, changed) => changed,
    }
}

async fn conversation(platform: &Platform, org: &str, id: &str) -> Option<Value> {
    let mut tx = platform.read(&Scope::platform()).await.ok()?;
    Some(json!(ConversationRow::from(model::conversation(&mut tx, org, id).await.ok()??)))
}

async fn participant(platform: &Platform, org: &str, id: &str, user: &str) -> Option<Value> {
    let mut tx = platform.read(&Scope::platform()).await.ok()?;
    Some(json!(ParticipantRow::from(model::participant(&mut tx, org, id, user).await.ok()??)))
}

async fn message(platform: &Platform, org: &str, id: &str, message: &str) -> Option<Value> {
    let mut tx = platform.read(&Scope::platform()).await.ok()?;
    Some(json!(MessageRow::from(model::message(&mut tx, org, id, message).await.ok()??)))
}
