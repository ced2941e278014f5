//! A request that is being computed: its tokens, its sampler, and what of its answer is shown.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;

use super::job::Job;
use super::text::Output;
use super::{Event, Failure, FinishReason, Request};

/// Sampling looks at so many of the likeliest tokens, as llama.cpp's server does.
const TOP_K: i32 = 40;

pub(super) struct Sequence {
    job: Job,
    sampler: LlamaSampler,
    output: Output,
    prompt_tokens: u32,
    completion_tokens: u32,
    max_tokens: u32,
    /// The prompt, then the answer.
    tokens: Vec<LlamaToken>,
    /// How many of `tokens` the context holds, or will after the batch being built.
    fed: usize,
    /// Where in the batch this sequence's next token is computed.
    output_at: Option<i32>,
}

impl Sequence {
    /// Begins with a `prompt` of which the context holds the first `fed` tokens already. `limit` is the context's size.
    pub(super) fn new(mut job: Job, prompt: Vec<LlamaToken>, fed: usize, limit: u32) -> Self {
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let room = limit.saturating_sub(prompt_tokens);
        job.emit(Event::Started { prompt_tokens });
        Self {
            sampler: sampler(&job.request),
            output: Output::new(std::mem::take(&mut job.request.stop)),
            prompt_tokens,
            completion_tokens: 0,
            max_tokens: job.request.max_tokens.unwrap_or(room).min(room),
            tokens: prompt,
            fed,
            output_at: None,
            job,
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.job.is_cancelled()
    }

    /// Whether nothing is to be generated, as with `max_tokens` 0.
    pub(super) fn wants_nothing(&self) -> bool {
        self.max_tokens == 0
    }

    /// Tokens that are not in the context yet; more than one while the prompt is computed.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.fed
    }

    /// Takes the next `count` tokens with their positions; the flag says whether the answer goes on after the token.
    pub(super) fn feed(&mut self, count: usize) -> impl Iterator<Item = (LlamaToken, i32, bool)> + '_ {
        let from = self.fed;
        self.fed += count.min(self.pending());
        let last = self.tokens.len() - 1;
        (from..self.fed).map(move |at| (self.tokens[at], at as i32, at == last))
    }

    /// Says where in the batch the next token is computed.
    pub(super) fn expect_output(&mut self, at: i32) {
        self.output_at = Some(at);
    }

    /// The place said by `expect_output`, once.
    pub(super) fn take_output(&mut self) -> Option<i32> {
        self.output_at.take()
    }

    pub(super) fn sampler(&mut self) -> &mut LlamaSampler {
        &mut self.sampler
    }

    /// Adds a token to the answer; gives the reason when it ends with it.
    pub(super) fn push(&mut self, token: LlamaToken, vocab: &LlamaVocab<'_>) -> Option<FinishReason> {
        if vocab.is_eog(token) && !self.job.request.ignore_eos {
            return Some(FinishReason::Stop);
        }
        self.completion_tokens += 1;
        self.tokens.push(token);
        let piece = self.output.push(&vocab.token_to_piece(token, false, None));
        self.show(piece.text);
        if piece.stopped {
            return Some(FinishReason::Stop);
        }
        (self.completion_tokens >= self.max_tokens).then_some(FinishReason::Length)
    }

    /// Sends `Completed`; gives the tokens that the context holds.
    pub(super) fn complete(mut self, finish_reason: FinishReason) -> Vec<LlamaToken> {
        let rest = self.output.finish();
        self.show(rest.text);
        let Self { job, prompt_tokens, completion_tokens, .. } = self;
        job.finish(Event::Completed { finish_reason, prompt_tokens, completion_tokens });
        self.tokens.truncate(self.fed);
        self.tokens
    }

    /// Sends `Cancelled`; gives the tokens that the context holds.
    pub(super) fn cancel(mut self) -> Vec<LlamaToken> {
        let Self { job, prompt_tokens, completion_tokens, .. } = self;
        job.finish(Event::Cancelled { prompt_tokens, completion_tokens });
        self.tokens.truncate(self.fed);
        self.tokens
    }

    pub(super) fn fail(self, failure: Failure) {
        self.job.fail(failure);
    }

    fn show(&self, text: String) {
        if !text.is_empty() {
            self.job.emit(Event::Delta { text });
        }
    }
}

fn sampler(request: &Request) -> LlamaSampler {
    if request.temperature == 0.0 {
        return LlamaSampler::greedy();
    }
    // llama.cpp takes the highest seed as "a random one".
    let seed = request.seed.unwrap_or(u32::MAX);
    LlamaSampler::chain_simple([
        LlamaSampler::top_k(TOP_K),
        LlamaSampler::top_p(request.top_p, 1),
        LlamaSampler::temp(request.temperature),
        LlamaSampler::dist(seed),
    ])
}
