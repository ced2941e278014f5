//! The schedule aggregate: a model that is tried again and again, each time once (integrations.md §16, §25.4).

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{
    EvalScheduleDue, EvalScheduleEvent, EvalScheduleRemoved, EvalScheduleSet, EvalScheduleStopped, Trial,
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{checked_judge, checked_trial, cron::Cron};
use crate::{
    Actor, Aggregate, Decision, Rejection, domain_commands,
    integrations::administration::{administers, is_name},
};

/// Longest name of a schedule.
const LONGEST_NAME: usize = 64;
/// A year.
const MOST_HOURS: u32 = 8784;
const OTHERS: &str = "has models tried";

domain_commands! {
    /// What can be done about a schedule.
    EvalScheduleCommand: Integrations / "eval-schedule" {
        /// Has a model tried at these times.
        SetEvalSchedule = "symbia.cmd.integrations.set-eval-schedule.v1" {
            schedule_id: String,
            org_id: String,
            name: String,
            trial: Trial,
            /// Five fields, in UTC. Either this or an interval.
            #[serde(default)]
            cron: Option<String>,
            #[serde(default)]
            interval_hours: Option<u32>,
            enabled: bool,
        }
        /// It is time: the platform says so.
        RunEvalSchedule = "symbia.cmd.integrations.run-eval-schedule.v1" {
            schedule_id: String,
            version: u64,
            due_at: String,
        }
        /// It cannot go on: the platform says why.
        StopEvalSchedule = "symbia.cmd.integrations.stop-eval-schedule.v1" {
            schedule_id: String,
            version: u64,
            reason: String,
        }
        /// Has it tried no more.
        RemoveEvalSchedule = "symbia.cmd.integrations.remove-eval-schedule.v1" { schedule_id: String, org_id: String }
    }
}

/// The id of an organization's schedule of a name.
#[must_use]
pub fn schedule_id(org: &str, name: &str) -> String {
    let named = serde_json::json!(["eval-schedule", org, name]).to_string();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, named.as_bytes()).to_string()
}

/// A schedule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalSchedule {
    version: u64,
    set: Option<EvalScheduleSet>,
    next_run_at: Option<String>,
}

// The first time after another; none: there is no such time.
fn next(cron: Option<&str>, interval_hours: Option<u32>, after: OffsetDateTime) -> Option<OffsetDateTime> {
    match (cron, interval_hours) {
        (Some(cron), _) => Cron::read(cron)?.next(after),
        (None, hours) => after.checked_add(Duration::hours(hours?.into())),
    }
}

fn told(at: OffsetDateTime) -> Result<String, Rejection> {
    at.format(&Rfc3339).map_err(|_| Rejection::invalid("the next time is too far"))
}

impl EvalSchedule {
    fn set(
        &self,
        c: SetEvalSchedule,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<EvalScheduleEvent>, Rejection> {
        // It goes on without them: what they may do must not end with a key or a delegation, or be less than theirs.
        if by.key.is_some() || by.on_behalf_of.is_some() || by.authority.is_some() {
            return Err(Rejection::forbidden(
                "a schedule is set by an admin in person: sign in, and set it without a key",
            ));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let named = (1..=LONGEST_NAME).contains(&c.name.len()) && c.name.chars().all(plain);
        if !named || c.schedule_id != schedule_id(&c.org_id, &c.name) {
            return Err(Rejection::invalid("name: 1 to 64 letters, digits, dots, dashes and underscores"));
        }
        let hours = c.interval_hours.is_none_or(|hours| (1..=MOST_HOURS).contains(&hours));
        if c.cron.is_some() == c.interval_hours.is_some() || !hours {
            let text = format!("cron, intervalHours: one of them; an interval is 1 to {MOST_HOURS} hours");
            return Err(Rejection::invalid(text));
        }
        if [&c.trial.provider, &c.trial.model_id].iter().any(|name| !is_name(name)) {
            return Err(Rejection::invalid("provider, modelId: 1 to 200 printable characters"));
        }
        checked_trial(&c.trial.benchmark_id, &c.trial.test_case_ids)?;
        checked_judge(c.trial.judge.as_ref())?;
        let Some(first) = next(c.cron.as_deref(), c.interval_hours, at) else {
            let text = "cron: five fields (minute, hour, day, month, day of the week) that some time fits";
            return Err(Rejection::invalid(text));
        };
        Ok(Decision::one(EvalScheduleSet {
            schedule_id: c.schedule_id,
            name: c.name,
            version: self.version + 1,
            trial: c.trial,
            cron: c.cron,
            interval_hours: c.interval_hours,
            enabled: c.enabled,
            next_run_at: c.enabled.then(|| told(first)).transpose()?,
            by: by.subject().to_owned(),
        }))
    }

    // A timer that was set before it was changed, or comes a second time, means nothing.
    fn run(&self, c: RunEvalSchedule, at: OffsetDateTime) -> Result<Decision<EvalScheduleEvent>, Rejection> {
        let Some(set) = self.set.as_ref().filter(|_| c.version == self.version) else { return Ok(Decision::nothing()) };
        if self.next_run_at.as_ref() != Some(&c.due_at) {
            return Ok(Decision::nothing());
        }
        // Whoever keeps the time may be ahead of us.
        let after = OffsetDateTime::parse(&c.due_at, &Rfc3339).map_or(at, |due_at| due_at.max(at));
        let run = serde_json::json!(["evaluation", c.schedule_id, c.version, c.due_at]).to_string();
        Ok(Decision::one(EvalScheduleDue {
            evaluation_id: Uuid::new_v5(&Uuid::NAMESPACE_OID, run.as_bytes()).to_string(),
            schedule_id: c.schedule_id,
            version: c.version,
            trial: set.trial.clone(),
            due_at: c.due_at,
            // What was missed meanwhile is not made up for.
            next_run_at: next(set.cron.as_deref(), set.interval_hours, after).map(told).transpose()?,
            by: set.by.clone(),
        }))
    }
}

impl Aggregate for EvalSchedule {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("scheduleId");
    type Command = EvalScheduleCommand;
    type Event = EvalScheduleEvent;

    fn apply(&mut self, event: &EvalScheduleEvent) {
        match event {
            EvalScheduleEvent::EvalScheduleSet(e) => {
                self.version = e.version;
                self.next_run_at.clone_from(&e.next_run_at);
                self.set = Some(e.clone());
            }
            EvalScheduleEvent::EvalScheduleDue(e) => self.next_run_at.clone_from(&e.next_run_at),
            EvalScheduleEvent::EvalScheduleStopped(_) => self.next_run_at = None,
            EvalScheduleEvent::EvalScheduleRemoved(_) => (self.set, self.next_run_at) = (None, None),
        }
    }

    fn decide(
        &self,
        command: EvalScheduleCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<EvalScheduleEvent>, Rejection> {
        let platforms =
            || by.is_platform().then_some(()).ok_or_else(|| Rejection::forbidden("the platform keeps time"));
        match command {
            EvalScheduleCommand::SetEvalSchedule(c) => {
                administers(by, &c.org_id, OTHERS)?;
                self.set(c, by, at)
            }
            EvalScheduleCommand::RunEvalSchedule(c) => {
                platforms()?;
                self.run(c, at)
            }
            EvalScheduleCommand::StopEvalSchedule(c) => {
                platforms()?;
                if c.version != self.version || self.next_run_at.is_none() {
                    return Ok(Decision::nothing());
                }
                Ok(Decision::one(EvalScheduleStopped { schedule_id: c.schedule_id, reason: c.reason }))
            }
            EvalScheduleCommand::RemoveEvalSchedule(c) => {
                administers(by, &c.org_id, OTHERS)?;
                if self.set.is_none() || c.schedule_id.is_empty() {
                    return Err(Rejection::not_found("schedule"));
                }
                Ok(Decision::one(EvalScheduleRemoved { schedule_id: c.schedule_id, by: by.id.clone() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::ActorType;

    use super::*;
    use crate::{
        Membership, Role,
        testing::{AT, given},
    };

    fn member(role: Role) -> Actor {
        let orgs = vec![Membership { id: "acme".parse().unwrap(), role }];
        Actor { id: "ada".into(), kind: ActorType::User, orgs, ..Actor::service("x") }
    }

    fn set() -> SetEvalSchedule {
        SetEvalSchedule {
            schedule_id: schedule_id("acme", "nightly"),
            org_id: "acme".into(),
            name: "nightly".into(),
            trial: Trial {
                provider: "openai".into(),
                model_id: "gpt".into(),
                benchmark_id: "routing.hybrid-decision".into(),
                ..Trial::default()
            },
            cron: Some("0 3 * * *".into()),
            interval_hours: None,
            enabled: true,
        }
    }

    fn history(c: SetEvalSchedule) -> Vec<EvalScheduleEvent> {
        EvalSchedule::default().decide(c.into(), &member(Role::Admin), AT).unwrap().events
    }

    fn run(version: u64, due_at: &str) -> RunEvalSchedule {
        RunEvalSchedule { schedule_id: schedule_id("acme", "nightly"), version, due_at: due_at.into() }
    }

    #[test]
    fn it_is_due_once_and_then_at_its_next_time() {
        let platform = Actor::system("timer");
        let due = "2026-01-01T03:00:00Z";
        given::<EvalSchedule>(history(set())).when(run(1, due), &member(Role::Admin)).rejected("FORBIDDEN");
        let mut state = EvalSchedule::default();
        history(set()).iter().for_each(|event| state.apply(event));
        // Three days late.
        let late = AT + Duration::days(3) + Duration::hours(4);
        let events = state.decide(run(1, due).into(), &platform, late).unwrap().events;
        let [EvalScheduleEvent::EvalScheduleDue(e)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((e.next_run_at.as_deref(), e.by.as_str()), (Some("2026-01-05T03:00:00Z"), "ada"));
        events.iter().for_each(|event| state.apply(event));
        assert!(state.decide(run(1, due).into(), &platform, late).unwrap().events.is_empty(), "twice");
        assert!(state.decide(run(2, "2026-01-05T03:00:00Z").into(), &platform, late).unwrap().events.is_empty());
        let stop = StopEvalSchedule { schedule_id: schedule_id("acme", "nightly"), version: 1, reason: "x".into() };
        let stopped = state.decide(stop.into(), &platform, late).unwrap().events;
        stopped.iter().for_each(|event| state.apply(event));
        assert!(state.decide(run(1, "2026-01-05T03:00:00Z").into(), &platform, late).unwrap().events.is_empty());
    }

    #[test]
    fn admins_set_what_makes_sense() {
        given::<EvalSchedule>([]).when(set(), &member(Role::Member)).rejected("INSUFFICIENT_ROLE");
        let keyed = Actor { key: Some("key".into()), ..member(Role::Admin) };
        given::<EvalSchedule>([]).when(set(), &keyed).rejected("FORBIDDEN");
        let refused = |c: SetEvalSchedule| {
            given::<EvalSchedule>([]).when(c, &member(Role::Admin)).rejected("VALIDATION_FAILED");
        };
        refused(SetEvalSchedule { name: "a b".into(), ..set() });
        refused(SetEvalSchedule { schedule_id: "other".into(), ..set() });
        refused(SetEvalSchedule { cron: None, ..set() });
        refused(SetEvalSchedule { interval_hours: Some(1), ..set() });
        refused(SetEvalSchedule { cron: None, interval_hours: Some(0), ..set() });
        refused(SetEvalSchedule { cron: Some("0 0 31 2 *".into()), ..set() });
        let trial = Trial { benchmark_id: "no.such".into(), ..set().trial };
        refused(SetEvalSchedule { trial, ..set() });
        let off = history(SetEvalSchedule { enabled: false, ..set() });
        let due = "2026-01-01T03:00:00Z";
        given::<EvalSchedule>(off).when(run(1, due), &Actor::system("timer")).then([]);
    }
}
