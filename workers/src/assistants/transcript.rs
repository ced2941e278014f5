//! What a run needs of a conversation: who takes part, a message, and those before it. Folded from the log and kept for
//! conversations that are under way, so that in the common case nothing is read.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use async_nats::Client;
use moka::sync::Cache;
use symbia_commands::{
    assistants::reactions::{Inputs, Text},
    messaging::ASSISTANT_PREFIX,
};
use symbia_events::{
    AggregateRef, Event, KeyRing, Personal, Service,
    messaging::{ConversationEvent, MessageSent},
};
use symbia_projections::secrets::SecretError;
use tokio::sync::Mutex;

use super::log::{self, LogError, Logged};
use crate::content_keys::ContentKeys;

/// Earlier messages that a run gets.
pub const HISTORY: usize = 50;
// Messages kept; a message further back is read from the log.
const WINDOW: usize = 128;
const MOST: u64 = 20_000;

/// A message as it was sent, and as it reads now.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As it was sent.
    pub sent: MessageSent,
    /// Its present text.
    pub text: Personal,
    deleted: bool,
    version: u32,
}

/// A conversation as a message found it.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Keys of the assistants that take part.
    pub assistants: Vec<String>,
    /// The message.
    pub message: MessageSent,
    /// The messages before it that still stand, oldest first.
    pub history: Vec<Arc<Entry>>,
}

impl Scene {
    /// The inputs of a run, its texts opened; the run's assistant and answers are added by who knows them.
    pub async fn inputs(&self, conversation_id: &str, keys: &ContentKeys) -> Result<Inputs, SecretError> {
        // One conversation, one key: a text under another is somebody else's, brought in to be read aloud.
        let opener = keys.opener(vec![self.message.content.kid.clone()]).await?;
        let open = |sent: &MessageSent, sealed| opener.open(sealed).ok().map(|text| Text::new(sent, text));
        let message = open(&self.message, &self.message.content);
        Ok(Inputs {
            conversation_id: conversation_id.to_owned(),
            message: message.unwrap_or_else(|| Text::new(&self.message, String::new())),
            history: self.history.iter().filter_map(|m| open(&m.sent, &m.text)).collect(),
            sender_name: None,
            assistant: None,
            answers: BTreeMap::new(),
        })
    }
}

/// A conversation, folded.
#[derive(Debug, Default)]
pub struct Transcript {
    version: u32,
    sequence: u64,
    assistants: Vec<String>,
    messages: VecDeque<Arc<Entry>>,
}

impl Transcript {
    // Nothing happens for an event that it knows; the caller closes gaps.
    fn fold(&mut self, sequence: u64, version: u32, event: &ConversationEvent) {
        if version <= self.version {
            return;
        }
        (self.version, self.sequence) = (version, sequence);
        match event {
            ConversationEvent::ParticipantAdded(e) => {
                self.assistants.extend(e.principal_id.strip_prefix(ASSISTANT_PREFIX).map(str::to_owned));
            }
            ConversationEvent::ParticipantRemoved(e) => {
                self.assistants.retain(|key| e.principal_id.strip_prefix(ASSISTANT_PREFIX) != Some(key));
            }
            ConversationEvent::MessageSent(e) => {
                if self.messages.len() == WINDOW {
                    self.messages.pop_front();
                }
                let text = e.content.clone();
                self.messages.push_back(Arc::new(Entry { sent: e.clone(), text, deleted: false, version }));
            }
            ConversationEvent::MessageEdited(e) => {
                if let Some(entry) = self.messages.iter_mut().find(|m| m.sent.message_id == e.message_id) {
                    Arc::make_mut(entry).text = e.content.clone();
                }
            }
            ConversationEvent::MessageDeleted(e) => {
                if let Some(entry) = self.messages.iter_mut().find(|m| m.sent.message_id == e.message_id) {
                    Arc::make_mut(entry).deleted = true;
                }
            }
            ConversationEvent::ConversationCreated(_) => {}
        }
    }

    fn scene(&self, message_id: &str, when: When) -> Option<Scene> {
        let at = self.messages.iter().rposition(|m| m.sent.message_id == message_id)?;
        let message = &self.messages[at];
        if when == When::Sent && message.version != self.version {
            return None;
        }
        let before = self.messages.range(at.saturating_sub(HISTORY)..at).filter(|m| !m.deleted);
        let history = before.cloned().collect();
        Some(Scene { assistants: self.assistants.clone(), message: message.sent.clone(), history })
    }

    /// The conversation as a message found it, from its events.
    #[must_use]
    pub fn as_found(events: &[Logged<ConversationEvent>], message_id: &str) -> Option<Scene> {
        let is_it =
            |e: &ConversationEvent| matches!(e, ConversationEvent::MessageSent(m) if m.message_id == message_id);
        let mut transcript = Transcript::default();
        for logged in events {
            transcript.fold(logged.sequence, logged.event.aggregateversion, &logged.what);
            if is_it(&logged.what) {
                return transcript.scene(message_id, When::Sent);
            }
        }
        None
    }
}

/// Which state of the conversation is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As the message found it.
    Sent,
    /// Any later one will do: what a run pinned of it does not change.
    Since,
}

/// The conversations under way. Cheap to clone.
#[derive(Clone)]
pub struct Transcripts {
    client: Client,
    keys: Arc<KeyRing>,
    kept: Cache<String, Arc<Mutex<Transcript>>>,
}

impl Transcripts {
    /// Conversations of a log.
    #[must_use]
    pub fn new(client: Client, keys: Arc<KeyRing>) -> Self {
        Transcripts { client, keys, kept: Cache::new(MOST) }
    }

    /// Takes in an event that was delivered: in order, but perhaps not all of them to this process.
    pub async fn take_in(&self, conversation: &AggregateRef, sequence: u64, event: &Event, what: &ConversationEvent) {
        let transcript = self.of(&conversation.event_subject());
        let mut transcript = transcript.lock().await;
        if event.aggregateversion == transcript.version + 1 {
            transcript.fold(sequence, event.aggregateversion, what);
        }
    }

    /// The conversation around a message; `None` when it has no such message.
    pub async fn scene(
        &self,
        conversation: &AggregateRef,
        message_id: &str,
        when: When,
    ) -> Result<Option<Scene>, LogError> {
        let subject = conversation.event_subject();
        let transcript = self.of(&subject);
        let mut transcript = transcript.lock().await;
        if let Some(scene) = transcript.scene(message_id, when) {
            return Ok(Some(scene));
        }
        // A commit may be known in part: it is read again.
        let from = transcript.sequence.max(1);
        let tail = log::events(&self.client, &self.keys, Service::Messaging, &subject, from).await?;
        for logged in &tail {
            transcript.fold(logged.sequence, logged.event.aggregateversion, &logged.what);
        }
        if let Some(scene) = transcript.scene(message_id, when) {
            return Ok(Some(scene));
        }
        drop(transcript);
        let all = log::events(&self.client, &self.keys, Service::Messaging, &subject, 1).await?;
        Ok(Transcript::as_found(&all, message_id))
    }

    fn of(&self, subject: &str) -> Arc<Mutex<Transcript>> {
        self.kept.get_with_by_ref(subject, Arc::default)
    }
}
