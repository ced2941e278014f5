//! The durable consumers of an event stream, which vanish with it and must come back where they were.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_nats::jetstream::{
    Context,
    consumer::{self, AckPolicy, FromConsumer, pull},
};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use symbia_events::Service;
use symbia_nats::log::LogReader;

/// A durable consumer and how far it got.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reader {
    /// Whose event stream it reads.
    pub service: Service,
    /// Everything up to this sequence is done with.
    pub floor: u64,
    /// The consumer.
    pub config: consumer::Config,
}

impl Reader {
    /// Those of a stream that have done anything.
    pub async fn all(js: &Context, service: Service) -> anyhow::Result<Vec<Self>> {
        let Ok(stream) = js.get_stream(service.event_stream()).await else { return Ok(Vec::new()) };
        let all: Vec<consumer::Info> = stream.consumers().try_collect().await?;
        let durable = all.into_iter().filter(|c| {
            let config = &c.config;
            let pulled = config.durable_name.is_some() && config.deliver_subject.is_none();
            pulled && config.ack_policy == AckPolicy::Explicit && c.ack_floor.stream_sequence > 0
        });
        Ok(durable.map(|c| Reader { service, floor: c.ack_floor.stream_sequence, config: c.config }).collect())
    }

    /// Makes it again and acknowledges what it was done with: a start further on would be another configuration, which those
    /// who come back to it would not get.
    pub async fn put_back(&self, js: &Context) -> anyhow::Result<()> {
        let config = pull::Config::try_from_consumer_config(self.config.clone()).map_err(anyhow::Error::from_boxed)?;
        let consumer = js.get_stream(self.service.event_stream()).await?.create_consumer(config).await?;
        // Exactly those: what is delivered and not acknowledged would come again only after a while.
        let mut left = self.done_with(js).await?;
        while left > 0 {
            let mut messages = consumer.fetch().max_messages(left.min(256)).messages().await?;
            let before = left;
            while let Some(message) = messages.next().await {
                let message = message.map_err(anyhow::Error::from_boxed)?;
                message.double_ack().await.map_err(anyhow::Error::from_boxed).context("not acknowledged")?;
                left -= 1;
            }
            ensure!(left < before, "{left} messages that it was done with do not come");
        }
        Ok(())
    }

    /// How many of the messages that it reads stand up to its floor.
    async fn done_with(&self, js: &Context) -> anyhow::Result<usize> {
        let one = Some(self.config.filter_subject.clone()).filter(|f| !f.is_empty());
        let filters = self.config.filter_subjects.iter().cloned().chain(one).collect();
        let mut reader = LogReader::open(js.clone(), self.service, 0, filters).await?;
        let mut count = 0;
        loop {
            let batch = reader.next_batch(2000, Duration::from_secs(5)).await?;
            count += batch.iter().filter(|m| m.sequence <= self.floor).count();
            if batch.is_empty() || reader.pending() == 0 || reader.position() >= self.floor {
                return Ok(count);
            }
        }
    }
}
