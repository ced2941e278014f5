//! Says in conversations what was said in chats, in its order and in the name of who connected the channel (integrations.md
//! §15.4).
//!
//! Error policy: retry for ever. Ids of conversations, messages and commands follow from what was said there, so that doing it
//! again changes nothing. What a conversation refuses is recorded, and what comes after it is said.

use async_trait::async_trait;
use serde_json::{Value, json};
use symbia_commands::{
    Actor, Rejection,
    integrations::{
        ChannelChange, ChannelChat, ChannelChatCommand, IgnoreChannelUpdate, Incoming, RecordChannelError,
        RecordChannelPosted,
    },
    messaging::{
        ASSISTANT_PREFIX, ChannelLinkCommand, ConversationCommand, CreateConversation, DeleteMessage, EditMessage,
        LinkChannel, NewParticipant, SendMessage, UnlinkChannel,
    },
};
use symbia_events::{
    AggregateRef, CommandId, Event, Position, Service, SubjectKey,
    integrations::ChannelChatEvent,
    messaging::{ConversationType, ParticipantType, Priority},
};
use symbia_projections::{Scope, integrations::ChannelConnection, messaging as conversations};
use uuid::Uuid;

use super::{Channels, files, intake::message_id, typing, update::Inbound};
use crate::reactor::{OnError, Reactor};

/// Longest name of a group, in bytes.
const MAX_NAME: usize = 255;

/// The reactor.
pub struct ChannelBridge(Channels);

/// Where something is to be said.
struct Aim<'s> {
    event: &'s Event,
    chat_key: &'s str,
    connection: &'s ChannelConnection,
    incoming: &'s Incoming,
    /// In whose name.
    by: Actor,
}

/// What is to be said, and where.
struct Saying<'s> {
    to: Aim<'s>,
    said: Inbound,
    key: SubjectKey,
}

impl Aim<'_> {
    // The same each time that this is said.
    fn id(&self, purpose: &str) -> CommandId {
        let name = format!("{} {} {purpose}", self.chat_key, self.incoming.update_id);
        CommandId(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()))
    }

    fn conversation(&self) -> anyhow::Result<AggregateRef> {
        let org = self.event.orgid.clone();
        Ok(AggregateRef::new(Service::Messaging, org, "conversation", &self.incoming.conversation_id)?)
    }
}

impl Saying<'_> {
    fn sender(&self) -> Value {
        json!({ "id": self.said.sender.id, "name": self.said.sender.name, "username": self.said.sender.username })
    }

    fn text(&self) -> &str {
        self.said.text.as_deref().unwrap_or("[Attachment]")
    }
}

impl ChannelBridge {
    /// Over what channels stand on.
    #[must_use]
    pub fn new(channels: Channels) -> Self {
        ChannelBridge(channels)
    }

    // Whatever waits in the chat, the first first: who is told of a later one may be told before the worker of an earlier one
    // has said that.
    async fn catch_up(&self, event: &Event) -> anyhow::Result<()> {
        let (chat, mut last) = (event.aggregate()?, None);
        loop {
            let state = self.0.0.store.load::<ChannelChat>(&chat).await?.state;
            let Some(incoming) = state.next_in() else { return Ok(()) };
            let refused = match self.0.connection_of(&event.orgid, state.connection_id()).await? {
                Some(connection) => self.say(event, &chat.id, &connection, incoming).await?,
                None => Some("disconnected".to_owned()),
            };
            let (chat_key, update_id) = (chat.id.clone(), incoming.update_id.clone());
            let command: ChannelChatCommand = match refused {
                None => RecordChannelPosted { chat_key, update_id }.into(),
                Some(reason) => IgnoreChannelUpdate { chat_key, update_id, reason }.into(),
            };
            let name = format!("{} {} recorded", chat.id, incoming.update_id);
            let id = CommandId(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()));
            let outcome = self.0.send(Some(event), &chat, &command, &Actor::service("integrations"), id).await?;
            let recorded = outcome.rejection.is_none() && last.as_ref() != Some(&incoming.update_id);
            anyhow::ensure!(recorded, "that an update was handled is not recorded: {:?}", outcome.rejection);
            last = Some(incoming.update_id.clone());
        }
    }

    // Gives why it is not said.
    async fn say(
        &self,
        event: &Event,
        chat_key: &str,
        connection: &ChannelConnection,
        incoming: &Incoming,
    ) -> anyhow::Result<Option<String>> {
        let ignored = |reason: &str| Ok(Some(reason.to_owned()));
        let Some(by) = self.0.owner(connection).await? else {
            let error =
                RecordChannelError { connection_id: connection.id.clone(), code: "owner_left".to_owned(), fatal: true };
            let id = CommandId::derived(event.id, "owner left");
            self.0.note(Some(event), &event.orgid, &connection.id, error, id).await?;
            return ignored("owner_left");
        };
        let to = Aim { event, chat_key, connection, incoming, by };
        let Some(body) = &incoming.body else {
            let delete = DeleteMessage { message_id: incoming.message_id.clone(), reason: None };
            return Ok(self.tell(&to, delete.into(), "delete").await?.map(|rejection| rejection.code.to_lowercase()));
        };
        let Some(key) = self.0.0.secrets.subject_key(&body.kid).await? else { return ignored("erased") };
        let Ok(said) = serde_json::from_str::<Inbound>(&key.open(body)?) else { return ignored("unread") };
        let saying = Saying { to, said, key };
        if let Some(rejection) = self.stands(&saying).await? {
            return ignored(&rejection.code.to_lowercase());
        }
        let edited = incoming.change == ChannelChange::Edited;
        let rejection = if edited { self.edit(&saying).await? } else { self.post(&saying).await? };
        if rejection.is_none() && !edited && !connection.assistants.is_empty() {
            self.0.shows_typing(typing::Said {
                connection: connection.clone(),
                chat: saying.said.chat.id.clone(),
                conversation: incoming.conversation_id.clone(),
                message: incoming.message_id.clone(),
                vendor_message: saying.said.id.clone(),
            });
        }
        Ok(rejection.map(|rejection| rejection.code.to_lowercase()))
    }

    // The conversation is there, and stands for the chat.
    async fn stands(&self, saying: &Saying<'_>) -> anyhow::Result<Option<Rejection>> {
        let (org, conversation_id) = (saying.to.event.orgid.as_str(), &saying.to.incoming.conversation_id);
        let mut tx = self.0.0.reader.read(&Scope::platform()).await?;
        let link = conversations::channel_links(&mut tx, saying.to.chat_key, Some(org)).await?.pop();
        drop(tx);
        if link.as_ref().is_some_and(|link| link.alive && link.conversation_id == *conversation_id) {
            return Ok(None);
        }
        let create = ConversationCommand::from(self.opening(saying)?);
        let to = saying.to.conversation()?;
        let outcome = self.0.send(Some(saying.to.event), &to, &create, &saying.to.by, saying.to.id("open")).await?;
        // That it is there already is well.
        if let Some(rejection) = outcome.rejection.filter(|rejection| rejection.code != "CONFLICT") {
            return Ok(Some(rejection));
        }
        let to =
            AggregateRef::new(Service::Messaging, saying.to.event.orgid.clone(), "channel-link", saying.to.chat_key)?;
        let by = Actor::service("integrations");
        let link_id = saying.to.chat_key.to_owned();
        if let Some(former) = link.filter(|link| link.conversation_id != *conversation_id) {
            let unlink = UnlinkChannel { link_id: link_id.clone(), conversation_id: former.conversation_id };
            let unlink = ChannelLinkCommand::from(unlink);
            // It may be gone by itself.
            self.0.send(Some(saying.to.event), &to, &unlink, &by, saying.to.id("unlink")).await?;
        }
        let link = ChannelLinkCommand::from(LinkChannel {
            link_id,
            org_id: org.to_owned(),
            channel_type: saying.to.connection.channel_type.clone(),
            connection_id: saying.to.connection.id.clone(),
            chat_id: saying.key.seal(&saying.said.chat.id),
            conversation_id: conversation_id.clone(),
        });
        Ok(self.0.send(Some(saying.to.event), &to, &link, &by, saying.to.id("link")).await?.rejection)
    }

    fn opening(&self, saying: &Saying<'_>) -> anyhow::Result<CreateConversation> {
        let (chat, connection, key) = (&saying.said.chat, saying.to.connection, &saying.key);
        let member = |principal_id: String, principal_type| NewParticipant {
            participant_id: message_id(&saying.to.incoming.conversation_id, &principal_id),
            principal_id,
            principal_type,
            entity_id: None,
        };
        let metadata = json!({
            "channel": { "type": connection.channel_type, "connectionId": connection.id, "chatId": chat.id,
                "chatType": chat.kind, "chatName": chat.name },
            "channelSender": saying.sender(),
        });
        let private = matches!(chat.kind.as_str(), "private" | "thread");
        let name = chat.name.clone().or_else(|| saying.said.sender.name.clone().filter(|_| private));
        let mut name = name.unwrap_or_else(|| connection.channel_type.clone());
        name.truncate(name.floor_char_boundary(MAX_NAME));
        let assistants = connection.assistants.iter();
        Ok(CreateConversation {
            conversation_id: saying.to.incoming.conversation_id.clone(),
            conversation_type: if private { ConversationType::Private } else { ConversationType::Group },
            name: Some(key.seal(&name)),
            description: None,
            org_id: connection.org_id.clone(),
            metadata: Some(key.seal(&metadata.to_string())),
            content_key_id: key.kid().to_owned(),
            owner: member(connection.owner_id.clone(), ParticipantType::User),
            participants: assistants
                .map(|assistant| member(format!("{ASSISTANT_PREFIX}{assistant}"), ParticipantType::Agent))
                .collect(),
        })
    }

    async fn post(&self, saying: &Saying<'_>) -> anyhow::Result<Option<Rejection>> {
        let (said, key, connection) = (&saying.said, &saying.key, saying.to.connection);
        let mut metadata = json!({
            "_channelMessage": { "id": said.id, "channelType": connection.channel_type, "connectionId": connection.id,
                "sender": said.sender, "timestamp": said.timestamp, "replyToMessageId": said.reply_to_message_id },
            "channelSender": saying.sender(),
        });
        if !said.attachments.is_empty() {
            let (conversation, id) =
                (saying.to.incoming.conversation_id.as_str(), saying.to.incoming.message_id.as_str());
            let message = files::Message { org: saying.to.event.orgid.as_str(), conversation, id, key };
            metadata["attachments"] = Value::from(self.0.kept(connection, &message, &said.attachments).await?);
        }
        let reply_to = said.reply_to_message_id.as_ref().map(|id| message_id(saying.to.chat_key, id));
        let message = SendMessage {
            message_id: saying.to.incoming.message_id.clone(),
            content: key.seal(saying.text()),
            content_digest: key.digest(saying.text()),
            content_type: saying.to.incoming.content_type.clone(),
            reply_to,
            run_id: None,
            trace_id: None,
            priority: Priority::Normal,
            interruptible: true,
            preempted_by: None,
            metadata: Some(key.seal(&metadata.to_string())),
        };
        let rejection = self.tell(&saying.to, message.clone().into(), "post").await?;
        if rejection.as_ref().is_none_or(|rejection| rejection.code != "MESSAGE_NOT_FOUND") {
            return Ok(rejection);
        }
        // What it answers was said by us, or before the channel was connected.
        self.tell(&saying.to, SendMessage { reply_to: None, ..message }.into(), "post alone").await
    }

    async fn edit(&self, saying: &Saying<'_>) -> anyhow::Result<Option<Rejection>> {
        let edit = EditMessage {
            message_id: saying.to.incoming.message_id.clone(),
            content: saying.key.seal(saying.text()),
            content_digest: saying.key.digest(saying.text()),
            expected_version: None,
        };
        self.tell(&saying.to, edit.into(), "edit").await
    }

    async fn tell(
        &self,
        aim: &Aim<'_>,
        command: ConversationCommand,
        purpose: &str,
    ) -> anyhow::Result<Option<Rejection>> {
        let to = aim.conversation()?;
        Ok(self.0.send(Some(aim.event), &to, &command, &aim.by, aim.id(purpose)).await?.rejection)
    }
}

#[async_trait]
impl Reactor for ChannelBridge {
    fn name(&self) -> &'static str {
        "channel-bridge"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.channel-chat.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &[
            "symbia.integrations.channel-chat.channel-message-received.",
            "symbia.integrations.channel-chat.channel-message-edited.",
            "symbia.integrations.channel-chat.channel-message-withdrawn.",
        ]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        match event.decode()? {
            ChannelChatEvent::ChannelMessageReceived(_)
            | ChannelChatEvent::ChannelMessageEdited(_)
            | ChannelChatEvent::ChannelMessageWithdrawn(_) => self.catch_up(event).await,
            _ => Ok(()),
        }
    }
}
