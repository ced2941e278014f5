//! Runs batches (integrations.md §28): each line of the input file is a request to the gateway like any other, in the name of who
//! made the batch and of the API key that they used, so that keys, models, budgets and usage are theirs.
//!
//! Nothing of it is in memory but where lines begin, which is found again: some lines are asked at the start, and each one that has
//! its result makes the next one be asked. The id of a line's request derives from batch and line, so that it is asked once, and once
//! more for each time that it met a limit. Its result is kept as a file of the batch before the line ends, and the files of results
//! are put together of those.
//!
//! Error policy: retry for ever. Ids of commands and requests derive from the event or the line: a repetition changes nothing. What is
//! read as it was before the event that it is read for, as a replica may give it, is an error, too: it is read again.

mod again;
mod asking;
mod finishing;
mod input;
mod places;
mod turns;

use std::sync::Arc;

use async_nats::{Client, jetstream};
use async_trait::async_trait;
use serde_json::{Value, json};
use symbia_commands::{
    Aggregate, Outcome,
    integrations::{
        Batch, BatchCommand, BatchDialect, BatchPhase, EndBatchLine, ExpireBatch, FailBatch, LineAnswer, LineCheck,
        StartBatch,
    },
};
use symbia_events::{
    AggregateRef, CommandId, Event, KeyRing, Position, Service, SubjectKey,
    integrations::{
        BatchCreated, BatchError, BatchEvent, BatchLineEnded, CompletionContext, CompletionEvent, EmbeddingEvent,
        LineOutcome, StoredFileEvent,
    },
};
use symbia_nats::{
    files::{Files, Place},
    jobs,
    pictures::Pictures,
    store::{EventStore, StoreOptions},
    timers::Timers,
};
use time::{Duration, OffsetDateTime};
use tokio::sync::Semaphore;
use uuid::Uuid;

pub use self::turns::BatchLines;
use self::{
    again::limited,
    input::{Input, Known, Lines},
};
use super::router::router;
use crate::{
    content_keys::ContentKeys,
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// Files that are looked through at a time.
const READ_AT_ONCE: usize = 4;
/// Why vectors were not made: their batch was stopped before anybody was asked.
pub(super) const BATCH_STOPPED: &str = "batch_stopped";

/// Runs batches.
pub struct BatchRunner {
    store: EventStore,
    sender: Sender,
    content_keys: ContentKeys,
    files: Files,
    pictures: Pictures,
    timers: Timers,
    js: jetstream::Context,
    dialect: Arc<dyn BatchDialect>,
    at_once: u32,
    known: Known,
    reading: Semaphore,
}

/// A batch under way.
struct Run {
    to: AggregateRef,
    created: BatchCreated,
    key: SubjectKey,
    state: Batch,
}

impl Run {
    fn org(&self) -> &str {
        self.to.tenant.as_str()
    }

    fn id(&self) -> &str {
        &self.to.id
    }

    // Other organizations may have a batch of the same id.
    fn name(&self) -> (String, String) {
        (self.org().to_owned(), self.id().to_owned())
    }

    // The same for whoever asks, so that a line is asked once, and again as often as it met a limit.
    fn request_id(&self, line: u32, tries: u32) -> String {
        let name = match tries {
            0 => json!(["batch", self.id(), line]),
            tries => json!(["batch", self.id(), line, tries]),
        };
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.to_string().as_bytes()).to_string()
    }
}

/// The end of a request that is of a line.
struct End {
    context: CompletionContext,
    request_id: String,
    /// It was not seen through because somebody did not want it any more.
    stopped: bool,
    /// It met a limit, and is worth being asked again after this time.
    limit: Option<Duration>,
}

impl BatchRunner {
    /// One over a connection, with the keys of those whose batches they are; `at_once` lines of a batch are asked at a time.
    #[must_use]
    pub fn new(
        client: Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        content_keys: ContentKeys,
        dialect: Arc<dyn BatchDialect>,
        at_once: u32,
    ) -> Self {
        let js = jetstream::new(client.clone());
        BatchRunner {
            store: EventStore::new(client.clone(), keys, &StoreOptions::default()),
            sender,
            content_keys,
            files: Files::new(client.clone()),
            pictures: Pictures::new(client),
            timers: Timers::new(js.clone()),
            js,
            dialect,
            at_once: at_once.max(1),
            known: input::known(),
            reading: Semaphore::new(READ_AT_ONCE),
        }
    }

    // A batch that has not its end, if it is one of these phases; what it cannot go on without is gone: it fails.
    async fn run(&self, event: &Event, id: &str, phases: &[BatchPhase]) -> anyhow::Result<Option<Run>> {
        let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "batch", id)?;
        let loaded = self.store.load::<Batch>(&to).await?;
        let state = loaded.state;
        let is_behind = match event.aggregatetype.as_str() {
            "batch" => loaded.version < event.aggregateversion,
            // It was asked when the batch had begun.
            _ => matches!(state.phase(), BatchPhase::Unknown | BatchPhase::Validating),
        };
        anyhow::ensure!(!is_behind, "{to} is read as it was before {}", event.event_type);
        let Some(created) = state.created().filter(|_| phases.contains(&state.phase())).cloned() else {
            return Ok(None);
        };
        let Some(key) = self.content_keys.key(&created.created_by).await? else {
            let message = "the key of whose batch it is was destroyed: its file cannot be read";
            self.fail(event, &to, vec![error("key_destroyed", message)]).await?;
            return Ok(None);
        };
        Ok(Some(Run { to, created, key, state }))
    }

    async fn created(&self, event: &Event, created: &BatchCreated) -> anyhow::Result<()> {
        let Some(run) = self.run(event, &created.batch_id, &[BatchPhase::Validating]).await? else { return Ok(()) };
        let expire = ExpireBatch { batch_id: run.id().to_owned() };
        self.later(&run.to, "end", &created.expires_at, expire).await?;
        if !self.admitted(event, &run).await? {
            return self.fail(event, &run.to, vec![places::too_many()]).await;
        }
        let _reading = self.reading.acquire().await?;
        let Some(found) = self.found(&run).await? else {
            return self.fail(event, &run.to, vec![unavailable()]).await;
        };
        let (mut check, mut lines) = (LineCheck::new(created.endpoint), Lines::default());
        let read = input::each_line(found, |number, offset, text| {
            lines.push(offset, text);
            check.line(number, text)
        });
        if !input::readable(read.await)? {
            return self.fail(event, &run.to, vec![unavailable()]).await;
        }
        let batch_id = created.batch_id.clone();
        match check.end() {
            Ok(count) => {
                self.known.insert(run.name(), Arc::new(lines.into()));
                let start = StartBatch { batch_id, lines: count, at_once: self.at_once };
                self.record(event, &run.to, start, "start").await.map(drop)
            }
            Err(errors) => self.fail(event, &run.to, errors).await,
        }
    }

    async fn started(&self, event: &Event, batch_id: &str) -> anyhow::Result<()> {
        let Some(run) = self.run(event, batch_id, &[BatchPhase::Running]).await? else { return Ok(()) };
        let Some(input) = self.input(event, &run).await? else { return Ok(()) };
        for line in 0..run.state.at_once().min(run.state.lines()) {
            if !self.ask(event, &run, &input, (line, 0)).await? {
                break;
            }
        }
        Ok(())
    }

    // The line that comes next. The last one is followed by an event of its own.
    async fn line_ended(&self, event: &Event, ended: &BatchLineEnded) -> anyhow::Result<()> {
        let Some(run) = self.run(event, &ended.batch_id, &[BatchPhase::Running]).await? else { return Ok(()) };
        let next = run.state.at_once().saturating_add(ended.place - 1);
        if next >= run.state.lines() {
            return Ok(());
        }
        let Some(input) = self.input(event, &run).await? else { return Ok(()) };
        self.ask(event, &run, &input, (next, 0)).await.map(drop)
    }

    // The request of a line has its end. `answer`: what that is, of what was asked.
    async fn answered(
        &self,
        event: &Event,
        end: End,
        answer: impl FnOnce(&Run, Value) -> Option<LineAnswer> + Send,
    ) -> anyhow::Result<()> {
        let (Some(batch), Some(line)) = (&end.context.batch_id, end.context.batch_line) else { return Ok(()) };
        let under_way = [BatchPhase::Running, BatchPhase::Stopping];
        let Some(run) = self.run(event, batch, &under_way).await? else { return Ok(()) };
        if run.state.has_ended_line(line) {
            return Ok(());
        }
        let tries = run.state.tries(line);
        match (0..=tries).rev().find(|tries| run.request_id(line, *tries) == end.request_id) {
            Some(last) if last == tries => {}
            // It met a limit, and was told before.
            Some(_) => return Ok(()),
            None => anyhow::bail!("{} is read as it was before line {line} was asked once more", run.to),
        }
        if end.stopped && run.state.stop().is_some() {
            return self.end(event, &run, line, LineOutcome::Dropped).await;
        }
        if let Some(told) = end.limit {
            return self.defer(event, &run, (line, tries), told).await;
        }
        let Some(input) = self.input(event, &run).await? else { return Ok(()) };
        let Some(asked) = input.line(line).await? else { return self.fail(event, &run.to, vec![unavailable()]).await };
        match answer(&run, asked.body) {
            Some(answer) => self.keep(event, &run, line, &asked.custom_id, &answer).await,
            None => Ok(()),
        }
    }

    // The request of a line, which waits for its turn.
    async fn asked(&self, event: &Event, context: &CompletionContext, at: Position) -> anyhow::Result<()> {
        if context.batch_id.is_some() {
            jobs::hand_on(&self.js, jobs::BATCH_LINE, &event.aggregate()?, at).await?;
        }
        Ok(())
    }

    async fn completed(&self, event: &Event, end: CompletionEvent) -> anyhow::Result<()> {
        let (context, request_id, took) = match &end {
            CompletionEvent::CompletionCompleted(e) => (&e.context, &e.request_id, e.timing.total_ms),
            CompletionEvent::CompletionFailed(e) => (&e.context, &e.request_id, 0),
            CompletionEvent::CompletionCancelled(e) => (&e.context, &e.request_id, 0),
            _ => return Ok(()),
        };
        let (context, request_id) = (context.clone(), request_id.clone());
        let stopped = matches!(end, CompletionEvent::CompletionCancelled(_));
        let limit = match &end {
            CompletionEvent::CompletionFailed(e) => limited(e.category, e.code.as_deref(), e.retry_after_ms),
            _ => None,
        };
        let asked_at = event.time - Duration::milliseconds(i64::try_from(took).unwrap_or(0));
        self.answered(event, End { context, request_id, stopped, limit }, |run, asked| {
            self.dialect.completed(run.created.endpoint, asked, asked_at, &run.key, end)
        })
        .await
    }

    async fn embedded(&self, event: &Event, end: EmbeddingEvent) -> anyhow::Result<()> {
        let told = match &end {
            EmbeddingEvent::EmbeddingCompleted(e) => {
                let (context, request_id) = (e.context.clone(), e.request_id.clone());
                End { context, request_id, stopped: false, limit: None }
            }
            EmbeddingEvent::EmbeddingFailed(e) => {
                let (context, request_id) = (e.context.clone(), e.request_id.clone());
                let stopped = e.code.as_deref() == Some(BATCH_STOPPED);
                End { context, request_id, stopped, limit: limited(e.category, e.code.as_deref(), e.retry_after_ms) }
            }
            EmbeddingEvent::EmbeddingRequested(_) => return Ok(()),
        };
        self.answered(event, told, |run, asked| self.dialect.embedded(asked, &run.key, end)).await
    }

    async fn end(&self, event: &Event, run: &Run, line: u32, outcome: LineOutcome) -> anyhow::Result<()> {
        let end = EndBatchLine { batch_id: run.id().to_owned(), line, outcome };
        self.record(event, &run.to, end, &format!("end-{line}")).await.map(drop)
    }

    async fn fail(&self, event: &Event, to: &AggregateRef, errors: Vec<BatchError>) -> anyhow::Result<()> {
        let batch_id = to.id.clone();
        tracing::info!(batch_id, code = errors.first().map(|error| error.code.as_str()), "a batch cannot be run");
        self.record(event, to, FailBatch { batch_id, errors }, "fail").await.map(drop)
    }

    // What is refused came after the end; but who finds a batch changing at each of many attempts is refused by the same code, and comes
    // again.
    async fn record(
        &self,
        event: &Event,
        to: &AggregateRef,
        command: impl Into<BatchCommand>,
        purpose: &str,
    ) -> anyhow::Result<Outcome> {
        let (id, command): (_, BatchCommand) = (CommandId::derived(event.id, purpose), command.into());
        let outcome = self.sender.send(Some(event), to, &command, &router(), id).await?;
        if let Some(rejection) = &outcome.rejection {
            tracing::debug!(%to, purpose, %rejection, "not recorded");
            if rejection.code == "CONFLICT" {
                let state = self.store.load::<Batch>(to).await?.state;
                let decided = state.decide(command, &router(), OffsetDateTime::now_utc());
                let stands = decided.is_ok_and(|decision| !decision.events.is_empty());
                anyhow::ensure!(!stands, "{to} was busy: {purpose} is not recorded");
            }
        }
        Ok(outcome)
    }
}

fn error(code: &str, message: &str) -> BatchError {
    BatchError { code: code.to_owned(), message: message.to_owned(), param: None, line: None }
}

fn unavailable() -> BatchError {
    BatchError {
        param: Some("input_file_id".to_owned()),
        ..error("input_file_unavailable", "the input file is no file of whose batch it is, or is gone")
    }
}

#[async_trait]
impl Reactor for BatchRunner {
    fn name(&self) -> &'static str {
        "batch-runner"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.batch.*", "*.stored-file.*", "*.completion.*", "*.embedding.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        // Of completions and embeddings those that are of a line.
        &["\"batchId\":\"", "symbia.integrations.stored-file.file-deleted."]
    }

    // Lines had a consumer of this stream before there was a queue of them.
    fn replaces(&self) -> Vec<&'static str> {
        vec!["batch-lines"]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, at: Position) -> anyhow::Result<()> {
        match event.aggregatetype.as_str() {
            "completion" => match event.decode()? {
                CompletionEvent::CompletionRequested(e) => self.asked(event, &e.context, at).await,
                end => self.completed(event, end).await,
            },
            "embedding" => match event.decode()? {
                EmbeddingEvent::EmbeddingRequested(e) => self.asked(event, &e.context, at).await,
                end => self.embedded(event, end).await,
            },
            "stored-file" => match event.decode()? {
                StoredFileEvent::FileDeleted(e) => {
                    Ok(self.files.remove(&Place::stored(event.orgid.as_str(), &e.file_id)).await?)
                }
                StoredFileEvent::FileStored(_) => Ok(()),
            },
            _ => match event.decode()? {
                BatchEvent::BatchCreated(e) => self.created(event, &e).await,
                BatchEvent::BatchStarted(e) => self.started(event, &e.batch_id).await,
                BatchEvent::BatchAdmitted(_) => Ok(()),
                BatchEvent::BatchLineEnded(e) => self.line_ended(event, &e).await,
                BatchEvent::BatchLineDeferred(e) => self.deferred(event, e).await,
                BatchEvent::BatchLineDue(e) => self.due(event, &e).await,
                BatchEvent::BatchStopping(e) => self.stopping(event, &e.batch_id).await,
                BatchEvent::BatchFinalizing(e) => self.finalize(event, &e.batch_id).await,
                BatchEvent::BatchFailed(_)
                | BatchEvent::BatchCompleted(_)
                | BatchEvent::BatchCancelled(_)
                | BatchEvent::BatchExpired(_) => self.over(event).await,
            },
        }
    }
}
