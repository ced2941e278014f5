//! Continuous batching: each step computes one token of every running answer and a chunk of the waiting prompts.
//!
//! llama.cpp cannot be interrupted within a step, so the chunks are sized to keep a step short. What several prompts begin
//! with is computed once: a prompt takes it over from another sequence, and waits for one that is about to compute it.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use symbia_nats::inference::{Failure, FailureKind, FinishReason, Request};

use super::constraint::{Constraint, Shapes, forced};
use super::job::{Job, Task};
use super::lane::Lane;
use super::prompt::Prompts;
use super::sequence::{Next, Sequence};
use super::turns::Turns;
use super::{Event, totals};

const SMALLEST_CHUNK: usize = 8;
const FIRST_CHUNK: usize = 64;
/// The prompt tokens of a step shall take about so long: short enough to cancel, long enough to be efficient, and that answers
/// which end together do not leave a queue of prompts.
const SHARE: Duration = Duration::from_millis(150);
/// Copying a beginning, or waiting for it, is worth it from so many tokens on.
const WORTH: usize = 32;

/// A sequence of the context.
#[derive(Default)]
struct Slot {
    running: Option<Sequence>,
    /// While nothing runs: the tokens that the context still holds, for a prompt that begins alike.
    kept: Vec<LlamaToken>,
}

impl Slot {
    /// The tokens that the context holds.
    fn held(&self) -> &[LlamaToken] {
        self.running.as_ref().map_or(&self.kept, Sequence::held)
    }
}

/// A request that waits for a slot.
struct Waiting {
    job: Job,
    request: Box<Request>,
    prompt: Vec<LlamaToken>,
}

impl Waiting {
    fn organization(&self) -> &str {
        self.request.org.as_deref().unwrap_or_default()
    }
}

pub(super) struct Scheduler<'m> {
    lane: &'m Lane,
    prompts: Prompts<'m>,
    shapes: Option<Shapes>,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    slots: Vec<Slot>,
    waiting: VecDeque<Waiting>,
    turns: Turns,
    /// Tokens of a batch at most. No fewer than there are sequences: a token of each always fits.
    most: usize,
    /// Prompt tokens of a step.
    chunk: usize,
    /// Tokens that a sequence may have.
    limit: u32,
}

impl<'m> Scheduler<'m> {
    pub(super) fn new(lane: &'m Lane, prompts: Prompts<'m>, context: LlamaContext<'m>, limit: u32) -> Self {
        let slots = (0..lane.parallel).map(|_| Slot::default()).collect();
        let most = lane.shared.options.batch_tokens as usize;
        let batch = LlamaBatch::new(most, 1);
        let (shapes, waiting) = (None, VecDeque::new());
        Self {
            lane,
            prompts,
            shapes,
            context,
            batch,
            slots,
            waiting,
            turns: Turns::default(),
            most,
            chunk: FIRST_CHUNK.min(most),
            limit,
        }
    }

    /// Works until the model is to be unloaded.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            while let Ok(job) = jobs.try_recv() {
                self.take(job);
            }
            if self.lane.stop.is_cancelled() {
                return self.stop();
            }
            self.drop_cancelled();
            self.admit();
            if self.slots.iter().any(|slot| slot.running.is_some()) {
                self.step();
                continue;
            }
            match self.lane.wait(jobs) {
                Some(job) => self.take(job),
                None => return,
            }
        }
    }

    fn stop(self) {
        self.waiting.into_iter().for_each(|waiting| waiting.job.fail(self.lane.stopping()));
        let running = self.slots.into_iter().filter_map(|slot| slot.running);
        running.for_each(|sequence| _ = sequence.fail(self.lane.stopping()));
    }

    /// Does at once what needs no slot.
    fn take(&mut self, mut job: Job) {
        match std::mem::replace(&mut job.task, Task::Load) {
            Task::Load => job.finish(Event::Loaded),
            Task::Inspect(inspect) => match self.prompts.inspect(inspect) {
                Ok(seen) => job.finish(Event::Inspected(seen)),
                Err(failure) => job.fail(failure),
            },
            Task::Embed(_) => job.fail(self.lane.unable("generates text and makes no vectors")),
            Task::Generate(request) => {
                // One token less than the context: an answer needs room.
                match self.prompts.tokens(&request, self.limit - 1) {
                    Ok(prompt) => self.waiting.push_back(Waiting { job, request, prompt }),
                    Err(failure) => job.fail(failure),
                }
            }
        }
    }

    fn drop_cancelled(&mut self) {
        for slot in &mut self.slots {
            if let Some(sequence) = slot.running.take_if(|sequence| sequence.is_cancelled()) {
                slot.kept = sequence.cancel();
            }
        }
        let mut index = 0;
        while let Some(waiting) = self.waiting.get(index) {
            if waiting.job.is_cancelled()
                && let Some(waiting) = self.waiting.remove(index)
            {
                waiting.job.finish(Event::Cancelled { prompt_tokens: 0, completion_tokens: 0 });
            } else {
                index += 1;
            }
        }
    }

    /// Gives waiting jobs to free slots, the organizations in turn.
    fn admit(&mut self) {
        while self.slots.iter().any(|slot| slot.running.is_none()) {
            let ready = self.waiting.iter().enumerate().filter(|(_, waiting)| !self.is_being_computed(&waiting.prompt));
            let next = self.turns.next(ready.map(|(index, waiting)| (index, waiting.organization())));
            let Some(waiting) = next.and_then(|index| self.waiting.remove(index)) else { return };
            self.turns.took(waiting.organization(), self.waiting.is_empty());
            self.start(waiting);
        }
    }

    fn start(&mut self, Waiting { job, request, prompt }: Waiting) {
        let constraint = match self.constraint(&request) {
            Ok(constraint) => constraint,
            Err(failure) => return job.fail(failure),
        };
        let Some((index, fed)) = self.place(&prompt) else { return job.fail(self.lane.stopping()) };
        let thinks = self.prompts.thinks(request.chat_template.as_deref());
        let about = (&self.prompts.vocab(), thinks, self.limit);
        let sequence = Sequence::new(job, request, (prompt, fed), constraint, about);
        self.slots[index].kept.clear();
        if sequence.wants_nothing() {
            self.slots[index].kept = sequence.complete(FinishReason::Length);
        } else {
            self.slots[index].running = Some(sequence);
        }
    }

    fn constraint(&mut self, request: &Request) -> Result<Option<Constraint>, Failure> {
        if request.format == symbia_nats::inference::Format::Text && !forced(request) {
            return Ok(None);
        }
        self.shapes()?.of_request(request)
    }

    fn shapes(&mut self) -> Result<&Shapes, Failure> {
        let shapes = match self.shapes.take() {
            Some(shapes) => shapes,
            None => Shapes::new(self.prompts.model())?,
        };
        Ok(self.shapes.insert(shapes))
    }

    /// Whether a running prompt is about to compute more of this one's beginning than any sequence holds.
    fn is_being_computed(&self, prompt: &[LlamaToken]) -> bool {
        let held = self.slots.iter().map(|slot| alike(slot.held(), prompt)).max().unwrap_or(0);
        let running = self.slots.iter().filter_map(|slot| slot.running.as_ref()?.prompt_under_way());
        running.map(|other| alike(other, prompt)).max().unwrap_or(0) >= held + WORTH
    }

    /// A free slot, and how many tokens of `prompt` it holds now.
    fn place(&mut self, prompt: &[LlamaToken]) -> Option<(usize, usize)> {
        // Of the prompt the last token is computed in any case, for what follows it.
        let most = prompt.len() - 1;
        let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.running.is_none());
        // `max_by_key` takes the last of equals: reversed, neighbouring slots are used, which llama.cpp batches best.
        let own = free.clone().map(|(index, slot)| (index, alike(&slot.kept, prompt).min(most))).rev();
        let (index, own) = own.max_by_key(|(_, alike)| *alike)?;
        let all = self.slots.iter().enumerate();
        let other =
            all.map(|(index, slot)| (index, alike(slot.held(), prompt).min(most))).max_by_key(|(_, alike)| *alike);
        match other {
            Some((source, shared)) if source != index && shared >= own + WORTH => {
                let (index, _) = free.min_by_key(|(_, slot)| slot.kept.len())?;
                Some((index, self.copy(source, index, shared)))
            }
            _ => Some((index, self.reuse(index, own))),
        }
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

    /// Gives a slot the first `shared` tokens of another one.
    fn copy(&mut self, source: usize, index: usize, shared: usize) -> usize {
        self.forget(index);
        // Only whole sequences can be copied; the rest is taken away afterwards.
        let whole = self.context.kv_cache_seq_pos_min(source as i32) == 0;
        if !whole || self.context.kv_cache_seq_cp(source as i32, index as i32, None, None).is_err() {
            return 0;
        }
        self.reuse(index, shared)
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
        totals::stepped(started.elapsed());
        if let Err(error) = decoded {
            return self.fail_running(&error.to_string());
        }
        if prompt_tokens > 0 {
            let share = prompt_tokens as f64 / f64::from(self.batch.n_tokens().max(1));
            self.adapt_chunk(prompt_tokens, started.elapsed().mul_f64(share));
        }
        self.sample();
    }

    /// Adds a token of every running answer, then prompt tokens, of whoever waits longest; gives the number of those.
    fn fill_batch(&mut self) -> usize {
        self.batch.clear();
        let Self { slots, batch, chunk, most, .. } = self;
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
        prompts.sort_by_key(|(_, sequence)| sequence.started());
        let room = (*chunk).min(*most - answers);
        let mut left = room;
        for (index, sequence) in prompts {
            let count = sequence.pending().min(left);
            fill(index, sequence, count);
            left -= count;
        }
        room - left
    }

    fn adapt_chunk(&mut self, prompt_tokens: usize, took: Duration) {
        if took > SHARE * 2 {
            self.chunk = (self.chunk / 2).max(SMALLEST_CHUNK);
        } else if took < SHARE / 2 && prompt_tokens == self.chunk {
            self.chunk = (self.chunk * 2).min(self.most);
        }
    }

    fn sample(&mut self) {
        let vocab = self.prompts.vocab();
        for index in 0..self.slots.len() {
            let Some(sequence) = &mut self.slots[index].running else { continue };
            match sequence.advance(&self.context, &vocab) {
                Next::More => {}
                Next::Call => self.constrain_call(index),
                Next::End(reason) => self.release(index, |sequence| sequence.complete(reason)),
                Next::Stuck => self.release(index, |sequence| {
                    let message = "no text fits the grammar or schema from here on: give it another way to go on";
                    sequence.fail(Failure::new(FailureKind::InvalidFormat, message))
                }),
            }
        }
    }

    fn release(&mut self, index: usize, end: impl FnOnce(Sequence) -> Vec<LlamaToken>) {
        if let Some(sequence) = self.slots[index].running.take() {
            self.slots[index].kept = end(sequence);
        }
    }

    /// The rest of a call that the model has begun must fit the tools. Where that cannot be enforced, it is left as it comes.
    fn constrain_call(&mut self, index: usize) {
        if self.shapes().is_err() {
            return;
        }
        let (Some(shapes), Some(sequence)) = (&self.shapes, &mut self.slots[index].running) else { return };
        let (tools, begun) = sequence.call();
        let begun = self.prompts.vocab().tokenize(begun.as_bytes(), false, false);
        let constraint = shapes.of_call(tools, &begun);
        sequence.constrain(constraint);
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

/// How many tokens two texts begin with alike.
fn alike(a: &[LlamaToken], b: &[LlamaToken]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
