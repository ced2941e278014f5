//! What follows from changes of the registry: a contract's end becomes a timer, and identity's directory is told which entity
//! lives on which node (network.md §8.3, 8.14). What was refused is counted here, too.
//!
//! Error policy: retry. Ids of timers and commands are derived, so that doing it again changes nothing.

use async_nats::{Client, jetstream};
use async_trait::async_trait;
use symbia_commands::{
    Actor, DomainCommand,
    identity::{BindEntity, EntityCommand, LEASE_MAX, UnbindEntity},
    network::{ContractCommand, ExpireContract},
};
use symbia_events::{
    AggregateRef, CommandId, DomainEvent, Event, OrgId, Position, Service,
    network::{ContractEvent, NodeEvent, SecurityEvent},
};
use symbia_nats::timers::{TimerCommand, Timers, When};
use symbia_projections::{ReadPool, Scope, identity};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::metrics;
use crate::{
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// The reactor.
pub struct MeshKeeper {
    reader: ReadPool,
    timers: Timers,
    sender: Sender,
}

impl MeshKeeper {
    /// Over a connection and the read models.
    #[must_use]
    pub fn new(client: Client, sender: Sender, reader: ReadPool) -> Self {
        MeshKeeper { reader, timers: Timers::new(jetstream::new(client)), sender }
    }

    async fn ends(&self, event: &Event, contract_id: String, end: &str) -> anyhow::Result<()> {
        let at = OffsetDateTime::parse(end, &Rfc3339)?;
        let command = ContractCommand::from(ExpireContract { contract_id });
        let timer = TimerCommand {
            aggregate: event.aggregate()?,
            command_type: command.command_type().to_owned(),
            data: command.to_data()?,
        };
        let id = format!("mesh-contract-{}", Uuid::new_v5(&event.id, b"end"));
        Ok(self.timers.command(&id, &When::At(at), &timer).await?)
    }

    async fn contract(&self, event: &Event, what: ContractEvent) -> anyhow::Result<()> {
        match what {
            ContractEvent::ContractCreated(e) => match &e.expires_at {
                Some(end) => self.ends(event, e.contract_id, end).await,
                None => Ok(()),
            },
            ContractEvent::ContractExpired(_) | ContractEvent::ContractDeleted(_) => Ok(()),
        }
    }

    async fn node(&self, event: &Event, what: NodeEvent) -> anyhow::Result<()> {
        match what {
            NodeEvent::EntityBound(e) => {
                let lease_until = (OffsetDateTime::now_utc() + LEASE_MAX).format(&Rfc3339)?;
                let bind = BindEntity { entity_id: e.entity_id.clone(), node_id: e.node_id, lease_until };
                self.tell(event, &e.entity_id, bind.into()).await
            }
            NodeEvent::EntityUnbound(e) => {
                let unbind = UnbindEntity { entity_id: e.entity_id.clone(), reason: "node".to_owned() };
                self.tell(event, &e.entity_id, unbind.into()).await
            }
            _ => Ok(()),
        }
    }

    async fn tell(&self, event: &Event, entity_id: &str, command: EntityCommand) -> anyhow::Result<()> {
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let found = identity::entity(&mut tx, entity_id).await?;
        drop(tx);
        let Some(found) = found else { return Ok(()) };
        let tenant: OrgId = found.organization().map_or(Ok(OrgId::global()), str::parse)?;
        let to = AggregateRef::new(Service::Identity, tenant, "entity", entity_id)?;
        let id = CommandId::derived(event.id, "directory");
        let outcome = self.sender.send(Some(event), &to, &command, &Actor::service("network"), id).await?;
        // Gone, or bound elsewhere: the directory knows better.
        if let Some(rejection) = outcome.rejection {
            tracing::info!(entity = entity_id, code = %rejection.code, "the directory is not told where an entity lives");
        }
        Ok(())
    }
}

#[async_trait]
impl Reactor for MeshKeeper {
    fn name(&self) -> &'static str {
        "mesh-keeper"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Network, &["*.contract.*", "*.node.*", "*.bridge.*", "*.policy.*", "*.security.*"])]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _: Position) -> anyhow::Result<()> {
        metrics::registry(event);
        match event.aggregatetype.as_str() {
            ContractEvent::AGGREGATE => self.contract(event, event.decode()?).await,
            NodeEvent::AGGREGATE => self.node(event, event.decode()?).await,
            SecurityEvent::AGGREGATE => {
                metrics::refusal(event, &event.decode()?);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
