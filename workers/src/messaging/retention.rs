//! Has erased what an organization keeps no longer: each day the conversations are looked through to which nobody has added for
//! as long as its policy says (messaging.md §8.16). What is found is asked of each conversation, which knows what was said last.
//!
//! Error policy: retry for ever. To ask again for what was erased changes nothing.

use async_nats::{Client, jetstream};
use async_trait::async_trait;
use symbia_commands::{
    Actor, DomainCommand,
    messaging::{ConversationCommand, ExpireConversation, RetentionPolicyCommand, SweepRetention},
};
use symbia_events::{
    AggregateRef, CommandId, Event, Position, Service,
    messaging::{RetentionDue, RetentionPolicyEvent},
};
use symbia_nats::timers::{TimerCommand, Timers, When};
use symbia_projections::{ReadPool, Scope, messaging as model};
use time::Duration;
use uuid::Uuid;

use crate::{
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// The reactor.
pub struct Retention {
    reader: ReadPool,
    timers: Timers,
    sender: Sender,
    day: Duration,
}

impl Retention {
    /// Over a connection and the read models; `day`: between two looks, and what a policy counts in.
    #[must_use]
    pub fn new(client: Client, sender: Sender, reader: ReadPool, day: Duration) -> Self {
        Retention { reader, timers: Timers::new(jetstream::new(client)), sender, day }
    }

    // One timer for each organization: a new one takes the place of the last.
    async fn tomorrow(&self, event: &Event, days: u32) -> anyhow::Result<()> {
        let policy = event.aggregate()?;
        let id = format!("retain-{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, policy.event_subject().as_bytes()));
        if days == 0 {
            return Ok(self.timers.cancel(&id).await?);
        }
        let command = RetentionPolicyCommand::from(SweepRetention { org_id: event.orgid.to_string(), days });
        let timer = TimerCommand {
            aggregate: policy,
            command_type: command.command_type().to_owned(),
            data: command.to_data()?,
        };
        Ok(self.timers.command(&id, &When::At(event.time + self.day), &timer).await?)
    }

    async fn sweep(&self, event: &Event, due: &RetentionDue) -> anyhow::Result<()> {
        let (org, quiet_since) = (event.orgid.as_str(), event.time - self.day * due.days);
        let mut last = String::new();
        loop {
            let mut tx = self.reader.read(&Scope::platform()).await?;
            let found = model::quiet_conversations(&mut tx, org, quiet_since, &last).await?;
            drop(tx);
            let Some((newest, _)) = found.last() else { return Ok(()) };
            last.clone_from(newest);
            for (id, last_sequence) in found {
                let to = AggregateRef::new(Service::Messaging, event.orgid.clone(), "conversation", &id)?;
                let last_sequence = u64::try_from(last_sequence).unwrap_or_default();
                let expire = ExpireConversation { days: due.days, last_sequence, by_policy: true };
                let command_id = CommandId::derived(event.id, &format!("expire {id}"));
                let (command, by) = (ConversationCommand::from(expire), Actor::service("messaging"));
                self.sender.send(Some(event), &to, &command, &by, command_id).await?;
            }
        }
    }
}

#[async_trait]
impl Reactor for Retention {
    fn name(&self) -> &'static str {
        "retention"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Messaging, &["*.retention-policy.*"])]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _: Position) -> anyhow::Result<()> {
        match event.decode()? {
            RetentionPolicyEvent::RetentionPolicyChanged(e) => self.tomorrow(event, e.days).await,
            RetentionPolicyEvent::RetentionDue(e) => {
                self.sweep(event, &e).await?;
                self.tomorrow(event, e.days).await
            }
        }
    }
}
