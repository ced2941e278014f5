//! The loop: a model is asked, and asked again with what its calls gave.
//!
//! Who holds it drives it: when it is dropped, what is under way is the last that was asked for.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::http::StatusCode;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use serde_json::{Value, json};
use symbia_commands::Actor;
use symbia_events::{
    CommandId,
    integrations::{ErrorCategory, PromptMore, PromptRole, ToolChoice},
};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{
    Toolset,
    calls::{Made, Planned, Who, make, plan, results},
    names::Next,
    outcome::{Outcome, Round},
};
use crate::{
    http::{ApiError, ApiResult, Caller, RequestScope},
    integrations::{
        Integrations,
        ask::{Asked, GRACE, Message, PATIENCE, Question, request_id},
        said::{Answer, Failure, Said},
    },
};

/// How long all rounds may take together where the answer is a stream. Who waits for a whole answer has no more patience than for
/// one of a single request.
const LONGEST: Duration = Duration::from_secs(600);
/// Most calls of a turn that are made at once.
const AT_ONCE: usize = 4;

/// The loop, from its first request on.
pub(in crate::integrations) struct Rounds {
    who: Who,
    toolset: Arc<Toolset>,
    question: Question,
    first: Uuid,
    /// When it was asked first.
    pub asked_at: OffsetDateTime,
    deadline: Instant,
    done: Vec<Round>,
    state: State,
    steps: VecDeque<Step>,
}

enum State {
    Asking(Box<Asked>),
    Calling { ends: Vec<Option<Made>>, running: BoxStream<'static, (usize, ApiResult<Made>)> },
    Over,
}

/// What happens next.
pub(in crate::integrations) enum Step {
    /// Something of the turn under way, and never its end.
    Said(Said),
    /// The turn has its end.
    Answered(Box<Answer>),
    /// What it calls is called now.
    Calls(Vec<Planned>),
    /// The call with this place has its end.
    Called(usize, Made),
    /// The model is asked again, by the request with this id.
    Asked(String),
    /// The end.
    Over(Box<Outcome>),
    /// The end, when there is no answer.
    Failed(Box<Trouble>),
}

/// Why there is no answer.
pub(in crate::integrations) enum Trouble {
    /// A request was not taken.
    Refused(ApiError),
    /// The request with this id came to nothing.
    Failed(String, Failure),
}

/// What stands in the place of what a first request repeats, in a later one.
fn later_round(first: Uuid) -> Value {
    json!({ LATER_ROUND: first })
}

/// The member that names the first request in what is kept of a later one.
pub(in crate::integrations) const LATER_ROUND: &str = "round_of";

/// The id of the command by which the turn with this number is asked for; `first` is the id of the first request.
pub(in crate::integrations) fn nth_round(first: Uuid, number: u32) -> CommandId {
    CommandId(Uuid::new_v5(&first, format!("round {number}").as_bytes()))
}

impl Rounds {
    /// Asks the first time.
    pub async fn begin(
        service: &Integrations,
        caller: &Caller,
        scope: &RequestScope,
        question: Question,
        toolset: Toolset,
    ) -> ApiResult<Self> {
        let who = Who { service: service.clone(), caller: caller.clone(), scope: scope.clone() };
        let deadline = Instant::now() + if question.stream { LONGEST } else { PATIENCE };
        let command_id = CommandId(scope.command_id(&Actor::from(&**caller).id));
        let asked = who.ask(command_id, &question, deadline).await?;
        Ok(Rounds {
            who,
            toolset: Arc::new(toolset),
            question,
            first: request_id(command_id),
            asked_at: asked.asked_at,
            deadline,
            done: Vec::new(),
            state: State::Asking(Box::new(asked)),
            steps: VecDeque::new(),
        })
    }

    /// Id of the first request, and of all of them together.
    pub fn request_id(&self) -> String {
        self.first.to_string()
    }

    /// The tools.
    pub fn toolset(&self) -> &Toolset {
        &self.toolset
    }

    /// What a model is asked.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// The end, whatever comes before it.
    pub async fn end(&mut self) -> Result<Outcome, Trouble> {
        loop {
            match self.next().await {
                Some(Step::Over(outcome)) => return Ok(*outcome),
                Some(Step::Failed(trouble)) => return Err(*trouble),
                Some(_) => {}
                None => return Err(Trouble::Refused(ApiError::internal("tools were called without an end"))),
            }
        }
    }

    /// What happens next; none after the end.
    pub async fn next(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Some(step);
            }
            match &mut self.state {
                State::Over => return None,
                State::Asking(asked) => match asked.next().await {
                    Said::Completed(answer) => {
                        let id = asked.request_id.clone();
                        self.answered(id, *answer);
                    }
                    Said::Failed(failure) => {
                        let id = asked.request_id.clone();
                        let failure = if Instant::now() < self.deadline { failure } else { late() };
                        self.fail(Trouble::Failed(id, failure));
                    }
                    said => return Some(Step::Said(said)),
                },
                State::Calling { ends, running } => match timeout_at(self.deadline, running.next()).await {
                    Ok(Some((place, Ok(made)))) => {
                        if let Some(end) = ends.get_mut(place) {
                            *end = Some(made.clone());
                        }
                        return Some(Step::Called(place, made));
                    }
                    Ok(Some((_, Err(error)))) => self.fail(Trouble::Refused(error)),
                    Ok(None) => {
                        let made = std::mem::take(ends).into_iter().flatten().collect();
                        self.ask_again(made).await;
                    }
                    Err(_) => self.fail(Trouble::Failed(self.request_id(), late())),
                },
            }
        }
    }

    fn answered(&mut self, request_id: String, answer: Answer) {
        let number = self.number();
        let (names, first) = (&self.toolset.names, self.first);
        self.steps.push_back(Step::Answered(Box::new(answer.clone())));
        let next = names.next(&answer.first, number);
        let planned = plan(names, first, number, &answer.first.tool_calls);
        self.done.push(Round { request_id, answer, calls: Vec::new() });
        if next != Next::Calls {
            return self.finish(next == Next::UsedUp);
        }
        self.steps.push_back(Step::Calls(planned.clone()));
        let (who, toolset) = (self.who.clone(), Arc::clone(&self.toolset));
        let ends = vec![None; planned.len()];
        let calls = planned.into_iter().enumerate().map(move |(place, planned)| {
            let made = make(who.clone(), Arc::clone(&toolset), planned);
            async move { (place, made.await) }
        });
        self.state = State::Calling { ends, running: stream::iter(calls).buffer_unordered(AT_ONCE).boxed() };
    }

    async fn ask_again(&mut self, made: Vec<Made>) {
        let Some(round) = self.done.last_mut() else { return self.finish(false) };
        let said = &round.answer.first;
        let more = PromptMore { tool_calls: said.tool_calls.clone(), ..PromptMore::default() };
        self.question.messages.push(Message { more, ..Message::text(PromptRole::Assistant, &said.text) });
        let told = results(&self.question, &said.tool_calls, &made);
        self.question.messages.extend(told);
        round.calls = made;
        // What had to be called was called.
        let options = &mut self.question.options;
        if matches!(options.tool_choice, Some(ToolChoice::Required | ToolChoice::Named(_))) {
            options.tool_choice = Some(ToolChoice::Auto);
        }
        // What the whole answer repeats of the request stands in the first.
        options.echo = options.echo.is_some().then(|| later_round(self.first));
        let command_id = nth_round(self.first, self.number());
        match self.who.ask(command_id, &self.question, self.deadline).await {
            Ok(asked) => {
                self.steps.push_back(Step::Asked(asked.request_id.clone()));
                self.state = State::Asking(Box::new(asked));
            }
            Err(error) => self.fail(Trouble::Refused(error)),
        }
    }

    // Of the turn under way, from 1.
    fn number(&self) -> u32 {
        u32::try_from(self.done.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn finish(&mut self, used_up: bool) {
        self.state = State::Over;
        let outcome = Outcome::new(std::mem::take(&mut self.done), &self.toolset.names, used_up);
        self.steps.extend(outcome.map(|outcome| Step::Over(Box::new(outcome))));
    }

    fn fail(&mut self, trouble: Trouble) {
        self.state = State::Over;
        self.steps.push_back(Step::Failed(Box::new(trouble)));
    }
}

fn late() -> Failure {
    let message = "the calls of tools take too long; the step under way goes on, and the same request with the same \
                   Idempotency-Key goes on from there";
    Failure::new(ErrorCategory::Timeout, "deadline", message)
}

impl Who {
    async fn ask(&self, command_id: CommandId, question: &Question, deadline: Instant) -> ApiResult<Asked> {
        let until = deadline.min(Instant::now() + PATIENCE) + GRACE;
        let asked = self.service.ask_as(&self.caller, &self.scope, command_id, question.clone(), until).await;
        // Who can ask for the same again finds what was begun.
        match self.scope.idempotency_key {
            Some(_) => asked.map(Asked::kept),
            None => asked,
        }
    }
}

impl Trouble {
    /// As an answer of its own.
    pub fn error(self) -> ApiError {
        match self {
            Trouble::Refused(error) => error,
            Trouble::Failed(request_id, failure) => failure.error(&request_id),
        }
    }

    /// As the end of an answer that was begun.
    pub fn failure(self) -> Failure {
        match self {
            Trouble::Failed(_, failure) => failure,
            Trouble::Refused(error) => {
                let category = match error.status() {
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorCategory::Auth,
                    StatusCode::PAYMENT_REQUIRED => ErrorCategory::Quota,
                    StatusCode::NOT_FOUND => ErrorCategory::NotFound,
                    StatusCode::TOO_MANY_REQUESTS => ErrorCategory::RateLimit,
                    StatusCode::GATEWAY_TIMEOUT => ErrorCategory::Timeout,
                    status if status.is_client_error() => ErrorCategory::Validation,
                    _ => ErrorCategory::Internal,
                };
                Failure::new(category, &error.code().to_lowercase(), error.message())
            }
        }
    }
}
