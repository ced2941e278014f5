//! What follows from what in a conversation with assistants: the process manager, as pure functions (DESIGN §6).
//!
//! A reaction is a list of commands. The worker sends them in order, each once the one before was accepted, and
//! acknowledges the event after the last; when one is refused it stops and asks [`on_refused`]. Ids are derived, so a repeated event
//! repeats the same commands and nothing happens twice. A run's own command comes before the effect it records: intent
//! before act.
//!
//! | event | follows |
//! |---|---|
//! | `MessageSent` by a person | [`on_message`]: start a run, perform its first action |
//! | `CompletionCompleted` | [`on_completion`]: record the outcome, perform the next action |
//! | `CompletionFailed` | [`on_completion`]: record the failure, say so in the conversation |
//! | `CompletionCancelled` | [`on_completion`]: cancel the run |
//! | `MessageSent` by an assistant for a run | [`on_reply`]: record the outcome, go on or complete the run |
//! | `RuleRunCancelled` | [`on_cancelled`]: cancel its completion |
//! | `CompletionPartialKept` | [`on_partial`](super::control::on_partial): keep it as a message |
//! | `ControlIssued`, `ConversationRouted` | [`control`](super::control): stop runs, offer a question anew |

use std::collections::BTreeMap;

use symbia_events::{
    ActorType, AggregateRef, AuthMethod, CommandId, DecodeError, MessageType, OrgId, Service, SubjectKey,
    assistants::{AssistantDefinition, RuleRunStarted},
    integrations::{CompletionEvent, ErrorCategory},
    messaging::{MessageSent, SenderType},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    ActionOutcome, ActionOutput, CancelRuleRun, FailRuleRun, Next, RecordActionOutcome, RuleRun, RuleRunCommand,
    StartRuleRun,
    award::{Candidate, asks, award},
    fault::Failure,
    plan::{action_id, address, message_id, plan, reply, request_id},
    rules::{LLM_INVOKE, MESSAGE_SEND, script},
};
use crate::{
    Actor, DomainCommand, Membership, Rejection, Role,
    integrations::{CancelCompletion, CompletionCommand},
    messaging::{ASSISTANT_PREFIX, ConversationCommand},
};

/// The event that a reaction follows from.
#[derive(Clone, Debug)]
pub struct Cause {
    /// Its id.
    pub event_id: Uuid,
    /// Its time.
    pub at: OffsetDateTime,
    /// The tenant of the conversation.
    pub tenant: OrgId,
}

/// A message with its text opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in the event MessageSent")]
pub struct Text {
    pub id: String,
    pub sender_id: String,
    pub sender_type: SenderType,
    pub content_type: String,
    pub text: String,
    /// Seals what is made of it, so that it goes when the text does. Absent: the conversation's own key.
    pub seal: Option<Seal>,
}

/// A key; one is another when its id is.
#[derive(Clone, Debug)]
pub struct Seal(pub SubjectKey);

impl PartialEq for Seal {
    fn eq(&self, other: &Self) -> bool {
        self.0.kid() == other.0.kid()
    }
}

impl Eq for Seal {}

impl Text {
    /// A message with its opened text.
    #[must_use]
    pub fn new(sent: &MessageSent, text: String) -> Self {
        Text {
            id: sent.message_id.clone(),
            sender_id: sent.sender_id.clone(),
            sender_type: sent.sender_type,
            content_type: sent.content_type.clone(),
            text,
            seal: None,
        }
    }

    /// Its key, else the conversation's.
    pub(super) fn key<'k>(&'k self, conversation: &'k SubjectKey) -> &'k SubjectKey {
        self.seal.as_ref().map_or(conversation, |seal| &seal.0)
    }
}

/// What the worker loads and opens for a run; what the run pins of it is taken from the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The conversation.
    pub conversation_id: String,
    /// The message that asks.
    pub message: Text,
    /// Messages before it, oldest first; those that are deleted or cannot be opened are left out.
    pub history: Vec<Text>,
    /// Name of who asks, when known.
    pub sender_name: Option<String>,
    /// The run's assistant, once there is a run.
    pub assistant: Option<AssistantDefinition>,
    /// Texts of the run's completions, by request id.
    pub answers: BTreeMap<String, String>,
}

/// A command of any aggregate that takes part.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant wraps the commands of its aggregate")]
#[allow(clippy::large_enum_variant, reason = "a command is moved a few times; a box would cost each of them")]
pub enum Command {
    Conversation(ConversationCommand),
    RuleRun(RuleRunCommand),
    Completion(CompletionCommand),
}

impl Command {
    /// The service that decides it.
    #[must_use]
    pub fn service(&self) -> Service {
        match self {
            Command::Conversation(_) => Service::Messaging,
            Command::RuleRun(_) => Service::Assistants,
            Command::Completion(_) => Service::Integrations,
        }
    }
}

impl DomainCommand for Command {
    fn command_type(&self) -> &'static str {
        match self {
            Command::Conversation(c) => c.command_type(),
            Command::RuleRun(c) => c.command_type(),
            Command::Completion(c) => c.command_type(),
        }
    }

    fn to_data(&self) -> serde_json::Result<Box<serde_json::value::RawValue>> {
        match self {
            Command::Conversation(c) => c.to_data(),
            Command::RuleRun(c) => c.to_data(),
            Command::Completion(c) => c.to_data(),
        }
    }

    fn from_data(command_type: &str, data: &str) -> Result<Self, DecodeError> {
        match command_type.split('.').nth(2) {
            Some("messaging") => ConversationCommand::from_data(command_type, data).map(Command::Conversation),
            Some("assistants") => RuleRunCommand::from_data(command_type, data).map(Command::RuleRun),
            _ => CompletionCommand::from_data(command_type, data).map(Command::Completion),
        }
    }

    fn types() -> Vec<MessageType> {
        [ConversationCommand::types(), RuleRunCommand::types(), CompletionCommand::types()].concat()
    }
}

/// A command that follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Reaction {
    /// The aggregate that decides it.
    pub to: AggregateRef,
    /// The command.
    pub command: Command,
    /// In whose name: the rule engine, or the assistant that speaks.
    pub by: Actor,
    /// Its id, derived from what it follows from.
    pub id: CommandId,
}

/// A run goes on with templates that need its inputs: load them and ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run goes on and needs its inputs")]
pub struct NeedsInputs;

/// The run that a message sets off. The worker looks there whether it has started.
#[must_use]
pub fn run_id(cause: &Cause) -> Uuid {
    Uuid::new_v5(&cause.event_id, b"rule-run")
}

/// An assistant as the sender of its messages.
#[must_use]
pub fn speaker(assistant_key: &str, tenant: &OrgId) -> Actor {
    Actor {
        id: format!("{ASSISTANT_PREFIX}{assistant_key}"),
        kind: ActorType::Agent,
        auth: AuthMethod::Service,
        orgs: vec![Membership { id: tenant.clone(), role: Role::Member }],
        ..engine()
    }
}

fn engine() -> Actor {
    Actor::service("assistants")
}

/// A message was sent in a conversation with these assistants. `started` is the run that it has set off already, when the
/// event is handled again: then that run's pinned rule counts, whatever the rules say by now.
#[must_use]
pub fn on_message(
    cause: &Cause,
    inputs: &Inputs,
    candidates: &[Candidate],
    started: Option<&RuleRunStarted>,
    key: &SubjectKey,
) -> Vec<Reaction> {
    if !asks(inputs.message.sender_type) {
        return Vec::new();
    }
    if let Some(started) = started {
        return begin(cause, started, inputs, key).1.into_iter().collect();
    }
    let run_id = run_id(cause).to_string();
    let Some(award) = award(cause, inputs, candidates, &run_id, key) else { return Vec::new() };
    let definition = candidates.iter().find(|c| c.key == award.started.assistant_key).and_then(|c| c.definition);
    let inputs = Inputs { assistant: definition.cloned(), ..inputs.clone() };
    let (next, effect) = begin(cause, &award.started, &inputs, key);
    let start = StartRuleRun { started: award.started, evaluated: award.evaluated, next };
    run_command(cause, &run_id, start, "start-rule-run").into_iter().chain(effect).collect()
}

/// A completion of a run has its end; `started` is that run, named by the completion's context.
#[must_use]
pub fn on_completion(
    cause: &Cause,
    started: &RuleRunStarted,
    event: &CompletionEvent,
    inputs: &Inputs,
    key: &SubjectKey,
) -> Vec<Reaction> {
    let (request, outcome) = match event {
        CompletionEvent::CompletionCompleted(e) => {
            let answer = inputs.answers.get(&e.request_id).map_or("", |text| text.trim());
            let output = ActionOutput {
                output_ref: format!("completion/{}", e.request_id),
                digest: e.content_digest.clone(),
                usage: Some(e.usage),
            };
            let empty = || Failure::of_completion(ErrorCategory::Provider, Some("empty_response"));
            (&e.request_id, if answer.is_empty() { Err(empty()) } else { Ok(output) })
        }
        CompletionEvent::CompletionFailed(e) => {
            (&e.request_id, Err(Failure::of_completion(e.category, e.code.as_deref())))
        }
        CompletionEvent::CompletionCancelled(e) => {
            let cancel = CancelRuleRun { reason: e.reason.clone(), keep_partial: None };
            return run_command(cause, &started.rule_run_id, cancel, "cancel-rule-run").into_iter().collect();
        }
        _ => return Vec::new(),
    };
    let Some(index) = index_of(started, LLM_INVOKE, |action| request_id(action) == *request) else { return Vec::new() };
    let (outcome, next, effect) = match outcome {
        Ok(output) => {
            let (next, effect) = go_on(cause, started, index + 1, inputs, key);
            (ActionOutcome::Completed(output), next, effect)
        }
        Err(failure) => {
            let effect = fault(cause, started, &failure, key);
            (ActionOutcome::Failed(failure), Next::End, effect)
        }
    };
    let record = RecordActionOutcome { action_id: action_id(started, index).to_string(), outcome, next };
    run_command(cause, &started.rule_run_id, record, "record-action-outcome").into_iter().chain(effect).collect()
}

/// An assistant's message of a run stands in the conversation; `started` is the run that it names.
pub fn on_reply(
    cause: &Cause,
    started: &RuleRunStarted,
    sent: &MessageSent,
    inputs: Option<&Inputs>,
    key: &SubjectKey,
) -> Result<Vec<Reaction>, NeedsInputs> {
    let speaker = format!("{ASSISTANT_PREFIX}{}", started.assistant_key);
    let ours = sent.sender_id == speaker && sent.run_id.as_ref() == Some(&started.rule_run_id);
    let index = index_of(started, MESSAGE_SEND, |action| message_id(action) == sent.message_id);
    let Some(index) = index.filter(|_| ours) else { return Ok(Vec::new()) };
    let last = started.rule.as_ref().map(script).is_none_or(|steps| index + 1 >= steps.len());
    let (next, effect) = match inputs {
        _ if last => (Next::End, None),
        Some(inputs) => go_on(cause, started, index + 1, inputs, key),
        None => return Err(NeedsInputs),
    };
    let output_ref = format!("message/{}", sent.message_id);
    let output = ActionOutput { output_ref, digest: sent.content_digest.clone(), usage: None };
    let (action_id, outcome) = (action_id(started, index).to_string(), ActionOutcome::Completed(output));
    let record = RecordActionOutcome { action_id, outcome, next };
    Ok(run_command(cause, &started.rule_run_id, record, "record-action-outcome").into_iter().chain(effect).collect())
}

/// A run was stopped: its model is stopped too.
#[must_use]
pub fn on_cancelled(cause: &Cause, run: &RuleRun, reason: &str) -> Vec<Reaction> {
    let Some(request_id) = run.open_ref().and_then(|open| open.strip_prefix("completion/")) else { return Vec::new() };
    let cancel = CancelCompletion {
        request_id: request_id.to_owned(),
        reason: reason.to_owned(),
        partial_content: None,
        usage: None,
        keep_partial: run.keeps_partial().is_some(),
    };
    let command = Command::Completion(cancel.into());
    let to = address(cause, &command, "completion", request_id);
    let id = CommandId::derived(cause.event_id, "cancel-completion");
    to.map(|to| Reaction { to, command, by: engine(), id }).into_iter().collect()
}

/// A command of a reaction was refused: the run fails, and says so unless it was refused to speak.
#[must_use]
pub fn on_refused(
    cause: &Cause,
    started: &RuleRunStarted,
    refused: &Command,
    rejection: &Rejection,
    key: &SubjectKey,
) -> Vec<Reaction> {
    let (Command::Conversation(_) | Command::Completion(CompletionCommand::RequestCompletion(_))) = refused else {
        // A run refuses what comes too late; a completion that is over needs no cancellation.
        return Vec::new();
    };
    let failure = Failure {
        category: ErrorCategory::Validation,
        code: Some(rejection.code.to_string()),
        error: rejection.message.clone(),
    };
    let said = matches!(refused, Command::Completion(_)).then(|| fault(cause, started, &failure, key)).flatten();
    let fail = run_command(cause, &started.rule_run_id, FailRuleRun { failure }, "fail-rule-run");
    fail.into_iter().chain(said).collect()
}

fn index_of(started: &RuleRunStarted, action_type: &str, is: impl Fn(Uuid) -> bool) -> Option<usize> {
    let steps = started.rule.as_ref().map(script).unwrap_or_default();
    (0..steps.len()).find(|index| steps[*index].action_type == action_type && is(action_id(started, *index)))
}

// How a run begins: with its first action, or with saying that nobody is there to answer.
fn begin(cause: &Cause, started: &RuleRunStarted, inputs: &Inputs, key: &SubjectKey) -> (Next, Option<Reaction>) {
    if started.rule_set_id.is_some() {
        return go_on(cause, started, 0, inputs, key);
    }
    let error = "there is no such assistant, or it has no rules; an operator can publish it or remove it from the \
                 conversation";
    fail(cause, started, Failure::new(ErrorCategory::NotFound, "assistant_not_found", error), key)
}

// How a run goes on at a place of its script, and the command that performs it.
fn go_on(
    cause: &Cause,
    started: &RuleRunStarted,
    at: usize,
    inputs: &Inputs,
    key: &SubjectKey,
) -> (Next, Option<Reaction>) {
    let steps = started.rule.as_ref().map(script).unwrap_or_default();
    let Some(config) = steps.get(at) else { return (Next::End, None) };
    match plan(cause, started, at, config, inputs, key) {
        Ok(plan) => {
            let by = match plan.command {
                Command::Conversation(_) => speaker(&started.assistant_key, &cause.tenant),
                _ => engine(),
            };
            let id = CommandId::derived(action_id(started, at), "perform");
            let to = address(cause, &plan.command, plan.to.0, &plan.to.1);
            (Next::Do(plan.action), to.map(|to| Reaction { to, command: plan.command, by, id }))
        }
        Err(failure) => fail(cause, started, failure, key),
    }
}

fn fail(cause: &Cause, started: &RuleRunStarted, failure: Failure, key: &SubjectKey) -> (Next, Option<Reaction>) {
    let said = fault(cause, started, &failure, key);
    (Next::Fail(failure), said)
}

// The one message of a run that failed.
fn fault(cause: &Cause, started: &RuleRunStarted, failure: &Failure, key: &SubjectKey) -> Option<Reaction> {
    let run = Uuid::try_parse(&started.rule_run_id).ok()?;
    let message = reply(started, Uuid::new_v5(&run, b"fault").to_string(), &failure.text(), key);
    let command = Command::Conversation(message.into());
    let to = address(cause, &command, "conversation", &started.conversation_id)?;
    let by = speaker(&started.assistant_key, &cause.tenant);
    Some(Reaction { to, command, by, id: CommandId::derived(run, "fault") })
}

pub(super) fn run_command(
    cause: &Cause,
    run_id: &str,
    command: impl Into<RuleRunCommand>,
    purpose: &str,
) -> Option<Reaction> {
    let command = Command::RuleRun(command.into());
    let to = address(cause, &command, "rule-run", run_id)?;
    Some(Reaction { to, command, by: engine(), id: CommandId::derived(cause.event_id, purpose) })
}

#[cfg(test)]
pub(super) mod house;
#[cfg(test)]
mod tests;
