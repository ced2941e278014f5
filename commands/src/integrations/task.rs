//! The task aggregate: something that one model does in one piece, and that has exactly one end (integrations.md §28).
//!
//! There are no attempts, as with embeddings: a worker that takes a task over asks again, and whose answer comes first is the
//! end.

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    integrations::{
        CompletionContext, Cost, ErrorCategory, GuardrailFinding, TaskCompleted, TaskEvent, TaskFailed, TaskKind,
        TaskRequested, TaskUnits, Upstream, Usage,
    },
};
use time::OffsetDateTime;

use super::{
    Phase,
    asker::{in_own_name, is_deadline},
};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Most bytes of what is to be done, and of what came of it: sealed, each must fit into an event.
pub const MAX_TASK: usize = 2 * 1024 * 1024;

domain_commands! {
    /// What can be done about a task. All but the request come from workers.
    TaskCommand: Integrations / "task" {
        /// Has a model do it.
        RequestTask = "symbia.cmd.integrations.request-task.v1" {
            request_id: String,
            kind: TaskKind,
            #[serde(default)]
            provider: Option<String>,
            #[serde(default)]
            model: Option<String>,
            /// JSON, by its kind.
            input: Personal,
            #[serde(default)]
            credential_id: Option<String>,
            /// RFC 3339.
            #[serde(default)]
            deadline: Option<String>,
            #[serde(default)]
            context: CompletionContext,
        }
        /// The model has done it.
        CompleteTask = "symbia.cmd.integrations.complete-task.v1" {
            request_id: String,
            provider: String,
            model: String,
            /// JSON, by its kind.
            output: Personal,
            usage: Usage,
            #[serde(default)]
            units: TaskUnits,
            #[serde(default)]
            cost: Option<Cost>,
            total_ms: u64,
            #[serde(default)]
            credential_id: Option<String>,
            credential_source: String,
            #[serde(default)]
            budgets: Vec<String>,
            #[serde(default)]
            guarded: Vec<GuardrailFinding>,
        }
        /// It will not be done.
        FailTask = "symbia.cmd.integrations.fail-task.v1" {
            request_id: String,
            category: ErrorCategory,
            #[serde(default)]
            code: Option<String>,
            #[serde(default)]
            message: Option<Personal>,
            #[serde(default)]
            upstream: Option<Upstream>,
            #[serde(default)]
            retry_after_ms: Option<u64>,
            /// What it took all the same, and cost.
            #[serde(default)]
            usage: Option<Usage>,
            #[serde(default)]
            cost: Option<Cost>,
            #[serde(default)]
            budgets: Vec<String>,
            #[serde(default)]
            guarded: Vec<GuardrailFinding>,
        }
    }
}

/// A task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    requested_by: String,
    context: CompletionContext,
    phase: Phase,
}

impl Task {
    fn request(&self, mut c: RequestTask, by: &Actor) -> Result<Decision<TaskEvent>, Rejection> {
        if self.phase != Phase::Unknown {
            return Err(Rejection::new("CONFLICT", "this request id is in use"));
        }
        in_own_name(&mut c.context, by, ("input", &c.input))?;
        fits("input", &c.input)?;
        if !is_deadline(c.deadline.as_ref()) {
            return Err(Rejection::invalid("deadline: an RFC 3339 time"));
        }
        Ok(Decision::one(TaskRequested {
            request_id: c.request_id,
            kind: c.kind,
            provider: c.provider,
            model: c.model,
            input: c.input,
            credential_id: c.credential_id,
            deadline: c.deadline,
            context: c.context,
            requested_by: by.subject().to_owned(),
        }))
    }

    fn worked_on(&self, by: &Actor) -> Result<(), Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("tasks are worked on by the platform"));
        }
        match self.phase {
            Phase::Unknown => Err(Rejection::not_found("task")),
            Phase::Over => Err(Rejection::new("TASK_OVER", "the task has its end already")),
            Phase::Waiting | Phase::Running => Ok(()),
        }
    }

    fn complete(&self, c: CompleteTask) -> Result<Decision<TaskEvent>, Rejection> {
        fits("output", &c.output)?;
        Ok(Decision::one(TaskCompleted {
            request_id: c.request_id,
            provider: c.provider,
            model: c.model,
            output: c.output,
            usage: c.usage,
            units: c.units,
            cost: c.cost,
            total_ms: c.total_ms,
            credential_id: c.credential_id,
            credential_source: c.credential_source,
            context: self.context.clone(),
            requested_by: self.requested_by.clone(),
            budgets: c.budgets,
            guarded: c.guarded,
        }))
    }

    fn fail(&self, c: FailTask) -> Decision<TaskEvent> {
        Decision::one(TaskFailed {
            request_id: c.request_id,
            category: c.category,
            code: c.code,
            message: c.message,
            retryable: c.category.is_retryable(),
            status_code: c.category.status(),
            upstream: c.upstream,
            retry_after_ms: c.retry_after_ms,
            context: self.context.clone(),
            requested_by: self.requested_by.clone(),
            usage: c.usage,
            cost: c.cost,
            budgets: c.budgets,
            guarded: c.guarded,
        })
    }
}

fn fits(field: &str, sealed: &Personal) -> Result<(), Rejection> {
    if sealed.text_len() <= MAX_TASK {
        return Ok(());
    }
    let text = format!("{field}: {} bytes, the limit is {MAX_TASK}", sealed.text_len());
    Err(Rejection::new("TOO_LARGE", text))
}

impl Aggregate for Task {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("requestId");
    type Command = TaskCommand;
    type Event = TaskEvent;

    fn begins(command: &TaskCommand) -> bool {
        matches!(command, TaskCommand::RequestTask(_))
    }

    fn has_ended(&self) -> bool {
        self.phase == Phase::Over
    }

    fn apply(&mut self, event: &TaskEvent) {
        match event {
            TaskEvent::TaskRequested(e) => {
                self.requested_by.clone_from(&e.requested_by);
                self.context.clone_from(&e.context);
                self.phase = Phase::Waiting;
            }
            TaskEvent::TaskCompleted(_) | TaskEvent::TaskFailed(_) => self.phase = Phase::Over,
        }
    }

    fn decide(&self, command: TaskCommand, by: &Actor, _at: OffsetDateTime) -> Result<Decision<TaskEvent>, Rejection> {
        match command {
            TaskCommand::RequestTask(c) => self.request(c, by),
            TaskCommand::CompleteTask(c) => {
                self.worked_on(by)?;
                self.complete(c)
            }
            TaskCommand::FailTask(c) => {
                self.worked_on(by)?;
                Ok(self.fail(c))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::{ActorType, SubjectKey};

    use super::*;
    use crate::testing::{AT, given};

    fn ada() -> Actor {
        Actor { id: "ada".into(), kind: ActorType::User, ..Actor::service("x") }
    }

    fn sealed(by: &str, text: &str) -> Personal {
        SubjectKey::from_bytes(by, [1; 32]).seal(text)
    }

    fn request() -> RequestTask {
        RequestTask {
            request_id: "r1".into(),
            kind: TaskKind::Rerank,
            provider: None,
            model: None,
            input: sealed("ada", "{}"),
            credential_id: None,
            deadline: None,
            context: CompletionContext::default(),
        }
    }

    fn complete() -> CompleteTask {
        CompleteTask {
            request_id: "r1".into(),
            provider: "openai".into(),
            model: "m".into(),
            output: sealed("ada", "[]"),
            usage: Usage::default(),
            units: TaskUnits::default(),
            cost: None,
            total_ms: 1,
            credential_id: None,
            credential_source: "none".into(),
            budgets: Vec::new(),
            guarded: Vec::new(),
        }
    }

    #[test]
    fn a_task_has_one_end_and_the_platform_gives_it() {
        let by = Actor::service("x");
        let requested = Task::default().decide(request().into(), &ada(), AT).unwrap().events;
        given::<Task>(requested.clone()).when(complete(), &ada()).rejected("FORBIDDEN");
        given::<Task>([]).when(complete(), &by).rejected("NOT_FOUND");
        let large = CompleteTask { output: sealed("ada", &"x".repeat(MAX_TASK + 1)), ..complete() };
        given::<Task>(requested.clone()).when(large, &by).rejected("TOO_LARGE");
        let mut state = Task::default();
        requested.iter().for_each(|event| state.apply(event));
        let done = state.decide(complete().into(), &by, AT).unwrap().events;
        given::<Task>(requested.into_iter().chain(done)).when(complete(), &by).rejected("TASK_OVER");
    }

    #[test]
    fn what_somebody_else_sealed_and_what_makes_no_sense_are_refused() {
        let foreign = RequestTask { input: sealed("bob", "{}"), ..request() };
        given::<Task>([]).when(foreign, &ada()).rejected("WRONG_KEY");
        let late = RequestTask { deadline: Some("soon".into()), ..request() };
        given::<Task>([]).when(late, &ada()).rejected("VALIDATION_FAILED");
        let large = RequestTask { input: sealed("ada", &"x".repeat(MAX_TASK + 1)), ..request() };
        given::<Task>([]).when(large, &ada()).rejected("TOO_LARGE");
        let context = CompletionContext { user_id: Some("bob".into()), ..CompletionContext::default() };
        given::<Task>([]).when(RequestTask { context, ..request() }, &ada()).rejected("FORBIDDEN");
    }
}
