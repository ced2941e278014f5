//! The LLM router worker: takes a requested completion, asks a provider, and records exactly one end.
//!
//! Intent before act: `CompletionAttemptStarted` is in the log before a provider is asked. When this process dies, the
//! request comes to a router again; it finds an attempt without an end, records it as lost and starts the next one, and
//! readers of the live stream are told (`message:reset`). A provider's own failure is recorded and ends the completion.
//!
//! Error policy: retry for ever. Every round trip begins with a look at how many attempts there were; beyond
//! [`RouterOptions::attempts`] the completion fails.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::Client;
use async_trait::async_trait;
use futures::StreamExt;
use symbia_commands::{
    Actor, OutcomeStatus,
    integrations::{
        CancelCompletion, CompleteCompletion, Completion, CompletionCommand, FailCompletion, FailCompletionAttempt,
        Phase, StartCompletionAttempt,
    },
};
use symbia_events::{
    AggregateRef, CommandId, Event, KeyRing, Position, Service, SubjectKey, commit,
    integrations::{CompletionEvent, CompletionRequested, ErrorCategory, Timing},
};
use symbia_nats::store::{EventStore, StoreOptions};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    attempt::Attempt,
    live::Live,
    provider::{Answer, Fault, Prompt, Provider, Providers, Turn},
};
use crate::{
    content_keys::{ContentKeys, kids},
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// Where a running completion can be cancelled at once: `symbia.live.<tenant>.cancel.<requestId>`.
const CANCEL: &str = "symbia.live.*.cancel.*";
const EVENTS: &str = "symbia.evt.integrations.*.completion.*";
const CANCELLED: &[u8] = b"symbia.integrations.completion.completion-cancelled.v1";

/// How a router is set up.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// Name of this worker in events.
    pub worker_id: String,
    /// Attempts of a completion whose worker got lost each time.
    pub attempts: u32,
    /// Longest time for a completion that names no deadline.
    pub timeout: Duration,
}

impl Default for RouterOptions {
    fn default() -> Self {
        let worker_id = format!("llm-router-{}", Uuid::new_v4().simple());
        RouterOptions { worker_id, attempts: 5, timeout: Duration::from_secs(120) }
    }
}

type Running = Arc<Mutex<HashMap<String, CancellationToken>>>;

/// The LLM router.
pub struct LlmRouter {
    client: Client,
    store: EventStore,
    sender: Sender,
    content_keys: ContentKeys,
    providers: Providers,
    options: RouterOptions,
    running: Running,
}

/// What is the same for all attempts of a completion.
struct Work<'a> {
    event: &'a Event,
    request: &'a CompletionRequested,
    to: AggregateRef,
    turns: Vec<Turn>,
    key: SubjectKey,
    provider: Arc<dyn Provider>,
    model: String,
    deadline: Instant,
    cancelled: CancellationToken,
    // Tells the attempts of this round from those of another worker.
    round: Uuid,
}

enum Begun {
    /// This attempt is ours.
    Ours,
    /// There were so many, and this one comes next.
    Next(u32),
    /// The completion has its end.
    Over,
}

enum End {
    Answer(Box<Answer>),
    Fault(Fault),
    Cancelled,
}

impl LlmRouter {
    /// A router over a connection; it hears of cancellations from now on.
    pub async fn open(
        client: Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        content_keys: ContentKeys,
        providers: Providers,
        options: RouterOptions,
    ) -> Result<Self, async_nats::SubscribeError> {
        let running = Running::default();
        // Events come on their plain subjects as well, before and beside any consumer: the quickest notice there is.
        for subject in [CANCEL, EVENTS] {
            let (mut notices, running) = (client.subscribe(subject).await?, Arc::clone(&running));
            let keys = Arc::clone(&keys);
            tokio::spawn(async move {
                while let Some(notice) = notices.next().await {
                    if subject == EVENTS && !is_cancellation(&keys, &notice.payload) {
                        continue;
                    }
                    let id = notice.subject.rsplit('.').next().unwrap_or_default();
                    if let Some(token) = running.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
                        token.cancel();
                    }
                }
            });
        }
        let store = EventStore::new(client.clone(), keys, &StoreOptions::default());
        Ok(LlmRouter { client, store, sender, content_keys, providers, options, running })
    }

    async fn requested(&self, event: &Event, request: &CompletionRequested) -> anyhow::Result<()> {
        let cancelled = CancellationToken::new();
        let _registered = Registered::new(&self.running, &request.request_id, cancelled.clone());
        let to = event.aggregate()?;
        let opener = self.content_keys.opener(kids(request.messages.iter().map(|m| &m.content))).await?;
        let kid = request.messages.first().map(|m| m.content.kid.clone()).unwrap_or_default();
        let erased = "the key of the conversation was destroyed: its prompt cannot be read";
        let erased = || Fault::new(ErrorCategory::NotFound, "key_destroyed", erased);
        let Some(key) = self.content_keys.key(&kid).await? else {
            return self.refuse(event, &to, request, &erased(), None).await;
        };
        let mut turns = Vec::with_capacity(request.messages.len());
        for message in &request.messages {
            let Ok(content) = opener.open(&message.content) else {
                return self.refuse(event, &to, request, &erased(), Some(&key)).await;
            };
            turns.push(Turn { role: message.role, content, name: message.name.clone() });
        }
        let provider = match self.providers.find(request.provider.as_deref()) {
            Ok(provider) => Arc::clone(provider),
            Err(fault) => return self.refuse(event, &to, request, &fault, Some(&key)).await,
        };
        let model = request.model.clone().unwrap_or_else(|| provider.default_model().to_owned());
        let deadline = Instant::now() + self.time_left(request);
        let round = Uuid::new_v4();
        let work = Work { event, request, to, turns, key, provider, model, deadline, cancelled, round };
        self.work(&work).await
    }

    async fn work(&self, work: &Work<'_>) -> anyhow::Result<()> {
        let mut attempt = 1;
        loop {
            match self.begin(work, attempt).await? {
                Begun::Ours => {}
                Begun::Next(next) => {
                    attempt = next;
                    continue;
                }
                Begun::Over => return Ok(()),
            }
            let begun = OffsetDateTime::now_utc();
            let live = Live::open(self.client.clone(), &work.event.orgid, work.request, attempt);
            let observed = Attempt::begin(&*work.provider, &work.request.request_id, &work.model, attempt);
            let asked = self.ask(work, attempt, live.as_ref(), &observed).instrument(observed.span.clone());
            let (end, partial, first) = asked.await;
            match &end {
                End::Answer(answer) => observed.completed(answer),
                End::Fault(fault) => observed.failed(fault),
                End::Cancelled => observed.cancelled(),
            }
            drop(observed);
            if let Some(live) = live {
                live.close().await;
            }
            match end {
                End::Answer(answer) => return self.complete(work, attempt, *answer, begun, first).await,
                End::Fault(fault) if fault.lost && attempt < self.options.attempts => {
                    tracing::warn!(request = work.request.request_id, attempt, %fault, "attempt lost, trying again");
                    let failed = FailCompletionAttempt {
                        request_id: work.request.request_id.clone(),
                        attempt,
                        category: fault.category,
                        code: fault.code,
                        upstream: fault.upstream,
                        message: Some(work.key.seal(&fault.message)),
                        retry_after_ms: None,
                    };
                    if !self.record(work, failed.into(), &format!("lost-{attempt}")).await? {
                        return Ok(());
                    }
                    attempt += 1;
                }
                End::Fault(fault) => {
                    let failed = self.failed(work.request, Some(attempt), &fault, Some(&work.key));
                    let partial_content = (!partial.is_empty()).then(|| work.key.seal(&partial));
                    let failed = FailCompletion { partial_content, ..failed };
                    return self.record(work, failed.into(), "failed").await.map(|_| ());
                }
                End::Cancelled => {
                    let cancel = CancelCompletion {
                        request_id: work.request.request_id.clone(),
                        reason: "user".to_owned(),
                        partial_content: (!partial.is_empty()).then(|| work.key.seal(&partial)),
                        usage: None,
                    };
                    return self.record(work, cancel.into(), "cancelled").await.map(|_| ());
                }
            }
        }
    }

    async fn begin(&self, work: &Work<'_>, attempt: u32) -> anyhow::Result<Begun> {
        if attempt > self.options.attempts {
            let fault = format!("{} attempts were begun and none came to an end", self.options.attempts);
            let fault = Fault::new(ErrorCategory::Internal, "worker_lost", fault);
            let state = self.store.load::<Completion>(&work.to).await?.state;
            let running = (state.phase() == Phase::Running).then(|| state.attempts());
            let failed = self.failed(work.request, running, &fault, Some(&work.key));
            self.record(work, failed.into(), "given-up").await?;
            return Ok(Begun::Over);
        }
        let start = StartCompletionAttempt {
            request_id: work.request.request_id.clone(),
            attempt,
            provider: work.provider.key().to_owned(),
            model: work.model.clone(),
            model_digest: None,
            worker_id: self.options.worker_id.clone(),
            credential_id: None,
            credential_source: "none".to_owned(),
            dropped_params: work.provider.dropped(&work.model, &work.request.sampling),
        };
        // Not derived from the event: an attempt that another worker has begun must not pass for ours.
        let id = CommandId::derived(work.round, &format!("attempt-{attempt}"));
        let outcome = self.send(work, start.into(), id).await?;
        if outcome.status == OutcomeStatus::Accepted {
            return Ok(Begun::Ours);
        }
        let state = self.store.load::<Completion>(&work.to).await?.state;
        match state.phase() {
            Phase::Over => Ok(Begun::Over),
            Phase::Waiting | Phase::Running if state.attempts() >= attempt => Ok(Begun::Next(state.attempts() + 1)),
            _ => anyhow::bail!("attempt {attempt} of {} was refused: {:?}", work.to, outcome.rejection),
        }
    }

    // The end of the model's work, the text so far, and when it began.
    async fn ask(
        &self,
        work: &Work<'_>,
        attempt: u32,
        live: Option<&Live>,
        observed: &Attempt,
    ) -> (End, String, Option<OffsetDateTime>) {
        let prompt = Prompt {
            request_id: work.request.request_id.clone(),
            attempt,
            model: work.model.clone(),
            turns: work.turns.clone(),
            sampling: work.request.sampling.clone(),
        };
        let (mut partial, mut first) = (String::new(), None);
        let mut deltas = |piece: &str| {
            first.get_or_insert_with(|| {
                observed.first();
                OffsetDateTime::now_utc()
            });
            partial.push_str(piece);
            if let Some(live) = live {
                live.piece(piece);
            }
        };
        // Dropping the call stops the model.
        let end = tokio::select! {
            biased;
            () = work.cancelled.cancelled() => End::Cancelled,
            answer = work.provider.complete(&prompt, &mut deltas) => match answer {
                Ok(answer) => End::Answer(Box::new(answer)),
                Err(fault) => End::Fault(fault),
            },
            () = tokio::time::sleep_until(work.deadline) => {
                let message = format!("provider '{}' did not finish before the deadline", work.provider.key());
                End::Fault(Fault::new(ErrorCategory::Timeout, "deadline", message))
            }
        };
        (end, partial, first)
    }

    async fn complete(
        &self,
        work: &Work<'_>,
        attempt: u32,
        answer: Answer,
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
        let complete = CompleteCompletion {
            request_id: work.request.request_id.clone(),
            attempt,
            model: answer.model,
            content: work.key.seal(&answer.text),
            content_digest: work.key.digest(&answer.text),
            finish_reason: answer.finish_reason,
            raw_finish_reason: answer.raw_finish_reason,
            usage: answer.usage,
            timing,
            provider_request_id: answer.provider_request_id,
            warnings: answer.warnings,
        };
        if self.record(work, complete.into(), "completed").await? {
            return Ok(());
        }
        // Refused for a reason of its own, or another end was quicker: then this one is refused, too.
        let fault = Fault::new(ErrorCategory::Internal, "not_stored", "the answer could not be stored");
        let failed = self.failed(work.request, Some(attempt), &fault, Some(&work.key));
        self.record(work, failed.into(), "failed").await.map(|_| ())
    }

    // A completion that no attempt can be made for.
    async fn refuse(
        &self,
        event: &Event,
        to: &AggregateRef,
        request: &CompletionRequested,
        fault: &Fault,
        key: Option<&SubjectKey>,
    ) -> anyhow::Result<()> {
        tracing::warn!(request = request.request_id, %fault, "completion refused");
        let failed = CompletionCommand::from(self.failed(request, None, fault, key));
        let id = CommandId::derived(event.id, "refused");
        self.sender.send(Some(event), to, &failed, &router(), id).await?;
        Ok(())
    }

    fn failed(
        &self,
        request: &CompletionRequested,
        attempt: Option<u32>,
        fault: &Fault,
        key: Option<&SubjectKey>,
    ) -> FailCompletion {
        FailCompletion {
            request_id: request.request_id.clone(),
            attempt,
            category: fault.category,
            code: fault.code.clone(),
            message: key.map(|key| key.seal(&fault.message)),
            upstream: fault.upstream.clone(),
            partial_content: None,
            usage: None,
        }
    }

    // Whether it was accepted: what is refused came too late, or belongs to an attempt that was given up.
    async fn record(&self, work: &Work<'_>, command: CompletionCommand, purpose: &str) -> anyhow::Result<bool> {
        let outcome = self.send(work, command, CommandId::derived(work.round, purpose)).await?;
        if let Some(rejection) = &outcome.rejection {
            tracing::info!(request = work.request.request_id, purpose, %rejection, "not recorded");
        }
        Ok(outcome.status == OutcomeStatus::Accepted)
    }

    async fn send(
        &self,
        work: &Work<'_>,
        command: CompletionCommand,
        id: CommandId,
    ) -> anyhow::Result<symbia_commands::Outcome> {
        Ok(self.sender.send(Some(work.event), &work.to, &command, &router(), id).await?)
    }

    fn time_left(&self, request: &CompletionRequested) -> Duration {
        let named = request.deadline.as_deref().and_then(|d| OffsetDateTime::parse(d, &Rfc3339).ok());
        named.map_or(self.options.timeout, |at| (at - OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO))
    }
}

#[async_trait]
impl Reactor for LlmRouter {
    fn name(&self) -> &'static str {
        "llm-router"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.completion.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &["symbia.integrations.completion.completion-requested."]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        // The first event of a completion; what follows it is mostly our own.
        if event.aggregateversion > 1 {
            return Ok(());
        }
        match event.decode()? {
            CompletionEvent::CompletionRequested(request) => self.requested(event, &request).await,
            _ => Ok(()),
        }
    }
}

fn router() -> Actor {
    Actor::service("integrations")
}

// A look at the bytes first: of most events nothing is wanted here.
fn is_cancellation(keys: &KeyRing, payload: &[u8]) -> bool {
    let named = memchr::memmem::find(payload, CANCELLED).is_some();
    let is_it = |signed: &symbia_events::Signed| signed.event.event_type.as_bytes() == CANCELLED;
    named && commit::decode(keys, payload).is_ok_and(|events| events.iter().any(is_it))
}

// Known as running until dropped.
struct Registered<'a> {
    running: &'a Running,
    id: &'a str,
}

impl<'a> Registered<'a> {
    fn new(running: &'a Running, id: &'a str, token: CancellationToken) -> Self {
        running.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), token);
        Registered { running, id }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(self.id);
    }
}
