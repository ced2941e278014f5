//! The eraser: destroys the keys of what was erased, a conversation or what somebody said in an organization; has a conversation
//! that was deleted, or to which nobody adds any more, erased in its time; and has what somebody said erased whose account is
//! closed (messaging.md §8.6, 14.3).
//!
//! Error policy: retry for ever. To destroy a key again changes nothing.

use async_nats::{Client, jetstream};
use async_trait::async_trait;
use symbia_commands::{
    Actor, DomainCommand,
    messaging::{AuthorCommand, ConversationCommand, EraseAuthor, EraseConversation, ExpireConversation},
};
use symbia_events::{
    AggregateRef, CommandId, Event, Position, Service,
    identity::UserEvent,
    messaging::{AuthorEvent, ConversationEvent, author_id, content_key_id},
};
use symbia_nats::{
    files::Files,
    timers::{TimerCommand, Timers, When},
};
use symbia_projections::secrets::SecretStore;
use time::Duration;
use uuid::Uuid;

use crate::{
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Periods {
    /// For so long, what was said in a deleted conversation can still be read by those who hold the keys.
    pub deleted: Duration,
    /// A day of a conversation's retention.
    pub day: Duration,
}

impl Default for Periods {
    fn default() -> Self {
        Periods { deleted: Duration::days(30), day: Duration::DAY }
    }
}

/// Destroys content keys.
pub struct Eraser {
    secrets: SecretStore,
    files: Files,
    timers: Timers,
    sender: Sender,
    periods: Periods,
}

impl Eraser {
    /// An eraser of the keys of a store.
    #[must_use]
    pub fn new(client: Client, sender: Sender, secrets: SecretStore, periods: Periods) -> Self {
        let files = Files::new(client.clone());
        Eraser { secrets, files, timers: Timers::new(jetstream::new(client)), sender, periods }
    }

    async fn conversation(&self, event: &Event) -> anyhow::Result<()> {
        let conversation = event.aggregate()?;
        match event.decode()? {
            ConversationEvent::ConversationErased(_) => {
                // The event's own address tells which keys: what its data says came with a command.
                let kid = content_key_id(conversation.tenant.as_str(), &conversation.id);
                let keys = self.secrets.destroy_conversation_keys(&kid).await?;
                tracing::info!(%conversation, keys, "the keys of an erased conversation are destroyed");
                // Nobody can read them any more; they need no room either.
                self.files.forget(conversation.tenant.as_str(), &conversation.id).await?;
            }
            ConversationEvent::ConversationDeleted(_) => {
                let id = format!("erase-{}", event.id);
                self.later(&id, event, self.periods.deleted, EraseConversation {}.into()).await?;
            }
            ConversationEvent::RetentionScheduled(e) => {
                // One for each conversation: a new one takes the place of the last.
                let name = conversation.event_subject();
                let id = format!("expire-{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()));
                if e.days == 0 {
                    return Ok(self.timers.cancel(&id).await?);
                }
                let expire = ExpireConversation { days: e.days, last_sequence: e.last_sequence, by_policy: false };
                self.later(&id, event, self.periods.day * e.days, expire.into()).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn later(&self, id: &str, event: &Event, wait: Duration, command: ConversationCommand) -> anyhow::Result<()> {
        let (command_type, data) = (command.command_type().to_owned(), command.to_data()?);
        let timer = TimerCommand { aggregate: event.aggregate()?, command_type, data };
        Ok(self.timers.command(id, &When::At(event.time + wait), &timer).await?)
    }

    async fn author(&self, event: &Event) -> anyhow::Result<()> {
        let AuthorEvent::AuthorErased(e) = event.decode()?;
        // The address names the author as well: a name that does not belong to it destroys nothing.
        if author_id(&e.principal_id) == event.aggregateid {
            let org = event.orgid.as_str();
            let keys = self.secrets.destroy_author_keys(org, &e.principal_id, e.generation).await?;
            tracing::info!(org, author = e.principal_id, keys, "the keys of what an author said are destroyed");
        }
        Ok(())
    }

    // An account was closed: what its owner said goes with it, in every organization.
    async fn user(&self, event: &Event) -> anyhow::Result<()> {
        let UserEvent::UserDeleted(_) = event.decode()? else { return Ok(()) };
        let principal_id = &event.aggregateid;
        for org_id in self.secrets.orgs_of_author(principal_id).await? {
            let to = AggregateRef::new(Service::Messaging, org_id.parse()?, "author", author_id(principal_id))?;
            let id = CommandId::derived(event.id, &format!("erase-author {org_id}"));
            let command = AuthorCommand::from(EraseAuthor { principal_id: principal_id.clone(), org_id });
            self.sender.send(Some(event), &to, &command, &Actor::service("messaging"), id).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Reactor for Eraser {
    fn name(&self) -> &'static str {
        "eraser"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Messaging, &["*.conversation.*", "*.author.*"]), (Service::Identity, &["global.user.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &[
            "symbia.messaging.conversation.conversation-erased.",
            "symbia.messaging.conversation.conversation-deleted.",
            "symbia.messaging.conversation.retention-scheduled.",
            "symbia.messaging.author.author-erased.",
            "symbia.identity.user.user-deleted.",
        ]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _: Position) -> anyhow::Result<()> {
        match event.aggregatetype.as_str() {
            "conversation" => self.conversation(event).await,
            "author" => self.author(event).await,
            _ => self.user(event).await,
        }
    }
}
