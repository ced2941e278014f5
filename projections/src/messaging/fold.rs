//! How the events of conversations change their rows: load what a batch touches, apply in order, write once per table.

use std::collections::{BTreeSet, HashMap};

use sqlx::PgConnection;
use symbia_events::{
    DomainEvent, Event, Personal, SubjectKey,
    messaging::{ConversationEvent, MessageSent},
};

use super::{
    ERASED, content_key_id, open,
    rows::{Conversation, Inner, Message, Participant, Place, State},
};
use crate::{
    FoldError, FoldEvent,
    columns::{name_of, text},
    secrets::SecretStore,
};

pub(super) async fn fold(
    secrets: &SecretStore,
    conn: &mut PgConnection,
    events: &[FoldEvent],
) -> Result<(), FoldError> {
    let mut changes = Vec::with_capacity(events.len());
    for event in events.iter().map(|e| &e.event).filter(|e| e.aggregatetype == ConversationEvent::AGGREGATE) {
        changes.push((event, read(event)?));
    }
    let (mut conversations, mut participants, mut messages) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (event, change) in &changes {
        let (org, conversation) = place(event);
        let inner = |id: &str| (org.clone(), conversation.clone(), text(id));
        match change {
            ConversationEvent::ParticipantAdded(e) => _ = participants.insert(inner(&e.principal_id)),
            ConversationEvent::ParticipantRemoved(e) => _ = participants.insert(inner(&e.principal_id)),
            ConversationEvent::MessageEdited(e) => _ = messages.insert(inner(&e.message_id)),
            ConversationEvent::MessageDeleted(e) => _ = messages.insert(inner(&e.message_id)),
            ConversationEvent::ConversationCreated(_) | ConversationEvent::MessageSent(_) => {}
        }
        conversations.insert((org, conversation));
    }
    let kids: Vec<String> = conversations.iter().map(key_of).collect();
    let keys = secrets.subject_keys(&kids).await?;
    let mut state = State::load(conn, &conversations, &participants, &messages).await?;
    for (event, change) in changes {
        let place = place(event);
        let key = keys.get(&key_of(&place));
        state.apply(event, place, change, key);
    }
    state.save(conn).await
}

fn place(event: &Event) -> Place {
    (event.orgid.to_string(), event.aggregateid.clone())
}

fn key_of((org, conversation): &Place) -> String {
    content_key_id(org, conversation)
}

// The ids in a payload came with a command; the address was authorized. Only when both agree is the payload believed.
fn read(event: &Event) -> Result<ConversationEvent, FoldError> {
    let change = event.decode::<ConversationEvent>()?;
    if let ConversationEvent::ConversationCreated(e) = &change {
        let own = content_key_id(event.orgid.as_str(), &event.aggregateid);
        if e.conversation_id != event.aggregateid || e.org_id != event.orgid.as_str() || e.content_key_id != own {
            let text = format!(
                "{} names conversation {} of {} with key '{}'; its key must be '{own}'",
                event.subject, e.conversation_id, e.org_id, e.content_key_id
            );
            return Err(FoldError::Event(text));
        }
    }
    Ok(change)
}

// What an object in a sealed field says; anything else counts as empty.
fn object(key: Option<&SubjectKey>, sealed: Option<&Personal>) -> String {
    let opened = sealed.and_then(|sealed| open(key, sealed));
    let object =
        opened.and_then(|text| serde_json::from_str::<HashMap<String, serde_json::Value>>(&text).ok().map(|_| text));
    object.unwrap_or_else(|| "{}".to_owned())
}

impl State {
    fn apply(&mut self, event: &Event, place: Place, change: ConversationEvent, key: Option<&SubjectKey>) {
        let inner = |id: &str| -> Inner { (place.0.clone(), place.1.clone(), text(id)) };
        let row = self.conversations.entry(place.clone()).or_default();
        if let ConversationEvent::ConversationCreated(e) = change {
            row.get_or_insert_with(|| Conversation {
                org_id: place.0,
                id: place.1,
                kind: name_of(e.conversation_type),
                name: e.name.map(|name| open(key, &name).unwrap_or_else(|| ERASED.to_owned())),
                description: e.description.and_then(|text| open(key, &text)),
                created_by: text(e.created_by),
                created_at: event.time,
                updated_at: event.time,
                metadata: object(key, e.metadata.as_ref()),
                content_key_id: e.content_key_id,
                last_sequence: 0,
            });
            return;
        }
        let Some(conversation) = row else { return };
        match change {
            ConversationEvent::ConversationCreated(_) => {}
            ConversationEvent::ParticipantAdded(e) => {
                let key = inner(&e.principal_id);
                self.participants.entry(key).or_default().get_or_insert_with(|| Participant {
                    org_id: place.0.clone(),
                    conversation_id: place.1.clone(),
                    user_id: text(e.principal_id),
                    id: text(e.participant_id),
                    user_type: name_of(e.principal_type),
                    role: name_of(e.role),
                    entity_id: e.entity_id.map(text),
                    joined_at: event.time,
                });
            }
            ConversationEvent::ParticipantRemoved(e) => _ = self.participants.insert(inner(&e.principal_id), None),
            ConversationEvent::MessageSent(e) => {
                conversation.last_sequence = i64::try_from(e.sequence).unwrap_or(i64::MAX);
                conversation.updated_at = event.time;
                self.messages.insert(inner(&e.message_id), Some(Message::sent(event, e, key)));
            }
            ConversationEvent::MessageEdited(e) => {
                if let Some(message) = self.messages.entry(inner(&e.message_id)).or_default() {
                    let content = open(key, &e.content);
                    message.erased = content.is_none();
                    message.content = content.unwrap_or_else(|| ERASED.to_owned());
                    message.version = i32::try_from(e.version).unwrap_or(i32::MAX);
                    message.updated_at = Some(event.time);
                }
            }
            ConversationEvent::MessageDeleted(e) => {
                if let Some(message) = self.messages.entry(inner(&e.message_id)).or_default() {
                    message.content = String::new();
                    message.deleted_at = Some(event.time);
                }
            }
        }
    }
}

impl Message {
    /// The message as it was sent, with its text opened.
    #[must_use]
    pub fn sent(event: &Event, e: MessageSent, key: Option<&SubjectKey>) -> Message {
        let content = open(key, &e.content);
        Message {
            org_id: event.orgid.to_string(),
            conversation_id: event.aggregateid.clone(),
            id: text(e.message_id),
            event_id: event.id,
            sender_id: text(e.sender_id),
            sender_type: name_of(e.sender_type),
            erased: content.is_none(),
            content: content.unwrap_or_else(|| ERASED.to_owned()),
            content_type: text(e.content_type),
            reply_to: e.reply_to.map(text),
            run_id: e.run_id.map(text),
            trace_id: e.trace_id.map(text),
            sequence: i64::try_from(e.sequence).unwrap_or(i64::MAX),
            priority: name_of(e.priority),
            interruptible: e.interruptible,
            preempted_by: e.preempted_by.map(text),
            created_at: event.time,
            updated_at: None,
            deleted_at: None,
            metadata: object(key, e.metadata.as_ref()),
            version: 1,
        }
    }
}
