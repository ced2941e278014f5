//! A request that is being computed: its tokens, how the next is chosen, and what of its answer is shown.

use std::time::{Duration, Instant};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;
use symbia_nats::inference::{Choice, Failure, FinishReason, Piece, Request, Timings, Tool, Usage};

use super::constraint::Constraint;
use super::job::Job;
use super::sampler::{is_greedy, likeliest, logprobs, sampler};
use super::speech::Speech;
use super::text::Output;
use super::{Answered, Event};

pub(super) struct Sequence {
    job: Job,
    request: Box<Request>,
    sampler: LlamaSampler,
    constraint: Option<Constraint>,
    output: Output,
    speech: Speech,
    answer: Answered,
    max_tokens: u32,
    started: Instant,
    first_token: Option<Instant>,
    /// The prompt, then the answer.
    tokens: Vec<LlamaToken>,
    prompt_len: usize,
    /// How many of `tokens` the context holds, or will after the batch being built.
    fed: usize,
    /// Where in the batch this sequence's next token is computed.
    output_at: Option<i32>,
}

/// What the next token leads to.
pub(super) enum Next {
    /// Another one.
    More,
    /// The end.
    End(FinishReason),
    /// The model begins to call a tool; a [`Constraint`] for the rest is due.
    Call,
    /// No token fits the shape that the answer must have.
    Stuck,
}

impl Sequence {
    /// Begins with a `prompt` of which the context holds the first `fed` tokens already. `limit` is the context's size.
    pub(super) fn new(
        job: Job,
        mut request: Box<Request>,
        (prompt, fed): (Vec<LlamaToken>, usize),
        constraint: Option<Constraint>,
        (vocab, thinks, limit): (&LlamaVocab<'_>, bool, u32),
    ) -> Self {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let (prompt_tokens, cached_tokens) = (count(prompt.len()), count(fed));
        let room = limit.saturating_sub(prompt_tokens);
        job.emit(Event::Started { prompt_tokens, cached_tokens });
        if let Some(counters) = job.counters() {
            counters.started(prompt_tokens, cached_tokens);
        }
        let started = Instant::now();
        let usage = Usage { prompt_tokens, cached_tokens, completion_tokens: 0 };
        let timings = Timings { queue_ms: millis(started - job.arrived), ..Timings::default() };
        Self {
            sampler: sampler(&request.sampling, vocab),
            constraint,
            output: Output::new(std::mem::take(&mut request.stop)),
            speech: Speech::new(!request.tools.is_empty(), thinks && request.prompt.is_none()),
            answer: Answered { choice: Choice::default(), usage, timings },
            max_tokens: request.max_tokens.unwrap_or(room).min(room),
            started,
            first_token: None,
            prompt_len: prompt.len(),
            tokens: prompt,
            fed,
            output_at: None,
            request,
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

    /// When it began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Tokens that are not in the context yet; more than one while the prompt is computed.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.fed
    }

    /// The prompt, while it is still being computed.
    pub(super) fn prompt_under_way(&self) -> Option<&[LlamaToken]> {
        (self.fed < self.prompt_len).then(|| &self.tokens[..self.prompt_len])
    }

    /// Tokens that the context holds.
    pub(super) fn held(&self) -> &[LlamaToken] {
        &self.tokens[..self.fed]
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

    /// Chooses the next token, if its place was in the batch just computed, and adds it to the answer.
    pub(super) fn advance(&mut self, context: &LlamaContext<'_>, vocab: &LlamaVocab<'_>) -> Next {
        let Some(at) = self.output_at.take() else { return Next::More };
        let Some(token) = self.choose(context, at) else { return Next::Stuck };
        if self.first_token.is_none() {
            let now = Instant::now();
            self.first_token = Some(now);
            if let Some(counters) = self.job.counters() {
                counters.first_token(now - self.started, now - self.job.arrived);
            }
        }
        if vocab.is_eog(token) && !self.request.ignore_eos {
            return Next::End(FinishReason::Stop);
        }
        if let Some(alternatives) = self.request.logprobs {
            let entry = logprobs(context.get_logits_ith(at), token, alternatives, vocab);
            self.show(Piece::Logprobs(vec![entry]));
        }
        self.push(token, vocab)
    }

    /// The next token; `None` when the shape allows none.
    fn choose(&mut self, context: &LlamaContext<'_>, at: i32) -> Option<LlamaToken> {
        let Some(constraint) = &mut self.constraint else {
            return Some(match is_greedy(&self.request.sampling) {
                true => likeliest(context.get_logits_ith(at)),
                false => self.sampler.sample(context, at),
            });
        };
        let mut candidates = context.token_data_array_ith(at);
        if !constraint.narrow(&mut candidates) {
            return None;
        }
        self.sampler.apply(&mut candidates);
        let token = candidates.selected_token()?;
        self.sampler.accept(token);
        constraint.take(token).then_some(token)
    }

    fn push(&mut self, token: LlamaToken, vocab: &LlamaVocab<'_>) -> Next {
        let was_calling = self.speech.call().is_some();
        self.answer.usage.completion_tokens += 1;
        self.tokens.push(token);
        let piece = self.output.push(&vocab.token_to_piece(token, false, None));
        let spoken = self.speech.push(&piece.text);
        spoken.into_iter().for_each(|piece| self.show(piece));
        if piece.stopped || self.constraint.as_ref().is_some_and(Constraint::is_complete) {
            return Next::End(FinishReason::Stop);
        }
        if self.answer.usage.completion_tokens >= self.max_tokens {
            return Next::End(FinishReason::Length);
        }
        match self.speech.call() {
            Some(_) if !was_calling && self.constraint.is_none() => Next::Call,
            _ => Next::More,
        }
    }

    /// The tools, and what of a call the model has written.
    pub(super) fn call(&self) -> (&[Tool], &str) {
        (&self.request.tools, self.speech.call().unwrap_or_default())
    }

    /// From now on tokens must fit this.
    pub(super) fn constrain(&mut self, constraint: Option<Constraint>) {
        self.constraint = constraint;
    }

    /// Sends `Completed`; gives the tokens that the context holds.
    pub(super) fn complete(mut self, finish_reason: FinishReason) -> Vec<LlamaToken> {
        let rest = self.output.finish();
        let mut spoken = self.speech.push(&rest.text);
        spoken.extend(self.speech.finish());
        spoken.into_iter().for_each(|piece| self.show(piece));
        let calls = !self.answer.choice.tool_calls.is_empty() && finish_reason == FinishReason::Stop;
        self.answer.choice.finish_reason = if calls { FinishReason::ToolCalls } else { finish_reason };
        let answer = std::mem::take(&mut self.answer);
        self.end(answer.usage, |timings| Event::Completed(Box::new(Answered { timings, ..answer })))
    }

    /// Sends `Cancelled`; gives the tokens that the context holds.
    pub(super) fn cancel(self) -> Vec<LlamaToken> {
        let usage @ Usage { prompt_tokens, completion_tokens, .. } = self.answer.usage;
        self.end(usage, |_| Event::Cancelled { prompt_tokens, completion_tokens })
    }

    /// Sends `Failed`; gives the tokens that the context holds.
    pub(super) fn fail(self, failure: Failure) -> Vec<LlamaToken> {
        let usage = self.answer.usage;
        self.end(usage, |_| Event::Failed(failure))
    }

    fn end(mut self, usage: Usage, event: impl FnOnce(Timings) -> Event) -> Vec<LlamaToken> {
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        let queue = self.started - self.job.arrived;
        let timings = Timings {
            queue_ms: millis(queue),
            prompt_ms: millis(first - self.started),
            predicted_ms: millis(now - first),
        };
        if let Some(counters) = self.job.counters() {
            counters.stopped(usage.completion_tokens, now - first);
        }
        self.job.finish(event(timings));
        self.tokens.truncate(self.fed);
        self.tokens
    }

    fn show(&mut self, piece: Piece) {
        let choice = &mut self.answer.choice;
        match &piece {
            Piece::Text(text) => choice.text.push_str(text),
            Piece::Reasoning(text) => choice.reasoning.push_str(text),
            Piece::ToolCall(call) => choice.tool_calls.push(call.clone()),
            Piece::Logprobs(entries) => choice.logprobs.extend(entries.iter().cloned()),
        }
        self.job.emit(Event::Piece(piece));
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
