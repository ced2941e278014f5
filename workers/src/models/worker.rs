//! The inference worker: takes jobs from routers, generates with the local engine, and streams the answer back. One process
//! serves many jobs, and several processes share them. The protocol, and why it is this one, is in [`wire`](super::wire).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_nats::{Client, Message as Received, Subject};
use futures::StreamExt;
use symbia_nats::telemetry::{self, SpanExt};
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::{
    Event, Failure, FailureKind, Handle, Options, Request, Service,
    service::StartError,
    wire::{CANCEL, Frame, GROUP, HEARTBEAT, JOBS, Job, SILENCE},
};

/// The worker could not start, or its connection ended.
#[derive(Debug, thiserror::Error)]
pub enum InferenceWorkerError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// The broker.
    #[error("jobs cannot be received: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The subscription ended.
    #[error("the connection to the broker was closed")]
    Closed,
}

type Running = Arc<Mutex<HashMap<String, CancellationToken>>>;

/// Serves jobs with the local engine.
pub struct InferenceWorker {
    client: Client,
    engine: Service,
    running: Running,
}

impl InferenceWorker {
    /// Starts the engine.
    pub fn start(client: Client, options: Options) -> Result<Self, InferenceWorkerError> {
        Ok(InferenceWorker { client, engine: Service::start(options)?, running: Running::default() })
    }

    /// Works until `stop`; jobs under way then end as failed, and their routers start another attempt elsewhere.
    pub async fn run(self, stop: CancellationToken) -> Result<(), InferenceWorkerError> {
        let mut cancels = self.client.subscribe(CANCEL).await?;
        let mut jobs = self.client.queue_subscribe(JOBS, GROUP.to_owned()).await?;
        let mut work = JoinSet::new();
        let ended = loop {
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                job = jobs.next() => match job {
                    Some(job) => { work.spawn(serve(self.client.clone(), self.engine.handle(), Arc::clone(&self.running), job)); }
                    None => break Err(InferenceWorkerError::Closed),
                },
                cancel = cancels.next() => match cancel {
                    Some(cancel) => self.cancel(&cancel),
                    None => break Err(InferenceWorkerError::Closed),
                },
                Some(_) = work.join_next() => {}
            }
        };
        // New jobs go to the others, and the running ones hear how they ended.
        let _ = jobs.unsubscribe().await;
        self.engine.stop().await;
        while work.join_next().await.is_some() {}
        let _ = self.client.flush().await;
        ended
    }

    fn cancel(&self, message: &Received) {
        let Ok(id) = std::str::from_utf8(&message.payload) else { return };
        if let Some(token) = lock(&self.running).get(id) {
            token.cancel();
        }
    }
}

async fn serve(client: Client, engine: Handle, running: Running, message: Received) {
    let Some(reply) = message.reply else { return };
    let job: Job = match serde_json::from_slice(&message.payload) {
        Ok(job) => job,
        Err(error) => {
            let message =
                format!("the job cannot be read: {error}; router and inference process must be of one version");
            return send(&client, &reply, &Frame::Failed { kind: FailureKind::InvalidRequest, message }).await;
        }
    };
    let cancel = CancellationToken::new();
    lock(&running).insert(job.id.clone(), cancel.clone());
    let id = job.id.clone();
    let span = tracing::debug_span!("inference", otel.kind = "server", gen_ai.request.model = job.model);
    telemetry::follow(&span, job.traceparent.as_deref());
    let request = Request {
        model: Some(job.model),
        max_tokens: job.max_tokens,
        temperature: job.temperature,
        top_p: job.top_p,
        seed: job.seed,
        stop: job.stop,
        cancel: cancel.clone(),
        ..Request::new(job.messages)
    };
    match engine.generate(request) {
        Ok(events) => stream(&client, &reply, events, &cancel).instrument(span).await,
        Err(failure) => send(&client, &reply, &failed(failure)).await,
    }
    lock(&running).remove(&id);
}

async fn stream(client: &Client, reply: &Subject, mut events: UnboundedReceiver<Event>, cancel: &CancellationToken) {
    let alive = heartbeat(client, reply);
    tokio::pin!(alive);
    let mut text = String::new();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = &mut alive, if !cancel.is_cancelled() => {
                // Nobody waits for the answer any more.
                cancel.cancel();
                continue;
            }
        };
        let frame = match event {
            Some(Event::Started { .. }) => continue,
            Some(Event::Delta { text: piece }) => {
                text.push_str(&piece);
                Frame::Delta { text: piece }
            }
            Some(Event::Completed { finish_reason, prompt_tokens, completion_tokens }) => {
                let text = std::mem::take(&mut text);
                let span = Span::current();
                span.set_attribute("gen_ai.usage.input_tokens", i64::from(prompt_tokens));
                span.set_attribute("gen_ai.usage.output_tokens", i64::from(completion_tokens));
                Frame::Completed { text, finish_reason, prompt_tokens, completion_tokens }
            }
            Some(Event::Failed(failure)) => failed(failure),
            Some(Event::Cancelled { .. }) => Frame::Cancelled,
            // The terminal event came.
            None => return,
        };
        send(client, reply, &frame).await;
    }
}

// Until nobody listens.
async fn heartbeat(client: &Client, reply: &Subject) {
    let alive = serde_json::to_vec(&Frame::Alive).unwrap_or_default();
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let asked = client.request(reply.clone(), alive.clone().into());
        // A broker that is away counts as well: the router sees the same silence and starts anew.
        if !matches!(tokio::time::timeout(SILENCE, asked).await, Ok(Ok(_))) {
            return;
        }
    }
}

async fn send(client: &Client, reply: &Subject, frame: &Frame) {
    match serde_json::to_vec(frame) {
        Ok(payload) => {
            if let Err(error) = client.publish(reply.clone(), payload.into()).await {
                tracing::warn!(%error, "a piece of an answer was not sent");
            }
        }
        Err(error) => tracing::error!(%error, "a piece of an answer cannot be written"),
    }
}

fn failed(failure: Failure) -> Frame {
    Frame::Failed { kind: failure.kind, message: failure.message }
}

fn lock(running: &Running) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}
