//! Continuous batching: each step computes one token of every running answer and a chunk of the waiting prompts.
//!
//! llama.cpp cannot be interrupted within a step, so the chunks are sized to keep a step short.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::job::Job;
use super::lane::Lane;
use super::prompt::Prompts;
use super::sequence::Sequence;
use super::{Event, Failure, FailureKind, FinishReason, service};

/// Tokens of a batch at most. More than there are sequences: a token of each always fits.
pub(super) const BATCH_TOKENS: usize = 512;
const SMALLEST_CHUNK: usize = 8;
const FIRST_CHUNK: usize = 64;
/// A step with prompt tokens shall take about so long: short enough to cancel, long enough to be efficient.
const STEP: Duration = Duration::from_millis(50);

/// A sequence of the context.
#[derive(Default)]
struct Slot {
    running: Option<Sequence>,
    /// While nothing runs: the tokens that the context still holds, for a prompt that begins alike.
    kept: Vec<LlamaToken>,
}

pub(super) struct Scheduler<'m> {
    lane: &'m Lane,
    prompts: Prompts<'m>,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    slots: Vec<Slot>,
    waiting: VecDeque<Job>,
    /// Prompt tokens of a step.
    chunk: usize,
    /// Tokens that a sequence may have.
    limit: u32,
}

impl<'m> Scheduler<'m> {
    pub(super) fn new(lane: &'m Lane, prompts: Prompts<'m>, context: LlamaContext<'m>, limit: u32) -> Self {
        let slots = (0..lane.shared.options.parallel).map(|_| Slot::default()).collect();
        let batch = LlamaBatch::new(BATCH_TOKENS, 1);
        Self { lane, prompts, context, batch, slots, waiting: VecDeque::new(), chunk: FIRST_CHUNK, limit }
    }

    /// Works until the model is to be unloaded.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            self.waiting.extend(jobs.try_iter());
            if self.lane.shared.stop.is_cancelled() {
                return self.stop();
            }
            self.drop_cancelled();
            self.admit();
            if self.slots.iter().any(|slot| slot.running.is_some()) {
                self.step();
                continue;
            }
            match self.lane.wait(jobs) {
                Some(job) => self.waiting.push_back(job),
                None => return,
            }
        }
    }

    fn stop(self) {
        self.waiting.into_iter().for_each(|job| job.fail(service::stopping()));
        let running = self.slots.into_iter().filter_map(|slot| slot.running);
        running.for_each(|sequence| sequence.fail(service::stopping()));
    }

    fn drop_cancelled(&mut self) {
        for slot in &mut self.slots {
            if let Some(sequence) = slot.running.take_if(|sequence| sequence.is_cancelled()) {
                slot.kept = sequence.cancel();
            }
        }
        let mut index = 0;
        while let Some(job) = self.waiting.get(index) {
            if job.is_cancelled()
                && let Some(job) = self.waiting.remove(index)
            {
                job.finish(Event::Cancelled { prompt_tokens: 0, completion_tokens: 0 });
            } else {
                index += 1;
            }
        }
    }

    /// Gives waiting jobs to free slots.
    fn admit(&mut self) {
        while self.slots.iter().any(|slot| slot.running.is_none()) {
            let Some(job) = self.waiting.pop_front() else { return };
            // One token less than the context: an answer needs room.
            let prompt = match self.prompts.tokens(&job.request.messages, self.limit - 1) {
                Ok(prompt) => prompt,
                Err(failure) => {
                    job.fail(failure);
                    continue;
                }
            };
            let Some((index, alike)) = self.best_slot(&prompt) else {
                self.waiting.push_front(job);
                return;
            };
            let fed = self.reuse(index, alike);
            let sequence = Sequence::new(job, prompt, fed, self.limit);
            self.slots[index].kept.clear();
            if sequence.wants_nothing() {
                self.slots[index].kept = sequence.complete(FinishReason::Length);
            } else {
                self.slots[index].running = Some(sequence);
            }
        }
    }

    /// The free slot that holds the longest beginning of `prompt`, and its length.
    fn best_slot(&self, prompt: &[LlamaToken]) -> Option<(usize, usize)> {
        let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.running.is_none());
        let alike = |kept: &[LlamaToken]| kept.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // `max_by_key` takes the last of equals: reversed, neighbouring slots are used, which llama.cpp batches best.
        // Of the prompt the last token is computed in any case, for what follows it.
        free.map(|(index, slot)| (index, alike(&slot.kept).min(prompt.len() - 1))).rev().max_by_key(|(_, alike)| *alike)
    }

    /// Leaves the first `alike` tokens of a slot in the context; gives how many are left, none if the model cannot.
    fn reuse(&mut self, index: usize, alike: usize) -> usize {
        let sequence = index as i32;
        let whole = self.context.kv_cache_seq_pos_min(sequence) == 0;
        if alike > 0 && whole && self.context.kv_cache_seq_rm(sequence, Some(alike as u32), None).is_ok() {
            return alike;
        }
        self.forget(index);
        0
    }

    fn forget(&mut self, index: usize) {
        self.slots[index].kept.clear();
        // Removing a whole sequence cannot fail.
        let _ = self.context.kv_cache_seq_rm(index as i32, None, None);
    }

    fn step(&mut self) {
        let prompt_tokens = self.fill_batch();
        let turn = self.lane.shared.turn();
        let started = Instant::now();
        let decoded = self.context.decode(&mut self.batch);
        drop(turn);
        if let Err(error) = decoded {
            return self.fail_running(&error.to_string());
        }
        if prompt_tokens > 0 {
            self.adapt_chunk(prompt_tokens, started.elapsed());
        }
        self.sample();
    }

    /// Adds a token of every running answer, then prompt tokens; gives the number of those.
    fn fill_batch(&mut self) -> usize {
        self.batch.clear();
        let Self { slots, batch, chunk, .. } = self;
        let mut fill = |index: usize, sequence: &mut Sequence, count: usize| {
            let mut output_at = None;
            for (token, position, last) in sequence.feed(count) {
                let at = batch.n_tokens();
                // The batch has room: a step's tokens are counted below.
                if batch.add(token, position, &[index as i32], last).is_ok() && last {
                    output_at = Some(at);
                }
            }
            if let Some(at) = output_at {
                sequence.expect_output(at);
            }
        };
        let mut answers = 0;
        let mut prompts = Vec::new();
        for (index, slot) in slots.iter_mut().enumerate() {
            match &mut slot.running {
                Some(sequence) if sequence.pending() == 1 => {
                    fill(index, sequence, 1);
                    answers += 1;
                }
                Some(sequence) => prompts.push((index, sequence)),
                None => {}
            }
        }
        let room = (*chunk).min(BATCH_TOKENS - answers);
        let mut left = room;
        for (index, sequence) in prompts {
            let count = sequence.pending().min(left);
            fill(index, sequence, count);
            left -= count;
        }
        room - left
    }

    fn adapt_chunk(&mut self, prompt_tokens: usize, elapsed: Duration) {
        if elapsed > STEP * 2 {
            self.chunk = (self.chunk / 2).max(SMALLEST_CHUNK);
        } else if elapsed < STEP / 2 && prompt_tokens == self.chunk {
            self.chunk = (self.chunk * 2).min(BATCH_TOKENS);
        }
    }

    fn sample(&mut self) {
        let vocab = self.prompts.vocab();
        for slot in &mut self.slots {
            let Some(sequence) = &mut slot.running else { continue };
            let Some(at) = sequence.take_output() else { continue };
            let token = sequence.sampler().sample(&self.context, at);
            if let Some(reason) = sequence.push(token, &vocab)
                && let Some(sequence) = slot.running.take()
            {
                slot.kept = sequence.complete(reason);
            }
        }
    }

    /// After a failed step nobody knows what the context holds: every running answer ends.
    fn fail_running(&mut self, error: &str) {
        tracing::error!(model = self.lane.name, error, "llama.cpp could not compute a batch");
        for index in 0..self.slots.len() {
            if let Some(sequence) = self.slots[index].running.take() {
                sequence.fail(Failure::new(
                    FailureKind::Internal,
                    format!("the engine could not compute the next token ({error}); try again"),
                ));
            }
            self.forget(index);
        }
    }
}
