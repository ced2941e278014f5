//! Vectors of texts: several at a time in one batch, each a sequence of its own.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use symbia_nats::inference::{Embed, Failure, FailureKind};

use super::job::{Job, Task};
use super::lane::Lane;
use super::prompt::Prompts;
use super::turns::Turns;
use super::{Event, totals};

/// Texts of a batch at most.
pub(super) const SEQUENCES: u32 = 32;
/// Tokens of a batch at most, where the texts of the model are not longer.
pub(super) const BATCH_TOKENS: u32 = 1024;

pub(super) struct Embedder<'m> {
    lane: &'m Lane,
    prompts: Prompts<'m>,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    /// Tokens of a batch.
    room: usize,
    /// Tokens that a text may have.
    limit: usize,
}

impl<'m> Embedder<'m> {
    pub(super) fn new(lane: &'m Lane, prompts: Prompts<'m>, context: LlamaContext<'m>, limit: u32) -> Self {
        let room = context.n_batch().min(context.n_ubatch()) as usize;
        let batch = LlamaBatch::new(room, 1);
        Self { lane, prompts, context, batch, room, limit: (limit as usize).min(room) }
    }

    /// Works until the model is to be unloaded.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let (mut waiting, mut turns) = (VecDeque::new(), Turns::default());
        loop {
            waiting.extend(jobs.try_iter());
            if self.lane.stop.is_cancelled() {
                return waiting.into_iter().for_each(|job: Job| job.fail(self.lane.stopping()));
            }
            let next = turns.next(waiting.iter().map(Job::organization).enumerate());
            match next.and_then(|index| waiting.remove(index)).or_else(|| self.lane.wait(jobs)) {
                Some(job) => {
                    turns.took(job.organization(), waiting.is_empty());
                    self.take(job);
                }
                None => return,
            }
        }
    }

    fn take(&mut self, mut job: Job) {
        match std::mem::replace(&mut job.task, Task::Load) {
            Task::Load => job.finish(Event::Loaded),
            Task::Inspect(inspect) => match self.prompts.inspect(inspect) {
                Ok(seen) => job.finish(Event::Inspected(seen)),
                Err(failure) => job.fail(failure),
            },
            Task::Generate(_) => job.fail(self.lane.unable("makes vectors and generates no text")),
            Task::Embed(embed) => match self.tokens(&embed) {
                Ok(texts) => self.embed(job, &embed, &texts),
                Err(failure) => job.fail(failure),
            },
        }
    }

    fn tokens(&self, embed: &Embed) -> Result<Vec<Vec<LlamaToken>>, Failure> {
        let vocab = self.prompts.vocab();
        let tokens = |(index, text): (usize, &String)| {
            let mut tokens = vocab.tokenize(text.replace('\0', "\u{fffd}").as_bytes(), true, false);
            if tokens.len() > self.limit {
                if !embed.truncate {
                    return Err(self.too_long(index, tokens.len()));
                }
                // The last one closes the text.
                tokens.drain(self.limit - 1..tokens.len() - 1);
            }
            if tokens.is_empty() {
                let message = format!("input {index} has no tokens; write something");
                return Err(Failure::new(FailureKind::InvalidRequest, message));
            }
            Ok(tokens)
        };
        embed.inputs.iter().enumerate().map(tokens).collect()
    }

    fn too_long(&self, index: usize, tokens: usize) -> Failure {
        let message = format!(
            "input {index} has {tokens} tokens, {} more than the {} that model {:?} takes: shorten it, or ask for truncation",
            tokens - self.limit,
            self.limit,
            self.lane.name
        );
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Failure::new(FailureKind::PromptTooLong { tokens: count(tokens), limit: count(self.limit) }, message)
    }

    fn embed(&mut self, job: Job, embed: &Embed, texts: &[Vec<LlamaToken>]) {
        let all = texts.iter().map(Vec::len).sum::<usize>();
        let prompt_tokens = u32::try_from(all).unwrap_or(u32::MAX);
        let started = Instant::now();
        if let Some(counters) = job.counters() {
            counters.started(prompt_tokens, 0);
        }
        let mut ended = Event::Embedded { prompt_tokens: all as u64 };
        let mut first = 0;
        while first < texts.len() {
            if job.is_cancelled() {
                ended = Event::Cancelled { prompt_tokens, completion_tokens: 0 };
                break;
            }
            if self.lane.stop.is_cancelled() {
                ended = Event::Failed(self.lane.stopping());
                break;
            }
            match self.compute(&texts[first..], embed.raw) {
                Ok(vectors) => {
                    let count = vectors.len();
                    job.emit(Event::Vectors { first, vectors });
                    first += count;
                }
                Err(failure) => {
                    ended = Event::Failed(failure);
                    break;
                }
            }
        }
        if let Some(counters) = job.counters() {
            counters.stopped(0, started.elapsed());
        }
        job.finish(ended);
    }

    /// Vectors of as many of `texts` as fit into a batch; at least one.
    fn compute(&mut self, texts: &[Vec<LlamaToken>], raw: bool) -> Result<Vec<Vec<f32>>, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            tracing::error!(model = self.lane.name, %error, "llama.cpp could not compute vectors");
            Failure::new(
                FailureKind::Internal,
                format!("the engine could not compute the vectors ({error}); try again"),
            )
        };
        self.batch.clear();
        self.context.clear_kv_cache();
        let mut count = 0;
        for text in texts.iter().take(SEQUENCES as usize) {
            if self.batch.n_tokens() as usize + text.len() > self.room {
                break;
            }
            for (position, token) in text.iter().enumerate() {
                self.batch.add(*token, position as i32, &[count as i32], true).map_err(|e| failed(&e))?;
            }
            count += 1;
        }
        let turn = self.lane.shared.turn();
        let started = Instant::now();
        let decoded = self.context.decode(&mut self.batch);
        drop(turn);
        totals::stepped(started.elapsed());
        decoded.map_err(|e| failed(&e))?;
        let vector = |index: usize| {
            let vector = self.context.embeddings_seq_ith(index as i32).map_err(|e| failed(&e))?;
            Ok(if raw { vector.to_vec() } else { normalized(vector) })
        };
        (0..count).map(vector).collect()
    }
}

/// The vector with length 1.
fn normalized(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    if length == 0.0 {
        return vector.to_vec();
    }
    vector.iter().map(|number| (f64::from(*number) / length) as f32).collect()
}
