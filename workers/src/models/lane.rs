//! One model's thread: loads the model, lets it work, and unloads it when nobody has asked for long.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use symbia_nats::inference::{Details, Failure, FailureKind, LoadedModel};
use tokio_util::sync::CancellationToken;

use super::embedder::{self, Embedder};
use super::job::Job;
use super::prompt::Prompts;
use super::scheduler::Scheduler;
use super::service::Shared;
use super::totals;

/// `LLAMA_FLASH_ATTN_TYPE_AUTO`: wherever the device can; on CPUs it decodes batches a fifth faster, and takes less room.
const FLASH_ATTENTION_AUTO: i32 = -1;
/// `LLAMA_FLASH_ATTN_TYPE_DISABLED`: encoders.
const FLASH_ATTENTION_OFF: i32 = 0;
/// llama.cpp pads a sequence's context to it.
const CONTEXT_STEP: u32 = 256;
/// Vectors that llama.cpp keeps of a token while it computes a layer.
const ACTIVATIONS: u64 = 8;
/// Text, number and rank of a piece of the vocabulary in llama.cpp's tables.
const PIECE_BYTES: u64 = 200;
/// What a model takes whatever its size: graphs, their plans, and the code and buffers that are touched when it works (measured).
const GRAPH_BYTES: u64 = 16 << 20;
/// A thread wakes up so often at least; without an end there would be no time to wait for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How often it is looked whether a model that is to stay may go.
const PINNED_WAIT: Duration = Duration::from_secs(1);

/// A process that tries a file may take so long, and so long for each 20 MiB of it, which it reads from a slow disk.
const LONGEST_PROBE: Duration = Duration::from_secs(60);
const PROBE_LOOK: Duration = Duration::from_millis(5);
/// What it may take beside the file.
const PROBE_MEMORY: u64 = 4 << 30;

/// What a lane tells about its model; `None` while it is being loaded.
pub(super) type Told = Arc<Mutex<Option<LoadedModel>>>;

/// How long a model stays when nobody asks; `None`: for ever. Whoever asks may change it.
pub(super) type Kept = Arc<Mutex<Option<Duration>>>;

pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    /// The model's id.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) details: Details,
    /// Tells this lane from later ones of the same model.
    pub(super) id: u64,
    /// Tokens of a sequence, if the model takes so many.
    pub(super) context_tokens: u32,
    /// Sequences at a time.
    pub(super) parallel: u32,
    /// Unloaded after so long without requests.
    pub(super) keep: Kept,
    /// Ends it at once.
    pub(super) stop: CancellationToken,
    pub(super) told: Told,
    /// Lanes that make room for this one.
    pub(super) leaving: Vec<JoinHandle<()>>,
}

/// Closes the lane at the end of its thread, even a panicking one. Jobs that are left fail when they are dropped.
impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.left(&self.name, self.id);
    }
}

impl Lane {
    pub(super) fn run(mut self, jobs: Receiver<Job>) {
        for leaving in std::mem::take(&mut self.leaving) {
            // How it ended does not matter, only that its memory is free.
            let _ = leaving.join();
        }
        if let Err(failure) = self.serve(&jobs) {
            tracing::warn!(model = self.name, error = %failure, "model not usable");
            totals::loaded("failed");
            self.shared.unusable(&self.name, &failure);
            self.shared.close(&self.name, self.id);
            jobs.try_iter().for_each(|job| job.fail(failure.clone()));
        }
        // Closed before `jobs` is dropped, so that no request is sent to a lane that has ended.
        drop(self);
    }

    /// The end of a request that is under way when the lane is stopped.
    pub(super) fn stopping(&self) -> Failure {
        let what = if self.shared.stop.is_cancelled() {
            "the inference engine is stopping"
        } else {
            "the model is being unloaded"
        };
        Failure::new(FailureKind::Stopping, format!("{what}; try again"))
    }

    /// A request that this kind of model does not take.
    pub(super) fn unable(&self, does: &str) -> Failure {
        let message = format!("model {:?} ({}) {does}: ask another", self.name, self.details.architecture);
        Failure::new(FailureKind::InvalidRequest, message)
    }

    fn serve(&self, jobs: &Receiver<Job>) -> Result<(), Failure> {
        let started = Instant::now();
        // The others compute on while another process tries the file.
        self.probe()?;
        let turn = self.shared.turn();
        let model = self.load()?;
        let prompts = Prompts::new(&self.name, &model);
        let limit = self.context_tokens.min(model.n_ctx_train());
        let context = self.context(&model, limit)?;
        drop(turn);
        let load_ms = started.elapsed().as_millis() as u64;
        let loaded = LoadedModel {
            load_ms,
            context_tokens: limit,
            parallel: self.parallel,
            weight_bytes: model.size(),
            loaded_at: totals::now(),
            ..self.estimate()
        };
        let bytes = loaded.bytes();
        *told(&self.told) = Some(loaded);
        self.shared.changed();
        totals::loaded("loaded");
        totals::memory(bytes as i64);
        tracing::info!(
            model = self.name,
            self.details.architecture,
            bytes,
            context_tokens = limit,
            load_ms,
            "model loaded"
        );
        if self.details.generates {
            Scheduler::new(self, prompts, context, limit).run(jobs);
        } else {
            Embedder::new(self, prompts, context, limit).run(jobs);
        }
        totals::memory(-(bytes as i64));
        tracing::info!(model = self.name, "model unloaded");
        Ok(())
    }

    /// The next job; none when the lane has closed because nobody asked for long, or it is to be unloaded.
    pub(super) fn wait(&self, jobs: &Receiver<Job>) -> Option<Job> {
        loop {
            let keep = *kept(&self.keep);
            let least = if self.shared.is_pinned(&self.name) { PINNED_WAIT } else { Duration::ZERO };
            match jobs.recv_timeout(keep.unwrap_or(LONGEST_WAIT).max(least)) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Timeout) if keep.is_none() || self.shared.is_pinned(&self.name) => {}
                Err(RecvTimeoutError::Timeout) => return self.shared.next_or_close(&self.name, self.id, jobs),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// What the model will take.
    pub(super) fn estimate(&self) -> LoadedModel {
        estimate(&self.details, self.context_tokens, self.parallel, self.shared.options.batch_tokens)
    }

    /// Lets another process load the file first: llama.cpp ends the process on some that are damaged.
    fn probe(&self) -> Result<(), Failure> {
        let Some((program, arguments)) = self.shared.options.probe.as_ref().and_then(|probe| probe.split_first())
        else {
            return Ok(());
        };
        if self.shared.is_probed(&self.path) {
            return Ok(());
        }
        let mut command = std::process::Command::new(program);
        command.args(arguments).arg(&self.path).stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let corrupt = |what: String| {
            let message = format!("model {:?} cannot be used: {what}: copy or download it again", self.name);
            Failure::new(FailureKind::ModelCorrupt, message)
        };
        let bytes = self.path.metadata().map_or(0, |file| file.len());
        let patience = LONGEST_PROBE + Duration::from_secs(bytes / (20 << 20));
        match command.spawn().and_then(|process| ended(process, patience)) {
            Ok(Some(status)) if status.success() => {
                self.shared.probed(&self.path);
                Ok(())
            }
            Ok(Some(status)) => Err(corrupt(format!("a process that tried to load its file ended with {status}"))),
            Ok(None) => Err(corrupt("a process that tried to load its file did not come to an end".to_owned())),
            Err(error) => {
                tracing::error!(%error, "the process that tries files cannot be started");
                Err(Failure::new(FailureKind::Internal, "the file cannot be tried; the log says why"))
            }
        }
    }

    fn load(&self) -> Result<LlamaModel, Failure> {
        LlamaModel::load_from_file(self.shared.backend, &self.path, &LlamaModelParams::default()).map_err(|error| {
            let message = format!(
                "model {:?} could not be loaded ({error}): its file is damaged, or of a kind that this llama.cpp does not \
                 know, or there is too little memory",
                self.name
            );
            Failure::new(FailureKind::ModelCorrupt, message)
        })
    }

    fn context<'m>(&self, model: &'m LlamaModel, limit: u32) -> Result<LlamaContext<'m>, Failure> {
        let parallel = self.parallel;
        let threads = i32::try_from(self.shared.options.threads).unwrap_or(1);
        let params = LlamaContextParams::default().with_n_threads(threads).with_n_threads_batch(threads);
        let params = if self.details.generates {
            let cells = limit.div_ceil(CONTEXT_STEP).saturating_mul(CONTEXT_STEP).saturating_mul(parallel);
            params
                .with_flash_attention_policy(FLASH_ATTENTION_AUTO)
                .with_n_ctx(NonZeroU32::new(cells))
                .with_n_batch(self.shared.options.batch_tokens)
                .with_n_ubatch(self.shared.options.batch_tokens)
                .with_n_seq_max(parallel)
                .with_kv_unified(false)
        } else {
            // An encoder computes a text at a stretch.
            let tokens = limit.max(embedder::BATCH_TOKENS);
            params
                .with_flash_attention_policy(FLASH_ATTENTION_OFF)
                .with_embeddings(true)
                .with_n_ctx(NonZeroU32::new(tokens))
                .with_n_batch(tokens)
                .with_n_ubatch(tokens)
                .with_n_seq_max(embedder::SEQUENCES)
                .with_kv_unified(true)
        };
        model.new_context(self.shared.backend, params).map_err(|error| {
            let message = format!(
                "there is no room for {parallel} contexts of {limit} tokens of model {:?} ({error}): lower the parallel \
                 sequences or the context tokens",
                self.name
            );
            Failure::new(FailureKind::Memory, message)
        })
    }
}

/// How a process ended; none when it had to be ended.
fn ended(mut process: std::process::Child, patience: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if let Some(status) = process.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(PROBE_LOOK);
    }
    process.kill()?;
    process.wait()?;
    Ok(None)
}

/// What a model will take in memory.
pub(super) fn estimate(details: &Details, context_tokens: u32, parallel: u32, batch_tokens: u32) -> LoadedModel {
    let limit = u64::from(context_tokens).min(details.context_length);
    let padded = limit.div_ceil(CONTEXT_STEP.into()).saturating_mul(CONTEXT_STEP.into());
    let parallel = u64::from(parallel);
    LoadedModel {
        cache_bytes: details.cache_bytes_per_token.saturating_mul(padded).saturating_mul(parallel),
        compute_bytes: compute_bytes(details, padded, parallel, batch_tokens),
        ..LoadedModel::default()
    }
}

/// What llama.cpp computes a step in; and what it and we know of each piece of the vocabulary.
fn compute_bytes(details: &Details, context: u64, parallel: u64, batch_tokens: u32) -> u64 {
    // Odds of a sequence's next token lie where they are computed and where they are read; an encoder has room for those of
    // every token of a batch. Which earlier tokens each token may see is there twice with flash attention; without, once, and
    // how each head weighs them.
    let (rows, seen, outputs, kept) = if details.generates {
        (batch_tokens.into(), context, parallel.saturating_mul(2), 2)
    } else {
        let room = context.max(embedder::BATCH_TOKENS.into());
        (room, room, room, details.attention_heads.max(1) + 1)
    };
    let bytes = |numbers: u64| numbers.saturating_mul(4);
    let attention = rows.saturating_mul(seen).saturating_mul(kept);
    let activations = rows.saturating_mul(details.embedding_length).saturating_mul(ACTIVATIONS);
    let odds = details.vocabulary.saturating_mul(outputs);
    let numbers = attention.saturating_add(activations).saturating_add(odds);
    bytes(numbers).saturating_add(details.vocabulary.saturating_mul(PIECE_BYTES)).saturating_add(GRAPH_BYTES)
}

pub(super) fn told(told: &Told) -> MutexGuard<'_, Option<LoadedModel>> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn kept(kept: &Kept) -> MutexGuard<'_, Option<Duration>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads a model and computes a token with it, to see whether that ends the process.
///
/// # Errors
/// What llama.cpp says.
pub fn probe(path: &std::path::Path) -> anyhow::Result<()> {
    use anyhow::Context;
    use llama_cpp_2::llama_batch::LlamaBatch;
    let details = super::directory::check(path).map_err(anyhow::Error::msg)?;
    // A file that makes it ask for all memory must not get it.
    let limit = Some(path.metadata()?.len().saturating_mul(3).saturating_add(PROBE_MEMORY));
    let limit = rustix::process::Rlimit { current: limit, maximum: limit };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).context("memory not limited")?;
    let backend = super::native::backend()?;
    let model = LlamaModel::load_from_file(backend, path, &LlamaModelParams::default()).context("not loaded")?;
    // The binding panics at a length that is none: better here than in the engine.
    let _ = model.n_ctx_train();
    let tokens = model.vocab().tokenize(b"a", true, false);
    let params = LlamaContextParams::default().with_n_ctx(NonZeroU32::new(CONTEXT_STEP)).with_n_threads(1);
    let params = params.with_embeddings(!details.generates);
    let mut context = model.new_context(backend, params).context("no context")?;
    let mut batch = LlamaBatch::new(CONTEXT_STEP as usize, 1);
    batch.add_sequence(tokens.get(..1).context("no token")?, 0, true)?;
    context.decode(&mut batch).context("nothing computed")?;
    Ok(())
}
