//! What a run needs of a conversation: who takes part, a message, and those before it. Folded from the log and kept for
//! conversations that are under way, so that in the common case nothing is read.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use async_nats::Client;
use moka::sync::Cache;
use symbia_commands::{
    assistants::reactions::{Inputs, Seal, Text},
    messaging::{ASSISTANT_PREFIX, Answering},
};
use symbia_events::{
    AggregateRef, Event, KeyRing, Personal, Service,
    messaging::{ConversationEvent, MessageSent, ParticipantType, SenderType, Signal, conversation_key_of, said_at},
};
use symbia_projections::secrets::SecretError;
use time::OffsetDateTime;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::log::{self, LogError, Logged};
use crate::content_keys::{ContentKeys, kids};

/// Earlier messages that a run gets.
pub const HISTORY: usize = 50;
// Messages kept; a message further back is read from the log.
const WINDOW: usize = 128;
// Events whose runs may still be under way.
const OFFERS: usize = 16;
const MOST: u64 = 20_000;

/// A message as it was sent, and as it reads now.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As it was sent.
    pub sent: MessageSent,
    /// Its present text.
    pub text: Personal,
    at: OffsetDateTime,
    deleted: bool,
}

/// An event that may have set off a run: a message, or a signal that offers it anew.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The event's id: the run's id follows from it.
    pub event_id: Uuid,
    /// The message.
    pub message_id: String,
}

/// A conversation as an event found it.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Keys of the assistants that take part and are not told to be silent.
    pub assistants: Vec<String>,
    /// The agents that take part, assistants among them, that may answer: not silent, and the one that was chosen if one was.
    pub agents: Vec<String>,
    /// The one that answers unless another one is addressed.
    pub routed_to: Option<String>,
    /// The message.
    pub message: MessageSent,
    /// When it was sent.
    pub sent_at: OffsetDateTime,
    /// The messages before it that still stand, oldest first.
    pub history: Vec<Arc<Entry>>,
}

impl Scene {
    /// The inputs of a run, its texts opened; the run's assistant and answers are added by who knows them.
    pub async fn inputs(&self, conversation_id: &str, keys: &ContentKeys) -> Result<Inputs, SecretError> {
        // The keys of one conversation: a text under another's is somebody else's, brought in to be read aloud.
        let conversation = conversation_key_of(&self.message.content.kid);
        let ours = |sealed: &Personal| conversation_key_of(&sealed.kid) == conversation;
        let sealed = self.history.iter().map(|m| &m.text).chain([&self.message.content]);
        let opener = keys.opener(kids(sealed.filter(|sealed| ours(sealed)))).await?;
        let open = |sent: &MessageSent, sealed: &Personal| {
            let text = opener.open(sealed).ok().filter(|_| ours(sealed))?;
            Some(Text { seal: opener.key(&sealed.kid).cloned().map(Seal), ..Text::new(sent, text) })
        };
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
    agents: Vec<String>,
    answering: Answering,
    messages: VecDeque<Arc<Entry>>,
    offers: VecDeque<Offer>,
    // The question that nobody answered while it was paused, and the version at which it went on.
    reopened: Option<(u32, String)>,
}

impl Transcript {
    // Nothing happens for an event that it knows; the caller closes gaps.
    fn fold(&mut self, sequence: u64, envelope: &Event, event: &ConversationEvent) {
        let version = envelope.aggregateversion;
        if version <= self.version {
            return;
        }
        (self.version, self.sequence) = (version, sequence);
        let paused = self.answering.is_paused();
        self.answering.apply(event);
        match event {
            ConversationEvent::ParticipantAdded(e) => {
                let agent = e.principal_type == ParticipantType::Agent || e.principal_id.starts_with(ASSISTANT_PREFIX);
                self.agents.extend(agent.then(|| e.principal_id.clone()));
            }
            ConversationEvent::ParticipantRemoved(e) => self.agents.retain(|agent| *agent != e.principal_id),
            ConversationEvent::MessageSent(e) => {
                if self.messages.len() == WINDOW {
                    self.messages.pop_front();
                }
                let text = e.content.clone();
                let at = said_at(e.at_ms, envelope.time);
                self.messages.push_back(Arc::new(Entry { sent: e.clone(), text, at, deleted: false }));
                if asks(e) {
                    self.offered(envelope.id, &e.message_id);
                }
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
            ConversationEvent::ControlIssued(e) if e.event == Signal::Resume => {
                let question = self.unanswered().filter(|_| paused);
                if let Some(question) = question {
                    self.reopened = Some((version, question.clone()));
                    self.offered(envelope.id, &question);
                }
            }
            ConversationEvent::ConversationRouted(e) => {
                if let Some(question) = &e.message_id {
                    self.offered(envelope.id, question);
                }
            }
            _ => {}
        }
    }

    fn offered(&mut self, event_id: Uuid, message_id: &str) {
        if self.offers.len() == OFFERS {
            self.offers.pop_front();
        }
        self.offers.push_back(Offer { event_id, message_id: message_id.to_owned() });
    }

    // The last question, when no assistant has spoken since.
    fn unanswered(&self) -> Option<String> {
        let standing = self.messages.iter().rev().filter(|m| !m.deleted);
        let last = standing.take_while(|m| m.sent.sender_type != SenderType::Agent).find(|m| asks(&m.sent));
        last.map(|m| m.sent.message_id.clone())
    }

    fn scene(&self, message_id: &str, when: When) -> Option<Scene> {
        let at = self.messages.iter().rposition(|m| m.sent.message_id == message_id)?;
        let message = &self.messages[at];
        if matches!(when, When::At(version) if version != self.version) {
            return None;
        }
        let before = self.messages.range(at.saturating_sub(HISTORY)..at).filter(|m| !m.deleted);
        let history = before.cloned().collect();
        let speaking = || self.agents.iter().filter(|agent| !self.answering.silences(agent));
        let keys = speaking().filter_map(|agent| agent.strip_prefix(ASSISTANT_PREFIX));
        let routed_to = self.answering.routed_to().map(str::to_owned);
        let chosen = |agent: &&String| routed_to.as_ref().is_none_or(|to| to == *agent);
        Some(Scene {
            assistants: keys.map(str::to_owned).collect(),
            agents: speaking().filter(chosen).cloned().collect(),
            routed_to,
            message: message.sent.clone(),
            sent_at: message.at,
            history,
        })
    }

    /// The conversation as the event of a version found it, around a message.
    #[must_use]
    pub fn as_found(events: &[Logged<ConversationEvent>], message_id: &str, version: u32) -> Option<Scene> {
        Self::until(events, version)?.scene(message_id, When::At(version))
    }

    fn until(events: &[Logged<ConversationEvent>], version: u32) -> Option<Self> {
        let mut transcript = Transcript::default();
        for logged in events {
            transcript.fold(logged.sequence, &logged.event, &logged.what);
            if transcript.version == version {
                return Some(transcript);
            }
        }
        None
    }
}

fn asks(sent: &MessageSent) -> bool {
    matches!(sent.sender_type, SenderType::User | SenderType::Bot)
}

/// Which state of the conversation is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As the event of this version found it.
    At(u32),
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
            transcript.fold(sequence, event, what);
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
            transcript.fold(logged.sequence, &logged.event, &logged.what);
        }
        if let Some(scene) = transcript.scene(message_id, when) {
            return Ok(Some(scene));
        }
        drop(transcript);
        let all = log::events(&self.client, &self.keys, Service::Messaging, &subject, 1).await?;
        Ok(match when {
            When::At(version) => Transcript::as_found(&all, message_id, version),
            When::Since => all
                .iter()
                .find(|l| matches!(&l.what, ConversationEvent::MessageSent(m) if m.message_id == message_id))
                .and_then(|l| Transcript::as_found(&all, message_id, l.event.aggregateversion)),
        })
    }

    /// What may have set off runs up to the event of a version, the newest last, and the question that this event reopened.
    pub async fn offers(
        &self,
        conversation: &AggregateRef,
        version: u32,
    ) -> Result<(Vec<Offer>, Option<String>), LogError> {
        let told = |t: &Transcript| {
            let reopened = t.reopened.as_ref().filter(|(at, _)| *at == version).map(|(_, question)| question.clone());
            (t.offers.iter().cloned().collect(), reopened)
        };
        self.at(conversation, version, told).await
    }

    /// The agents that take part, as the event of a version found the conversation.
    pub async fn agents(&self, conversation: &AggregateRef, version: u32) -> Result<Vec<String>, LogError> {
        self.at(conversation, version, |transcript| transcript.agents.clone()).await
    }

    async fn at<T: Default>(
        &self,
        conversation: &AggregateRef,
        version: u32,
        told: impl Fn(&Transcript) -> T,
    ) -> Result<T, LogError> {
        let subject = conversation.event_subject();
        let transcript = self.of(&subject);
        let transcript = transcript.lock().await;
        if transcript.version == version {
            return Ok(told(&transcript));
        }
        drop(transcript);
        let all = log::events(&self.client, &self.keys, Service::Messaging, &subject, 1).await?;
        Ok(Transcript::until(&all, version).as_ref().map(told).unwrap_or_default())
    }

    fn of(&self, subject: &str) -> Arc<Mutex<Transcript>> {
        self.kept.get_with_by_ref(subject, Arc::default)
    }
}
