//! The completion aggregate: numbered attempts, and exactly one end (integrations.md §25.3, DESIGN §6).

mod commands;

pub use commands::*;

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef,
    integrations::{
        CompletionAdmitted, CompletionAttemptFailed, CompletionAttemptStarted, CompletionCancelled,
        CompletionCompleted, CompletionContext, CompletionEvent, CompletionFailed, CompletionForgotten,
        CompletionGuarded, CompletionPartialKept, CompletionRequested, ErrorCategory, GuardrailFinding, GuardrailHook,
        PromptMessage, Sampling, Spent,
    },
    messaging::{content_key_id, is_content_key},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::tags::check_tags;
use crate::{Actor, Aggregate, Decision, Rejection};

/// A conversation is asked about.
pub const CHAT: &str = "chat.completions";
/// What a picture shows is asked for.
pub const DESCRIPTION: &str = "image.description";
/// What a model can be asked for with a prompt; the names differ by the API that asked.
pub const OPERATIONS: [&str; 5] = [CHAT, "messages", "text.generation", "responses", DESCRIPTION];
/// Most messages of a prompt.
pub const MAX_MESSAGES: usize = 500;
/// Most bytes of a conversation's text and of an answer: sealed, each must fit into an event.
pub const MAX_TEXT: usize = 128 * 1024;
/// Most bytes of a prompt with its small images and tools: sealed, it must fit into an event. Others are kept beside the log.
pub const MAX_PROMPT: usize = 180 * 1024;
/// The code of an attempt that was given up for another that began to answer first.
pub const HEDGE_LOST: &str = "hedge_lost";
/// Most models that are asked one after another.
pub const MAX_FALLBACKS: usize = 8;

/// A completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    request_id: String,
    requested_by: String,
    requested_model: Option<String>,
    operation: String,
    context: CompletionContext,
    attempts: u32,
    attempt_provider: String,
    attempt_model: String,
    attempt_worker: String,
    /// Attempts under way: one, or two of which the first to answer goes on.
    open: Vec<Open>,
    /// What attempts took that were given up.
    hedged: Option<Spent>,
    budgets: Vec<String>,
    guarded: Vec<GuardrailFinding>,
    phase: Phase,
    partial_wanted: bool,
    forgotten: bool,
}

/// An attempt under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Open {
    attempt: u32,
    provider: String,
    model: String,
    credential_id: Option<String>,
    credential_source: String,
}

/// Where a completion stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Never requested.
    #[default]
    Unknown,
    /// Waits for a worker.
    Waiting,
    /// An attempt is under way.
    Running,
    /// It has its one end.
    Over,
}

impl Completion {
    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How many attempts were started.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Provider and model of the last attempt.
    #[must_use]
    pub fn asked_last(&self) -> (&str, &str) {
        (&self.attempt_provider, &self.attempt_model)
    }

    /// The worker of the last attempt.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.attempt_worker
    }

    /// The budgets that keep room for it.
    #[must_use]
    pub fn budgets(&self) -> &[String] {
        &self.budgets
    }

    /// On whose behalf it was requested.
    #[must_use]
    pub fn context(&self) -> &CompletionContext {
        &self.context
    }

    /// Whether what the model had said when it was stopped is wanted, and not handed in yet.
    #[must_use]
    pub fn wants_partial(&self) -> bool {
        self.partial_wanted
    }

    fn live(&self) -> Result<(), Rejection> {
        match self.phase {
            Phase::Unknown => Err(Rejection::not_found("completion")),
            Phase::Over => Err(Rejection::new("COMPLETION_OVER", "the completion has its end already")),
            Phase::Waiting | Phase::Running => Ok(()),
        }
    }

    fn worked_on(&self, by: &Actor) -> Result<(), Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("completions are worked on by the platform"));
        }
        self.live()
    }

    // A worker that was taken for lost and comes back must not end what another has begun again.
    fn current(&self, attempt: u32) -> Result<&Open, Rejection> {
        if let Some(open) = self.open.iter().find(|open| open.attempt == attempt) {
            return Ok(open);
        }
        let text = format!("attempt {attempt} is not under way; the last one is {}", self.attempts);
        Err(Rejection::new("STALE_ATTEMPT", text))
    }

    fn request(&self, mut c: RequestCompletion, by: &Actor) -> Result<Decision<CompletionEvent>, Rejection> {
        if self.phase != Phase::Unknown {
            return Err(Rejection::new("CONFLICT", "this request id is in use"));
        }
        // Who could name a run could end it.
        let context = &c.context;
        let claims = [
            &context.conversation_id,
            &context.rule_run_id,
            &context.action_id,
            &context.assistant_id,
            &context.reply_message_id,
            &context.user_id,
            &context.key_id,
            &context.evaluation_id,
            &context.case_id,
            &context.graded_id,
            &context.batch_id,
        ];
        if !by.is_platform() && claims.iter().any(|claim| claim.is_some()) {
            return Err(Rejection::forbidden("only the platform asks on behalf of a conversation or a run"));
        }
        if c.request_id.is_empty() || !OPERATIONS.contains(&c.operation.as_str()) {
            let text = format!("requestId must not be empty, operation is one of {}", OPERATIONS.join(", "));
            return Err(Rejection::invalid(text));
        }
        if c.fallbacks.len() > MAX_FALLBACKS {
            return Err(Rejection::invalid(format!("fallbacks: at most {MAX_FALLBACKS}")));
        }
        if c.messages.is_empty() || c.messages.len() > MAX_MESSAGES {
            return Err(Rejection::invalid(format!("messages: 1 to {MAX_MESSAGES}")));
        }
        // What somebody else sealed would be opened for the model, and read aloud by it.
        if !by.is_platform() {
            let own = by.subject();
            under_key(&c, own, |kid| kid == own)?;
        }
        let more = |m: &PromptMessage| m.content.text_len() + m.more.as_ref().map_or(0, |more| more.text_len());
        let options = c.options.as_ref().map_or(0, |options| options.text_len());
        fits("messages", c.messages.iter().map(more).sum::<usize>() + options, MAX_PROMPT)?;
        check(&c.sampling)?;
        check_tags(&c.context.tags)?;
        if c.deadline.as_ref().is_some_and(|d| OffsetDateTime::parse(d, &Rfc3339).is_err()) {
            return Err(Rejection::invalid("deadline: an RFC 3339 time"));
        }
        if !by.is_platform() {
            c.context.user_id = by.on_behalf_of.clone();
            c.context.key_id.clone_from(&by.key);
        }
        Ok(Decision::one(CompletionRequested {
            request_id: c.request_id,
            provider: c.provider,
            model: c.model,
            operation: c.operation,
            messages: c.messages,
            sampling: c.sampling,
            stream: c.stream,
            credential_id: c.credential_id,
            idempotency_key: c.idempotency_key,
            deadline: c.deadline,
            context: c.context,
            prompt_digest: c.prompt_digest,
            requested_by: by.subject().to_owned(),
            options: c.options,
            fallbacks: c.fallbacks,
        }))
    }

    fn admit(&self, c: AdmitCompletion, by: &Actor) -> Result<Decision<CompletionEvent>, Rejection> {
        self.worked_on(by)?;
        if self.attempts > 0 {
            return Err(Rejection::new("STALE_ATTEMPT", "an attempt was made already"));
        }
        Ok(Decision::one(CompletionAdmitted { request_id: c.request_id, budgets: c.budgets }))
    }

    fn start(&self, c: StartCompletionAttempt, by: &Actor) -> Result<Decision<CompletionEvent>, Rejection> {
        self.worked_on(by)?;
        if c.attempt != self.attempts + 1 {
            let text = format!("the next attempt is number {}", self.attempts + 1);
            return Err(Rejection::new("STALE_ATTEMPT", text));
        }
        match (c.hedges, &*self.open) {
            (None, _) => {}
            (Some(hedged), [only]) if only.attempt == hedged => {}
            (Some(hedged), _) => {
                let text = format!("attempt {hedged} is not the only one under way: none is made beside it");
                return Err(Rejection::new("STALE_ATTEMPT", text));
            }
        }
        let lost = self.open.iter().filter(|_| c.hedges.is_none()).map(|open| CompletionAttemptFailed {
            request_id: c.request_id.clone(),
            attempt: open.attempt,
            category: ErrorCategory::Internal,
            code: Some("worker_lost".to_owned()),
            upstream: None,
            message: None,
            retry_after_ms: None,
            will_retry: true,
            spent: None,
        });
        let decision = lost.fold(Decision::nothing(), |decision, lost| decision.and(lost));
        let started = CompletionAttemptStarted {
            request_id: c.request_id,
            attempt: c.attempt,
            provider: c.provider,
            model: c.model,
            model_digest: c.model_digest,
            worker_id: c.worker_id,
            credential_id: c.credential_id,
            credential_source: c.credential_source,
            dropped_params: c.dropped_params,
            hedges: c.hedges,
        };
        // Attempts have the same prompt, unless a guardrail was changed meanwhile.
        let guarded = Some(c.guarded).filter(|guarded| *guarded != self.guarded);
        let attempt = Some(started.attempt);
        let guarded = found(&started.request_id, attempt, GuardrailHook::Prompt, guarded.unwrap_or_default());
        Ok(match guarded {
            Some(guarded) => decision.and(guarded),
            None => decision,
        }
        .and(started))
    }

    fn fail_attempt(&self, c: FailCompletionAttempt, by: &Actor) -> Result<Decision<CompletionEvent>, Rejection> {
        self.worked_on(by)?;
        self.current(c.attempt)?;
        let will_retry = c.code.as_deref() != Some(HEDGE_LOST);
        Ok(Decision::one(CompletionAttemptFailed {
            request_id: c.request_id,
            attempt: c.attempt,
            category: c.category,
            code: c.code,
            upstream: c.upstream,
            message: c.message,
            retry_after_ms: c.retry_after_ms,
            will_retry,
            spent: c.spent,
        }))
    }

    fn complete(&self, c: CompleteCompletion, by: &Actor) -> Result<Decision<CompletionEvent>, Rejection> {
        self.worked_on(by)?;
        let by_attempt = self.current(c.attempt)?.clone();
        let calls = c.tool_calls.as_ref().map_or(0, |calls| calls.text_len());
        let reasoning = c.reasoning.as_ref().map_or(0, |reasoning| reasoning.text_len());
        fits("content", c.content.text_len().max(calls).max(reasoning), MAX_TEXT)?;
        fits("more", c.more.as_ref().map_or(0, |more| more.text_len()), MAX_PROMPT)?;
        let guarded = found(&c.request_id, Some(c.attempt), GuardrailHook::Answer, c.guarded);
        Ok(guarded.map_or_else(Decision::nothing, Decision::one).and(CompletionCompleted {
            request_id: c.request_id,
            attempt: c.attempt,
            provider: by_attempt.provider,
            requested_model: self.requested_model.clone(),
            model: c.model,
            operation: self.operation.clone(),
            content: c.content,
            content_digest: c.content_digest,
            finish_reason: c.finish_reason,
            raw_finish_reason: c.raw_finish_reason,
            usage: c.usage,
            timing: c.timing,
            attempts: self.attempts,
            provider_request_id: c.provider_request_id,
            context: self.context.clone(),
            warnings: c.warnings,
            tool_calls: c.tool_calls,
            reasoning: c.reasoning,
            more: c.more,
            cached: c.cached,
            similarity: c.similarity,
            cost: c.cost,
            hedged: self.hedged,
            credential_id: by_attempt.credential_id,
            credential_source: Some(by_attempt.credential_source),
            requested_by: Some(self.requested_by.clone()),
            budgets: self.budgets.clone(),
        }))
    }

    fn fail(&self, c: FailCompletion, by: &Actor) -> Result<Decision<CompletionEvent>, Rejection> {
        self.worked_on(by)?;
        match c.attempt {
            Some(attempt) => _ = self.current(attempt)?,
            None if self.phase == Phase::Running => {
                return Err(Rejection::new("STALE_ATTEMPT", "an attempt is under way: name the attempt that failed"));
            }
            None => {}
        }
        let asked = self.attempts > 0;
        let by_attempt = self.open.iter().find(|open| Some(open.attempt) == c.attempt);
        let hook = if c.attempt.is_some() { GuardrailHook::Answer } else { GuardrailHook::Prompt };
        let guarded = found(&c.request_id, c.attempt, hook, c.guarded);
        Ok(guarded.map_or_else(Decision::nothing, Decision::one).and(CompletionFailed {
            request_id: c.request_id,
            category: c.category,
            code: c.code,
            message: c.message,
            retryable: c.category.is_retryable(),
            status_code: c.category.status(),
            upstream: c.upstream,
            attempts: self.attempts,
            partial_content: c.partial_content,
            usage: c.usage,
            cost: c.cost,
            hedged: self.hedged,
            context: self.context.clone(),
            provider: asked.then(|| by_attempt.map_or(&self.attempt_provider, |open| &open.provider).clone()),
            model: asked.then(|| by_attempt.map_or(&self.attempt_model, |open| &open.model).clone()),
            retry_after_ms: c.retry_after_ms,
            requested_by: Some(self.requested_by.clone()),
            budgets: self.budgets.clone(),
        }))
    }

    fn cancel(&self, c: CancelCompletion, by: &Actor) -> Result<Decision<CompletionEvent>, Rejection> {
        let theirs = by.is_platform() || by.super_admin || by.subject() == self.requested_by;
        if !theirs {
            return Err(Rejection::not_found("completion"));
        }
        self.live()?;
        Ok(Decision::one(CompletionCancelled {
            request_id: c.request_id,
            by: by.id.clone(),
            reason: c.reason,
            attempts: self.attempts,
            partial_content: c.partial_content,
            usage: c.usage,
            hedged: self.hedged,
            context: self.context.clone(),
            requested_by: Some(self.requested_by.clone()),
            budgets: self.budgets.clone(),
            keep_partial: c.keep_partial,
        }))
    }

    fn forget(&self, c: ForgetCompletion, by: &Actor) -> Result<Decision<CompletionEvent>, Rejection> {
        let theirs = by.is_platform() || by.subject() == self.requested_by;
        if self.phase == Phase::Unknown || self.forgotten || !theirs {
            return Err(Rejection::not_found("completion"));
        }
        if self.phase != Phase::Over {
            return Err(Rejection::new("CONFLICT", "the completion is under way: wait for its end, or cancel it"));
        }
        Ok(Decision::one(CompletionForgotten { request_id: c.request_id, by: by.id.clone() }))
    }

    fn keep(&self, c: KeepPartialAnswer, by: &Actor) -> Result<Decision<CompletionEvent>, Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("completions are worked on by the platform"));
        }
        if !self.partial_wanted {
            return Err(Rejection::new("COMPLETION_OVER", "nothing of the completion is to be kept"));
        }
        fits("content", c.content.text_len(), MAX_TEXT)?;
        Ok(Decision::one(CompletionPartialKept {
            request_id: c.request_id,
            content: c.content,
            content_digest: c.content_digest,
            context: self.context.clone(),
        }))
    }
}

fn found(
    request_id: &str,
    attempt: Option<u32>,
    hook: GuardrailHook,
    findings: Vec<GuardrailFinding>,
) -> Option<CompletionGuarded> {
    let request_id = request_id.to_owned();
    (!findings.is_empty()).then_some(CompletionGuarded { request_id, attempt, hook, findings })
}

fn under_key(c: &RequestCompletion, name: &str, fits: impl Fn(&str) -> bool) -> Result<(), Rejection> {
    let more = c.messages.iter().filter_map(|message| message.more.as_ref());
    let mut sealed = c.messages.iter().map(|message| &message.content).chain(more).chain(&c.options);
    if sealed.any(|text| !fits(&text.kid)) {
        return Err(Rejection::new("WRONG_KEY", format!("messages: seal them with the key '{name}'")));
    }
    Ok(())
}

fn fits(what: &str, length: usize, most: usize) -> Result<(), Rejection> {
    if length > most {
        return Err(Rejection::new("TOO_LARGE", format!("{what}: {length} bytes, the limit is {most}")));
    }
    Ok(())
}

fn check(s: &Sampling) -> Result<(), Rejection> {
    let within = |value: Option<f64>, low: f64, high: f64| value.is_none_or(|v| (low..=high).contains(&v));
    let limits = [
        (within(s.temperature, 0.0, 2.0), "temperature: 0 to 2"),
        (within(s.top_p, 0.0, 1.0), "topP: 0 to 1"),
        (within(s.frequency_penalty, -2.0, 2.0), "frequencyPenalty: -2 to 2"),
        (within(s.presence_penalty, -2.0, 2.0), "presencePenalty: -2 to 2"),
        (s.max_tokens != Some(0), "maxTokens: at least 1"),
        (s.top_k != Some(0), "topK: at least 1"),
    ];
    match limits.iter().find(|(kept, _)| !kept) {
        Some((_, limit)) => Err(Rejection::invalid(*limit)),
        None => Ok(()),
    }
}

impl Aggregate for Completion {
    const STATE_VERSION: u32 = 6;
    const ID_FIELD: Option<&'static str> = Some("requestId");
    type Command = CompletionCommand;
    type Event = CompletionEvent;

    fn belongs(command: &CompletionCommand, to: &AggregateRef) -> Result<(), Rejection> {
        let CompletionCommand::RequestCompletion(c) = command else { return Ok(()) };
        match &c.context.conversation_id {
            // Its own, or those of its authors.
            Some(conversation) => {
                let org = to.tenant.as_str();
                under_key(c, &content_key_id(org, conversation), |kid| is_content_key(kid, org, conversation))
            }
            None => Ok(()),
        }
    }

    fn begins(command: &CompletionCommand) -> bool {
        matches!(command, CompletionCommand::RequestCompletion(_))
    }

    fn has_ended(&self) -> bool {
        self.phase == Phase::Over
    }

    fn apply(&mut self, event: &CompletionEvent) {
        match event {
            CompletionEvent::CompletionRequested(e) => {
                self.request_id.clone_from(&e.request_id);
                self.requested_by.clone_from(&e.requested_by);
                self.requested_model.clone_from(&e.model);
                self.operation.clone_from(&e.operation);
                self.context.clone_from(&e.context);
                self.phase = Phase::Waiting;
            }
            CompletionEvent::CompletionAdmitted(e) => self.budgets.clone_from(&e.budgets),
            CompletionEvent::CompletionGuarded(e) if e.hook == GuardrailHook::Prompt => {
                self.guarded.clone_from(&e.findings);
            }
            CompletionEvent::CompletionGuarded(_) => {}
            CompletionEvent::CompletionAttemptStarted(e) => {
                self.attempts = e.attempt;
                self.attempt_provider.clone_from(&e.provider);
                self.attempt_model.clone_from(&e.model);
                self.attempt_worker.clone_from(&e.worker_id);
                if e.hedges.is_none() {
                    self.open.clear();
                }
                self.open.push(Open {
                    attempt: e.attempt,
                    provider: e.provider.clone(),
                    model: e.model.clone(),
                    credential_id: e.credential_id.clone(),
                    credential_source: e.credential_source.clone(),
                });
                self.phase = Phase::Running;
            }
            CompletionEvent::CompletionAttemptFailed(e) => {
                self.open.retain(|open| open.attempt != e.attempt);
                self.hedged = e.spent.map(|spent| spent.and(self.hedged)).or(self.hedged);
                if self.open.is_empty() {
                    self.phase = Phase::Waiting;
                }
            }
            CompletionEvent::CompletionCompleted(_) | CompletionEvent::CompletionFailed(_) => {
                self.open.clear();
                self.phase = Phase::Over;
            }
            CompletionEvent::CompletionCancelled(e) => {
                self.open.clear();
                (self.phase, self.partial_wanted) = (Phase::Over, e.keep_partial);
            }
            CompletionEvent::CompletionPartialKept(_) => self.partial_wanted = false,
            CompletionEvent::CompletionForgotten(_) => self.forgotten = true,
        }
    }

    fn decide(
        &self,
        command: CompletionCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<CompletionEvent>, Rejection> {
        match command {
            CompletionCommand::RequestCompletion(c) => self.request(c, by),
            CompletionCommand::AdmitCompletion(c) => self.admit(c, by),
            CompletionCommand::StartCompletionAttempt(c) => self.start(c, by),
            CompletionCommand::FailCompletionAttempt(c) => self.fail_attempt(c, by),
            CompletionCommand::CompleteCompletion(c) => self.complete(c, by),
            CompletionCommand::FailCompletion(c) => self.fail(c, by),
            CompletionCommand::CancelCompletion(c) => self.cancel(c, by),
            CompletionCommand::KeepPartialAnswer(c) => self.keep(c, by),
            CompletionCommand::ForgetCompletion(c) => self.forget(c, by),
        }
    }
}

#[cfg(test)]
mod tests;
