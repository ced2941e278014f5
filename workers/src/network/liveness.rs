//! Gives up nodes that fell silent: the server leaves a marker where a lease ran out, and each becomes a command
//! (network.md §8.3).

use std::{convert::Infallible, time::Duration};

use async_nats::{
    Client,
    jetstream::{
        self, Message,
        consumer::{AckPolicy, pull},
    },
};
use futures::StreamExt;
use symbia_commands::{
    Actor,
    network::{ExpireNode, NodeCommand},
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service};
use symbia_nats::{leases, topology::LEASES_BUCKET};
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{again, sender::Sender};

/// What the server writes into a marker.
const REASON: &str = "Nats-Marker-Reason";

/// The worker.
pub struct Liveness {
    client: Client,
    sender: Sender,
    lease: Duration,
}

impl Liveness {
    /// Over a connection; leases have this length.
    #[must_use]
    pub fn new(client: Client, sender: Sender, lease: Duration) -> Self {
        Liveness { client, sender, lease }
    }

    /// Works until `stop`. What could not be done is done again.
    pub async fn run(self, stop: CancellationToken) {
        again::consume(&stop, "leases", || self.follow()).await;
    }

    async fn follow(&self) -> Result<Infallible, async_nats::Error> {
        let js = jetstream::new(self.client.clone());
        let config = pull::Config {
            durable_name: Some("mesh-liveness".to_owned()),
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        };
        let stream = js.get_stream(format!("KV_{LEASES_BUCKET}")).await?;
        let mut messages = stream.create_consumer(config).await?.messages().await?;
        while let Some(message) = messages.next().await {
            let message = message?;
            if message.headers.as_ref().is_some_and(|headers| headers.get(REASON).is_some()) {
                self.expire(&message).await?;
            }
            message.ack().await?;
        }
        Err("the subscription ended".into())
    }

    async fn expire(&self, message: &Message) -> Result<(), async_nats::Error> {
        let Some((org, node)) = leases::of_subject(&message.subject) else { return Ok(()) };
        let info = message.info()?;
        let (Ok(tenant), Ok(last_seen)) = (org.parse::<OrgId>(), (info.published - self.lease).format(&Rfc3339)) else {
            return Ok(());
        };
        let Ok(to) = AggregateRef::new(Service::Network, tenant, "node", &node) else { return Ok(()) };
        let marker = format!("{org} {node} {}", info.published.unix_timestamp_nanos());
        let id = CommandId(Uuid::new_v5(&Uuid::NAMESPACE_OID, marker.as_bytes()));
        let command = NodeCommand::from(ExpireNode { node_id: node, last_seen });
        self.sender.send(None, &to, &command, &Actor::service("network"), id).await?;
        Ok(())
    }
}
