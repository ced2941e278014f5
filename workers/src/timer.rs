//! The timer worker: what is due becomes a command on the bus.
//!
//! Error policy: repeat. A due message is acknowledged only once its command is on the bus; the command's id is derived from
//! the due message, so a repetition is recognised.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client, HeaderMap,
    jetstream::{
        self, AckKind, Message,
        consumer::{AckPolicy, pull},
    },
};
use futures::StreamExt;
use symbia_commands::{Actor, CommandEnvelope};
use symbia_events::{CommandId, KeyRing};
use symbia_nats::{
    timers::{DUE_COMMANDS, TimerCommand},
    topology::TIMERS,
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::again;

/// Turns due timers into commands.
#[derive(Clone)]
pub struct TimerWorker {
    client: Client,
    keys: Arc<KeyRing>,
}

impl TimerWorker {
    /// A worker over a connection.
    #[must_use]
    pub fn new(client: Client, keys: Arc<KeyRing>) -> Self {
        TimerWorker { client, keys }
    }

    /// Works until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        again::consume(&stop, "due timers", || self.consume()).await;
    }

    async fn consume(&self) -> Result<std::convert::Infallible, async_nats::Error> {
        let js = jetstream::new(self.client.clone());
        let config = pull::Config {
            durable_name: Some("timer-worker".to_owned()),
            filter_subject: DUE_COMMANDS.to_owned(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(5),
            ..pull::Config::default()
        };
        let consumer = js.get_stream(TIMERS).await?.create_consumer(config).await?;
        let mut due = consumer.messages().await?;
        while let Some(message) = due.next().await {
            let message = message?;
            if let Err(error) = self.fire(&js, &message).await {
                tracing::warn!(subject = %message.subject, %error, "due timer not sent, trying again");
                message.ack_with(AckKind::Nak(Some(Duration::from_millis(500)))).await?;
            }
        }
        Err("the subscription ended".into())
    }

    async fn fire(&self, js: &jetstream::Context, message: &Message) -> Result<(), async_nats::Error> {
        let timer: TimerCommand = match serde_json::from_slice(&message.payload) {
            Ok(timer) => timer,
            Err(error) => {
                tracing::error!(subject = %message.subject, %error, "a due timer that is no command is dropped");
                message.ack_with(AckKind::Term).await?;
                return Ok(());
            }
        };
        let sequence = message.info()?.stream_sequence;
        let id = CommandId(Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{}:{sequence}", message.subject).as_bytes()));
        let now = OffsetDateTime::now_utc();
        let (aggregate, actor) = (&timer.aggregate, Actor::system("timer"));
        let envelope = CommandEnvelope {
            source: "symbia/timer".to_owned(),
            ..CommandEnvelope::of_data(&self.keys, aggregate, &timer.command_type, timer.data, &actor, id, now)
        };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id.to_string());
        let payload = serde_json::to_vec(&envelope)?;
        js.publish_with_headers(aggregate.command_subject(), headers, payload.into()).await?.await?;
        message.ack().await
    }
}
