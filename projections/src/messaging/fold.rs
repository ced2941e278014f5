//! How the events of conversations change their rows: load what a batch touches, apply in order, write once per table.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use symbia_events::{
    DomainEvent, Event, Personal, SubjectKey,
    messaging::{
        AuthorEvent, ChannelLinkEvent, ControlIssued, ConversationEvent, ConversationRead, MessageSent,
        ParticipantRole, ReadCursorEvent, RetentionPolicyEvent, WebhookEvent, author_id, is_content_key,
        read_cursor_id, said_at,
    },
};
use time::format_description::BorrowedFormatItem;

use super::{
    ERASED, channels, content_key_id, end, open, retention,
    rows::{Conversation, Inner, Message, Participant, Place, ReadCursor, State},
    webhooks,
};
use crate::{
    FoldError, FoldEvent,
    columns::{name_of, text},
    secrets::SecretStore,
};

const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

#[allow(clippy::large_enum_variant, reason = "a change is moved a few times; a box would cost each of them")]
enum Change {
    Conversation(ConversationEvent),
    Cursor(ReadCursorEvent),
    Link(ChannelLinkEvent),
    Author(AuthorEvent),
    Webhook(WebhookEvent),
    Retention(RetentionPolicyEvent),
}

pub(super) async fn fold(
    secrets: &SecretStore,
    conn: &mut PgConnection,
    events: &[FoldEvent],
) -> Result<(), FoldError> {
    let mut changes = Vec::with_capacity(events.len());
    for event in events.iter().map(|e| &e.event) {
        match event.aggregatetype.as_str() {
            ConversationEvent::AGGREGATE => changes.push((event, Change::Conversation(read(event)?))),
            ReadCursorEvent::AGGREGATE => changes.push((event, Change::Cursor(read_cursor(event)?))),
            ChannelLinkEvent::AGGREGATE => changes.push((event, Change::Link(event.decode()?))),
            AuthorEvent::AGGREGATE => changes.push((event, Change::Author(author(event)?))),
            WebhookEvent::AGGREGATE => changes.push((event, Change::Webhook(event.decode()?))),
            RetentionPolicyEvent::AGGREGATE => changes.push((event, Change::Retention(event.decode()?))),
            _ => {}
        }
    }
    let kids = changes.iter().filter_map(|(event, change)| match change {
        Change::Conversation(change) => Some(key_of(&place(event), change)),
        _ => None,
    });
    let kids: BTreeSet<String> = kids.collect();
    let keys = secrets.recent_subject_keys(&kids.into_iter().collect::<Vec<_>>()).await?;
    // What ends a conversation concerns all its rows: it is done where they are, after what came before it.
    let mut pending = Vec::with_capacity(changes.len());
    for (event, change) in changes {
        match change {
            Change::Conversation(ConversationEvent::ConversationDeleted(_)) => {
                rows(conn, std::mem::take(&mut pending), &keys).await?;
                end::delete(conn, &place(event)).await?;
            }
            Change::Conversation(ConversationEvent::ConversationErased(_)) => {
                rows(conn, std::mem::take(&mut pending), &keys).await?;
                end::erase(conn, &place(event), event.time).await?;
            }
            Change::Author(AuthorEvent::AuthorErased(e)) => {
                rows(conn, std::mem::take(&mut pending), &keys).await?;
                end::erase_author(conn, event, &e).await?;
            }
            change => pending.push((event, change)),
        }
    }
    rows(conn, pending, &keys).await
}

async fn rows(
    conn: &mut PgConnection,
    changes: Vec<(&Event, Change)>,
    keys: &HashMap<String, Arc<SubjectKey>>,
) -> Result<(), FoldError> {
    let (mut conversations, mut participants, mut messages) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (event, change) in &changes {
        let Change::Conversation(change) = change else { continue };
        let (org, conversation) = place(event);
        let inner = |id: &str| (org.clone(), conversation.clone(), text(id));
        match change {
            ConversationEvent::ParticipantAdded(e) => _ = participants.insert(inner(&e.principal_id)),
            ConversationEvent::ParticipantRemoved(e) => _ = participants.insert(inner(&e.principal_id)),
            ConversationEvent::ParticipantRoleChanged(e) => _ = participants.insert(inner(&e.principal_id)),
            ConversationEvent::OwnershipTransferred(e) => participants.extend([inner(&e.from), inner(&e.to)]),
            ConversationEvent::MessageEdited(e) => _ = messages.insert(inner(&e.message_id)),
            ConversationEvent::MessageDeleted(e) => _ = messages.insert(inner(&e.message_id)),
            _ => {}
        }
        conversations.insert((org, conversation));
    }
    let mut state = State::load(conn, &conversations, &participants, &messages).await?;
    for (event, change) in changes {
        match change {
            Change::Link(change) => channels::fold(conn, event, change).await?,
            Change::Webhook(change) => webhooks::fold(conn, event, change).await?,
            Change::Retention(change) => retention::fold(conn, event, change).await?,
            // Done where they are.
            Change::Author(_) => {}
            Change::Cursor(ReadCursorEvent::ConversationRead(e)) => state.read(event, e),
            Change::Conversation(change) => {
                let place = place(event);
                let key = keys.get(&key_of(&place, &change)).map(AsRef::as_ref);
                state.apply(event, place, change, key);
            }
        }
    }
    state.save(conn).await
}

fn read_cursor(event: &Event) -> Result<ReadCursorEvent, FoldError> {
    let ReadCursorEvent::ConversationRead(e) = event.decode::<ReadCursorEvent>()?;
    if read_cursor_id(&e.conversation_id, &e.principal_id) != event.aggregateid {
        let text = format!("{} names conversation {} and {}", event.subject, e.conversation_id, e.principal_id);
        return Err(FoldError::Event(text));
    }
    Ok(e.into())
}

fn place(event: &Event) -> Place {
    (event.orgid.to_string(), event.aggregateid.clone())
}

// The key that an event's texts are sealed under: another conversation's opens nothing here.
fn key_of((org, conversation): &Place, change: &ConversationEvent) -> String {
    let named = match change {
        ConversationEvent::MessageSent(e) => Some(&e.content.kid),
        ConversationEvent::MessageEdited(e) => Some(&e.content.kid),
        ConversationEvent::ControlIssued(e) => e.reason.as_ref().or(e.metadata.as_ref()).map(|text| &text.kid),
        _ => None,
    };
    let own = named.filter(|kid| is_content_key(kid, org, conversation));
    own.cloned().unwrap_or_else(|| content_key_id(org, conversation))
}

fn author(event: &Event) -> Result<AuthorEvent, FoldError> {
    let AuthorEvent::AuthorErased(e) = event.decode::<AuthorEvent>()?;
    if author_id(&e.principal_id) != event.aggregateid || e.org_id != event.orgid.as_str() {
        return Err(FoldError::Event(format!("{} names author {} of {}", event.subject, e.principal_id, e.org_id)));
    }
    Ok(e.into())
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
    fn read(&mut self, event: &Event, e: ConversationRead) {
        let cursor = ReadCursor {
            org_id: event.orgid.to_string(),
            conversation_id: text(e.conversation_id),
            user_id: text(e.principal_id),
            read_sequence: i64::try_from(e.up_to_sequence).unwrap_or(i64::MAX),
            read_at: event.time,
        };
        let key = (cursor.org_id.clone(), cursor.conversation_id.clone(), cursor.user_id.clone());
        self.cursors.insert(key, cursor);
    }

    fn give(&mut self, who: Inner, role: ParticipantRole) {
        if let Some(participant) = self.participants.entry(who).or_default() {
            participant.role = name_of(role);
        }
    }

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
                retention_days: None,
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
                    last_read_at: None,
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
            ConversationEvent::ConversationSettingsChanged(e) => {
                conversation.updated_at = event.time;
                let said = |sealed: &Personal| open(key, sealed).unwrap_or_else(|| ERASED.to_owned());
                if let Some(name) = &e.name {
                    conversation.name = Some(said(name)).filter(|name| !name.is_empty());
                }
                if let Some(description) = &e.description {
                    conversation.description = open(key, description).filter(|text| !text.is_empty());
                }
                if e.metadata.is_some() {
                    conversation.metadata = object(key, e.metadata.as_ref());
                }
            }
            ConversationEvent::RetentionScheduled(e) => {
                conversation.retention_days = i32::try_from(e.days).ok().filter(|days| *days > 0);
            }
            ConversationEvent::ParticipantRoleChanged(e) => self.give(inner(&e.principal_id), e.to),
            ConversationEvent::OwnershipTransferred(e) => {
                self.give(inner(&e.from), ParticipantRole::Admin);
                self.give(inner(&e.to), ParticipantRole::Owner);
            }
            ConversationEvent::ControlIssued(e) => {
                conversation.last_sequence = i64::try_from(e.sequence).unwrap_or(i64::MAX);
                conversation.updated_at = event.time;
                self.messages.insert(inner(&e.control_id), Some(Message::signalled(event, e, key)));
            }
            ConversationEvent::ConversationRouted(_)
            | ConversationEvent::HandoffRecorded(_)
            | ConversationEvent::AssistantNotificationFailed(_)
            | ConversationEvent::ConversationDeleted(_)
            | ConversationEvent::ConversationErased(_) => {}
        }
    }
}

/// What a signal says to those who are told of it (messaging.md §3.4); `key` opens its reason.
#[must_use]
pub fn signal(event: &Event, e: &ControlIssued, key: Option<&SubjectKey>) -> Value {
    let mut control = json!({
        "event": e.event, "conversationId": event.aggregateid, "target": e.target,
        "reason": e.reason.as_ref().and_then(|reason| open(key, reason)), "priority": e.priority,
        "preemptedBy": e.preempted_by, "runId": e.run_id, "traceId": e.trace_id,
        "effectiveAt": event.time.format(MILLISECONDS).unwrap_or_default(),
    });
    if let Value::Object(control) = &mut control {
        control.retain(|_, value| !value.is_null());
    }
    control
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
            created_at: said_at(e.at_ms, event.time),
            updated_at: None,
            deleted_at: None,
            metadata: object(key, e.metadata.as_ref()),
            version: 1,
        }
    }

    /// The signal as a message: its name for a text, its payload under `control` in the metadata (messaging.md §3.4).
    #[must_use]
    pub fn signalled(event: &Event, e: ControlIssued, key: Option<&SubjectKey>) -> Message {
        let mut metadata: Map<String, Value> =
            serde_json::from_str(&object(key, e.metadata.as_ref())).unwrap_or_default();
        metadata.insert("control".to_owned(), signal(event, &e, key));
        Message {
            org_id: event.orgid.to_string(),
            conversation_id: event.aggregateid.clone(),
            id: text(e.control_id),
            event_id: event.id,
            sender_id: text(e.issued_by),
            sender_type: name_of(e.sender_type),
            erased: false,
            content: e.event.name().to_owned(),
            content_type: "event".to_owned(),
            reply_to: None,
            run_id: e.run_id.map(text),
            trace_id: e.trace_id.map(text),
            sequence: i64::try_from(e.sequence).unwrap_or(i64::MAX),
            priority: "high".to_owned(),
            interruptible: false,
            preempted_by: e.preempted_by.map(text),
            created_at: said_at(e.at_ms, event.time),
            updated_at: None,
            deleted_at: None,
            metadata: text(Value::Object(metadata).to_string()),
            version: 1,
        }
    }
}
