//! Runs batches (integrations.md §28): each line of the input file is a request to the gateway like any other, in the name of who
//! made the batch and of the API key that they used, so that keys, models, budgets and usage are theirs.
//!
//! Nothing of it is in memory but where lines begin, which is found again: some lines are asked at the start, and each one that has
//! its result makes the next one be asked. The id of a line's request derives from batch and line, so that it is asked once. Its
//! result is kept as a file of the batch before the line ends, and the files of results are put together of those.
//!
//! Error policy: retry for ever. Ids of commands and requests derive from the event or the line: a repetition changes nothing.

mod asking;
mod finishing;
mod input;

use std::sync::Arc;

use async_nats::{Client, jetstream};
use async_trait::async_trait;
use moka::sync::Cache;
use serde_json::{Value, json};
use symbia_commands::{
    DomainCommand, Outcome,
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
    pictures::Pictures,
    store::{EventStore, StoreOptions},
    timers::{TimerCommand, Timers, When},
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use self::input::{Input, Lines};
use super::router::router;
use crate::{
    content_keys::ContentKeys,
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// Batches whose lines it is remembered of where they begin.
const REMEMBERED: u64 = 16;

/// Runs batches.
pub struct BatchRunner {
    store: EventStore,
    sender: Sender,
    content_keys: ContentKeys,
    files: Files,
    pictures: Pictures,
    timers: Timers,
    dialect: Arc<dyn BatchDialect>,
    at_once: u32,
    known: Cache<String, Arc<Lines>>,
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

    // The same for whoever asks, so that a line is asked once.
    fn request_id(&self, line: u32) -> String {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, json!(["batch", self.id(), line]).to_string().as_bytes()).to_string()
    }
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
        BatchRunner {
            store: EventStore::new(client.clone(), keys, &StoreOptions::default()),
            sender,
            content_keys,
            files: Files::new(client.clone()),
            pictures: Pictures::new(client.clone()),
            timers: Timers::new(jetstream::new(client)),
            dialect,
            at_once: at_once.max(1),
            known: Cache::new(REMEMBERED),
        }
    }

    // A batch that has not its end, if it is one of these phases; what it cannot go on without is gone: it fails.
    async fn run(&self, event: &Event, id: &str, phases: &[BatchPhase]) -> anyhow::Result<Option<Run>> {
        let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "batch", id)?;
        let state = self.store.load::<Batch>(&to).await?.state;
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
        self.expire_later(&run).await?;
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
                self.known.insert(batch_id.clone(), Arc::new(lines));
                let start = StartBatch { batch_id, lines: count, at_once: self.at_once };
                self.record(event, &run.to, start, "start").await.map(drop)
            }
            Err(errors) => self.fail(event, &run.to, errors).await,
        }
    }

    async fn expire_later(&self, run: &Run) -> anyhow::Result<()> {
        let command = BatchCommand::from(ExpireBatch { batch_id: run.id().to_owned() });
        let timer = TimerCommand {
            aggregate: run.to.clone(),
            command_type: command.command_type().to_owned(),
            data: command.to_data()?,
        };
        let at = OffsetDateTime::parse(&run.created.expires_at, &Rfc3339)?;
        Ok(self.timers.command(&format!("batch-{}", run.id()), &When::At(at), &timer).await?)
    }

    async fn started(&self, event: &Event, batch_id: &str) -> anyhow::Result<()> {
        let Some(run) = self.run(event, batch_id, &[BatchPhase::Running]).await? else { return Ok(()) };
        let Some(input) = self.input(event, &run).await? else { return Ok(()) };
        for line in 0..run.state.at_once().min(run.state.lines()) {
            self.ask(event, &run, &input, line).await?;
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
        self.ask(event, &run, &input, next).await
    }

    // The request of a line has its end. `answer`: what that is, of what was asked.
    async fn answered(
        &self,
        event: &Event,
        context: &CompletionContext,
        stopped: bool,
        answer: impl FnOnce(&Run, Value) -> Option<LineAnswer> + Send,
    ) -> anyhow::Result<()> {
        let (Some(batch), Some(line)) = (&context.batch_id, context.batch_line) else { return Ok(()) };
        let under_way = [BatchPhase::Running, BatchPhase::Stopping];
        let Some(run) = self.run(event, batch, &under_way).await? else { return Ok(()) };
        if run.state.has_ended_line(line) {
            return Ok(());
        }
        if stopped && run.state.stop().is_some() {
            return self.end(event, &run, line, LineOutcome::Dropped).await;
        }
        let Some(input) = self.input(event, &run).await? else { return Ok(()) };
        let Some(asked) = input.line(line).await? else { return self.fail(event, &run.to, vec![unavailable()]).await };
        match answer(&run, asked.body) {
            Some(answer) => self.keep(event, &run, line, &asked.custom_id, &answer).await,
            None => Ok(()),
        }
    }

    async fn completed(&self, event: &Event, end: CompletionEvent) -> anyhow::Result<()> {
        let (context, took, stopped) = match &end {
            CompletionEvent::CompletionCompleted(e) => (e.context.clone(), e.timing.total_ms, false),
            CompletionEvent::CompletionFailed(e) => (e.context.clone(), 0, false),
            CompletionEvent::CompletionCancelled(e) => (e.context.clone(), 0, true),
            _ => return Ok(()),
        };
        let asked_at = event.time - Duration::milliseconds(i64::try_from(took).unwrap_or(0));
        self.answered(event, &context, stopped, |run, asked| {
            self.dialect.completed(run.created.endpoint, asked, asked_at, &run.key, end)
        })
        .await
    }

    async fn embedded(&self, event: &Event, end: EmbeddingEvent) -> anyhow::Result<()> {
        let context = match &end {
            EmbeddingEvent::EmbeddingCompleted(e) => e.context.clone(),
            EmbeddingEvent::EmbeddingFailed(e) => e.context.clone(),
            EmbeddingEvent::EmbeddingRequested(_) => return Ok(()),
        };
        self.answered(event, &context, false, |run, asked| self.dialect.embedded(asked, &run.key, end)).await
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

    // What is refused came after the end.
    async fn record(
        &self,
        event: &Event,
        to: &AggregateRef,
        command: impl Into<BatchCommand>,
        purpose: &str,
    ) -> anyhow::Result<Outcome> {
        let id = CommandId::derived(event.id, purpose);
        let outcome = self.sender.send(Some(event), to, &command.into(), &router(), id).await?;
        if let Some(rejection) = &outcome.rejection {
            tracing::debug!(%to, purpose, %rejection, "not recorded");
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

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        match event.aggregatetype.as_str() {
            "completion" => self.completed(event, event.decode()?).await,
            "embedding" => self.embedded(event, event.decode()?).await,
            "stored-file" => match event.decode()? {
                StoredFileEvent::FileDeleted(e) => {
                    Ok(self.files.remove(&Place::stored(event.orgid.as_str(), &e.file_id)).await?)
                }
                StoredFileEvent::FileStored(_) => Ok(()),
            },
            _ => match event.decode()? {
                BatchEvent::BatchCreated(e) => self.created(event, &e).await,
                BatchEvent::BatchStarted(e) => self.started(event, &e.batch_id).await,
                BatchEvent::BatchLineEnded(e) => self.line_ended(event, &e).await,
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
