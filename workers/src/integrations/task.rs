//! The router of tasks: has a provider do what is asked for, by its kind, and records exactly one end.
//!
//! Error policy: retry for ever. A worker that dies leaves nothing behind but the request; the next one asks again, and the
//! aggregate takes one end.

mod moderation;
mod rerank;
mod speech;
mod transcription;

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use symbia_commands::integrations::{CompleteTask, FailTask, MAX_TASK, TaskCommand};
use symbia_events::{
    Event, KeyRing, Position, Service, SubjectKey,
    integrations::{Cost, ErrorCategory, Target, TaskEvent, TaskKind, TaskRequested, Usage},
};
use symbia_nats::{
    files::{Files, Place},
    pictures::Pictures,
};

use self::{moderation::Moderation, rerank::Reranking, speech::Speech, transcription::Listening};
use super::{
    accounts::{Accounts, Taken},
    desk::{Desk, Errand, Made, Noted, Served, Wish},
    provider::{Fault, Providers},
    router::{RouterOptions, erased},
};
use crate::{
    content_keys::ContentKeys,
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// The router of tasks.
pub struct TaskRouter {
    desk: Desk,
    pictures: Pictures,
    files: Files,
}

/// What came of a task.
struct Done {
    /// The model that did it, as the provider names it.
    model: String,
    /// JSON, by its kind.
    output: String,
    taken: Taken,
}

impl TaskRouter {
    /// A router over providers.
    pub async fn open(
        client: Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        content_keys: ContentKeys,
        providers: Providers,
        accounts: Arc<dyn Accounts>,
        options: &RouterOptions,
    ) -> Result<Self, async_nats::SubscribeError> {
        let (pictures, files) = (Pictures::new(client.clone()), Files::new(client.clone()));
        let desk = Desk::open(client, keys, (sender, content_keys), providers, accounts, options).await?;
        Ok(TaskRouter { desk, pictures, files })
    }

    async fn requested(&self, event: &Event, request: &TaskRequested) -> anyhow::Result<()> {
        let key = self.desk.content_keys.key(&request.input.kid).await?;
        let input = key.as_ref().and_then(|key| key.open(&request.input).ok());
        let (Some(key), Some(input)) = (key, input) else {
            return self.failed(event, failure(request, &erased(), None, Noted::default())).await;
        };
        let errand = Errand {
            event,
            request_id: &request.request_id,
            requested_by: &request.requested_by,
            context: &request.context,
            asked: Target { provider: request.provider.clone(), model: request.model.clone() },
            credential_id: request.credential_id.as_deref(),
            deadline: request.deadline.as_deref(),
        };
        let mut recording = None;
        let served = match request.kind {
            TaskKind::Rerank => match read(&input) {
                Ok(input) => self.serve(&errand, &mut Reranking(input)).await?,
                Err(fault) => Served::refused(fault),
            },
            TaskKind::Moderation => {
                let place = (event.orgid.as_str(), &key);
                let wish = match read(&input) {
                    Ok(input) => Moderation::of(input, &self.pictures, place).await?,
                    Err(fault) => Err(fault),
                };
                match wish {
                    Ok(mut wish) => self.serve(&errand, &mut wish).await?,
                    Err(fault) => Served::refused(fault),
                }
            }
            TaskKind::Speech => match read(&input) {
                Ok(input) => {
                    let (request_id, files) = (request.request_id.as_str(), &self.files);
                    self.serve(&errand, &mut Speech { input, request_id, key: &key, files }).await?
                }
                Err(fault) => Served::refused(fault),
            },
            kind @ (TaskKind::Transcription | TaskKind::Translation) => match read(&input) {
                Ok(input) => {
                    let (request_id, files) = (request.request_id.as_str(), &self.files);
                    let mut wish = Listening { input, kind, request_id, key: &key, files };
                    let served = self.serve(&errand, &mut wish).await?;
                    recording = Some(wish.input.file);
                    served
                }
                Err(fault) => Served::refused(fault),
            },
        };
        match served.made {
            Ok(made) => self.completed(&errand, request, made, &key, served.noted).await?,
            Err(fault) => self.failed(event, failure(request, &fault, Some(&key), served.noted)).await?,
        }
        // What was listened to is of no use to anybody any more. Who asks names it: what is another one's stays.
        if let Some(id) = recording {
            let at = Place { org: event.orgid.as_str(), conversation: &request.request_id, id: &id };
            if matches!(self.files.find(&at, &key).await, Ok(Some(_))) {
                self.files.discard(&at).await;
            }
        }
        Ok(())
    }

    async fn serve<W: Wish<Got = Done>>(&self, errand: &Errand<'_>, wish: &mut W) -> anyhow::Result<Served<Done>> {
        self.desk.serve(errand, wish).await
    }

    async fn completed(
        &self,
        errand: &Errand<'_>,
        request: &TaskRequested,
        made: Made<Done>,
        key: &SubjectKey,
        noted: Noted,
    ) -> anyhow::Result<()> {
        let (source, done) = (made.source(), made.got);
        let complete = CompleteTask {
            request_id: request.request_id.clone(),
            provider: made.provider.to_owned(),
            model: done.model,
            output: key.seal(&done.output),
            usage: done.taken.usage,
            units: done.taken.units,
            cost: made.cost,
            total_ms: errand.took_ms(),
            credential_id: made.lease.map(|lease| lease.credential_id),
            credential_source: source.to_owned(),
            budgets: noted.budgets.clone(),
            guarded: noted.guarded.clone(),
        };
        let rejection = self.desk.record(errand.event, &TaskCommand::from(complete), "completed").await?;
        let Some(rejection) = rejection else { return Ok(()) };
        // Another worker was quicker, or it is too much.
        tracing::warn!(request = request.request_id, %rejection, "what came of a task is not recorded");
        let length = done.output.len();
        let message = format!("what came of it could not be stored: it is {length} bytes, {MAX_TASK} is the limit");
        let fault = Fault::new(ErrorCategory::Validation, "not_stored", message);
        self.failed(errand.event, after(failure(request, &fault, Some(key), noted), done.taken.usage, made.cost)).await
    }

    async fn failed(&self, event: &Event, fail: FailTask) -> anyhow::Result<()> {
        self.desk.record(event, &TaskCommand::from(fail), "failed").await.map(|_| ())
    }
}

fn failure(request: &TaskRequested, fault: &Fault, key: Option<&SubjectKey>, noted: Noted) -> FailTask {
    tracing::info!(request = request.request_id, kind = request.kind.operation(), %fault, "a task failed");
    FailTask {
        request_id: request.request_id.clone(),
        category: fault.category,
        code: fault.code.clone(),
        message: key.map(|key| key.seal(&fault.message)),
        upstream: fault.upstream.as_deref().cloned(),
        retry_after_ms: fault.retry_after_ms(),
        usage: None,
        cost: None,
        budgets: noted.budgets,
        guarded: noted.guarded,
    }
}

// It was done, and has to be paid for.
fn after(failure: FailTask, usage: Usage, cost: Option<Cost>) -> FailTask {
    FailTask { usage: Some(usage), cost, ..failure }
}

fn read<T: DeserializeOwned>(input: &str) -> Result<T, Fault> {
    let wrong = |e| Fault::new(ErrorCategory::Validation, "request_refused", format!("the input: {e}"));
    serde_json::from_str(input).map_err(wrong)
}

// What came of it, to be sealed.
fn written<T: Serialize>(output: &T) -> Result<String, Fault> {
    let wrong = |e: serde_json::Error| Fault::new(ErrorCategory::Internal, "not_stored", e.to_string());
    serde_json::to_string(output).map_err(wrong)
}

#[async_trait]
impl Reactor for TaskRouter {
    fn name(&self) -> &'static str {
        "task-router"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.task.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &["symbia.integrations.task.task-requested."]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn react(&self, event: &Event, at: Position) -> anyhow::Result<()> {
        match event.decode()? {
            TaskEvent::TaskRequested(request) if !self.desk.has_ended(event, at).await? => {
                self.requested(event, &request).await
            }
            TaskEvent::TaskRequested(_) | TaskEvent::TaskCompleted(_) | TaskEvent::TaskFailed(_) => Ok(()),
        }
    }
}
