//! Events of a conversation: who takes part, and what is said in which order (messaging.md §13.3).
//!
//! What people write is sealed under the conversation's content key, named when the conversation is created.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{ActorType, Personal, domain_events};

/// When something was said: by its own time, or else by that of the event.
#[must_use]
pub fn said_at(at_ms: Option<i64>, event: OffsetDateTime) -> OffsetDateTime {
    let own = at_ms.and_then(|at| OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000).ok());
    own.unwrap_or(event)
}

/// Id of the key that seals what is said in a conversation. It belongs to that conversation alone: a text that is sealed
/// under any other key is not opened for its readers, whoever put it there.
#[must_use]
pub fn content_key_id(org: &str, conversation_id: &str) -> String {
    format!("conversation:{org}:{conversation_id}")
}

/// Id of the key that seals what one principal says in a conversation: destroying it takes their words away and nobody else's.
/// `generation`: how often what they said in the organization was erased before.
#[must_use]
pub fn author_key_id(org: &str, conversation_id: &str, author: &str, generation: u32) -> String {
    let key = format!("{}>{author}", content_key_id(org, conversation_id));
    if generation == 0 { key } else { format!("{key}>{generation}") }
}

/// Id of the conversation's own key, of one of its keys. No id of an organization or a conversation has a `>`.
#[must_use]
pub fn conversation_key_of(kid: &str) -> &str {
    kid.split('>').next().unwrap_or_default()
}

/// Whether a key is a conversation's own or one of its authors'.
#[must_use]
pub fn is_content_key(kid: &str, org: &str, conversation_id: &str) -> bool {
    conversation_key_of(kid) == content_key_id(org, conversation_id)
}

/// Kind of conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConversationType {
    /// At most two people; assistants do not count.
    #[default]
    Private,
    /// Any number, with a name.
    Group,
}

/// Kind of a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParticipantType {
    /// A person.
    User,
    /// An assistant or other software; the id of an assistant is `assistant:<key>`.
    Agent,
}

/// What a participant may do (messaging.md §8.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParticipantRole {
    /// Everything.
    Owner,
    /// Members, settings, other people's messages.
    Admin,
    /// Reads and writes.
    Member,
}

/// Kind of a message's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SenderType {
    /// A person.
    User,
    /// An assistant or other software.
    Agent,
    /// A service of the platform.
    Service,
    /// An external bot.
    Bot,
}

impl SenderType {
    /// As which an actor speaks; `None` for nobody known.
    #[must_use]
    pub fn of(actor: ActorType) -> Option<Self> {
        match actor {
            ActorType::User => Some(SenderType::User),
            ActorType::Agent => Some(SenderType::Agent),
            ActorType::Service | ActorType::System => Some(SenderType::Service),
            ActorType::Anonymous => None,
        }
    }
}

/// How urgent a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
    Critical,
}

/// A signal about answers under way (messaging.md §6.6, 8.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Signal {
    /// Nothing is answered until it is resumed.
    #[serde(rename = "stream.pause")]
    Pause,
    /// Answering goes on.
    #[serde(rename = "stream.resume")]
    Resume,
    /// What may be interrupted is given up for something more urgent.
    #[serde(rename = "stream.preempt")]
    Preempt,
    /// Somebody else is to answer, beginning with the last question.
    #[serde(rename = "stream.route")]
    Route,
    /// Somebody else answers from now on.
    #[serde(rename = "stream.handoff")]
    Handoff,
    /// What is under way is given up.
    #[serde(rename = "stream.cancel")]
    Cancel,
    /// It is more or less urgent.
    #[serde(rename = "stream.priority")]
    Priority,
}

impl Signal {
    /// Its full name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Signal::Pause => "stream.pause",
            Signal::Resume => "stream.resume",
            Signal::Preempt => "stream.preempt",
            Signal::Route => "stream.route",
            Signal::Handoff => "stream.handoff",
            Signal::Cancel => "stream.cancel",
            Signal::Priority => "stream.priority",
        }
    }

    /// The signal of a name, which may lack the `stream.`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [
            Signal::Pause,
            Signal::Resume,
            Signal::Preempt,
            Signal::Route,
            Signal::Handoff,
            Signal::Cancel,
            Signal::Priority,
        ];
        all.into_iter().find(|s| s.name() == name || s.name().strip_prefix("stream.") == Some(name))
    }
}

/// Whom a signal is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlTarget {
    /// A user's id, or `assistant:<key>`.
    pub principal_id: String,
    /// What they are.
    pub principal_type: SenderType,
}

domain_events! {
    /// What can have happened in a conversation.
    ConversationEvent: Messaging / "conversation" {
        /// It exists.
        ConversationCreated = "symbia.messaging.conversation.conversation-created.v1" {
            conversation_id: String,
            #[serde(rename = "type")]
            conversation_type: ConversationType,
            name: Option<Personal>,
            description: Option<Personal>,
            org_id: String,
            created_by: String,
            /// A sealed JSON object.
            metadata: Option<Personal>,
            /// The key under which names, metadata and messages are sealed.
            content_key_id: String,
        }
        /// Somebody takes part.
        ParticipantAdded = "symbia.messaging.conversation.participant-added.v1" {
            participant_id: String,
            principal_id: String,
            principal_type: ParticipantType,
            role: ParticipantRole,
            entity_id: Option<String>,
            added_by: String,
            /// `create`, `invite`, `join`, `route` or `handoff`.
            via: String,
        }
        /// Somebody takes part no more.
        ParticipantRemoved = "symbia.messaging.conversation.participant-removed.v1" {
            principal_id: String,
            removed_by: String,
            /// `leave` or `remove`.
            via: String,
        }
        /// A message was written.
        MessageSent = "symbia.messaging.conversation.message-sent.v1" {
            message_id: String,
            /// Place in the conversation, from 1, without gaps.
            sequence: u64,
            sender_id: String,
            sender_type: SenderType,
            content: Personal,
            /// HMAC of the content under the key that seals it: tells a repetition from a conflict, and dies with the key.
            content_digest: String,
            content_type: String,
            reply_to: Option<String>,
            run_id: Option<String>,
            trace_id: Option<String>,
            priority: Priority,
            interruptible: bool,
            preempted_by: Option<String>,
            /// A sealed JSON object.
            metadata: Option<Personal>,
            /// When it was said, in milliseconds since 1970: at another time than whatever else was said here. Without it, the
            /// event's own time counts.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            at_ms: Option<i64>,
        }
        /// Its sender replaced the text of a message.
        MessageEdited = "symbia.messaging.conversation.message-edited.v1" {
            message_id: String,
            /// Version of the text, 2 with the first edit.
            version: u32,
            content: Personal,
            content_digest: String,
        }
        /// A message is shown no more.
        MessageDeleted = "symbia.messaging.conversation.message-deleted.v1" {
            message_id: String,
            deleted_by: String,
            reason: Option<Personal>,
        }
        /// Its name, description or metadata changed: what is absent stays, an empty text takes it away.
        ConversationSettingsChanged = "symbia.messaging.conversation.conversation-settings-changed.v1" {
            name: Option<Personal>,
            description: Option<Personal>,
            /// A sealed JSON object, whole.
            metadata: Option<Personal>,
        }
        /// It is no more.
        ConversationDeleted = "symbia.messaging.conversation.conversation-deleted.v1" {
            deleted_by: String,
            reason: Option<Personal>,
        }
        /// What was said can be read no more: the key is destroyed.
        ConversationErased = "symbia.messaging.conversation.conversation-erased.v1" {
            erased_by: String,
            content_key_id: String,
        }
        /// What is said is to be erased when nothing was said for so many days; whether that is so is looked at then.
        RetentionScheduled = "symbia.messaging.conversation.retention-scheduled.v1" {
            /// 0: it is kept for ever.
            days: u32,
            /// The last thing that was said so far.
            last_sequence: u64,
            by: String,
        }
        /// A participant may do more, or less.
        ParticipantRoleChanged = "symbia.messaging.conversation.participant-role-changed.v1" {
            principal_id: String,
            from: ParticipantRole,
            to: ParticipantRole,
            changed_by: String,
        }
        /// Somebody else owns it; who did is an admin.
        OwnershipTransferred = "symbia.messaging.conversation.ownership-transferred.v1" {
            from: String,
            to: String,
            transferred_by: String,
        }
        /// A signal about answers under way was given. It has a place in the sequence, as messages do.
        ControlIssued = "symbia.messaging.conversation.control-issued.v1" {
            /// Its id among the messages.
            control_id: String,
            sequence: u64,
            event: Signal,
            issued_by: String,
            sender_type: SenderType,
            target: Option<ControlTarget>,
            /// Only what answers this principal; absent = whoever asked.
            asker: Option<String>,
            reason: Option<Personal>,
            priority: Option<Priority>,
            run_id: Option<String>,
            trace_id: Option<String>,
            preempted_by: Option<String>,
            /// A sealed JSON object.
            metadata: Option<Personal>,
            /// What was said of answers that it cancels is kept; a preemption always keeps it.
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            keep_partial: bool,
            /// When it was said, in milliseconds since 1970: at another time than whatever else was said here. Without it, the
            /// event's own time counts.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            at_ms: Option<i64>,
        }
        /// Another assistant answers from now on, beginning with a message that was asked already.
        ConversationRouted = "symbia.messaging.conversation.conversation-routed.v1" {
            control_id: String,
            to: ControlTarget,
            message_id: Option<String>,
        }
        /// Somebody else answers from now on; handed to a person, assistants are silent.
        HandoffRecorded = "symbia.messaging.conversation.handoff-recorded.v1" {
            control_id: String,
            /// The assistants that answered until now.
            from: Vec<String>,
            to: ControlTarget,
            assistants_muted: bool,
        }
        /// A participant from outside could not be told of a message, and is not tried again by itself.
        AssistantNotificationFailed = "symbia.messaging.conversation.assistant-notification-failed.v1" {
            message_id: String,
            principal_id: String,
            /// The event of the mesh that was to tell it.
            event_id: String,
            attempt: u32,
            error_code: String,
        }
    }
}
