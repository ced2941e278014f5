//! The directory keeper: every user and agent has an entry, and what is gone takes its entry and its secrets along
//! (identity.md §7.4, 16.10).
//!
//! Error policy: retry. Ids of entries and commands are derived, so that doing it again changes nothing.

use std::sync::Arc;

use async_trait::async_trait;
use symbia_commands::{
    Actor, Outcome,
    identity::{ChangeEntityStatus, EntityCommand, RegisterEntity, RetireEntity, UpdateEntity, principal_entity_id},
};
use symbia_events::{
    AggregateRef, CommandId, DomainEvent, Event, KeyRing, OrgId, Position, Service,
    identity::{AgentEvent, CredentialEvent, UserEvent},
};
use symbia_nats::bus::CommandBus;
use symbia_projections::secrets::SecretStore;

use crate::{
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// Keeps the directory in step with users and agents.
pub struct DirectoryKeeper {
    sender: Sender,
    secrets: SecretStore,
}

impl DirectoryKeeper {
    /// A keeper that sends over a bus.
    #[must_use]
    pub fn new(bus: CommandBus, keys: Arc<KeyRing>, secrets: SecretStore) -> Self {
        DirectoryKeeper { sender: Sender::new(bus, keys), secrets }
    }

    async fn send(&self, cause: &Event, org: &OrgId, command: impl Into<EntityCommand>) -> anyhow::Result<()> {
        let command = command.into();
        let entity_id = match &command {
            EntityCommand::RegisterEntity(c) => &c.entity_id,
            EntityCommand::UpdateEntity(c) => &c.entity_id,
            EntityCommand::ChangeEntityStatus(c) => &c.entity_id,
            EntityCommand::RetireEntity(c) => &c.entity_id,
            _ => anyhow::bail!("the directory keeper sends no such command"),
        };
        let to = AggregateRef::new(Service::Identity, org.clone(), "entity", entity_id)?;
        let (id, actor) = (CommandId::derived(cause.id, "directory"), Actor::system("directory"));
        let Outcome { rejection, .. } = self.sender.send(Some(cause), &to, &command, &actor, id).await?;
        // Already there, already gone, or its slug is taken by an entry that somebody made: nothing to repeat.
        if let Some(rejection) = rejection {
            tracing::info!(entity = entity_id, code = %rejection.code, "the directory keeps as it is");
        }
        Ok(())
    }

    async fn user(&self, event: &Event, change: UserEvent) -> anyhow::Result<()> {
        let (global, entity_id) = (OrgId::global(), principal_entity_id("users", &event.aggregateid));
        match change {
            UserEvent::UserRegistered(e) => {
                self.send(event, &global, RegisterEntity::of_user(&event.aggregateid, e.email, e.name)).await
            }
            UserEvent::UserRenamed(e) => {
                let renamed = UpdateEntity {
                    entity_id,
                    display_name: None,
                    person: Some(e.name),
                    capabilities: None,
                    tags: None,
                    metadata: None,
                };
                self.send(event, &global, renamed).await
            }
            UserEvent::UserDeleted(_) => {
                self.secrets.destroy_items_of_owner(&event.aggregateid).await?;
                self.send(event, &global, RetireEntity { entity_id }).await
            }
            _ => Ok(()),
        }
    }

    async fn agent(&self, event: &Event, change: AgentEvent) -> anyhow::Result<()> {
        let (org, entity_id) = (&event.orgid, principal_entity_id("agents", &event.aggregateid));
        let update = |display_name, capabilities| UpdateEntity {
            entity_id: entity_id.clone(),
            display_name,
            person: None,
            capabilities,
            tags: None,
            metadata: None,
        };
        let status = |status: &str| ChangeEntityStatus { entity_id: entity_id.clone(), status: status.to_owned() };
        match change {
            AgentEvent::AgentRegistered(e) => {
                let id = &event.aggregateid;
                let entry = RegisterEntity::of_agent(id, &e.agent_id, e.name, e.org_id, e.capabilities);
                self.send(event, org, entry).await
            }
            AgentEvent::AgentUpdated(e) if e.name.is_some() => self.send(event, org, update(e.name, None)).await,
            AgentEvent::AgentCapabilitiesApproved(e) => self.send(event, org, update(None, Some(e.capabilities))).await,
            AgentEvent::AgentActivated(_) => self.send(event, org, status("active")).await,
            AgentEvent::AgentDeactivated(_) => self.send(event, org, status("inactive")).await,
            AgentEvent::AgentDeleted(_) => self.send(event, org, RetireEntity { entity_id: entity_id.clone() }).await,
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Reactor for DirectoryKeeper {
    fn name(&self) -> &'static str {
        "directory"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Identity, &["*.user.*", "*.agent.*", "*.credential.*", "*.organization.*"])]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        match event.aggregatetype.as_str() {
            UserEvent::AGGREGATE => self.user(event, event.decode()?).await,
            AgentEvent::AGGREGATE => self.agent(event, event.decode()?).await,
            CredentialEvent::AGGREGATE => {
                // The edge does it as well; this is for the edge that died in between.
                if let CredentialEvent::SecretDestroyed(e) = event.decode()? {
                    self.secrets.destroy_item(&e.secret_ref).await?;
                }
                Ok(())
            }
            _ => {
                if event.event_type.starts_with("symbia.identity.organization.organization-deleted.") {
                    self.secrets.destroy_items_of_org(&event.aggregateid).await?;
                }
                Ok(())
            }
        }
    }
}
