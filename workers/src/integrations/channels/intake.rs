//! Taking in what was said in a chat: which conversation it belongs to, under whose key it is sealed, and that it is taken in
//! once. Once it is in the log, the bridge says it.

use symbia_commands::{
    Actor,
    integrations::{
        ChannelChange, ChannelChatCommand, EMAIL, IngestChannelUpdate, NoteChannelReceipt, WEBHOOK, chat_name,
    },
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service, SubjectKey, messaging::content_key_id};
use symbia_nats::channels::Said;
use symbia_projections::{Scope, integrations::ChannelConnection, messaging as conversations, secrets::SecretError};
use uuid::Uuid;

use super::{
    Channels, files,
    update::{Inbound, Told},
};

impl Channels {
    /// Takes in what the other side told. An error: it is to be told again.
    pub(super) async fn take_in(&self, of: &ChannelConnection, body: &str, id: Option<&str>) -> anyhow::Result<Said> {
        for told in Told::by(&of.channel_type, of.account_id.as_deref(), body, id) {
            let said = match told {
                Told::Malformed => Said::Malformed,
                Told::Nothing => Said::Taken,
                // Two bots would talk to each other for ever.
                Told::Message { message, .. } if message.sender.is_bot => Said::Taken,
                Told::Message { update_id, change, mut message } => {
                    self.ingest(of, update_id, change, &mut message).await?
                }
                Told::Receipt { chat, vendor_message_id, receipt, code } => {
                    let receipt = |chat_key| NoteChannelReceipt { chat_key, vendor_message_id, receipt, code };
                    self.noted(of, &chat, receipt).await?
                }
            };
            // What comes behind it is told again with it; what came before it is known by then.
            if said != Said::Taken {
                return Ok(said);
            }
        }
        Ok(Said::Taken)
    }

    async fn noted(
        &self,
        of: &ChannelConnection,
        chat: &str,
        receipt: impl FnOnce(String) -> NoteChannelReceipt,
    ) -> anyhow::Result<Said> {
        let chat_key = self.0.keys.lookup_hash("channel", &chat_name(&of.channel_type, &of.id, chat));
        let to = AggregateRef::new(Service::Integrations, of.org_id.parse()?, "channel-chat", &chat_key)?;
        let command = ChannelChatCommand::from(receipt(chat_key));
        let outcome = self.send(None, &to, &command, &Actor::service("integrations"), CommandId::random()).await?;
        Ok(if outcome.rejection.is_some() { Said::Unavailable } else { Said::Taken })
    }

    async fn ingest(
        &self,
        of: &ChannelConnection,
        update_id: String,
        change: ChannelChange,
        message: &mut Inbound,
    ) -> anyhow::Result<Said> {
        let chat_key = self.0.keys.lookup_hash("channel", &chat_name(&of.channel_type, &of.id, &message.chat.id));
        if let Some(wait) = self.0.floods.refuses(of, &chat_key).await? {
            return Ok(Said::Flooded { seconds: wait.as_secs() + 1 });
        }
        let (conversation_id, key) = self.conversation_of(&of.org_id, &chat_key).await?;
        let org: OrgId = of.org_id.parse()?;
        let to = AggregateRef::new(Service::Integrations, org, "channel-chat", &chat_key)?;
        let message_id = message_id(&chat_key, &message.id);
        let place = files::Message { org: &of.org_id, conversation: &conversation_id, id: &message_id, key: &key };
        self.keeps_inline(of, &place, &mut message.attachments).await?;
        let body = key.seal(&serde_json::to_string(message)?);
        let once = format!("channel update {} {update_id}", of.id);
        let command = ChannelChatCommand::from(IngestChannelUpdate {
            org_id: of.org_id.clone(),
            connection_id: of.id.clone(),
            update_id,
            vendor_message_id: message.id.clone(),
            change,
            conversation_id,
            message_id,
            content_type: message.content_type.clone(),
            body: (change != ChannelChange::Withdrawn).then_some(body),
            thread: message.thread.as_deref().map(|thread| key.seal(thread)),
            chat_key,
        });
        let id = CommandId(Uuid::new_v5(&Uuid::NAMESPACE_OID, once.as_bytes()));
        let outcome = self.send(None, &to, &command, &Actor::service("integrations"), id).await?;
        if let Some(rejection) = outcome.rejection {
            tracing::warn!(connection = of.id, %rejection, "what was said in a chat is not taken in");
            // A messenger would tell it for days; a program's author is to know.
            return Ok(if [WEBHOOK, EMAIL].contains(&of.channel_type.as_str()) {
                Said::Malformed
            } else {
                Said::Taken
            });
        }
        Ok(Said::Taken)
    }

    // The conversation of a chat, with its key. Where there is none, or it can be read no more, another one follows from it,
    // for everything that is said before that one stands.
    async fn conversation_of(&self, org: &str, chat_key: &str) -> anyhow::Result<(String, SubjectKey)> {
        let mut tx = self.0.reader.read(&Scope::platform()).await?;
        let link = conversations::channel_links(&mut tx, chat_key, Some(org)).await?.pop();
        drop(tx);
        let mut former = String::new();
        if let Some(link) = link {
            if link.alive
                && let Some(key) = self.0.secrets.subject_key(&content_key_id(org, &link.conversation_id)).await?
            {
                return Ok((link.conversation_id, key));
            }
            former = link.conversation_id;
        }
        loop {
            let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("channel {org} {chat_key} {former}").as_bytes());
            let id = id.to_string();
            match self.made_key(&content_key_id(org, &id)).await? {
                Some(key) => return Ok((id, key)),
                None => former = id,
            }
        }
    }

    /// A key, made when it is first needed; none when it was destroyed.
    pub(super) async fn made_key(&self, kid: &str) -> anyhow::Result<Option<SubjectKey>> {
        if let Some(key) = self.0.secrets.subject_key(kid).await? {
            return Ok(Some(key));
        }
        let key = SubjectKey::generate(kid);
        match self.0.secrets.put_subject_key(&key).await {
            Ok(()) => Ok(Some(key)),
            Err(SecretError::Taken(_)) => Ok(self.0.secrets.subject_key(kid).await?),
            Err(SecretError::Destroyed(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The id here of what has an id there.
pub(super) fn message_id(chat_key: &str, vendor_id: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("channel message {chat_key} {vendor_id}").as_bytes()).to_string()
}
