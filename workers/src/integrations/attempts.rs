//! The attempts at a completion: one target after another is asked until there is an answer, or no reason to go on.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use symbia_commands::{
    OutcomeStatus,
    integrations::{
        CancelCompletion, CompleteCompletion, Completion, CompletionCommand, FailCompletion, FailCompletionAttempt,
        HEDGE_LOST, KeepPartialAnswer,
    },
};
use symbia_events::{
    CommandId,
    integrations::{ErrorCategory, GuardrailFinding, Timing, Usage},
};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::Instrument;

use super::{
    accounts::Lease,
    admission::leave,
    attempt::Attempt,
    beginning::{Begun, Turn, named, prompt},
    circuits::Line,
    guarding::{Veil, blocked, said, screen_answer},
    live::Live,
    provider::{Answer, Delta, Fault, Prompt},
    quotas::{self, TARGET_LIMITED},
    racing::{Race, Runner},
    retry::next_of,
    router::{LlmRouter, Work, router},
    routes::Candidate,
};

pub(super) enum End {
    Answer(Box<Answer>),
    Fault(Fault),
    Cancelled,
    /// Another attempt began to answer first.
    Outrun,
}

/// What came of an attempt, and the answer as far as it was heard.
pub(super) struct Heard {
    pub end: End,
    /// As readers may see it.
    text: String,
    /// Whether they were shown any of it.
    shown: bool,
    /// Bytes that the model wrote.
    wrote: usize,
    /// Whether it was asked at all.
    pub asked: bool,
    first: Option<OffsetDateTime>,
}

impl Heard {
    fn nothing(fault: Fault) -> Self {
        Heard { end: End::Fault(fault), text: String::new(), shown: false, wrote: 0, asked: false, first: None }
    }
}

/// The key that a request names is not its asker's to use, or not there.
pub(super) fn not_lent(credential: &str, provider: &str) -> Fault {
    let message = format!("credential '{credential}' is no key for provider '{provider}' that may be used here");
    Fault::new(ErrorCategory::Auth, "no_key", message)
}

impl Work<'_> {
    pub(super) fn prompt(&self, attempt: u32, model: String) -> Prompt {
        prompt(self.event.orgid.as_str(), self.request, &self.asked, attempt, model)
    }

    pub(super) fn attempt_failed(&self, attempt: u32, fault: Fault) -> FailCompletionAttempt {
        FailCompletionAttempt {
            request_id: self.request.request_id.clone(),
            attempt,
            category: fault.category,
            code: fault.code,
            upstream: fault.upstream.map(|upstream| *upstream),
            message: Some(self.asked.key.seal(&fault.message)),
            retry_after_ms: None,
            spent: None,
        }
    }

    // Of an answer that has no end, counted by us.
    fn used(&self, prompt: &Prompt, wrote: usize) -> Usage {
        let (prompt_tokens, completion_tokens) = (prompt.estimated_tokens(), (wrote as u64).div_ceil(4));
        let total_tokens = prompt_tokens + completion_tokens;
        self.spent.store(total_tokens, Ordering::Relaxed);
        Usage { prompt_tokens, completion_tokens, total_tokens, estimated: true, ..Usage::default() }
    }
}

impl LlmRouter {
    pub(super) async fn work(&self, work: &Work<'_>, mut first: Option<Option<Lease>>) -> anyhow::Result<()> {
        let (mut attempt, mut turn) = (1, Turn::FIRST);
        let targets = &work.asked.targets;
        loop {
            let Candidate { provider, model, .. } = &targets[turn.target];
            let named = named(work.request, turn);
            let lease = match first.take() {
                Some(lease) => lease,
                None => {
                    let lease = self.lease(work.event.orgid.as_str(), work.request, targets, turn).await?;
                    match self.begin(work, attempt, turn, lease.as_ref()).await? {
                        Begun::Ours => {}
                        Begun::Next(next, last) => {
                            attempt = next;
                            let was = targets
                                .iter()
                                .position(|t| (t.provider.key(), t.model.as_str()) == (&*last.0, &*last.1));
                            turn = Turn { target: was.unwrap_or(turn.target), tries: 1 };
                            continue;
                        }
                        Begun::Over => return Ok(()),
                    }
                    lease
                }
            };
            let mut begun = OffsetDateTime::now_utc();
            let prompt = work.prompt(attempt, model.clone());
            // The highest number of an attempt.
            let mut last = attempt;
            let heard = match (named, &lease, self.rival(work, turn, attempt)) {
                (Some(named), None, _) if provider.takes_key() => Heard::nothing(not_lent(named, provider.key())),
                (_, lease, None) => self.attempt(work, turn, &prompt, lease.as_ref(), None).await,
                (_, lease, Some((rival, after))) => {
                    let runner = Runner { turn, number: attempt, prompt: &prompt, lease: lease.as_ref() };
                    let raced = self.race(work, runner, rival, after).await?;
                    (turn, attempt, last) = (raced.turn, raced.number, raced.last);
                    begun = raced.begun.unwrap_or(begun);
                    raced.heard
                }
            };
            let fault = match heard.end {
                End::Answer(answer) => return self.complete(work, turn, attempt, *answer, begun, heard.first).await,
                End::Cancelled => return self.cancelled(work, &heard.text, Some((&prompt, heard.wrote))).await,
                End::Fault(fault) => fault,
                End::Outrun => Fault::new(ErrorCategory::Internal, HEDGE_LOST, "another attempt was to answer"),
            };
            let spoken = work.request.stream && heard.shown;
            let Some((next, wait)) = self.next(work, turn, &fault, spoken, last) else {
                let failed = self.failed(work.request, Some(attempt), &fault, Some(&work.asked.key));
                let partial_content = (!heard.text.is_empty()).then(|| work.asked.key.seal(&heard.text));
                let usage = (heard.wrote > 0).then(|| work.used(&prompt, heard.wrote));
                let failed = FailCompletion { partial_content, usage, ..failed };
                return self.end(work, failed.into(), "failed").await.map(|_| ());
            };
            tracing::warn!(request = work.request.request_id, attempt, %fault, ?wait, "attempt failed, trying again");
            let retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            let failed = FailCompletionAttempt { retry_after_ms, ..work.attempt_failed(attempt, fault) };
            if !self.record(work, failed.into(), &format!("failed-{attempt}")).await? {
                return Ok(());
            }
            // Seconds at most, and shorter than a timer's way through the log and back; who takes over begins at once.
            tokio::select! {
                biased;
                () = work.cancelled.cancelled() => return self.cancelled(work, "", None).await,
                () = tokio::time::sleep(wait) => {}
            }
            (attempt, turn) = (last + 1, next);
        }
    }

    /// Gives an answer that was given before; false when the request has been worked on already, or who gave it is not there
    /// for the asker any more.
    pub(super) async fn again(&self, work: &Work<'_>, answer: Answer, by: &str) -> anyhow::Result<bool> {
        let targets = &work.asked.targets;
        let Some(target) = targets.iter().position(|target| target.name() == by) else { return Ok(false) };
        let Candidate { provider, model, .. } = &targets[target];
        if provider.offers(work.event.orgid.as_str(), model).await.is_err() {
            return Ok(false);
        }
        let (turn, begun) = (Turn { target, tries: 1 }, OffsetDateTime::now_utc());
        // After one that came to nothing, the answer is given all the same: nobody is asked.
        let mut attempt = 1;
        loop {
            match self.begin(work, attempt, turn, None).await? {
                Begun::Ours => break,
                Begun::Next(next, _) => attempt = next,
                Begun::Over => return Ok(false),
            }
        }
        self.complete(work, turn, attempt, answer, begun, None).await.map(|()| true)
    }

    // The turn after a fault, and the pause before it.
    fn next(&self, work: &Work<'_>, turn: Turn, fault: &Fault, spoken: bool, attempt: u32) -> Option<(Turn, Duration)> {
        let left = work.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || attempt >= self.most_attempts(work) {
            return None;
        }
        let following = work.asked.targets.iter().skip(turn.target + 1).map(|target| target.after);
        let next = next_of(following, fault, spoken);
        // It was not asked: another one may be, at once.
        let left_alone = match fault.code.as_deref() {
            Some("circuit_open") => true,
            Some(TARGET_LIMITED) => next.is_some(),
            _ => false,
        };
        let again = self.options.retry.pause(fault, turn.tries, spoken).filter(|wait| *wait < left && !left_alone);
        if let Some(wait) = again {
            return Some((Turn { tries: turn.tries + u32::from(!fault.lost), ..turn }, wait));
        }
        Some((Turn { target: turn.target + 1 + next?, tries: 1 }, Duration::ZERO))
    }

    pub(super) fn most_attempts(&self, work: &Work<'_>) -> u32 {
        let targets = u32::try_from(work.asked.targets.len()).unwrap_or(1);
        self.options.attempts + (targets - 1) * (self.options.retry.retries + 1)
    }

    /// One target is asked once, unless its circuit is open.
    pub(super) async fn attempt(
        &self,
        work: &Work<'_>,
        turn: Turn,
        prompt: &Prompt,
        lease: Option<&Lease>,
        race: Option<&Race>,
    ) -> Heard {
        let target = &work.asked.targets[turn.target];
        let Candidate { provider, model, .. } = target;
        let credential = lease.map(|lease| lease.credential_id.as_str());
        let leave = match self.lines.admit(work.event, Line { provider: provider.key(), model, credential }) {
            Ok(leave) => leave,
            Err(fault) => return Heard::nothing(fault),
        };
        let lasts = work.deadline.saturating_duration_since(Instant::now());
        let (org, id) = (work.event.orgid.as_str(), &work.request.request_id);
        let held = match self.quotas.enter(org, target, id, target.timeout.map_or(lasts, |most| most.min(lasts))).await
        {
            Ok(held) => held,
            Err(fault) => return Heard::nothing(fault),
        };
        let (name, begun) = (target.name(), OffsetDateTime::now_utc());
        let _busy = self.standings.begin(name.clone());
        let live = Live::open(self.client.clone(), &work.event.orgid, work.request, prompt.attempt, race.is_some());
        let observed = Attempt::begin(&**provider, &work.request.request_id, model, prompt.attempt);
        let span = observed.span.clone();
        let heard = self.ask(work, turn, prompt, lease, (live.as_ref(), race), &observed).instrument(span).await;
        match &heard.end {
            End::Answer(answer) => {
                let first = heard.first.unwrap_or_else(OffsetDateTime::now_utc);
                self.standings.took(&name, (first - begun).as_seconds_f64() * 1000.0);
                self.standings.answered(&name, answer.usage.total_tokens, answer.quota_used);
                leave.succeeded().await;
                observed.completed(answer);
            }
            End::Fault(fault) => {
                if fault.category == ErrorCategory::Timeout {
                    self.standings.took(&name, (OffsetDateTime::now_utc() - begun).as_seconds_f64() * 1000.0);
                }
                if fault.category == ErrorCategory::RateLimit {
                    self.standings.used_up(&name);
                }
                leave.failed(fault.category).await;
                observed.failed(fault);
            }
            End::Outrun => {
                // It would have taken longer than that.
                let ms = (OffsetDateTime::now_utc() - begun).as_seconds_f64() * 1000.0;
                if self.standings.latency_ms(&name).is_some_and(|known| ms > known) {
                    self.standings.took(&name, ms);
                }
                observed.cancelled();
            }
            End::Cancelled => observed.cancelled(),
        }
        quotas::leave(held).await;
        drop(observed);
        if let Some(live) = live {
            live.close().await;
        }
        heard
    }

    async fn ask(
        &self,
        work: &Work<'_>,
        turn: Turn,
        prompt: &Prompt,
        lease: Option<&Lease>,
        (live, race): (Option<&Live>, Option<&Race>),
        observed: &Attempt,
    ) -> Heard {
        let Candidate { provider, timeout, .. } = &work.asked.targets[turn.target];
        let given_up = timeout.map_or(work.deadline, |timeout| work.deadline.min(Instant::now() + timeout));
        let (mut text, mut shown, mut wrote, mut first) = (String::new(), false, 0, None);
        let mut veil = Veil::new(work.asked.guards.as_ref(), work.asked.options.format.as_ref());
        let mut show = |choice: u32, piece: Delta<'_>| {
            shown = true;
            if let (0, Delta::Text(piece)) = (choice, piece) {
                text.push_str(piece);
            }
            if let Some(live) = live {
                live.piece(choice, piece);
            }
        };
        let mut deltas = |choice: u32, piece: Delta<'_>| {
            if race.is_some_and(|race| !race.is_won_by(prompt.attempt)) {
                return;
            }
            first.get_or_insert_with(|| {
                observed.first();
                OffsetDateTime::now_utc()
            });
            if let (0, Delta::Text(piece)) = (choice, piece) {
                wrote += piece.len();
            }
            veil.piece(choice, piece, &mut show);
        };
        let called = AtomicBool::new(false);
        let call = async {
            called.store(true, Ordering::Relaxed);
            provider.complete(prompt, lease.map(|lease| &lease.key), &mut deltas).await
        };
        // Dropping the call stops the model.
        let end = tokio::select! {
            biased;
            () = work.cancelled.cancelled() => End::Cancelled,
            () = Race::lost(race, prompt.attempt) => End::Outrun,
            answer = call => match answer {
                Ok(answer) => End::Answer(Box::new(answer)),
                Err(fault) => End::Fault(fault),
            },
            () = tokio::time::sleep_until(given_up) => End::Fault(match timeout {
                Some(timeout) if given_up < work.deadline => {
                    Fault::timeout(&format!("provider '{}' did not finish", provider.key()), *timeout)
                }
                _ => {
                    let message = format!("provider '{}' did not finish before the deadline", provider.key());
                    Fault::new(ErrorCategory::Timeout, "deadline", message)
                }
            }),
        };
        if matches!(end, End::Answer(_)) {
            veil.lift(&mut show);
        }
        Heard { end, text, shown, wrote, asked: called.into_inner(), first }
    }

    async fn complete(
        &self,
        work: &Work<'_>,
        turn: Turn,
        attempt: u32,
        mut answer: Answer,
        begun: OffsetDateTime,
        first: Option<OffsetDateTime>,
    ) -> anyhow::Result<()> {
        let now = OffsetDateTime::now_utc();
        let ms =
            |from: OffsetDateTime, to: OffsetDateTime| u64::try_from((to - from).whole_milliseconds()).unwrap_or(0);
        let writing = first.map(|first| (now - first).as_seconds_f64()).filter(|seconds| *seconds > 0.0);
        let timing = Timing {
            queue_ms: ms(work.event.time, begun),
            ttft_ms: first.map(|first| ms(begun, first)),
            total_ms: ms(work.event.time, now),
            tokens_per_sec: writing
                .map(|seconds| (answer.usage.completion_tokens as f64 / seconds * 10.0).round() / 10.0),
        };
        let guarded = work
            .asked
            .guards
            .as_deref()
            .map(|guards| screen_answer(guards, &mut answer, work.asked.options.format.as_ref()))
            .unwrap_or_default();
        if let Some(fault) = blocked(&guarded, "answer") {
            return self.block(work, turn, attempt, &answer, (fault, guarded)).await;
        }
        if let Some(question) = self.answers.question(work) {
            let meaning = work.meaning.get().cloned();
            let by = work.asked.targets[turn.target].name();
            self.answers.keep(question, work, &answer, (by, meaning)).await;
        }
        answer.warnings.extend(work.asked.guarded.iter().filter_map(|finding| said(finding, "prompt")));
        work.spent.store(answer.usage.total_tokens, Ordering::Relaxed);
        // The price of what was asked for: providers answer with names of their own.
        let Candidate { provider, model, .. } = &work.asked.targets[turn.target];
        let price = self.accounts.price(provider.key(), model).await?;
        let calls = serde_json::to_string(&answer.tool_calls)?;
        let (more, warning) = answer.more()?;
        let warnings = answer.warnings.into_iter().chain(warning).collect();
        let complete = CompleteCompletion {
            request_id: work.request.request_id.clone(),
            attempt,
            model: answer.model,
            content: work.asked.key.seal(&answer.text),
            content_digest: work.asked.key.digest(&answer.text),
            finish_reason: answer.finish_reason,
            raw_finish_reason: answer.raw_finish_reason,
            usage: answer.usage,
            timing,
            provider_request_id: answer.provider_request_id,
            warnings,
            tool_calls: (!answer.tool_calls.is_empty()).then(|| work.asked.key.seal(&calls)),
            reasoning: (!answer.reasoning.is_empty()).then(|| work.asked.key.seal(&answer.reasoning)),
            more: more.map(|more| work.asked.key.seal(&more)),
            cached: answer.cached,
            similarity: answer.similarity,
            cost: price.map(|price| price.of(&answer.usage)),
            guarded,
        };
        if self.end(work, complete.into(), "completed").await? {
            return Ok(());
        }
        // Refused for a reason of its own, or another end was quicker: then this one is refused, too.
        let fault = Fault::new(ErrorCategory::Internal, "not_stored", "the answer could not be stored");
        let failed = self.failed(work.request, Some(attempt), &fault, Some(&work.asked.key));
        self.record(work, failed.into(), "failed").await.map(|_| ())
    }

    // An answer that nobody is to see: it took what it took.
    async fn block(
        &self,
        work: &Work<'_>,
        turn: Turn,
        attempt: u32,
        answer: &Answer,
        (fault, guarded): (Fault, Vec<GuardrailFinding>),
    ) -> anyhow::Result<()> {
        let Candidate { provider, model, .. } = &work.asked.targets[turn.target];
        let price = self.accounts.price(provider.key(), model).await?;
        let cost = price.map(|price| price.of(&answer.usage));
        work.spent.store(answer.usage.total_tokens, Ordering::Relaxed);
        let failed = self.failed(work.request, Some(attempt), &fault, Some(&work.asked.key));
        let failed = FailCompletion { usage: Some(answer.usage), cost, guarded, ..failed };
        self.end(work, failed.into(), "blocked").await.map(|_| ())
    }

    async fn cancelled(&self, work: &Work<'_>, text: &str, asked: Option<(&Prompt, usize)>) -> anyhow::Result<()> {
        let cancel = CancelCompletion {
            request_id: work.request.request_id.clone(),
            reason: "user".to_owned(),
            partial_content: (!text.is_empty()).then(|| work.asked.key.seal(text)),
            usage: asked.map(|(prompt, wrote)| work.used(prompt, wrote)),
            keep_partial: false,
        };
        if self.end(work, cancel.into(), "cancelled").await? || text.is_empty() {
            return Ok(());
        }
        // Whoever stopped it was quicker, and may want to have what was said.
        if !self.store.load::<Completion>(&work.to).await?.state.wants_partial() {
            return Ok(());
        }
        let keep = KeepPartialAnswer {
            request_id: work.request.request_id.clone(),
            content: work.asked.key.seal(text),
            content_digest: work.asked.key.digest(text),
        };
        self.record(work, keep.into(), "partial").await.map(|_| ())
    }

    // Records the end of a completion, whose place another may take already.
    async fn end(&self, work: &Work<'_>, command: CompletionCommand, purpose: &str) -> anyhow::Result<bool> {
        if let Some(places) = work.places.get() {
            leave(&self.sender, work.event, &work.request.request_id, places).await?;
        }
        if let Some(beside) = work.beside.get().filter(|_| !work.raced.load(Ordering::Relaxed)) {
            leave(&self.sender, work.event, &work.request.request_id, beside).await?;
        }
        self.record(work, command, purpose).await
    }

    // Whether it was accepted: what is refused came too late, or belongs to an attempt that was given up.
    pub(super) async fn record(
        &self,
        work: &Work<'_>,
        command: CompletionCommand,
        purpose: &str,
    ) -> anyhow::Result<bool> {
        let outcome = self.send(work, command, CommandId::derived(work.round, purpose)).await?;
        if let Some(rejection) = &outcome.rejection {
            tracing::info!(request = work.request.request_id, purpose, %rejection, "not recorded");
        }
        Ok(outcome.status == OutcomeStatus::Accepted)
    }

    pub(super) async fn send(
        &self,
        work: &Work<'_>,
        command: CompletionCommand,
        id: CommandId,
    ) -> anyhow::Result<symbia_commands::Outcome> {
        Ok(self.sender.send(Some(work.event), &work.to, &command, &router(), id).await?)
    }
}
