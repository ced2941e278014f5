//! The inference worker: takes jobs, works them off with the local engine, and streams the answers back. One process serves
//! many jobs, and several processes share them. The protocol, and why it is this one, is in [`symbia_nats::inference`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_nats::{Client, Message as Received, Subject};
use futures::{Stream, StreamExt, stream::select_all};
use symbia_nats::{
    inference::{
        BEAT, CANCEL, CENSUS, Completed, Done, Failure, FailureKind, Frame, GROUP, HEARTBEAT, JOBS, Job, ORDERS,
        Request, SILENCE, STATUS, Status, Timings, UNLOAD, Usage, Work, encode_vector,
    },
    telemetry::{self, SpanExt},
};
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::{Event, Handle, Options, Service, ledger::Ledger, native::StartError};

/// Answers to one request at most.
const MOST_CHOICES: u32 = 8;

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
    id: String,
    client: Client,
    engine: Service,
    running: Running,
    ledger: Arc<Ledger>,
}

impl InferenceWorker {
    /// Starts the engine.
    pub fn start(client: Client, options: Options) -> Result<Self, InferenceWorkerError> {
        let id = Uuid::now_v7().to_string();
        let (engine, running, ledger) = (Service::start(options)?, Running::default(), Arc::default());
        Ok(InferenceWorker { id, client, engine, running, ledger })
    }

    /// Works until `stop`; jobs under way then end as failed, and whoever asked starts another attempt elsewhere.
    pub async fn run(self, stop: CancellationToken) -> Result<(), InferenceWorkerError> {
        let mut cancels = self.client.subscribe(CANCEL).await?;
        let mut unloads = self.client.subscribe(UNLOAD).await?;
        let mut censuses = self.client.subscribe(CENSUS).await?;
        let mut orders = self.client.subscribe(ORDERS).await?;
        let mut jobs = self.client.queue_subscribe(JOBS, GROUP.to_owned()).await?;
        let engine = self.engine.handle();
        let hashing = tokio::spawn(hash(engine.clone()));
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut work = JoinSet::new();
        let ended = loop {
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                job = jobs.next() => match job {
                    Some(job) => {
                        let (client, ledger) = (self.client.clone(), Arc::clone(&self.ledger));
                        work.spawn(serve(client, engine.clone(), Arc::clone(&self.running), ledger, job));
                    }
                    None => break Err(InferenceWorkerError::Closed),
                },
                cancel = cancels.next() => match cancel {
                    Some(cancel) => self.cancel(&cancel),
                    None => break Err(InferenceWorkerError::Closed),
                },
                unload = unloads.next() => {
                    if let Some(unload) = unload.and_then(|message| serde_json::from_slice(&message.payload).ok()) {
                        engine.unload(&unload);
                    }
                    self.tell(false).await;
                }
                _ = beat.tick() => self.tell(false).await,
                () = engine.changed() => self.tell(false).await,
                Some(_) = censuses.next() => self.tell(false).await,
                Some(order) = orders.next() => {
                    let told = self.status(false);
                    work.spawn(obey(self.client.clone(), engine.clone(), told, order));
                }
                Some(_) = work.join_next() => {}
            }
        };
        // New jobs go to the others, and the running ones hear how they ended.
        let _ = jobs.unsubscribe().await;
        hashing.abort();
        self.tell(true).await;
        self.engine.stop().await;
        while work.join_next().await.is_some() {}
        let _ = self.client.flush().await;
        ended
    }

    async fn tell(&self, draining: bool) {
        let status = status(&self.engine.handle(), self.status(draining)).await;
        match serde_json::to_vec(&status) {
            Ok(payload) => {
                if let Err(error) = self.client.publish(STATUS, payload.into()).await {
                    tracing::warn!(%error, "the status was not sent");
                }
            }
            Err(error) => tracing::error!(%error, "the status cannot be written"),
        }
    }

    // What the engine does not know.
    fn status(&self, draining: bool) -> Status {
        Status { worker: self.id.clone(), draining, usage: self.ledger.rows(), ..Status::default() }
    }

    fn cancel(&self, message: &Received) {
        let Ok(id) = std::str::from_utf8(&message.payload) else { return };
        if let Some(token) = lock(&self.running).get(id) {
            token.cancel();
        }
    }
}

// One file after the other, beside the work.
async fn hash(engine: Handle) {
    loop {
        if !engine.hash_one().await {
            tokio::time::sleep(BEAT).await;
        }
    }
}

async fn status(engine: &Handle, Status { worker, draining, usage, .. }: Status) -> Status {
    Status { worker, draining, usage, ..engine.status().await }
}

// Who gave the order hears when the others can see what came of it.
async fn obey(client: Client, engine: Handle, told: Status, message: Received) {
    let (Ok(order), Some(reply)) = (serde_json::from_slice(&message.payload), message.reply) else { return };
    let obeyed = engine.obey(order).await;
    let (worker, told) = (told.worker.clone(), status(&engine, told).await);
    let error = obeyed.as_ref().err().map(ToString::to_string);
    let done = Done { worker, models: obeyed.unwrap_or_default(), error };
    for (subject, payload) in
        [(Subject::from_static(STATUS), serde_json::to_vec(&told)), (reply, serde_json::to_vec(&done))]
    {
        if let Err(error) = client.publish(subject, payload.unwrap_or_default().into()).await {
            tracing::warn!(%error, "what came of an order was not told");
        }
    }
}

async fn serve(client: Client, engine: Handle, running: Running, ledger: Arc<Ledger>, message: Received) {
    let Some(reply) = message.reply else { return };
    let job: Job = match serde_json::from_slice(&message.payload) {
        Ok(job) => job,
        Err(error) => {
            let message = format!("the job cannot be read: {error}; both sides must be of one version");
            return send(&client, &reply, &Frame::Failed(Failure::new(FailureKind::InvalidRequest, message))).await;
        }
    };
    let cancel = CancellationToken::new();
    lock(&running).insert(job.id.clone(), cancel.clone());
    let span = tracing::debug_span!("inference", otel.kind = "server", gen_ai.request.model = model(&job.work));
    telemetry::follow(&span, job.traceparent.as_deref());
    let engine = engine.keeping(job.keep);
    let answering = Answering { client, reply, engine, cancel, ledger };
    if let Err(failure) = answering.answer(job.work).instrument(span).await {
        answering.send(&Frame::Failed(failure)).await;
    }
    lock(&running).remove(&job.id);
}

fn model(work: &Work) -> &str {
    match work {
        Work::Generate(request) => request.model.as_deref().unwrap_or_default(),
        Work::Embed(embed) => embed.model.as_deref().unwrap_or_default(),
        Work::Load(load) => &load.model,
        Work::Inspect(inspect) => &inspect.model,
    }
}

/// The answer to one job. Every way out of it is one terminal frame.
struct Answering {
    client: Client,
    reply: Subject,
    engine: Handle,
    cancel: CancellationToken,
    ledger: Arc<Ledger>,
}

impl Answering {
    async fn answer(&self, work: Work) -> Result<(), Failure> {
        match work {
            Work::Generate(request) => self.generate(*request).await,
            Work::Embed(embed) => {
                let id = self.id_of(embed.model.as_deref(), |options| &options.default_embedding);
                let org = embed.org.clone();
                let events = self.engine.embed(embed, &self.cancel)?;
                let mut done = None;
                let ended = self
                    .stream(numbered([events]), |_, event| match event {
                        Event::Vectors { first, vectors } => {
                            Some(Frame::Vectors { first, vectors: vectors.iter().map(|v| encode_vector(v)).collect() })
                        }
                        Event::Embedded { prompt_tokens } => {
                            let tokens = u32::try_from(prompt_tokens).unwrap_or(u32::MAX);
                            done = Some((Usage { prompt_tokens: tokens, ..Usage::default() }, Timings::default()));
                            Some(Frame::Embedded { model: id.clone(), prompt_tokens })
                        }
                        _ => None,
                    })
                    .await;
                self.ledger.note(org.as_deref(), &id, done);
                ended
            }
            Work::Load(load) => {
                let events = self.engine.load(&load, &self.cancel)?;
                self.stream(numbered([events]), |_, _| None).await?;
                let gone = || Failure::new(FailureKind::Internal, "the model was unloaded again; try again");
                let model = self.engine.model(&load.model).await.ok_or_else(gone)?;
                self.send(&Frame::Loaded(Box::new(model))).await;
                Ok(())
            }
            Work::Inspect(inspect) => {
                let events = self.engine.inspect(inspect, &self.cancel)?;
                self.stream(numbered([events]), |_, event| match event {
                    Event::Inspected(seen) => Some(Frame::Inspected(seen)),
                    _ => None,
                })
                .await
            }
        }
    }

    fn id_of(&self, name: Option<&str>, default: impl Fn(&Options) -> &String) -> String {
        let name = name.filter(|name| !name.is_empty());
        self.engine.id_of(name.unwrap_or_else(|| default(self.engine.options())))
    }

    async fn generate(&self, request: Request) -> Result<(), Failure> {
        let choices = request.choices.max(1);
        if choices > MOST_CHOICES {
            let message = format!("{choices} choices are asked for; there can be at most {MOST_CHOICES}");
            return Err(Failure::new(FailureKind::InvalidRequest, message));
        }
        let id = self.id_of(request.model.as_deref(), |options| &options.default_model);
        let mut asked = Vec::new();
        for choice in 0..choices {
            let mut request = request.clone();
            request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(choice));
            asked.push(self.engine.generate(request, &self.cancel)?);
        }
        let mut completed = Completed { model: id.clone(), ..Completed::default() };
        completed.choices.resize_with(choices as usize, Default::default);
        let (mut left, mut started, mut done) = (choices, false, None);
        let ended = self
            .stream(numbered(asked), |choice, event| match event {
                Event::Started { prompt_tokens, cached_tokens } if !started => {
                    started = true;
                    Some(Frame::Started { prompt_tokens, cached_tokens })
                }
                Event::Piece(piece) => Some(Frame::Delta { choice, piece }),
                Event::Completed(answered) => {
                    let (answered, timings) = (*answered, &mut completed.timings);
                    timings.queue_ms = timings.queue_ms.max(answered.timings.queue_ms);
                    timings.prompt_ms = timings.prompt_ms.max(answered.timings.prompt_ms);
                    timings.predicted_ms = timings.predicted_ms.max(answered.timings.predicted_ms);
                    let first = left == choices;
                    completed.usage = total(completed.usage, answered.usage, first);
                    completed.choices[choice as usize] = answered.choice;
                    left -= 1;
                    (left == 0).then(|| {
                        done = Some((completed.usage, completed.timings));
                        let span = Span::current();
                        span.set_attribute("gen_ai.usage.input_tokens", i64::from(completed.usage.prompt_tokens));
                        span.set_attribute("gen_ai.usage.output_tokens", i64::from(completed.usage.completion_tokens));
                        Frame::Completed(Box::new(std::mem::take(&mut completed)))
                    })
                }
                _ => None,
            })
            .await;
        // One choice that fails ends all of them.
        self.cancel.cancel();
        self.ledger.note(request.org.as_deref(), &id, done);
        ended
    }

    /// Sends what `frame` makes of the events until they end; the signs of life in between.
    async fn stream(
        &self,
        mut events: impl Stream<Item = (u32, Event)> + Unpin,
        mut frame: impl FnMut(u32, Event) -> Option<Frame>,
    ) -> Result<(), Failure> {
        let alive = self.heartbeat();
        tokio::pin!(alive);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = &mut alive, if !self.cancel.is_cancelled() => {
                    // Nobody waits for the answer any more.
                    self.cancel.cancel();
                    continue;
                }
            };
            let frame = match event {
                None => return Ok(()),
                Some((_, Event::Failed(failure))) => return Err(failure),
                Some((_, Event::Cancelled { .. })) => {
                    self.send(&Frame::Cancelled).await;
                    return Ok(());
                }
                Some((choice, event)) => frame(choice, event),
            };
            if let Some(frame) = frame {
                self.send(&frame).await;
            }
        }
    }

    // Until nobody listens.
    async fn heartbeat(&self) {
        let alive = serde_json::to_vec(&Frame::Alive).unwrap_or_default();
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let asked = self.client.request(self.reply.clone(), alive.clone().into());
            // A broker that is away counts as well: whoever asked sees the same silence and starts anew.
            if !matches!(tokio::time::timeout(SILENCE, asked).await, Ok(Ok(_))) {
                return;
            }
        }
    }

    async fn send(&self, frame: &Frame) {
        send(&self.client, &self.reply, frame).await;
    }
}

/// The events of several answers with their numbers, as they come.
fn numbered(all: impl IntoIterator<Item = UnboundedReceiver<Event>>) -> impl Stream<Item = (u32, Event)> + Unpin {
    let numbered = (0u32..).zip(all).map(|(number, mut events)| {
        let events = futures::stream::poll_fn(move |context| events.poll_recv(context));
        events.map(move |event| (number, event)).boxed()
    });
    select_all(numbered)
}

// The prompt is the same for all: it is counted once, as it was for the one that computed it.
fn total(sum: Usage, answer: Usage, first: bool) -> Usage {
    Usage {
        prompt_tokens: answer.prompt_tokens,
        cached_tokens: if first { answer.cached_tokens } else { sum.cached_tokens.min(answer.cached_tokens) },
        completion_tokens: sum.completion_tokens + answer.completion_tokens,
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

fn lock(running: &Running) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}
