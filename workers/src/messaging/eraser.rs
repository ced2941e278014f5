//! The eraser: destroys the key of a conversation that was erased, and has one that was deleted erased after a while
//! (messaging.md §8.6, 14.3).
//!
//! Error policy: retry for ever. To destroy a key again changes nothing.

use async_nats::{Client, jetstream};
use async_trait::async_trait;
use symbia_commands::{
    DomainCommand,
    messaging::{ConversationCommand, EraseConversation},
};
use symbia_events::{
    Event, Position, Service,
    messaging::{ConversationEvent, content_key_id},
};
use symbia_nats::timers::{TimerCommand, Timers, When};
use symbia_projections::secrets::SecretStore;
use time::Duration;

use crate::reactor::{OnError, Reactor};

/// How long what was said in a deleted conversation can still be read by those who hold the keys.
pub const RETENTION: Duration = Duration::days(30);

/// Destroys content keys.
pub struct Eraser {
    secrets: SecretStore,
    timers: Timers,
    retention: Duration,
}

impl Eraser {
    /// An eraser of the keys of a store, which erases deleted conversations after `retention`.
    #[must_use]
    pub fn new(client: Client, secrets: SecretStore, retention: Duration) -> Self {
        Eraser { secrets, timers: Timers::new(jetstream::new(client)), retention }
    }
}

#[async_trait]
impl Reactor for Eraser {
    fn name(&self) -> &'static str {
        "eraser"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Messaging, &["*.conversation.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &["symbia.messaging.conversation.conversation-erased.", "symbia.messaging.conversation.conversation-deleted."]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _: Position) -> anyhow::Result<()> {
        let conversation = event.aggregate()?;
        match event.decode()? {
            ConversationEvent::ConversationErased(_) => {
                // The event's own address tells which key: what its data says came with a command.
                let kid = content_key_id(conversation.tenant.as_str(), &conversation.id);
                if self.secrets.destroy_subject_key(&kid).await? {
                    tracing::info!(%conversation, "the key of an erased conversation is destroyed");
                }
            }
            ConversationEvent::ConversationDeleted(_) => {
                let command = ConversationCommand::from(EraseConversation {});
                let (command_type, data) = (command.command_type().to_owned(), command.to_data()?);
                let id = format!("erase-{}", event.id);
                let due = When::At(event.time + self.retention);
                self.timers.command(&id, &due, &TimerCommand { aggregate: conversation, command_type, data }).await?;
            }
            _ => {}
        }
        Ok(())
    }
}
