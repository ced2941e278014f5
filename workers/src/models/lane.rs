//! One model's thread: loads the model, lets the scheduler work, and unloads it when nobody has asked for long.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;

use super::job::Job;
use super::prompt::Prompts;
use super::scheduler::{BATCH_TOKENS, Scheduler};
use super::service::Shared;
use super::{Details, Failure, FailureKind, directory};

/// `LLAMA_FLASH_ATTN_TYPE_DISABLED`: on CPUs it decodes batches slower.
const FLASH_ATTENTION_OFF: i32 = 0;
/// llama.cpp pads a sequence's context to it.
const CONTEXT_STEP: u32 = 256;

pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Tells this lane from later ones of the same model.
    pub(super) id: u64,
}

/// Closes the lane at the end of its thread, even a panicking one. Jobs that are left fail when they are dropped.
impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.close(&self.name, self.id);
    }
}

impl Lane {
    pub(super) fn run(self, jobs: Receiver<Job>) {
        if let Err(failure) = self.serve(&jobs) {
            tracing::warn!(model = self.name, error = %failure, "model not usable");
            self.shared.close(&self.name, self.id);
            jobs.try_iter().for_each(|job| job.fail(failure.clone()));
        }
        // Closed before `jobs` is dropped, so that no request is sent to a lane that has ended.
        drop(self);
    }

    fn serve(&self, jobs: &Receiver<Job>) -> Result<(), Failure> {
        let started = Instant::now();
        let turn = self.shared.turn();
        let details = self.check()?;
        let model = self.load()?;
        let prompts = Prompts::new(&self.name, &model);
        let limit = self.shared.options.context_tokens.min(model.n_ctx_train());
        let context = self.context(&model, limit)?;
        drop(turn);
        let elapsed_ms = started.elapsed().as_millis() as u64;
        let bytes = model.size();
        tracing::info!(
            model = self.name,
            details.architecture,
            bytes,
            context_tokens = limit,
            elapsed_ms,
            "model loaded"
        );
        Scheduler::new(self, prompts, context, limit).run(jobs);
        tracing::info!(model = self.name, "model unloaded");
        Ok(())
    }

    /// The next job; none when the lane has closed because nobody asked for long, or the engine stops.
    pub(super) fn wait(&self, jobs: &Receiver<Job>) -> Option<Job> {
        match jobs.recv_timeout(self.shared.options.idle_unload) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => self.shared.next_or_close(&self.name, self.id, jobs),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn check(&self) -> Result<Details, Failure> {
        let name = &self.name;
        let model = directory::inspect(name.clone(), self.path.clone());
        let corrupt = |reason| {
            Failure::new(FailureKind::ModelCorrupt, format!("model {name:?} cannot be used: {}.gguf {reason}", name))
        };
        let details = model.details.map_err(corrupt)?;
        if !details.generates {
            let message = format!("model {name:?} ({}) embeds text and generates none", details.architecture);
            return Err(Failure::new(FailureKind::InvalidRequest, message));
        }
        Ok(details)
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
        let parallel = self.shared.options.parallel;
        let threads = i32::try_from(self.shared.options.threads).unwrap_or(1);
        let cells = limit.div_ceil(CONTEXT_STEP).saturating_mul(CONTEXT_STEP).saturating_mul(parallel);
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(cells))
            .with_n_batch(BATCH_TOKENS as u32)
            .with_n_ubatch(BATCH_TOKENS as u32)
            .with_n_seq_max(parallel)
            .with_kv_unified(false)
            .with_flash_attention_policy(FLASH_ATTENTION_OFF)
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        model.new_context(self.shared.backend, params).map_err(|error| {
            let message = format!(
                "there is no room for {parallel} contexts of {limit} tokens of model {:?} ({error}): lower the parallel \
                 sequences or the context tokens",
                self.name
            );
            Failure::new(FailureKind::Internal, message)
        })
    }
}
