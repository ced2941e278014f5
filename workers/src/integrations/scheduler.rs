//! Has models tried when it is time (integrations.md §16): one timer for each schedule, whose command the aggregate takes once.
//! Who set a schedule must still be an admin when it is due; else it stops, and says so.
//!
//! Error policy: retry for ever. Ids derive from the events: a repetition changes nothing.

use async_nats::{Client, jetstream};
use async_trait::async_trait;
use symbia_commands::{
    DomainCommand,
    integrations::{EvalScheduleCommand, EvaluationCommand, RunEvalSchedule, RunEvaluation, StopEvalSchedule},
};
use symbia_events::{
    AggregateRef, CommandId, Event, Position, Service,
    integrations::{EvalScheduleDue, EvalScheduleEvent},
};
use symbia_nats::timers::{TimerCommand, Timers, When};
use symbia_projections::{ReadPool, Scope, identity};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::router::router;
use crate::{
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// The reactor.
pub struct EvalScheduler {
    reader: ReadPool,
    timers: Timers,
    sender: Sender,
}

impl EvalScheduler {
    /// Over a connection and the read models.
    #[must_use]
    pub fn new(client: Client, sender: Sender, reader: ReadPool) -> Self {
        EvalScheduler { reader, timers: Timers::new(jetstream::new(client)), sender }
    }

    // A timer for each event: one that is told late must not take the place of a newer one. What a timer says that is of no use
    // any more is passed over by the aggregate.
    async fn wake(&self, event: &Event, version: u64, next: Option<String>) -> anyhow::Result<()> {
        let Some(due_at) = next else { return Ok(()) };
        let id = format!("eval-schedule-{}", event.id);
        let at = OffsetDateTime::parse(&due_at, &Rfc3339)?;
        let schedule_id = event.aggregateid.clone();
        let command = EvalScheduleCommand::from(RunEvalSchedule { schedule_id, version, due_at });
        let timer = TimerCommand {
            aggregate: event.aggregate()?,
            command_type: command.command_type().to_owned(),
            data: command.to_data()?,
        };
        Ok(self.timers.command(&id, &When::At(at), &timer).await?)
    }

    async fn due(&self, event: &Event, due: EvalScheduleDue) -> anyhow::Result<()> {
        let (version, next) = (due.version, due.next_run_at.clone());
        match self.run(event, due).await? {
            None => self.wake(event, version, next).await,
            Some(reason) => {
                let schedule_id = event.aggregateid.clone();
                let stop = EvalScheduleCommand::from(StopEvalSchedule { schedule_id, version, reason });
                let id = CommandId::derived(event.id, "stop");
                self.sender.send(Some(event), &event.aggregate()?, &stop, &router(), id).await?;
                Ok(())
            }
        }
    }

    // Why it cannot be run, if it cannot.
    async fn run(&self, event: &Event, due: EvalScheduleDue) -> anyhow::Result<Option<String>> {
        let org = event.orgid.as_str();
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let membership = identity::membership_of(&mut tx, org, &due.by).await?;
        drop(tx);
        if membership.is_none_or(|membership| membership.role != "admin") {
            return Ok(Some("who set it is no admin of the organization any more".to_owned()));
        }
        let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "evaluation", &due.evaluation_id)?;
        let run = EvaluationCommand::from(RunEvaluation {
            evaluation_id: due.evaluation_id,
            org_id: org.to_owned(),
            provider: due.trial.provider,
            model_id: due.trial.model_id,
            benchmark_id: due.trial.benchmark_id,
            test_case_ids: due.trial.test_case_ids,
            seed: None,
            mock: false,
            judge: due.trial.judge,
            started_by: Some(due.by),
        });
        let id = CommandId::derived(event.id, "run");
        let outcome = self.sender.send(Some(event), &to, &run, &router(), id).await?;
        // Under way already.
        Ok(outcome.rejection.filter(|rejection| rejection.code != "CONFLICT").map(|rejection| rejection.message))
    }
}

#[async_trait]
impl Reactor for EvalScheduler {
    fn name(&self) -> &'static str {
        "eval-scheduler"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.eval-schedule.*"])]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        match event.decode()? {
            EvalScheduleEvent::EvalScheduleSet(e) => self.wake(event, e.version, e.next_run_at).await,
            EvalScheduleEvent::EvalScheduleDue(e) => self.due(event, e).await,
            EvalScheduleEvent::EvalScheduleStopped(_) | EvalScheduleEvent::EvalScheduleRemoved(_) => Ok(()),
        }
    }
}
