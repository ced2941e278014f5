//! Says in chats what is to be said there, part by part.
//!
//! Error policy: what the other side may do later is tried again when it says, or after growing pauses, by a timer; what it
//! will not do is recorded. A part that was said is in the log before the next is. Between saying it and recording it a worker
//! may die: messengers know no id of ours, so that such a part is said twice rather than not at all.

use std::time::Duration;

use anyhow::bail;
use async_nats::jetstream;
use async_trait::async_trait;
use moka::sync::Cache;
use symbia_commands::{
    Actor, DomainCommand,
    integrations::{
        ChannelChat, ChannelChatCommand, ChannelContent, DeferChannelDelivery, FailChannelDelivery, Outgoing,
        RecordChannelDelivered, RecordChannelError, RecordChannelPart, RecordChannelRecovery, RetryChannelDelivery,
    },
};
use symbia_events::{
    CommandId, Event, Personal, Position, Service,
    integrations::{ChannelChatEvent, ChannelDeliveryDeferred, ChannelDeliveryStarted},
};
use symbia_nats::timers::{TimerCommand, Timers, When};
use symbia_projections::integrations::ChannelConnection;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Channels,
    line::Account,
    messenger::{Refused, Saying},
};
use crate::reactor::{OnError, Reactor};

/// Attempts at one thing that is to be said.
const MOST_ATTEMPTS: u32 = 8;
/// First pause between two; the next is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// The longest that the other side may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Parts that were said and may not be in the log yet.
const REMEMBERED: u64 = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);

/// The reactor.
pub struct ChannelCourier {
    channels: Channels,
    timers: Timers,
    said: Cache<(String, usize), String>,
}

fn pause(attempt: u32, refused: &Refused) -> Duration {
    let growing = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    refused.after.unwrap_or(growing).min(LONGEST_WAIT)
}

impl ChannelCourier {
    /// Over what channels stand on.
    #[must_use]
    pub fn new(channels: Channels) -> Self {
        let timers = Timers::new(jetstream::new(channels.0.client.clone()));
        let said = Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build();
        ChannelCourier { channels, timers, said }
    }

    async fn deliver(&self, event: &Event, e: &ChannelDeliveryStarted) -> anyhow::Result<()> {
        let state = self.channels.0.store.load::<ChannelChat>(&event.aggregate()?).await?.state;
        // It has come to its end already.
        let Some(outgoing) = state.under_way(&e.delivery_id, e.attempt) else { return Ok(()) };
        let connection = self.channels.connection_of(&event.orgid, &e.connection_id).await?;
        let Some(connection) = connection.filter(ChannelConnection::is_used) else {
            return self.fail(event, e, "disconnected").await;
        };
        let Some(key) = self.channels.0.secrets.subject_key(&outgoing.content.kid).await? else {
            return self.fail(event, e, "erased").await;
        };
        let content: ChannelContent = serde_json::from_str(&key.open(&outgoing.content)?)?;
        let thread = self.opened(state.thread()).await?;
        match self.say(event, e, &connection, outgoing, (&content, thread.as_deref())).await? {
            Ok(()) => {
                let (chat_key, delivery_id) = (e.chat_key.clone(), e.delivery_id.clone());
                self.chat(event, RecordChannelDelivered { chat_key, delivery_id }, "delivered").await?;
                if connection.consecutive_errors == 0 {
                    return Ok(());
                }
                let (connection_id, id) = (e.connection_id.clone(), CommandId::derived(event.id, "recovery"));
                let recovery = RecordChannelRecovery { connection_id };
                self.channels.note(Some(event), &event.orgid, &e.connection_id, recovery, id).await
            }
            Err(refused) => self.refused(event, e, refused).await,
        }
    }

    // What was erased is as good as never told.
    async fn opened(&self, sealed: Option<&Personal>) -> anyhow::Result<Option<String>> {
        let Some(sealed) = sealed else { return Ok(None) };
        let key = self.channels.0.secrets.subject_key(&sealed.kid).await?;
        Ok(key.map(|key| key.open(sealed)).transpose()?)
    }

    // The parts that were not said yet.
    async fn say(
        &self,
        event: &Event,
        e: &ChannelDeliveryStarted,
        connection: &ChannelConnection,
        outgoing: &Outgoing,
        (content, thread): (&ChannelContent, Option<&str>),
    ) -> anyhow::Result<Result<(), Refused>> {
        let line = match self.channels.line(Account::from(connection)).await? {
            Ok(line) => line,
            Err(refused) => return Ok(Err(refused)),
        };
        let ready = line.parts(content);
        let parts = u32::try_from(ready.len())?;
        for (index, words) in ready.iter().enumerate().skip(outgoing.sent.len()) {
            let remembered = (e.delivery_id.clone(), index);
            let vendor_message_id = match self.said.get(&remembered) {
                Some(id) => id,
                None => {
                    let id = format!("{}.{}", e.delivery_id, index + 1);
                    let saying = Saying { content, part: words, id: &id, thread };
                    let id = match line.say(&saying).await {
                        Ok(id) => id,
                        Err(refused) => return Ok(Err(refused)),
                    };
                    self.said.insert(remembered, id.clone());
                    id
                }
            };
            let part = u32::try_from(index + 1)?;
            let (chat_key, delivery_id) = (e.chat_key.clone(), e.delivery_id.clone());
            let record = RecordChannelPart { chat_key, delivery_id, part, parts, vendor_message_id };
            self.chat(event, record, &format!("part {part}")).await?;
        }
        Ok(Ok(()))
    }

    async fn refused(&self, event: &Event, e: &ChannelDeliveryStarted, refused: Refused) -> anyhow::Result<()> {
        tracing::info!(
            connection = e.connection_id,
            delivery = e.delivery_id,
            code = refused.code,
            "not said in a chat"
        );
        let retried = refused.passing && e.attempt < MOST_ATTEMPTS;
        if retried {
            let retry_at = (OffsetDateTime::now_utc() + pause(e.attempt, &refused)).format(&Rfc3339)?;
            let defer = DeferChannelDelivery {
                chat_key: e.chat_key.clone(),
                delivery_id: e.delivery_id.clone(),
                attempt: e.attempt,
                code: refused.code.clone(),
                retry_at,
            };
            self.chat(event, defer, "defer").await?;
        } else {
            self.fail(event, e, &refused.code).await?;
        }
        // To be told to wait is no error of the connection's, nor is somebody who does not want to hear of it.
        if refused.after.is_some() || !(refused.passing || refused.fatal) {
            return Ok(());
        }
        let error =
            RecordChannelError { connection_id: e.connection_id.clone(), code: refused.code, fatal: refused.fatal };
        let id = CommandId::derived(event.id, "error");
        self.channels.note(Some(event), &event.orgid, &e.connection_id, error, id).await
    }

    async fn fail(&self, event: &Event, e: &ChannelDeliveryStarted, code: &str) -> anyhow::Result<()> {
        let (chat_key, delivery_id) = (e.chat_key.clone(), e.delivery_id.clone());
        self.chat(event, FailChannelDelivery { chat_key, delivery_id, code: code.to_owned() }, "fail").await
    }

    async fn again(&self, event: &Event, e: &ChannelDeliveryDeferred) -> anyhow::Result<()> {
        let retry = ChannelChatCommand::from(RetryChannelDelivery {
            chat_key: e.chat_key.clone(),
            delivery_id: e.delivery_id.clone(),
            attempt: e.attempt + 1,
        });
        let timer = TimerCommand {
            aggregate: event.aggregate()?,
            command_type: retry.command_type().to_owned(),
            data: retry.to_data()?,
        };
        let due = OffsetDateTime::parse(&e.retry_at, &Rfc3339)?;
        Ok(self.timers.command(&format!("channel-{}", e.delivery_id), &When::At(due), &timer).await?)
    }

    async fn chat(&self, event: &Event, command: impl Into<ChannelChatCommand>, purpose: &str) -> anyhow::Result<()> {
        let (to, id) = (event.aggregate()?, CommandId::derived(event.id, purpose));
        let by = Actor::service("integrations");
        let outcome = self.channels.send(Some(event), &to, &command.into(), &by, id).await?;
        if let Some(rejection) = outcome.rejection {
            bail!("{purpose}: {rejection}");
        }
        Ok(())
    }
}

#[async_trait]
impl Reactor for ChannelCourier {
    fn name(&self) -> &'static str {
        "channel-courier"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.channel-chat.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &[
            "symbia.integrations.channel-chat.channel-delivery-started.",
            "symbia.integrations.channel-chat.channel-delivery-deferred.",
        ]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        match event.decode()? {
            ChannelChatEvent::ChannelDeliveryStarted(e) => self.deliver(event, &e).await,
            ChannelChatEvent::ChannelDeliveryDeferred(e) => self.again(event, &e).await,
            _ => Ok(()),
        }
    }
}
