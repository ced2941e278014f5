//! Has said in chats what assistants say in the conversations that stand for them (messaging.md §8.14). The rule engine calls
//! it, which sees each message of an agent once more than anybody else needs to.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use async_nats::Client;
use symbia_commands::{
    Actor,
    integrations::{ChannelChatCommand, ChannelContent, ChannelFormat, SendChannelMessage},
};
use symbia_events::{
    AggregateRef, CommandId, Event, KeyRing, Position, Service,
    messaging::{ChannelLinkEvent, ChannelLinked, MessageSent, SenderType},
};
use symbia_projections::{Positions, ReadPool, Scope, integrations, messaging as conversations};
use uuid::Uuid;

use crate::{
    assistants::{RuleEngine, log},
    content_keys::ContentKeys,
    sender::Sender,
};

/// How long the read model may be behind.
const BEHIND: Duration = Duration::from_secs(5);
/// What the ids of senders begin with that speak from a chat.
const FROM_CHANNEL: &str = "channel:";

/// Forwards.
pub struct ChannelForwarder {
    client: Client,
    keys: Arc<KeyRing>,
    sender: Sender,
    content: ContentKeys,
    reader: ReadPool,
    positions: Positions,
}

impl RuleEngine {
    /// With chats elsewhere, in which is said what is answered.
    #[must_use]
    pub fn forwarding(mut self, forwarder: ChannelForwarder) -> Self {
        self.forwarder = Some(forwarder);
        self
    }

    pub(crate) async fn forwarded(&self, event: &Event, sent: &MessageSent, at: Position) -> anyhow::Result<()> {
        match &self.forwarder {
            Some(forwarder) => forwarder.forward(event, sent, at).await,
            None => Ok(()),
        }
    }
}

impl ChannelForwarder {
    /// Over a connection and the read models, which know what stands for which chat.
    #[must_use]
    pub fn new(client: Client, keys: Arc<KeyRing>, sender: Sender, content: ContentKeys, reader: ReadPool) -> Self {
        let positions = Positions::follow(client.clone(), reader.clone());
        ChannelForwarder { client, keys, sender, content, reader, positions }
    }

    /// Has a message of an agent said in the chats of its conversation.
    async fn forward(&self, event: &Event, sent: &MessageSent, at: Position) -> anyhow::Result<()> {
        if sent.sender_type != SenderType::Agent || sent.sender_id.starts_with(FROM_CHANNEL) {
            return Ok(());
        }
        // A chat that was linked before this was said must be known by now.
        ensure!(self.positions.wait_for("messaging", at, BEHIND).await, "the conversations are behind the log");
        let (org, conversation) = (event.orgid.as_str(), event.aggregateid.as_str());
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let links = conversations::channels_of(&mut tx, org, conversation).await?;
        drop(tx);
        if links.is_empty() {
            return Ok(());
        }
        // What was erased is said to nobody.
        let Some(key) = self.content.key(&sent.content.kid).await? else { return Ok(()) };
        let text = key.open(&sent.content)?;
        let plain = matches!(sent.content_type.as_str(), "json" | "html");
        for link in links {
            if !self.is_connected(org, &link.connection_id).await? {
                continue;
            }
            let Some(linked) = self.linked(event, &link.id).await? else { continue };
            let Some(key_of_chat) = self.content.key(&linked.chat_id.kid).await? else { continue };
            let content = ChannelContent {
                chat_id: key_of_chat.open(&linked.chat_id)?,
                text: text.clone(),
                format: if plain { ChannelFormat::Plain } else { ChannelFormat::Markdown },
                ..ChannelContent::default()
            };
            let command = ChannelChatCommand::from(SendChannelMessage {
                chat_key: link.id.clone(),
                org_id: org.to_owned(),
                connection_id: linked.connection_id,
                delivery_id: Uuid::new_v5(&event.id, format!("deliver {}", link.id).as_bytes()).to_string(),
                conversation_id: Some(conversation.to_owned()),
                message_id: Some(sent.message_id.clone()),
                content: key.seal(&serde_json::to_string(&content)?),
            });
            let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "channel-chat", &link.id)?;
            let id = CommandId::derived(event.id, &format!("deliver {}", link.id));
            let outcome = self.sender.send(Some(event), &to, &command, &Actor::service("messaging"), id).await?;
            if let Some(rejection) = outcome.rejection {
                tracing::warn!(%to, %rejection, "an answer is not said in a chat");
            }
        }
        Ok(())
    }

    async fn is_connected(&self, org: &str, connection: &str) -> anyhow::Result<bool> {
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let found = integrations::channel_connection(&mut tx, connection).await?;
        Ok(found.is_some_and(|connection| connection.org_id == org && connection.is_used()))
    }

    // Which chat it is, the log alone says.
    async fn linked(&self, event: &Event, link: &str) -> anyhow::Result<Option<ChannelLinked>> {
        let of = AggregateRef::new(Service::Messaging, event.orgid.clone(), "channel-link", link)?;
        let (client, keys) = (&self.client, &self.keys);
        let events = log::events(client, keys, Service::Messaging, &of.event_subject(), 0).await?;
        Ok(events.into_iter().next_back().and_then(|logged| match logged.what {
            ChannelLinkEvent::ChannelLinked(linked) => Some(linked),
            ChannelLinkEvent::ChannelUnlinked(_) => None,
        }))
    }
}
