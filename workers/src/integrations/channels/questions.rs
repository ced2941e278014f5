//! Answers what the API asks of connections. The protocol is in [`symbia_nats::channels`].

use std::{convert::Infallible, time::Duration};

use async_nats::Message;
use futures::StreamExt;
use symbia_commands::integrations::RecordChannelStatus;
use symbia_events::CommandId;
use symbia_nats::channels::{ASKED, GROUP, Question, Said, What};
use symbia_projections::integrations::ChannelConnection;
use tokio_util::sync::CancellationToken;

use super::{Channels, line::Account};
use crate::again;

/// Questions at a time.
const AT_ONCE: usize = 64;
/// Longest time for one.
const PATIENCE: Duration = Duration::from_secs(30);

impl Channels {
    /// Answers questions until `stop`.
    pub async fn answer(self, stop: CancellationToken) {
        again::consume(&stop, "questions about channels", || self.hear()).await;
    }

    async fn hear(&self) -> Result<Infallible, async_nats::Error> {
        let asked = self.0.client.queue_subscribe(ASKED, GROUP.to_owned()).await?;
        let each = async |message: Message| {
            let Some(reply) = message.reply else { return };
            let Ok(question) = serde_json::from_slice::<Question>(&message.payload) else { return };
            let said = tokio::time::timeout(PATIENCE, self.found(&question)).await;
            let said = said.unwrap_or_else(|_| Err(anyhow::anyhow!("it took too long"))).unwrap_or_else(|error| {
                let error = format!("{error:#}");
                tracing::warn!(
                    connection = question.connection_id,
                    error,
                    "a question about a channel is not answered"
                );
                Said::Unavailable
            });
            let payload = serde_json::to_vec(&said).unwrap_or_default();
            // Who asked hears nothing, and asks again.
            let _ = self.0.client.publish(reply, payload.into()).await;
        };
        asked.for_each_concurrent(AT_ONCE, each).await;
        Err("the subscription ended".into())
    }

    async fn found(&self, question: &Question) -> anyhow::Result<Said> {
        let Some(connection) = self.connection(&question.connection_id).await? else { return Ok(Said::Taken) };
        match &question.what {
            // Said to nobody who would want it.
            What::Told { .. } if !connection.is_used() => Ok(Said::Taken),
            What::Told { body, id } => self.take_in(&connection, body, id.as_deref()).await,
            What::Status => self.looked_at(&connection).await,
        }
    }

    async fn looked_at(&self, connection: &ChannelConnection) -> anyhow::Result<Said> {
        let state = match self.line(Account::from(connection)).await? {
            Ok(line) => line.state(&connection.mode).await,
            Err(refused) => Err(refused),
        };
        let error = state.unwrap_or_else(|refused| Some(refused.code));
        let (org, connection_id) = (connection.org_id.parse()?, connection.id.clone());
        let status = RecordChannelStatus { connection_id, error: error.clone() };
        self.note(None, &org, &connection.id, status, CommandId::random()).await?;
        Ok(Said::Status { error })
    }
}
