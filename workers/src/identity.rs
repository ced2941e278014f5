//! What follows from identity's events: the key of a closed account is destroyed, and a grant that ends is noted to have
//! ended. Grants do not count beyond their end in any case; the note is for those who follow events.
//!
//! Error policy: repeat. Keys are destroyed once, timers of one id replace each other, and command ids derive from the
//! event.

use anyhow::Context;
use async_nats::{Client, jetstream};
use async_trait::async_trait;
use symbia_commands::{
    Actor, DomainCommand,
    identity::{ConfirmErasure, ExpireGrant, GrantsCommand, UserCommand},
};
use symbia_events::{
    AggregateRef, CommandId, DomainEvent, Event, Position, Service,
    identity::{GrantsEvent, UserEvent},
};
use symbia_nats::timers::{TimerCommand, Timers, When};
use symbia_projections::secrets::SecretStore;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// The reactor.
pub struct Housekeeping {
    secrets: SecretStore,
    timers: Timers,
    sender: Sender,
}

impl Housekeeping {
    /// Over a connection and the store that holds the keys.
    #[must_use]
    pub fn new(client: Client, sender: Sender, secrets: SecretStore) -> Self {
        Housekeeping { secrets, timers: Timers::new(jetstream::new(client)), sender }
    }

    async fn erase(&self, event: &Event) -> anyhow::Result<()> {
        let id = event.aggregateid.clone();
        self.secrets.destroy_subject_key(&id).await?;
        let to = address(event)?;
        let command = UserCommand::from(ConfirmErasure { user_id: id.clone(), subject_key_id: id });
        let actor = Actor::service("identity");
        self.sender.send(Some(event), &to, &command, &actor, CommandId::derived(event.id, "erasure")).await?;
        Ok(())
    }

    async fn end_at(&self, event: &Event, grant_id: String, end: Option<String>) -> anyhow::Result<()> {
        let Some(end) = end else { return Ok(()) };
        // The aggregate has checked it.
        let Ok(end) = OffsetDateTime::parse(&end, &Rfc3339) else { return Ok(()) };
        let principal_id = event.aggregateid.clone();
        let command = GrantsCommand::from(ExpireGrant { principal_id, grant_id: grant_id.clone() });
        let timer = TimerCommand {
            aggregate: address(event)?,
            command_type: command.command_type().to_owned(),
            data: command.to_data()?,
        };
        Ok(self.timers.command(&grant_id, &When::At(end), &timer).await?)
    }
}

fn address(event: &Event) -> anyhow::Result<AggregateRef> {
    AggregateRef::new(Service::Identity, event.orgid.clone(), &event.aggregatetype, &event.aggregateid)
        .context("an event's own address")
}

#[async_trait]
impl Reactor for Housekeeping {
    fn name(&self) -> &'static str {
        "identity-housekeeping"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Identity, &["global.user.*", "global.grants.*"])]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        if event.aggregatetype == UserEvent::AGGREGATE {
            return match event.decode()? {
                UserEvent::UserDeleted(_) => self.erase(event).await,
                _ => Ok(()),
            };
        }
        match event.decode()? {
            GrantsEvent::EntitlementGranted(e) => self.end_at(event, e.grant_id, e.expires_at).await,
            GrantsEvent::RoleGranted(e) => self.end_at(event, e.grant_id, e.expires_at).await,
            GrantsEvent::EntitlementRevoked(e) => Ok(self.timers.cancel(&e.grant_id).await?),
            GrantsEvent::RoleRevoked(e) => Ok(self.timers.cancel(&e.grant_id).await?),
            GrantsEvent::GrantExpired(_) => Ok(()),
        }
    }
}
