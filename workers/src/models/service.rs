//! The engine as a component: it starts one thread per model in use and routes requests to them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llama_cpp_2::llama_backend::LlamaBackend;
use symbia_nats::inference::{
    Embed, Failure, FailureKind, Inspect, Keep, Load, ModelState, ModelStatus, Order, Request, Status, Unload,
};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::directory::Found;
use super::job::{Job, Task, Ticket};
use super::lane;
use super::lanes::{Lanes, Opened};
use super::native::{StartError, backend};
use super::processor;
use super::shelf::Shelf;
use super::totals::{Counters, Tally};
use super::{Event, Options, sampler};

const MOST_SEQUENCES: u32 = 256;

/// Owns the engine's threads.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
}

impl Service {
    /// Checks the options and initialises llama.cpp; models are loaded when first asked for.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let in_range = |option, value: u64, range, fits| match fits {
            true => Ok(()),
            false => Err(StartError::Option { option, value, range }),
        };
        let Options { parallel, context_tokens, threads, batch_tokens, .. } = options;
        in_range("parallel", parallel.into(), "1 to 256", (1..=MOST_SEQUENCES).contains(&parallel))?;
        in_range("batch_tokens", batch_tokens.into(), "32 to 4096", (32..=4096).contains(&batch_tokens))?;
        in_range("context_tokens", context_tokens.into(), "at least 64", context_tokens >= 64)?;
        in_range("threads", threads as u64, "1 to 512", (1..=512).contains(&threads))?;
        processor::check()?;
        let backend = backend()?;
        tracing::info!(model_dir = %options.model_dir.display(), threads, parallel, "inference engine started");
        let shared = Shared {
            shelf: Shelf::new(options.model_dir.clone()),
            options,
            backend,
            stop: CancellationToken::new(),
            tally: Arc::default(),
            changed: Notify::new(),
            compute: Mutex::new(()),
            pinned: Mutex::default(),
            lanes: Mutex::new(Lanes::default()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A handle to send requests with.
    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone(), keep: None }
    }

    /// Ends running and waiting requests with [`FailureKind::Stopping`] and unloads the models. Dropping the service
    /// does the same, but blocks.
    pub async fn stop(self) {
        if tokio::task::spawn_blocking(move || drop(self)).await.is_err() {
            tracing::error!("the inference engine did not stop in order");
        }
    }
}

/// Waits for the threads: llama.cpp must not be at work while the process exits.
impl Drop for Service {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        let threads = self.shared.lanes().close_all();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("an inference thread had panicked");
            }
        }
    }
}

/// Sends requests to the engine; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    keep: Option<Keep>,
}

impl Handle {
    /// The same, for requests after which a model stays so long.
    #[must_use]
    pub fn keeping(&self, keep: Option<Keep>) -> Self {
        Handle { keep, ..self.clone() }
    }

    /// How the engine runs.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// The models of the directory, broken ones with the reason. An error when the directory cannot be read.
    pub async fn models(&self) -> std::io::Result<Vec<ModelStatus>> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shared.models()).await.map_err(std::io::Error::other)?
    }

    /// Ids of the models that are in memory or being loaded, sorted.
    pub fn loaded(&self) -> Vec<String> {
        self.shared.lanes().names()
    }

    /// What the engine tells about itself. Reads the directory.
    pub async fn status(&self) -> Status {
        let models = self.models().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the model directory cannot be read");
            Vec::new()
        });
        let options = &self.shared.options;
        Status {
            build: env!("CARGO_PKG_VERSION").to_owned(),
            threads: options.threads,
            memory_budget: options.memory_budget,
            memory_used: self.shared.lanes().bytes(),
            models,
            totals: self.shared.tally.totals(),
            pinned: self.shared.pinned().iter().cloned().collect(),
            ..Status::default()
        }
    }

    /// Waits until a model was loaded, or unloaded, or could not be.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Computes one digest that is missing; false when none is.
    pub async fn hash_one(&self) -> bool {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shared.shelf.hash_one()).await.unwrap_or_default()
    }

    /// Queues a request, which `cancel` ends as well as dropping the events does. Refused at once when it is invalid, the
    /// model is not there, or too many wait for it; everything later is an event. Generates one choice.
    pub fn generate(&self, request: Request, cancel: &CancellationToken) -> Result<UnboundedReceiver<Event>, Failure> {
        check(&request)?;
        let wanted = request.model.clone().filter(|name| !name.is_empty());
        let wanted = wanted.unwrap_or_else(|| self.shared.options.default_model.clone());
        self.send(&Load { model: wanted, ..Load::default() }, Task::Generate(Box::new(request)), cancel)
    }

    /// Queues texts to make vectors of, like [`Handle::generate`].
    pub fn embed(&self, embed: Embed, cancel: &CancellationToken) -> Result<UnboundedReceiver<Event>, Failure> {
        if embed.inputs.is_empty() {
            return Err(Failure::new(FailureKind::InvalidRequest, "there is no input; at least one is needed"));
        }
        let wanted = embed.model.clone().filter(|name| !name.is_empty());
        let wanted = wanted.unwrap_or_else(|| self.shared.options.default_embedding.clone());
        self.send(&Load { model: wanted, ..Load::default() }, Task::Embed(embed), cancel)
    }

    /// Looks at tokens, like [`Handle::generate`].
    pub fn inspect(&self, inspect: Inspect, cancel: &CancellationToken) -> Result<UnboundedReceiver<Event>, Failure> {
        self.send(&Load { model: inspect.model.clone(), ..Load::default() }, Task::Inspect(inspect), cancel)
    }

    /// Loads a model; one that is loaded with other settings is unloaded first.
    pub fn load(&self, load: &Load, cancel: &CancellationToken) -> Result<UnboundedReceiver<Event>, Failure> {
        if load.parallel.is_some_and(|parallel| !(1..=MOST_SEQUENCES).contains(&parallel))
            || load.context_tokens.is_some_and(|tokens| tokens < 64)
        {
            let message = "slots must be 1 to 256, and the context at least 64 tokens";
            return Err(Failure::new(FailureKind::InvalidRequest, message));
        }
        self.send(load, Task::Load, cancel)
    }

    /// The id of the model that a name means; the name itself when there is none.
    pub fn id_of(&self, name: &str) -> String {
        self.shared.shelf.find(name).map_or_else(|_| name.to_owned(), |found| found.model.id)
    }

    /// The model as it is now.
    pub async fn model(&self, name: &str) -> Option<ModelStatus> {
        let models = self.models().await.ok()?;
        let exact = models.iter().position(|model| model.id == name || model.name == name);
        let index = exact.or_else(|| models.iter().position(|model| model.is_called(name)))?;
        models.into_iter().nth(index)
    }

    /// Unloads a model; false when it is not loaded.
    pub fn unload(&self, unload: &Unload) -> bool {
        let unloaded = self.shared.lanes().unload(&unload.model, unload.drain);
        if unloaded {
            self.shared.changed();
        }
        unloaded
    }

    /// Does what is ordered; gives how many models the directory has then.
    pub async fn obey(&self, order: Order) -> std::io::Result<usize> {
        let shared = Arc::clone(&self.shared);
        let obeyed = tokio::task::spawn_blocking(move || match order {
            Order::Rescan => shared.shelf.rescan(),
            Order::Remove { model, digest, before } => {
                shared.shelf.remove(&model, &digest, before)?;
                Ok(shared.shelf.models()?.len())
            }
            Order::Pin { models } => {
                *shared.pinned() = models.into_iter().collect();
                Ok(shared.shelf.models()?.len())
            }
        });
        obeyed.await.map_err(std::io::Error::other)?
    }

    fn send(&self, load: &Load, task: Task, cancel: &CancellationToken) -> Result<UnboundedReceiver<Event>, Failure> {
        let found = self.shared.shelf.find(&load.model)?;
        let name = &found.model.id;
        let options = &self.shared.options;
        let mut lanes = self.shared.lanes();
        if lanes.is_closed() {
            return Err(Failure::new(FailureKind::Stopping, "the inference engine is stopping; try again"));
        }
        if matches!(task, Task::Load) && lanes.differs(name, load) {
            lanes.unload(name, true);
        }
        if lanes.get(name).is_none() {
            self.shared.open(&mut lanes, &found, load)?;
        }
        let gone = || Failure::new(FailureKind::Internal, format!("the thread of model {name:?} ended; try again"));
        let opened = lanes.get(name).ok_or_else(gone)?;
        let most = options.max_queue.saturating_add(opened.parallel as usize);
        let Some(ticket) = Ticket::take(&opened.counters, most) else {
            let message = format!("{most} requests are running or waiting for model {name:?}; try again later");
            return Err(Failure::new(FailureKind::QueueFull, message));
        };
        if let Some(keep) = self.keep.or(load.keep_alive.map(Keep::For)) {
            let mut kept = lane::kept(&opened.keep);
            *kept = keep.instead_of(*kept);
        }
        let (events, receiver) = unbounded_channel();
        opened.jobs.send(Job::new(task, events, cancel.clone(), ticket)).map_err(|_| gone())?;
        Ok(receiver)
    }
}

fn check(request: &Request) -> Result<(), Failure> {
    if request.messages.is_empty() && request.prompt.is_none() {
        return Err(Failure::new(FailureKind::InvalidRequest, "messages is empty; at least one is needed"));
    }
    sampler::check(&request.sampling)
}

/// What the handles and the threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) backend: &'static LlamaBackend,
    pub(super) stop: CancellationToken,
    shelf: Shelf,
    tally: Arc<Tally>,
    changed: Notify,
    /// Held while computing: two models at a time would want more cores than `threads`.
    compute: Mutex<()>,
    /// The models that operators want left in memory.
    pinned: Mutex<BTreeSet<String>>,
    lanes: Mutex<Lanes>,
}

impl Shared {
    /// Waits until no other model computes.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.compute.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next job, or closes the lane when there is none. Both under one lock, so that none is lost.
    pub(super) fn next_or_close(&self, name: &str, id: u64, jobs: &Receiver<Job>) -> Option<Job> {
        let mut lanes = self.lanes();
        let job = jobs.try_recv().ok();
        if job.is_none() {
            lanes.close(name, id);
        }
        job
    }

    /// Closes the lane, if it is still this one: the next request opens another.
    pub(super) fn close(&self, name: &str, id: u64) {
        self.lanes().close(name, id);
        self.changed();
    }

    /// The lane has ended, and its memory is free.
    pub(super) fn left(&self, name: &str, id: u64) {
        self.lanes().left(name, id);
        self.changed();
    }

    /// Something is to be told.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }

    /// The model's file cannot be used; memory may be there later.
    pub(super) fn unusable(&self, name: &str, failure: &Failure) {
        if failure.kind == FailureKind::ModelCorrupt {
            self.shelf.broken(name, failure);
        }
    }

    pub(super) fn is_probed(&self, path: &Path) -> bool {
        self.shelf.is_probed(path)
    }

    pub(super) fn probed(&self, path: &Path) {
        self.shelf.probed(path);
    }

    /// Whether operators want a model left in memory.
    pub(super) fn is_pinned(&self, name: &str) -> bool {
        self.pinned().contains(name)
    }

    fn pinned(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn models(&self) -> std::io::Result<Vec<ModelStatus>> {
        let found = self.shelf.models()?;
        let lanes = self.lanes();
        let status = |found: Found| {
            let mut model = found.model.clone();
            model.digest = self.shelf.digest(&found).filter(|digest| !digest.is_empty());
            if let Some(fault) = self.shelf.fault(&found) {
                (model.state, model.reason) = (ModelState::Error, Some(fault));
            }
            if let Some(loaded) = lanes.told(&model.id) {
                model.state = if loaded.is_some() { ModelState::Loaded } else { ModelState::Loading };
                model.loaded = loaded;
            }
            model
        };
        Ok(found.into_iter().map(status).collect())
    }

    fn open(self: &Arc<Self>, lanes: &mut Lanes, found: &Found, load: &Load) -> Result<(), Failure> {
        let name = &found.model.id;
        let details = found.model.details.clone().unwrap_or_default();
        let options = &self.options;
        let context_tokens = load.context_tokens.unwrap_or(options.context_tokens);
        let parallel = load.parallel.unwrap_or(options.parallel);
        let keep = match load.keep_alive {
            None => Some(options.idle_unload).filter(|_| !options.pinned.iter().any(|pin| found.model.is_called(pin))),
            Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
        };
        // Every sequence has a token in each step.
        if parallel > options.batch_tokens {
            let message =
                format!("slots must be at most {}, the tokens of a step: raise MODELS_UBATCH", options.batch_tokens);
            return Err(Failure::new(FailureKind::InvalidRequest, message));
        }
        let takes = lane::estimate(&details, context_tokens, parallel, options.batch_tokens);
        let needed = found.model.bytes.saturating_add(takes.bytes());
        let limits = (options.memory_budget, options.max_loaded);
        let leaving = lanes.make_room(name, needed, limits, |name| self.is_pinned(name))?;
        let (jobs, receiver) = channel();
        let (id, stop, told) = (lanes.next_id(), self.stop.child_token(), lane::Told::default());
        let (pinned, keep) = (keep.is_none(), Arc::new(Mutex::new(keep)));
        let lane = lane::Lane {
            shared: self.clone(),
            name: name.clone(),
            path: found.path.clone(),
            details,
            id,
            context_tokens,
            parallel,
            keep: Arc::clone(&keep),
            stop: stop.clone(),
            told: told.clone(),
            leaving,
        };
        let thread = std::thread::Builder::new().name("inference".to_owned()).spawn(move || lane.run(receiver));
        let thread = thread.map_err(|error| {
            tracing::error!(model = name, %error, "inference thread not started");
            Failure::new(FailureKind::Internal, format!("a thread for model {name:?} could not be started: {error}"))
        })?;
        let counters = Arc::new(Counters::new(Arc::clone(&self.tally)));
        let opened = Opened { id, jobs, counters, told, needed, context_tokens, parallel, keep, pinned, stop, thread };
        lanes.add(name, opened);
        self.changed();
        Ok(())
    }
}
