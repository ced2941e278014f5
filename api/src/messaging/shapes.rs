//! What the messaging routes answer with: rows in snake_case, every field present (messaging.md §3, 3.6).

use serde::Serialize;
use serde_json::{Map, Value, json};
use symbia_projections::messaging as model;
use utoipa::ToSchema;

use crate::iso;

fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

/// A conversation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ConversationRow {
    /// Id.
    pub id: String,
    /// `private` or `group`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Name; a group has one.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Organization.
    pub org_id: String,
    /// Who opened it.
    pub created_by: String,
    /// When it was opened.
    pub created_at: String,
    /// When it last changed, or a message was written.
    pub updated_at: String,
    /// Whatever its owner keeps with it.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// Sequence of its last message; 0 before the first.
    pub last_sequence: i64,
    /// Days without a word after which what was said is erased; null: never.
    pub retention_days: Option<i32>,
}

impl From<model::Conversation> for ConversationRow {
    fn from(row: model::Conversation) -> Self {
        ConversationRow {
            id: row.id,
            kind: row.kind,
            name: row.name,
            description: row.description,
            org_id: row.org_id,
            created_by: row.created_by,
            created_at: iso(row.created_at),
            updated_at: iso(row.updated_at),
            metadata: object(&row.metadata),
            last_sequence: row.last_sequence,
            retention_days: row.retention_days,
        }
    }
}

/// A conversation, and how far the caller has read it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ListedConversation {
    /// The conversation.
    #[serde(flatten)]
    pub conversation: ConversationRow,
    /// Sequence of the last message that the caller marked as read.
    pub read_sequence: i64,
    /// Messages of others behind it; 1000 stands for 1000 or more.
    pub unread_count: i64,
}

impl From<model::Listed> for ListedConversation {
    fn from(row: model::Listed) -> Self {
        let model::Listed { conversation, read_sequence, unread_count } = row;
        ListedConversation { conversation: conversation.into(), read_sequence, unread_count }
    }
}

/// A conversation with who takes part.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct WithParticipants {
    /// The conversation.
    #[serde(flatten)]
    pub conversation: ConversationRow,
    /// Who takes part, in the order of joining.
    pub participants: Vec<ParticipantRow>,
}

/// A participant.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ParticipantRow {
    /// Id of the membership.
    pub id: String,
    /// Conversation.
    pub conversation_id: String,
    /// A user's id, or `assistant:<key>`.
    pub user_id: String,
    /// `user` or `agent`.
    pub user_type: String,
    /// `owner`, `admin` or `member`.
    pub role: String,
    /// Entry in identity's directory.
    pub entity_id: Option<String>,
    /// When they joined.
    pub joined_at: String,
    /// When they last marked messages as read.
    pub last_read_at: Option<String>,
}

impl From<model::Participant> for ParticipantRow {
    fn from(row: model::Participant) -> Self {
        ParticipantRow {
            id: row.id,
            conversation_id: row.conversation_id,
            user_id: row.user_id,
            user_type: row.user_type,
            role: row.role,
            entity_id: row.entity_id,
            joined_at: iso(row.joined_at),
            last_read_at: row.last_read_at.map(iso),
        }
    }
}

/// A message.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct MessageRow {
    /// Id.
    pub id: String,
    /// Conversation.
    pub conversation_id: String,
    /// A user's id, or `assistant:<key>`.
    pub sender_id: String,
    /// `user`, `agent`, `service` or `bot`.
    pub sender_type: String,
    /// The text; `[erased]` when its key was destroyed.
    pub content: String,
    /// `text`, `markdown`, `json`, `html` or another.
    pub content_type: String,
    /// The message that it answers.
    pub reply_to: Option<String>,
    /// Organization.
    pub org_id: String,
    /// The rule run that it belongs to.
    pub run_id: Option<String>,
    /// Trace.
    pub trace_id: Option<String>,
    /// Place in the conversation, from 1, without gaps.
    pub sequence: i64,
    /// `low`, `normal`, `high` or `critical`.
    pub priority: String,
    /// Whether it may be interrupted.
    pub interruptible: bool,
    /// The message that preempted it.
    pub preempted_by: Option<String>,
    /// When it was written.
    pub created_at: String,
    /// When it was edited.
    pub updated_at: Option<String>,
    /// When it was deleted.
    pub deleted_at: Option<String>,
    /// Whatever its sender keeps with it; `erased` is true when the text cannot be read any more.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// Version of the text, 2 with the first edit.
    pub version: i32,
}

impl From<model::Message> for MessageRow {
    fn from(row: model::Message) -> Self {
        let mut metadata = object(&row.metadata);
        if row.erased {
            metadata.insert("erased".to_owned(), json!(true));
        }
        MessageRow {
            id: row.id,
            conversation_id: row.conversation_id,
            sender_id: row.sender_id,
            sender_type: row.sender_type,
            content: row.content,
            content_type: row.content_type,
            reply_to: row.reply_to,
            org_id: row.org_id,
            run_id: row.run_id,
            trace_id: row.trace_id,
            sequence: row.sequence,
            priority: row.priority,
            interruptible: row.interruptible,
            preempted_by: row.preempted_by,
            created_at: iso(row.created_at),
            updated_at: row.updated_at.map(iso),
            deleted_at: row.deleted_at.map(iso),
            metadata,
            version: row.version,
        }
    }
}
