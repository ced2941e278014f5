//! A chat of a connection: what was said there, once and in its order, and what is to be said there, one after the other. It is
//! the chat that says what is sent next, so that however many workers there are, one thing is said at a time.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    integrations::{
        ChannelChatEvent, ChannelDeliveryDeferred, ChannelDeliveryStarted, ChannelMessageDelivered,
        ChannelMessageEdited, ChannelMessageFailed, ChannelMessagePosted, ChannelMessageQueued, ChannelMessageReceived,
        ChannelMessageWithdrawn, ChannelPartDelivered, ChannelUpdateIgnored,
    },
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    super::registry::configures, ChannelChange, ChannelChatCommand, DeferChannelDelivery, IngestChannelUpdate,
    RecordChannelPart, RetryChannelDelivery, SendChannelMessage, platforms, receipts::SaidParts,
};
use crate::{Actor, Aggregate, Decision, Rejection};

/// Calls of the other side whose repetition is told.
const REMEMBERED: usize = 512;
/// Most that waits to be said.
const MOST_WAITING: usize = 256;
/// Most bytes of what is to be said, and of what was.
const MAX_BODY: usize = 128 * 1024;
/// Most bytes of what an answer needs besides.
const MAX_THREAD: usize = 4 * 1024;
const MAX_LABEL: usize = 255;

/// Something that was said there and is to be said here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// The other side's id of the call that told it.
    pub update_id: String,
    /// What was done.
    pub change: ChannelChange,
    /// Where it is to be said.
    pub conversation_id: String,
    /// Its id there.
    pub message_id: String,
    /// What it is.
    pub content_type: String,
    /// The sealed JSON of it; none when it was taken back.
    pub body: Option<Personal>,
}

/// Something that is to be said there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Its id.
    pub delivery_id: String,
    /// The sealed JSON of a [`ChannelContent`](super::ChannelContent).
    pub content: Personal,
    /// Which attempt is made, or was; 0 before the first.
    pub attempt: u32,
    /// Whether it is being made.
    pub under_way: bool,
    /// The other side's ids of the parts that were said.
    pub sent: Vec<String>,
}

/// A chat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelChat {
    chat_key: String,
    connection_id: String,
    seen: VecDeque<String>,
    queued: VecDeque<String>,
    incoming: VecDeque<Incoming>,
    outgoing: VecDeque<Outgoing>,
    said: SaidParts,
    thread: Option<Personal>,
}

impl ChannelChat {
    /// The connection that it is a chat of.
    #[must_use]
    pub fn connection_id(&self) -> &str {
        &self.connection_id
    }

    /// What is to be said here next.
    #[must_use]
    pub fn next_in(&self) -> Option<&Incoming> {
        self.incoming.front()
    }

    /// What an answer needs besides the chat, as what was said last there brought it along.
    #[must_use]
    pub fn thread(&self) -> Option<&Personal> {
        self.thread.as_ref()
    }

    /// What is being said there, if it is this attempt.
    #[must_use]
    pub fn under_way(&self, delivery_id: &str, attempt: u32) -> Option<&Outgoing> {
        let first = self.outgoing.front()?;
        (first.delivery_id == delivery_id && first.attempt == attempt && first.under_way).then_some(first)
    }

    fn first(&self, delivery_id: &str) -> Option<&Outgoing> {
        self.outgoing.front().filter(|first| first.delivery_id == delivery_id)
    }

    fn is_of(&self, connection_id: &str) -> Result<(), Rejection> {
        if !self.connection_id.is_empty() && self.connection_id != connection_id {
            return Err(Rejection::invalid("connectionId: the chat is one of another connection"));
        }
        Ok(())
    }

    fn ingest(&self, c: IngestChannelUpdate) -> Result<Decision<ChannelChatEvent>, Rejection> {
        self.is_of(&c.connection_id)?;
        if self.seen.contains(&c.update_id) {
            return Ok(Decision::nothing());
        }
        let labels = [&c.update_id, &c.vendor_message_id, &c.conversation_id, &c.connection_id];
        if labels.into_iter().any(|label| label.is_empty() || label.len() > MAX_LABEL) {
            let text = "updateId, vendorMessageId, conversationId and connectionId: 1 to 255 bytes";
            return Err(Rejection::invalid(text));
        }
        if Uuid::try_parse(&c.message_id).is_err() {
            return Err(Rejection::invalid("messageId: a UUID"));
        }
        if c.change == ChannelChange::Withdrawn {
            return Ok(Decision::one(withdrawn(c)));
        }
        if c.content_type.is_empty() || c.content_type.len() > MAX_LABEL {
            return Err(Rejection::invalid("contentType: 1 to 255 bytes"));
        }
        let body = c.body.ok_or_else(|| Rejection::invalid("body: what was said, sealed"))?;
        sized(&body)?;
        if c.thread.as_ref().is_some_and(|thread| thread.text_len() > MAX_THREAD) {
            return Err(Rejection::new("TOO_LARGE", "what an answer needs has at most 4 kB"));
        }
        let received = ChannelMessageReceived {
            chat_key: c.chat_key,
            org_id: c.org_id,
            connection_id: c.connection_id,
            update_id: c.update_id,
            vendor_message_id: c.vendor_message_id,
            conversation_id: c.conversation_id,
            message_id: c.message_id,
            content_type: c.content_type,
            body,
            thread: c.thread,
        };
        Ok(match c.change {
            ChannelChange::Edited => Decision::one(edited_of(received)),
            _ => Decision::one(received),
        })
    }

    fn send(&self, c: SendChannelMessage, by: &Actor) -> Result<Decision<ChannelChatEvent>, Rejection> {
        if !by.is_platform() {
            configures(by, &c.org_id)?;
        }
        self.is_of(&c.connection_id)?;
        if self.queued.contains(&c.delivery_id) {
            return Ok(Decision::nothing());
        }
        if Uuid::try_parse(&c.delivery_id).is_err() {
            return Err(Rejection::invalid("deliveryId: a UUID"));
        }
        if self.outgoing.len() >= MOST_WAITING {
            let text = format!("{MOST_WAITING} messages wait for this chat already: try again later");
            return Err(Rejection::new("RATE_LIMIT_EXCEEDED", text));
        }
        sized(&c.content)?;
        let started = self.outgoing.is_empty().then(|| started(&c.chat_key, &c.connection_id, &c.delivery_id, 1));
        let queued = ChannelMessageQueued {
            chat_key: c.chat_key,
            org_id: c.org_id,
            connection_id: c.connection_id,
            delivery_id: c.delivery_id,
            conversation_id: c.conversation_id,
            message_id: c.message_id,
            content: c.content,
            by: by.subject().to_owned(),
        };
        Ok(started.into_iter().fold(Decision::one(queued), Decision::and))
    }

    fn retry(&self, c: RetryChannelDelivery) -> Decision<ChannelChatEvent> {
        match self.first(&c.delivery_id) {
            Some(first) if !first.under_way && first.attempt + 1 == c.attempt => {
                Decision::one(started(&c.chat_key, &self.connection_id, &c.delivery_id, c.attempt))
            }
            _ => Decision::nothing(),
        }
    }

    fn part(&self, c: RecordChannelPart) -> Decision<ChannelChatEvent> {
        let next = |first: &&Outgoing| u32::try_from(first.sent.len()).is_ok_and(|sent| sent + 1 == c.part);
        if self.first(&c.delivery_id).filter(next).is_none() {
            return Decision::nothing();
        }
        Decision::one(ChannelPartDelivered {
            chat_key: c.chat_key,
            delivery_id: c.delivery_id,
            part: c.part,
            parts: c.parts,
            vendor_message_id: c.vendor_message_id,
        })
    }

    fn defer(&self, c: DeferChannelDelivery) -> Decision<ChannelChatEvent> {
        if self.under_way(&c.delivery_id, c.attempt).is_none() {
            return Decision::nothing();
        }
        Decision::one(ChannelDeliveryDeferred {
            chat_key: c.chat_key,
            delivery_id: c.delivery_id,
            attempt: c.attempt,
            code: c.code,
            retry_at: c.retry_at,
        })
    }

    // The end of one is the beginning of the next.
    fn end(&self, event: impl Into<ChannelChatEvent>) -> Decision<ChannelChatEvent> {
        let next = self.outgoing.get(1);
        let next = next.map(|next| started(&self.chat_key, &self.connection_id, &next.delivery_id, 1));
        next.into_iter().fold(Decision::one(event), Decision::and)
    }

    fn ended(&mut self, delivery_id: &str) {
        self.outgoing.retain(|outgoing| outgoing.delivery_id != delivery_id);
    }

    fn took_in(&mut self, e: &ChannelMessageReceived, change: ChannelChange) {
        self.is_called(&e.chat_key, &e.connection_id);
        if e.thread.is_some() {
            self.thread.clone_from(&e.thread);
        }
        self.waits(Incoming {
            update_id: e.update_id.clone(),
            change,
            conversation_id: e.conversation_id.clone(),
            message_id: e.message_id.clone(),
            content_type: e.content_type.clone(),
            body: Some(e.body.clone()),
        });
    }

    fn takes_back(&mut self, e: &ChannelMessageWithdrawn) {
        self.is_called(&e.chat_key, &e.connection_id);
        self.waits(Incoming {
            update_id: e.update_id.clone(),
            change: ChannelChange::Withdrawn,
            conversation_id: e.conversation_id.clone(),
            message_id: e.message_id.clone(),
            content_type: String::new(),
            body: None,
        });
    }

    fn waits(&mut self, incoming: Incoming) {
        remember(&mut self.seen, &incoming.update_id);
        self.incoming.push_back(incoming);
    }

    fn is_called(&mut self, chat_key: &str, connection_id: &str) {
        if self.chat_key.is_empty() {
            (self.chat_key, self.connection_id) = (chat_key.to_owned(), connection_id.to_owned());
        }
    }
}

// The two say the same of different things.
fn edited_of(e: ChannelMessageReceived) -> ChannelMessageEdited {
    ChannelMessageEdited {
        chat_key: e.chat_key,
        org_id: e.org_id,
        connection_id: e.connection_id,
        update_id: e.update_id,
        vendor_message_id: e.vendor_message_id,
        conversation_id: e.conversation_id,
        message_id: e.message_id,
        content_type: e.content_type,
        body: e.body,
    }
}

fn withdrawn(c: IngestChannelUpdate) -> ChannelMessageWithdrawn {
    ChannelMessageWithdrawn {
        chat_key: c.chat_key,
        org_id: c.org_id,
        connection_id: c.connection_id,
        update_id: c.update_id,
        vendor_message_id: c.vendor_message_id,
        conversation_id: c.conversation_id,
        message_id: c.message_id,
    }
}

fn received_of(e: ChannelMessageEdited) -> ChannelMessageReceived {
    ChannelMessageReceived {
        chat_key: e.chat_key,
        org_id: e.org_id,
        connection_id: e.connection_id,
        update_id: e.update_id,
        vendor_message_id: e.vendor_message_id,
        conversation_id: e.conversation_id,
        message_id: e.message_id,
        content_type: e.content_type,
        body: e.body,
        thread: None,
    }
}

fn remember(list: &mut VecDeque<String>, id: &str) {
    if list.len() == REMEMBERED {
        list.pop_front();
    }
    list.push_back(id.to_owned());
}

fn started(chat_key: &str, connection_id: &str, delivery_id: &str, attempt: u32) -> ChannelDeliveryStarted {
    let (chat_key, connection_id) = (chat_key.to_owned(), connection_id.to_owned());
    ChannelDeliveryStarted { chat_key, connection_id, delivery_id: delivery_id.to_owned(), attempt }
}

fn sized(sealed: &Personal) -> Result<(), Rejection> {
    if sealed.text_len() > MAX_BODY {
        return Err(Rejection::new("TOO_LARGE", "a message in a chat has at most 128 kB"));
    }
    Ok(())
}

impl Aggregate for ChannelChat {
    const STATE_VERSION: u32 = 3;
    const ID_FIELD: Option<&'static str> = Some("chatKey");
    type Command = ChannelChatCommand;
    type Event = ChannelChatEvent;

    fn apply(&mut self, event: &ChannelChatEvent) {
        match event {
            ChannelChatEvent::ChannelMessageReceived(e) => self.took_in(e, ChannelChange::Said),
            ChannelChatEvent::ChannelMessageEdited(e) => {
                self.took_in(&received_of(e.clone()), ChannelChange::Edited);
            }
            ChannelChatEvent::ChannelMessageWithdrawn(e) => self.takes_back(e),
            ChannelChatEvent::ChannelMessagePosted(e) => self.incoming.retain(|i| i.update_id != e.update_id),
            ChannelChatEvent::ChannelUpdateIgnored(e) => self.incoming.retain(|i| i.update_id != e.update_id),
            ChannelChatEvent::ChannelMessageQueued(e) => {
                self.is_called(&e.chat_key, &e.connection_id);
                remember(&mut self.queued, &e.delivery_id);
                let (delivery_id, content) = (e.delivery_id.clone(), e.content.clone());
                self.outgoing.push_back(Outgoing { delivery_id, content, attempt: 0, under_way: false, sent: vec![] });
            }
            ChannelChatEvent::ChannelDeliveryStarted(e) => {
                if let Some(first) = self.outgoing.front_mut() {
                    (first.attempt, first.under_way) = (e.attempt, true);
                }
            }
            ChannelChatEvent::ChannelPartDelivered(e) => {
                if let Some(first) = self.outgoing.front_mut() {
                    first.sent.push(e.vendor_message_id.clone());
                }
                self.said.said(&e.delivery_id, &e.vendor_message_id);
            }
            ChannelChatEvent::ChannelDeliveryDeferred(_) => {
                if let Some(first) = self.outgoing.front_mut() {
                    first.under_way = false;
                }
            }
            ChannelChatEvent::ChannelMessageDelivered(e) => self.ended(&e.delivery_id),
            ChannelChatEvent::ChannelMessageFailed(e) => self.ended(&e.delivery_id),
            ChannelChatEvent::ChannelReceiptNoted(e) => self.said.told(&e.vendor_message_id, e.receipt),
        }
    }

    fn decide(
        &self,
        command: ChannelChatCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<ChannelChatEvent>, Rejection> {
        let command = match command {
            ChannelChatCommand::SendChannelMessage(c) => return self.send(c, by),
            command => command,
        };
        platforms(by)?;
        let is_waiting = |update: &str| self.incoming.iter().any(|incoming| incoming.update_id == update);
        Ok(match command {
            ChannelChatCommand::IngestChannelUpdate(c) => return self.ingest(c),
            ChannelChatCommand::RecordChannelPosted(c) if is_waiting(&c.update_id) => {
                Decision::one(ChannelMessagePosted { chat_key: c.chat_key, update_id: c.update_id })
            }
            ChannelChatCommand::IgnoreChannelUpdate(c) if is_waiting(&c.update_id) => {
                let (chat_key, update_id, reason) = (c.chat_key, c.update_id, c.reason);
                Decision::one(ChannelUpdateIgnored { chat_key, update_id, reason })
            }
            ChannelChatCommand::NoteChannelReceipt(c) => {
                let is_being_said = self.outgoing.front().is_some_and(|first| first.under_way);
                return self.said.receipt(c, &self.connection_id, is_being_said);
            }
            ChannelChatCommand::RetryChannelDelivery(c) => self.retry(c),
            ChannelChatCommand::RecordChannelPart(c) => self.part(c),
            ChannelChatCommand::DeferChannelDelivery(c) => self.defer(c),
            ChannelChatCommand::RecordChannelDelivered(c) => match self.first(&c.delivery_id) {
                Some(first) => self.end(ChannelMessageDelivered {
                    chat_key: c.chat_key,
                    connection_id: self.connection_id.clone(),
                    delivery_id: c.delivery_id,
                    vendor_message_ids: first.sent.clone(),
                }),
                None => Decision::nothing(),
            },
            ChannelChatCommand::FailChannelDelivery(c) if self.first(&c.delivery_id).is_some() => {
                let (chat_key, connection_id) = (c.chat_key, self.connection_id.clone());
                self.end(ChannelMessageFailed { chat_key, connection_id, delivery_id: c.delivery_id, code: c.code })
            }
            _ => Decision::nothing(),
        })
    }
}
