//! Channels (integrations.md §15): what is said in chats of messengers is said in conversations here, and what assistants answer
//! is said there. The log says what was taken in and what was sent, part by part, so that whoever takes over from a worker that
//! died goes on where it was.

mod bridge;
mod courier;
mod forwarder;
mod intake;
mod keeper;
mod line;
mod markup;
mod poller;
mod questions;
mod telegram;
mod update;

pub use bridge::ChannelBridge;
pub use courier::ChannelCourier;
pub use forwarder::ChannelForwarder;
pub use keeper::ChannelKeeper;
pub use telegram::{TELEGRAM_API, Telegram};

use std::sync::Arc;

use anyhow::Context;
use async_nats::Client;
use serde_json::Value;
use symbia_commands::{Actor, DomainCommand, Membership, Outcome, integrations::ChannelConnectionCommand};
use symbia_egress::Egress;
use symbia_events::{ActorType, AggregateRef, CommandId, Event, KeyRing, OrgId, Service};
use symbia_nats::store::{EventStore, StoreOptions};
use symbia_projections::{
    ReadPool, Scope, identity,
    integrations::{self as model, ChannelConnection},
    secrets::SecretStore,
};

use super::Books;
use crate::sender::Sender;

/// What channels stand on. Cheap to clone.
#[derive(Clone)]
pub struct Channels(Arc<Parts>);

struct Parts {
    client: Client,
    keys: Arc<KeyRing>,
    sender: Sender,
    reader: ReadPool,
    secrets: SecretStore,
    books: Arc<Books>,
    store: EventStore,
    telegram: Telegram,
    egress: Egress,
}

impl Channels {
    /// Over a connection, the read models and the vault; `egress` makes the calls to programs of the organizations' own.
    #[must_use]
    #[allow(clippy::too_many_arguments, reason = "what a worker stands on, once")]
    pub fn new(
        client: Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        reader: ReadPool,
        secrets: SecretStore,
        books: Arc<Books>,
        telegram: Telegram,
        egress: Egress,
    ) -> Self {
        // A store that decides nothing: what it loads is always read from the log.
        let store = EventStore::new(client.clone(), Arc::clone(&keys), &StoreOptions::default());
        Channels(Arc::new(Parts { client, keys, sender, reader, secrets, books, store, telegram, egress }))
    }

    async fn connection(&self, id: &str) -> anyhow::Result<Option<ChannelConnection>> {
        let mut tx = self.0.reader.read(&Scope::platform()).await?;
        Ok(model::channel_connection(&mut tx, id).await?)
    }

    // A chat may be linked to whatever somebody writes there: nothing is said over another organization's connection.
    async fn connection_of(&self, org: &OrgId, id: &str) -> anyhow::Result<Option<ChannelConnection>> {
        Ok(self.connection(id).await?.filter(|connection| connection.org_id == org.as_str()))
    }

    // Whoever connected a channel speaks here for those who speak there, as far as they belong to the organization now.
    async fn owner(&self, of: &ChannelConnection) -> anyhow::Result<Option<Actor>> {
        let mut tx = self.0.reader.read(&Scope::platform()).await?;
        let orgs = identity::organizations_of(&mut tx, &of.owner_id).await?;
        let Some(org) = orgs.into_iter().find(|org| org.id == of.org_id) else { return Ok(None) };
        let role = serde_json::from_value(Value::String(org.role)).context("the role of a member")?;
        let orgs = vec![Membership { id: org.id.parse()?, role }];
        let service = Actor::service("integrations");
        Ok(Some(Actor { id: of.owner_id.clone(), kind: ActorType::User, orgs, ..service }))
    }

    async fn send(
        &self,
        cause: Option<&Event>,
        to: &AggregateRef,
        command: &impl DomainCommand,
        by: &Actor,
        id: CommandId,
    ) -> anyhow::Result<Outcome> {
        Ok(self.0.sender.send(cause, to, command, by, id).await?)
    }

    // What became of a connection. That it is refused, or changes nothing, is as well.
    async fn note(
        &self,
        cause: Option<&Event>,
        org: &OrgId,
        connection: &str,
        command: impl Into<ChannelConnectionCommand>,
        id: CommandId,
    ) -> anyhow::Result<()> {
        let to = AggregateRef::new(Service::Integrations, org.clone(), "channel-connection", connection)?;
        self.send(cause, &to, &command.into(), &Actor::service("integrations"), id).await.map(drop)
    }
}
