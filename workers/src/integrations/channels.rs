//! Channels (integrations.md §15): what is said in chats of messengers is said in conversations here, and what assistants answer
//! is said there. The log says what was taken in and what was sent, part by part, so that whoever takes over from a worker that
//! died goes on where it was.

mod bridge;
mod courier;
mod discord;
mod email;
mod files;
mod flood;
mod forwarder;
mod gateway;
mod intake;
mod keeper;
mod line;
mod markup;
mod messenger;
mod poller;
mod program;
mod questions;
mod slack;
mod telegram;
mod teller;
mod typing;
mod update;
mod whatsapp;

pub use bridge::ChannelBridge;
pub use courier::ChannelCourier;
pub use discord::{DISCORD_API, Discord};
pub use forwarder::ChannelForwarder;
pub use keeper::ChannelKeeper;
pub use slack::{SLACK_API, Slack};
pub use telegram::{TELEGRAM_API, Telegram};
pub use teller::ChannelTeller;
pub use whatsapp::{WHATSAPP_API, WhatsApp};

use std::sync::Arc;

use anyhow::Context;
use async_nats::Client;
use serde_json::Value;
use symbia_commands::{Actor, DomainCommand, Membership, Outcome, integrations::ChannelConnectionCommand};
use symbia_events::{ActorType, AggregateRef, CommandId, Event, KeyRing, OrgId, Service};
use symbia_nats::{
    bus::CommandBus,
    files::Files,
    store::{EventStore, StoreOptions},
};
use symbia_projections::{
    ReadPool, Scope, identity,
    integrations::{self as model, ChannelConnection},
    secrets::SecretStore,
};

pub use flood::Room;

use self::flood::Floods;
use super::Books;
use crate::{egress_policies::WayOut, sender::Sender};

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
    files: Files,
    floods: Floods,
    telegram: Telegram,
    slack: Slack,
    whatsapp: WhatsApp,
    discord: Discord,
    egress: WayOut,
}

/// The other sides that there are.
#[derive(Clone, Debug)]
pub struct Messengers {
    /// Telegram's Bot API.
    pub telegram: Telegram,
    /// Slack's Web API.
    pub slack: Slack,
    /// WhatsApp's Cloud API.
    pub whatsapp: WhatsApp,
    /// Discord's API.
    pub discord: Discord,
    /// Makes the calls to programs of the organizations' own.
    pub egress: WayOut,
    /// For what comes along.
    pub room: Room,
}

impl Channels {
    /// Over a connection, the read models and the vault; `bus` tells the log what was refused.
    #[must_use]
    #[allow(clippy::too_many_arguments, reason = "what a worker stands on, once")]
    pub fn new(
        client: Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        reader: ReadPool,
        secrets: SecretStore,
        books: Arc<Books>,
        bus: CommandBus,
        messengers: Messengers,
    ) -> Self {
        // A store that decides nothing: what it loads is always read from the log.
        let store = EventStore::new(client.clone(), Arc::clone(&keys), &StoreOptions::default());
        let files = Files::new(client.clone());
        let floods = Floods::new(client.clone(), messengers.room, bus, Arc::clone(&keys));
        let Messengers { telegram, slack, whatsapp, discord, egress, .. } = messengers;
        Channels(Arc::new(Parts {
            client,
            keys,
            sender,
            reader,
            secrets,
            books,
            store,
            files,
            floods,
            telegram,
            slack,
            whatsapp,
            discord,
            egress,
        }))
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
