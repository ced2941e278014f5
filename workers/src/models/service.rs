//! The engine as a component: it starts one thread per model in use and routes requests to them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::{LlamaCppError, LogOptions, send_logs_to_tracing};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::job::{Job, Ticket};
use super::{Event, Failure, FailureKind, Model, Options, Request, directory, lane};

const MOST_SEQUENCES: u32 = 256;

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option is out of its range.
    #[error("inference option {option} is {value}; it must be {range}")]
    Option {
        /// The field of [`Options`].
        option: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        range: &'static str,
    },
    /// llama.cpp is built for newer processors.
    #[error("this processor lacks {0}, which the local models need: use another machine or a remote provider")]
    Processor(&'static str),
    /// llama.cpp did not initialise.
    #[error("llama.cpp did not initialise: {0}")]
    Backend(&'static LlamaCppError),
}

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
        let Options { parallel, context_tokens, threads, .. } = options;
        in_range("parallel", parallel.into(), "1 to 256", (1..=MOST_SEQUENCES).contains(&parallel))?;
        in_range("context_tokens", context_tokens.into(), "at least 64", context_tokens >= 64)?;
        in_range("threads", threads as u64, "1 to 512", (1..=512).contains(&threads))?;
        check_processor()?;
        let backend = backend()?;
        tracing::info!(model_dir = %options.model_dir.display(), threads, parallel, "inference engine started");
        let shared = Shared {
            options,
            backend,
            stop: CancellationToken::new(),
            compute: Mutex::new(()),
            lanes: Mutex::new(Lanes::default()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A handle to send requests with.
    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone() }
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
        let threads = {
            let mut lanes = self.shared.lanes();
            self.shared.stop.cancel();
            lanes.closed = true;
            lanes.open.clear();
            std::mem::take(&mut lanes.threads)
        };
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
}

impl Handle {
    /// The models of the directory, broken ones with the reason. An error when the directory cannot be read.
    pub async fn models(&self) -> std::io::Result<Vec<Model>> {
        let directory = self.shared.options.model_dir.clone();
        tokio::task::spawn_blocking(move || directory::scan(&directory)).await.map_err(std::io::Error::other)?
    }

    /// Names of the models that are in memory or being loaded, sorted.
    pub fn loaded(&self) -> Vec<String> {
        let mut names: Vec<_> = self.shared.lanes().open.keys().cloned().collect();
        names.sort();
        names
    }

    /// Queues a request. Refused at once when it is invalid, the model is not there, or too many wait for it;
    /// everything later is an event.
    pub fn generate(&self, request: Request) -> Result<UnboundedReceiver<Event>, Failure> {
        check(&request)?;
        let options = &self.shared.options;
        let wanted = request.model.as_deref().filter(|name| !name.is_empty()).unwrap_or(&options.default_model);
        let directory = options.model_dir.display();
        let found = directory::find(&options.model_dir, wanted).map_err(|error| {
            let message = format!("the model directory {directory} cannot be read: {error}");
            Failure::new(FailureKind::ModelNotFound, message)
        })?;
        let Some((name, path)) = found else {
            let message = format!("there is no model {wanted:?}: put {wanted}.gguf into {directory}");
            return Err(Failure::new(FailureKind::ModelNotFound, message));
        };

        let mut lanes = self.shared.lanes();
        if lanes.closed {
            return Err(stopping());
        }
        if !lanes.open.contains_key(&name) {
            self.shared.open(&mut lanes, &name, path)?;
        }
        let gone = || Failure::new(FailureKind::Internal, format!("the thread of model {name:?} ended; try again"));
        let lane = lanes.open.get(&name).ok_or_else(gone)?;
        let most = options.max_queue.saturating_add(options.parallel as usize);
        let Some(ticket) = Ticket::take(&lane.taken, most) else {
            let message = format!("{most} requests are running or waiting for model {name:?}; try again later");
            return Err(Failure::new(FailureKind::QueueFull, message));
        };
        let (events, receiver) = unbounded_channel();
        lane.jobs.send(Job::new(request, events, ticket)).map_err(|_| gone())?;
        Ok(receiver)
    }
}

pub(super) fn stopping() -> Failure {
    Failure::new(FailureKind::Stopping, "the inference engine is stopping; try again")
}

fn check(request: &Request) -> Result<(), Failure> {
    let invalid = |message: &str| Err(Failure::new(FailureKind::InvalidRequest, message));
    if request.messages.is_empty() {
        return invalid("messages is empty; at least one is needed");
    }
    if !(0.0..=100.0).contains(&request.temperature) {
        return invalid("temperature must be 0 to 100");
    }
    if !(request.top_p > 0.0 && request.top_p <= 1.0) {
        return invalid("top_p must be more than 0 and at most 1");
    }
    Ok(())
}

/// What the handles and the threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) backend: &'static LlamaBackend,
    pub(super) stop: CancellationToken,
    /// Held while computing: two models at a time would want more cores than `threads`.
    compute: Mutex<()>,
    lanes: Mutex<Lanes>,
}

#[derive(Debug, Default)]
struct Lanes {
    open: HashMap<String, Lane>,
    threads: Vec<JoinHandle<()>>,
    next_id: u64,
    closed: bool,
}

/// The way to the thread of one model.
#[derive(Debug)]
struct Lane {
    id: u64,
    jobs: Sender<Job>,
    taken: Arc<AtomicUsize>,
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
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(self: &Arc<Self>, lanes: &mut Lanes, name: &str, path: PathBuf) -> Result<(), Failure> {
        let (jobs, receiver) = channel();
        let id = lanes.next_id;
        let lane = lane::Lane { shared: self.clone(), name: name.to_owned(), path, id };
        let thread = std::thread::Builder::new().name("inference".to_owned()).spawn(move || lane.run(receiver));
        let thread = thread.map_err(|error| {
            tracing::error!(model = name, %error, "inference thread not started");
            Failure::new(FailureKind::Internal, format!("a thread for model {name:?} could not be started: {error}"))
        })?;
        lanes.next_id += 1;
        lanes.threads.retain(|thread| !thread.is_finished());
        lanes.threads.push(thread);
        lanes.open.insert(name.to_owned(), Lane { id, jobs, taken: Arc::default() });
        Ok(())
    }
}

impl Lanes {
    fn close(&mut self, name: &str, id: u64) {
        if self.open.get(name).is_some_and(|lane| lane.id == id) {
            self.open.remove(name);
        }
    }
}

/// What the portable build of llama.cpp uses; without it the process would die of an illegal instruction.
fn check_processor() -> Result<(), StartError> {
    #[cfg(target_arch = "x86_64")]
    for (feature, present) in [
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
        ("FMA", std::arch::is_x86_feature_detected!("fma")),
        ("F16C", std::arch::is_x86_feature_detected!("f16c")),
        ("BMI2", std::arch::is_x86_feature_detected!("bmi2")),
    ] {
        if !present {
            return Err(StartError::Processor(feature));
        }
    }
    Ok(())
}

/// llama.cpp, initialised once per process.
fn backend() -> Result<&'static LlamaBackend, StartError> {
    static BACKEND: OnceLock<Result<LlamaBackend, LlamaCppError>> = OnceLock::new();
    let backend = BACKEND.get_or_init(|| {
        send_logs_to_tracing(LogOptions::default());
        LlamaBackend::init()
    });
    backend.as_ref().map_err(StartError::Backend)
}
