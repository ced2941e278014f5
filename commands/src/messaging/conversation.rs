//! The conversation aggregate: who takes part, and one dense sequence of messages (messaging.md §13.1).

use std::collections::{BTreeMap, VecDeque};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef, Personal,
    messaging::{
        ControlTarget, ConversationEvent, ConversationType, ParticipantRole, ParticipantType, Priority, SenderType,
        Signal, content_key_id,
    },
};
use time::OffsetDateTime;

use super::Answering;
use crate::{Actor, Aggregate, Decision, Rejection, Role, domain_commands};

/// Most bytes of a message's text (messaging.md §8.16).
pub const MAX_CONTENT: usize = 64 * 1024;
/// Most bytes of a message's metadata (messaging.md §8.16).
pub const MAX_METADATA: usize = 32 * 1024;
/// Most participants of a conversation (messaging.md §8.16).
pub const MAX_PARTICIPANTS: usize = 500;
/// What the principal ids of assistants begin with; the assistant's key follows.
pub const ASSISTANT_PREFIX: &str = "assistant:";
/// Messages whose content a repetition is compared with; an older one counts as the same without a look.
const COMPARED: usize = 256;

/// Somebody who is to take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewParticipant {
    /// Id of the membership.
    pub participant_id: String,
    /// Who.
    pub principal_id: String,
    /// What they are.
    pub principal_type: ParticipantType,
    /// Their entry in identity's directory.
    #[serde(default)]
    pub entity_id: Option<String>,
}

fn yes() -> bool {
    true
}

domain_commands! {
    /// What a conversation can be asked to do.
    ConversationCommand: Messaging / "conversation" {
        /// Opens it.
        CreateConversation = "symbia.cmd.messaging.create-conversation.v1" {
            conversation_id: String,
            #[serde(rename = "type")]
            conversation_type: ConversationType,
            #[serde(default)]
            name: Option<Personal>,
            #[serde(default)]
            description: Option<Personal>,
            org_id: String,
            #[serde(default)]
            metadata: Option<Personal>,
            /// The key that seals what is said here.
            content_key_id: String,
            /// Anyone but the platform can only name themselves.
            owner: NewParticipant,
            /// Who else takes part.
            #[serde(default)]
            participants: Vec<NewParticipant>,
        }
        /// Adds a member; to add one twice changes nothing.
        AddParticipant = "symbia.cmd.messaging.add-participant.v1" {
            participant: NewParticipant,
            /// As what, also of one who takes part already; other than `member` for the owner and those above.
            #[serde(default)]
            role: Option<ParticipantRole>,
        }
        /// Removes a member.
        RemoveParticipant = "symbia.cmd.messaging.remove-participant.v1" {
            principal_id: String,
            /// Even if it is the owner, whom an admin of the organization removes: somebody who stays owns it then.
            #[serde(default)]
            even_owner: bool,
        }
        /// Takes the sender out.
        LeaveConversation = "symbia.cmd.messaging.leave-conversation.v1" {}
        /// Takes the sender in: a group is open to its organization.
        JoinConversation = "symbia.cmd.messaging.join-conversation.v1" { participant: NewParticipant }
        /// Makes a member an admin, or an admin a member.
        ChangeParticipantRole = "symbia.cmd.messaging.change-participant-role.v1" {
            principal_id: String,
            role: ParticipantRole,
        }
        /// Makes another person the owner.
        TransferOwnership = "symbia.cmd.messaging.transfer-ownership.v1" { to_principal_id: String }
        /// Changes name, description and metadata: what is absent stays, an empty text takes it away.
        UpdateConversationSettings = "symbia.cmd.messaging.update-conversation-settings.v1" {
            #[serde(default)]
            name: Option<Personal>,
            #[serde(default)]
            description: Option<Personal>,
            #[serde(default)]
            metadata: Option<Personal>,
        }
        /// Ends it for everybody.
        DeleteConversation = "symbia.cmd.messaging.delete-conversation.v1" {
            #[serde(default)]
            reason: Option<Personal>,
        }
        /// Makes what was said unreadable for ever: its key is destroyed.
        EraseConversation = "symbia.cmd.messaging.erase-conversation.v1" {}
        /// Has everything erased when nothing was said for so many days.
        SetRetention = "symbia.cmd.messaging.set-retention.v1" {
            /// 0: it is kept for ever.
            days: u32,
        }
        /// Erases it when nothing was said since, and schedules another look otherwise. Comes from a timer.
        ExpireConversation = "symbia.cmd.messaging.expire-conversation.v1" {
            /// The retention that the timer was set for; by another one, it is out of date.
            days: u32,
            last_sequence: u64,
            /// The retention is the organization's, not its own.
            #[serde(default)]
            by_policy: bool,
        }
        /// Says something, as oneself.
        SendMessage = "symbia.cmd.messaging.send-message.v1" {
            /// A UUID; the same id with the same content again changes nothing.
            message_id: String,
            content: Personal,
            /// HMAC of the content under the key that seals it.
            content_digest: String,
            content_type: String,
            #[serde(default)]
            reply_to: Option<String>,
            #[serde(default)]
            run_id: Option<String>,
            #[serde(default)]
            trace_id: Option<String>,
            #[serde(default)]
            priority: Priority,
            #[serde(default = "yes")]
            interruptible: bool,
            #[serde(default)]
            preempted_by: Option<String>,
            #[serde(default)]
            metadata: Option<Personal>,
        }
        /// Replaces the text of one's own message.
        EditMessage = "symbia.cmd.messaging.edit-message.v1" {
            message_id: String,
            content: Personal,
            content_digest: String,
            #[serde(default)]
            expected_version: Option<u32>,
        }
        /// Hides a message: one's own, or anyone's as owner or admin.
        DeleteMessage = "symbia.cmd.messaging.delete-message.v1" {
            message_id: String,
            #[serde(default)]
            reason: Option<Personal>,
        }
        /// Signals to those who answer.
        SendControl = "symbia.cmd.messaging.send-control.v1" {
            /// A UUID; the same id again changes nothing.
            control_id: String,
            event: Signal,
            #[serde(default)]
            target: Option<ControlTarget>,
            #[serde(default)]
            reason: Option<Personal>,
            #[serde(default)]
            priority: Option<Priority>,
            #[serde(default)]
            run_id: Option<String>,
            #[serde(default)]
            trace_id: Option<String>,
            #[serde(default)]
            preempted_by: Option<String>,
            #[serde(default)]
            metadata: Option<Personal>,
            /// What was said of answers that it cancels is kept; a preemption always keeps it.
            #[serde(default)]
            keep_partial: bool,
        }
        /// Tells that a participant from outside was not told of a message. The platform's own.
        RecordNotificationFailure = "symbia.cmd.messaging.record-notification-failure.v1" {
            message_id: String,
            principal_id: String,
            event_id: String,
            attempt: u32,
            error_code: String,
        }
    }
}

/// A conversation. It knows of each message who sent it and whether it still stands, not what it says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    pub(super) conversation_id: String,
    pub(super) org_id: String,
    pub(super) conversation_type: ConversationType,
    pub(super) content_key_id: String,
    pub(super) participants: Vec<Participant>,
    pub(super) last_sequence: u64,
    // When the last thing was said.
    pub(super) last_at_ms: Option<i64>,
    // Senders by index, so that a message takes few bytes in a snapshot.
    pub(super) senders: Vec<String>,
    pub(super) messages: BTreeMap<String, Message>,
    pub(super) newest: VecDeque<(String, String)>,
    pub(super) end: Option<Ending>,
    pub(super) answering: Answering,
    // The last message of a person.
    pub(super) question: Option<String>,
    // Days without a word after which it is erased; 0: never.
    pub(super) retention: u32,
}

/// What became of a conversation that is no more what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ending {
    /// It stands, and can be neither read nor written.
    Erased,
    /// It is gone.
    Deleted,
}

/// A member of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participant {
    /// Who.
    pub principal_id: String,
    /// What they are.
    pub principal_type: ParticipantType,
    /// What they may do.
    pub role: ParticipantRole,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    #[serde(rename = "s")]
    pub(super) sender: usize,
    #[serde(rename = "v")]
    pub(super) version: u32,
    #[serde(rename = "d", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) deleted: bool,
    #[serde(rename = "c", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) control: bool,
}

impl Conversation {
    /// Who takes part.
    #[must_use]
    pub fn participants(&self) -> &[Participant] {
        &self.participants
    }

    /// Keys of the assistants that take part.
    pub fn assistants(&self) -> impl Iterator<Item = &str> {
        self.participants.iter().filter_map(|p| p.principal_id.strip_prefix(ASSISTANT_PREFIX))
    }

    /// Id of the key that seals what is said here.
    #[must_use]
    pub fn content_key_id(&self) -> &str {
        &self.content_key_id
    }

    /// Sequence of the last message; 0 before the first.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    pub(super) fn exists(&self) -> Result<(), Rejection> {
        if self.conversation_id.is_empty() || self.end == Some(Ending::Deleted) {
            return Err(Rejection::new("CONVERSATION_NOT_FOUND", "there is no such conversation"));
        }
        Ok(())
    }

    // A text under another conversation's key would be that conversation's secret, brought here to be read aloud.
    pub(super) fn is_sealed<'t>(&self, texts: impl IntoIterator<Item = Option<&'t Personal>>) -> Result<(), Rejection> {
        sealed_with(&self.content_key_id, texts)
    }

    /// It exists, and its texts can be read.
    pub(super) fn is_readable(&self) -> Result<(), Rejection> {
        self.exists()?;
        match self.end {
            None => Ok(()),
            Some(_) => Err(Rejection::new("CONVERSATION_ERASED", "the conversation was erased: open a new one")),
        }
    }

    pub(super) fn participant(&self, principal_id: &str) -> Option<&Participant> {
        self.participants.iter().find(|p| p.principal_id == principal_id)
    }

    pub(super) fn as_participant(&self, by: &Actor) -> Result<&Participant, Rejection> {
        self.exists()?;
        let not_one = || Rejection::new("NOT_PARTICIPANT", "only participants of the conversation may do this");
        self.participant(by.subject()).ok_or_else(not_one)
    }

    pub(super) fn is_led_by(&self, by: &Actor) -> bool {
        let leads = |p: &Participant| matches!(p.role, ParticipantRole::Owner | ParticipantRole::Admin);
        by.is_platform() || self.participant(by.subject()).is_some_and(leads)
    }

    /// An admin of its organization, an operator, or the platform.
    pub(super) fn is_above(&self, by: &Actor) -> bool {
        let org_admin = by.orgs.iter().any(|m| m.id.as_str() == self.org_id && m.role == Role::Admin);
        org_admin || by.super_admin || by.is_platform()
    }

    /// Its owner, an admin of its organization, an operator, or the platform.
    pub(super) fn owned_by(&self, by: &Actor) -> Result<(), Rejection> {
        self.exists()?;
        let owner = self.participant(by.subject()).is_some_and(|p| p.role == ParticipantRole::Owner);
        if owner || self.is_above(by) {
            return Ok(());
        }
        self.as_participant(by)?;
        Err(Rejection::new(
            "INSUFFICIENT_ROLE",
            "only the conversation's owner or an admin of the organization may do this",
        ))
    }

    // Takes the next place in the sequence.
    fn placed(&mut self, id: &str, sequence: u64, sender_id: &str, control: bool) {
        self.last_sequence = sequence;
        let known = self.senders.iter().position(|s| s == sender_id);
        let sender = known.unwrap_or_else(|| {
            self.senders.push(sender_id.to_owned());
            self.senders.len() - 1
        });
        self.messages.insert(id.to_owned(), Message { sender, version: 1, deleted: false, control });
    }

    fn give(&mut self, principal_id: &str, role: ParticipantRole) {
        if let Some(participant) = self.participants.iter_mut().find(|p| p.principal_id == principal_id) {
            participant.role = role;
        }
    }
}

pub(super) fn sealed_with<'t>(
    kid: &str,
    texts: impl IntoIterator<Item = Option<&'t Personal>>,
) -> Result<(), Rejection> {
    if texts.into_iter().flatten().any(|text| text.kid != kid) {
        return Err(Rejection::new(
            "WRONG_KEY",
            format!("seal what is said here with this conversation's key, '{kid}'"),
        ));
    }
    Ok(())
}

impl Aggregate for Conversation {
    const STATE_VERSION: u32 = 4;
    const ID_FIELD: Option<&'static str> = Some("conversationId");
    type Command = ConversationCommand;
    type Event = ConversationEvent;

    fn belongs(command: &ConversationCommand, to: &AggregateRef) -> Result<(), Rejection> {
        let ConversationCommand::CreateConversation(c) = command else { return Ok(()) };
        let own = content_key_id(to.tenant.as_str(), &to.id);
        if c.org_id != to.tenant.as_str() || c.content_key_id != own {
            let text = format!("a conversation is opened in its own organization, with the contentKeyId '{own}'");
            return Err(Rejection::new("WRONG_TENANT", text));
        }
        Ok(())
    }

    fn apply(&mut self, event: &ConversationEvent) {
        match event {
            ConversationEvent::ConversationCreated(e) => {
                self.conversation_id.clone_from(&e.conversation_id);
                self.org_id.clone_from(&e.org_id);
                self.conversation_type = e.conversation_type;
                self.content_key_id.clone_from(&e.content_key_id);
            }
            ConversationEvent::ParticipantAdded(e) => self.participants.push(Participant {
                principal_id: e.principal_id.clone(),
                principal_type: e.principal_type,
                role: e.role,
            }),
            ConversationEvent::ParticipantRemoved(e) => {
                self.participants.retain(|p| p.principal_id != e.principal_id);
            }
            ConversationEvent::MessageSent(e) => {
                self.placed(&e.message_id, e.sequence, &e.sender_id, false);
                self.last_at_ms = e.at_ms.or(self.last_at_ms);
                if matches!(e.sender_type, SenderType::User | SenderType::Bot) {
                    self.question = Some(e.message_id.clone());
                }
                self.newest.push_back((e.message_id.clone(), e.content_digest.clone()));
                if self.newest.len() > COMPARED {
                    self.newest.pop_front();
                }
            }
            ConversationEvent::MessageEdited(e) => {
                if let Some(message) = self.messages.get_mut(&e.message_id) {
                    message.version = e.version;
                }
            }
            ConversationEvent::MessageDeleted(e) => {
                if let Some(message) = self.messages.get_mut(&e.message_id) {
                    message.deleted = true;
                }
                self.question.take_if(|id| *id == e.message_id);
            }
            ConversationEvent::ParticipantRoleChanged(e) => self.give(&e.principal_id, e.to),
            ConversationEvent::OwnershipTransferred(e) => {
                self.give(&e.from, ParticipantRole::Admin);
                self.give(&e.to, ParticipantRole::Owner);
            }
            ConversationEvent::RetentionScheduled(e) => self.retention = e.days,
            ConversationEvent::ConversationDeleted(_) => self.end = Some(Ending::Deleted),
            ConversationEvent::ConversationErased(_) => _ = self.end.get_or_insert(Ending::Erased),
            ConversationEvent::ControlIssued(e) => {
                self.placed(&e.control_id, e.sequence, &e.issued_by, true);
                self.last_at_ms = e.at_ms.or(self.last_at_ms);
            }
            ConversationEvent::ConversationSettingsChanged(_)
            | ConversationEvent::ConversationRouted(_)
            | ConversationEvent::HandoffRecorded(_)
            | ConversationEvent::AssistantNotificationFailed(_) => {}
        }
        self.answering.apply(event);
    }

    fn decide(
        &self,
        command: ConversationCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<ConversationEvent>, Rejection> {
        match command {
            ConversationCommand::CreateConversation(c) => self.create(c, by),
            ConversationCommand::AddParticipant(c) => self.add(c.participant, c.role, by),
            ConversationCommand::RemoveParticipant(c) => self.remove(c, by),
            ConversationCommand::LeaveConversation(_) => self.leave(by),
            ConversationCommand::JoinConversation(c) => self.join(c.participant, by),
            ConversationCommand::ChangeParticipantRole(c) => self.change_role(c, by),
            ConversationCommand::TransferOwnership(c) => self.transfer(c.to_principal_id, by),
            ConversationCommand::UpdateConversationSettings(c) => self.update(c, by),
            ConversationCommand::DeleteConversation(c) => self.end(c.reason, by),
            ConversationCommand::EraseConversation(_) => self.erase(by),
            ConversationCommand::SetRetention(c) => self.retain(c.days, by),
            ConversationCommand::ExpireConversation(c) => self.expire(&c, by),
            ConversationCommand::SendControl(c) => self.control(c, by, at),
            ConversationCommand::RecordNotificationFailure(c) => self.untold(c, by),
            ConversationCommand::SendMessage(c) => self.send(c, by, at),
            ConversationCommand::EditMessage(c) => self.edit(c, by),
            ConversationCommand::DeleteMessage(c) => self.delete(c, by),
        }
    }
}
