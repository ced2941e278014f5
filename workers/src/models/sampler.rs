//! How the next token is chosen, and how likely it was.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;
use llama_cpp_2::vocab::LlamaVocab;
use symbia_nats::inference::{Failure, FailureKind, Sampling, TokenLogprob};

/// Most biases of a request.
const MOST_BIASES: usize = 1024;

/// Refuses what llama.cpp would not take.
pub(super) fn check(sampling: &Sampling) -> Result<(), Failure> {
    let within = |value: f32, least: f32, most: f32| (least..=most).contains(&value);
    let wrong = [
        (within(sampling.temperature, 0.0, 100.0), "temperature must be 0 to 100"),
        (sampling.top_p > 0.0 && sampling.top_p <= 1.0, "top_p must be more than 0 and at most 1"),
        (within(sampling.min_p, 0.0, 1.0), "min_p must be 0 to 1"),
        (sampling.typical_p > 0.0 && sampling.typical_p <= 1.0, "typical_p must be more than 0 and at most 1"),
        (
            sampling.repeat_penalty > 0.0 && sampling.repeat_penalty <= 10.0,
            "repeat_penalty must be more than 0 and at most 10",
        ),
        (within(sampling.frequency_penalty, -2.0, 2.0), "frequency_penalty must be -2 to 2"),
        (within(sampling.presence_penalty, -2.0, 2.0), "presence_penalty must be -2 to 2"),
        (sampling.repeat_last_n <= 1 << 16, "repeat_last_n must be at most 65536"),
        (sampling.logit_bias.len() <= MOST_BIASES, "logit_bias must name at most 1024 tokens"),
        (sampling.logit_bias.iter().all(|(_, bias)| within(*bias, -100.0, 100.0)), "logit_bias must be -100 to 100"),
    ];
    match wrong.into_iter().find(|(fits, _)| !fits) {
        Some((_, message)) => Err(Failure::new(FailureKind::InvalidRequest, message)),
        None => Ok(()),
    }
}

/// Whether a request wants the likeliest token each time, whatever came before: that needs no chain.
pub(super) fn is_greedy(sampling: &Sampling) -> bool {
    sampling.temperature == 0.0 && sampling.logit_bias.is_empty() && !is_penalized(sampling)
}

fn is_penalized(sampling: &Sampling) -> bool {
    (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty) != (1.0, 0.0, 0.0)
}

/// The likeliest token, the first of equals. Found in some microseconds, where a chain first writes all odds into a list.
pub(super) fn likeliest(logits: &[f32]) -> LlamaToken {
    let highest = highest(logits);
    let at = logits.iter().position(|logit| *logit == highest).unwrap_or(0);
    LlamaToken(i32::try_from(at).unwrap_or(0))
}

fn highest(logits: &[f32]) -> f32 {
    // Each place of a row has its own maximum, so that a processor compares a row at a time.
    const ROW: usize = 16;
    let (rows, rest) = logits.as_chunks::<ROW>();
    let mut highest = [f32::NEG_INFINITY; ROW];
    for row in rows {
        for (highest, logit) in highest.iter_mut().zip(row) {
            *highest = if logit > highest { *logit } else { *highest };
        }
    }
    highest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// llama.cpp's chain for a request.
pub(super) fn sampler(sampling: &Sampling, vocab: &LlamaVocab<'_>) -> LlamaSampler {
    let tokens = vocab.n_tokens();
    let mut chain = Vec::new();
    let biases: Vec<_> = sampling
        .logit_bias
        .iter()
        .filter_map(|(token, bias)| Some((i32::try_from(*token).ok().filter(|token| *token < tokens)?, *bias)))
        .map(|(token, bias)| LlamaLogitBias::new(LlamaToken(token), bias))
        .collect();
    if !biases.is_empty() {
        chain.push(LlamaSampler::logit_bias(tokens, &biases));
    }
    if is_penalized(sampling) {
        let Sampling { repeat_penalty, frequency_penalty, presence_penalty, .. } = *sampling;
        let last = i32::try_from(sampling.repeat_last_n).unwrap_or(i32::MAX);
        chain.push(LlamaSampler::penalties(tokens, last, repeat_penalty, frequency_penalty, presence_penalty));
    }
    if sampling.temperature == 0.0 {
        chain.push(LlamaSampler::greedy());
        return LlamaSampler::chain_simple(chain);
    }
    if sampling.top_k > 0 {
        chain.push(LlamaSampler::top_k(i32::try_from(sampling.top_k).unwrap_or(i32::MAX)));
    }
    if sampling.typical_p < 1.0 {
        chain.push(LlamaSampler::typical(sampling.typical_p, 1));
    }
    chain.push(LlamaSampler::top_p(sampling.top_p, 1));
    if sampling.min_p > 0.0 {
        chain.push(LlamaSampler::min_p(sampling.min_p, 1));
    }
    chain.push(LlamaSampler::temp(sampling.temperature));
    // llama.cpp takes the highest seed as "a random one".
    chain.push(LlamaSampler::dist(sampling.seed.unwrap_or(u32::MAX)));
    LlamaSampler::chain_simple(chain)
}

/// How likely `token` was before anything was done to the odds, and so many of the likeliest.
pub(super) fn logprobs(logits: &[f32], token: LlamaToken, top: u32, vocab: &LlamaVocab<'_>) -> TokenLogprob {
    let highest = highest(logits);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
    let total = highest + sum.ln() as f32;
    let bytes = |token| vocab.token_to_piece(token, true, None);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let top = (top as usize).min(order.len());
    if top > 0 {
        order.select_nth_unstable_by(top - 1, |a, b| logits[*b].total_cmp(&logits[*a]));
    }
    order.truncate(top);
    order.sort_unstable_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let top = order.into_iter().map(|index| (bytes(LlamaToken(index as i32)), logits[index] - total)).collect();
    let own = usize::try_from(token.0).ok().and_then(|index| logits.get(index)).copied();
    TokenLogprob { bytes: bytes(token), logprob: own.unwrap_or(f32::NEG_INFINITY) - total, top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_is_the_first_of_the_highest() {
        for length in [1, 15, 16, 17, 100] {
            for at in [0, length / 2, length - 1] {
                let mut logits: Vec<f32> = (0..length).map(|n| (n % 7) as f32 - 20.0).collect();
                logits[at] = -1.0;
                logits[length - 1] = -1.0;
                assert_eq!(likeliest(&logits), LlamaToken(at as i32), "{at} of {length}");
            }
        }
    }

    #[test]
    fn what_changes_the_odds_needs_a_chain() {
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        assert!(is_greedy(&greedy));
        assert!(!is_greedy(&Sampling { temperature: 0.1, ..greedy.clone() }));
        assert!(!is_greedy(&Sampling { logit_bias: vec![(1, 1.0)], ..greedy.clone() }));
        assert!(!is_greedy(&Sampling { presence_penalty: 0.5, ..greedy.clone() }));
    }
}
