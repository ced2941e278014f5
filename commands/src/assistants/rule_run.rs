//! The rule-run aggregate: pinned inputs, actions one after the other, and exactly one end (assistants.md §21.4).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef,
    assistants::{
        ActionCompleted, ActionConfig, ActionFailed, ActionRequested, KeepPartial, RuleEvaluated, RuleRunCancelled,
        RuleRunCompleted, RuleRunEvent, RuleRunFailed, RuleRunStarted,
    },
    integrations::Usage,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{fault::Failure, rules::script};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// An action with its parameters resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "named as in the event ActionRequested")]
pub struct PlannedAction {
    pub action_id: String,
    pub path: String,
    #[serde(rename = "type")]
    pub action_type: String,
    pub rule_id: String,
    pub resolved_params_ref: String,
    pub resolved_digest: String,
    pub idempotency_key: String,
    #[serde(default)]
    pub unresolved_refs: Vec<String>,
}

/// How a run goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Next {
    /// With this action.
    Do(PlannedAction),
    /// Not at all: the next action cannot be planned.
    Fail(Failure),
    /// It has done everything.
    End,
}

/// What became of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ActionOutcome {
    /// It is done.
    Completed(ActionOutput),
    /// It could not be done, and the run with it.
    Failed(Failure),
}

/// The result of an action, by reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActionOutput {
    /// Where it stands.
    pub output_ref: String,
    /// Its keyed digest.
    pub digest: String,
    /// Tokens it took.
    #[serde(default)]
    pub usage: Option<Usage>,
}

domain_commands! {
    /// What a rule run can be asked to do. All but the cancellation come from the rule engine.
    RuleRunCommand: Assistants / "rule-run" {
        /// Records why an assistant answers, and its first action.
        StartRuleRun = "symbia.cmd.assistants.start-rule-run.v1" {
            started: RuleRunStarted,
            evaluated: Vec<RuleEvaluated>,
            next: Next,
        }
        /// Records an action's outcome, and the next action.
        RecordActionOutcome = "symbia.cmd.assistants.record-action-outcome.v1" {
            action_id: String,
            outcome: ActionOutcome,
            /// How the run goes on after a completed action.
            next: Next,
        }
        /// Ends it for a reason outside its actions.
        FailRuleRun = "symbia.cmd.assistants.fail-rule-run.v1" { failure: Failure }
        /// Stops it.
        CancelRuleRun = "symbia.cmd.assistants.cancel-rule-run.v1" {
            reason: String,
            /// Absent: what the model had said is dropped.
            #[serde(default)]
            keep_partial: Option<KeepPartial>,
        }
    }
}

/// A rule run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleRun {
    started: Option<RuleRunStarted>,
    rules_evaluated: u32,
    actions: Vec<Action>,
    // Milliseconds from the start to the end of the last settled action: the next one begins then.
    elapsed_ms: u64,
    end: Option<RunEnd>,
    kept: Option<KeepPartial>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunEnd {
    /// It did everything.
    Completed,
    /// It could not.
    Failed,
    /// It was stopped.
    Cancelled,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Action {
    id: String,
    params_ref: String,
    done: bool,
}

impl RuleRun {
    /// Its pinned inputs, once it has started.
    #[must_use]
    pub fn started(&self) -> Option<&RuleRunStarted> {
        self.started.as_ref()
    }

    /// How it ended; `None` while it is under way.
    #[must_use]
    pub fn end(&self) -> Option<RunEnd> {
        self.end
    }

    /// How the beginning of its answer is kept, when it was stopped that way.
    #[must_use]
    pub fn keeps_partial(&self) -> Option<&KeepPartial> {
        self.kept.as_ref()
    }

    /// The reference `completion/<id>` or `message/<id>` of the action that is under way, or was when the run was stopped.
    #[must_use]
    pub fn open_ref(&self) -> Option<&str> {
        self.actions.last().filter(|a| !a.done).map(|a| a.params_ref.as_str())
    }

    fn live(&self) -> Result<&RuleRunStarted, Rejection> {
        let started = self.started.as_ref().ok_or_else(|| Rejection::not_found("rule run"))?;
        if self.end.is_some() {
            return Err(Rejection::new("RUN_OVER", "the run has its end already"));
        }
        Ok(started)
    }

    fn begun(&self, at: OffsetDateTime) -> u64 {
        let now = self.started.as_ref().and_then(|s| OffsetDateTime::parse(&s.now, &Rfc3339).ok()).unwrap_or(at);
        u64::try_from((at - now).whole_milliseconds()).unwrap_or(0)
    }

    fn steps(started: &RuleRunStarted) -> Vec<ActionConfig> {
        started.rule.as_ref().map(script).unwrap_or_default()
    }

    // The events of going on, behind those that led here.
    fn go_on(
        decision: Decision<RuleRunEvent>,
        started: &RuleRunStarted,
        done: usize,
        next: Next,
        end: RuleRunCompleted,
    ) -> Result<Decision<RuleRunEvent>, Rejection> {
        let steps = Self::steps(started);
        match (next, steps.get(done)) {
            (Next::Fail(failure), _) => Ok(decision.and(failed(failure, end.duration_ms))),
            (Next::End, None) => Ok(decision.and(end)),
            (Next::End, Some(step)) => {
                Err(Rejection::invalid(format!("the rule goes on with action {done}, '{}'", step.action_type)))
            }
            (Next::Do(_), None) => Err(Rejection::invalid("the rule has no further action")),
            (Next::Do(action), Some(step)) => {
                let path = format!("{}/{done}", started.rule_index.unwrap_or_default());
                if action.path != path || action.action_type != step.action_type {
                    return Err(Rejection::invalid(format!("the next action is {path}, '{}'", step.action_type)));
                }
                Ok(decision.and(ActionRequested {
                    action_id: action.action_id,
                    path: action.path,
                    action_type: action.action_type,
                    rule_id: action.rule_id,
                    resolved_params_ref: action.resolved_params_ref,
                    resolved_digest: action.resolved_digest,
                    idempotency_key: action.idempotency_key,
                    attempt: 1,
                    unresolved_refs: action.unresolved_refs,
                }))
            }
        }
    }

    fn start(&self, c: StartRuleRun, at: OffsetDateTime) -> Result<Decision<RuleRunEvent>, Rejection> {
        if self.started.is_some() {
            return Err(Rejection::new("CONFLICT", "this run has started"));
        }
        let started = RuleRunStarted { now: at.format(&Rfc3339).unwrap_or_default(), ..c.started };
        if started.rule_run_id.is_empty() || started.rule.is_some() != started.rule_index.is_some() {
            return Err(Rejection::invalid("a run has an id, and a rule together with its place"));
        }
        let end = RuleRunCompleted {
            rules_evaluated: u32::try_from(c.evaluated.len()).unwrap_or(u32::MAX),
            rules_matched: u32::from(started.rule.is_some()),
            message_ids: Vec::new(),
            duration_ms: 0,
        };
        let decision = c.evaluated.into_iter().fold(Decision::one(started.clone()), Decision::and);
        Self::go_on(decision, &started, 0, c.next, end)
    }

    fn record(&self, c: RecordActionOutcome, at: OffsetDateTime) -> Result<Decision<RuleRunEvent>, Rejection> {
        let started = self.live()?;
        let action = self.actions.iter().find(|a| a.id == c.action_id);
        if action.ok_or_else(|| Rejection::not_found("action"))?.done {
            return Err(Rejection::new("ACTION_SETTLED", "the action has its outcome already"));
        }
        let total_ms = self.begun(at);
        let duration_ms = total_ms.saturating_sub(self.elapsed_ms);
        match c.outcome {
            ActionOutcome::Failed(failure) => Ok(Decision::one(ActionFailed {
                action_id: c.action_id,
                category: failure.category,
                code: failure.code.clone(),
                error: failure.error.clone(),
                retryable: failure.category.is_retryable(),
                will_retry: false,
                duration_ms,
            })
            .and(failed(failure, total_ms))),
            ActionOutcome::Completed(output) => {
                let message = |a: &Action| a.params_ref.strip_prefix("message/").map(str::to_owned);
                let end = RuleRunCompleted {
                    rules_evaluated: self.rules_evaluated,
                    rules_matched: 1,
                    message_ids: self.actions.iter().filter_map(message).collect(),
                    duration_ms: total_ms,
                };
                let completed = ActionCompleted {
                    action_id: c.action_id,
                    output_ref: output.output_ref,
                    digest: output.digest,
                    duration_ms,
                    usage: output.usage,
                };
                Self::go_on(Decision::one(completed), started, self.actions.len(), c.next, end)
            }
        }
    }
}

fn failed(failure: Failure, duration_ms: u64) -> RuleRunFailed {
    RuleRunFailed { category: failure.category, code: failure.code, error: failure.error, duration_ms }
}

impl Aggregate for RuleRun {
    const STATE_VERSION: u32 = 2;
    type Command = RuleRunCommand;
    type Event = RuleRunEvent;

    fn belongs(command: &RuleRunCommand, to: &AggregateRef) -> Result<(), Rejection> {
        match command {
            RuleRunCommand::StartRuleRun(c) if c.started.rule_run_id != to.id => Err(Rejection::misaddressed(to)),
            _ => Ok(()),
        }
    }

    fn begins(command: &RuleRunCommand) -> bool {
        matches!(command, RuleRunCommand::StartRuleRun(_))
    }

    fn apply(&mut self, event: &RuleRunEvent) {
        match event {
            RuleRunEvent::RuleRunStarted(e) => self.started = Some(e.clone()),
            RuleRunEvent::RuleEvaluated(_) => self.rules_evaluated += 1,
            RuleRunEvent::ActionRequested(e) => self.actions.push(Action {
                id: e.action_id.clone(),
                params_ref: e.resolved_params_ref.clone(),
                done: false,
            }),
            RuleRunEvent::ActionCompleted(ActionCompleted { action_id, duration_ms, .. })
            | RuleRunEvent::ActionFailed(ActionFailed { action_id, duration_ms, .. }) => {
                self.elapsed_ms = self.elapsed_ms.saturating_add(*duration_ms);
                if let Some(action) = self.actions.iter_mut().find(|a| a.id == *action_id) {
                    action.done = true;
                }
            }
            RuleRunEvent::RuleRunCompleted(_) => self.end = Some(RunEnd::Completed),
            RuleRunEvent::RuleRunFailed(_) => self.end = Some(RunEnd::Failed),
            RuleRunEvent::RuleRunCancelled(e) => {
                self.end = Some(RunEnd::Cancelled);
                self.kept.clone_from(&e.keep_partial);
            }
        }
    }

    fn decide(
        &self,
        command: RuleRunCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<RuleRunEvent>, Rejection> {
        let asker = self.started.as_ref().is_some_and(|s| s.sender_id == by.subject());
        let stops = matches!(command, RuleRunCommand::CancelRuleRun(_)) && (asker || by.super_admin);
        if !by.is_platform() && !stops {
            return Err(Rejection::forbidden("runs are driven by the rule engine; whoever asked may stop theirs"));
        }
        match command {
            RuleRunCommand::StartRuleRun(c) => self.start(c, at),
            RuleRunCommand::RecordActionOutcome(c) => self.record(c, at),
            RuleRunCommand::FailRuleRun(c) => {
                self.live()?;
                Ok(Decision::one(failed(c.failure, self.begun(at))))
            }
            RuleRunCommand::CancelRuleRun(c) => {
                self.live()?;
                let (by, duration_ms) = (by.id.clone(), self.begun(at));
                let CancelRuleRun { reason, keep_partial } = c;
                Ok(Decision::one(RuleRunCancelled { by, reason, duration_ms, keep_partial }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
