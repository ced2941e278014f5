//! What has come of all rounds: one answer to the caller.

use symbia_events::integrations::{AnswerChoice, FinishReason, Spent, TokenLogprob, Usage};

use super::{calls::Made, names::ToolNames};
use crate::integrations::said::Answer;

/// What stands between what a model says in one turn and in the next.
pub(in crate::integrations) const PARAGRAPH: &str = "\n\n";

/// A turn of a model, with the calls that were made of it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::integrations) struct Round {
    /// Of the request that it answers.
    pub request_id: String,
    pub answer: Answer,
    pub calls: Vec<Made>,
}

/// All of them.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::integrations) struct Outcome {
    pub rounds: Vec<Round>,
    /// All that was said, one after another, with the calls that are the caller's to make, and the sum of what it took.
    pub answer: Answer,
    /// The model wanted to call once more than it may: so often.
    pub used_up: Option<u32>,
}

fn joined<'t>(texts: impl Iterator<Item = &'t str>) -> String {
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(PARAGRAPH)
}

fn sum(one: Usage, two: Usage) -> Usage {
    let spent = Spent { usage: one, cost: None }.and(Some(Spent { usage: two, cost: None }));
    let cached = one
        .cached_prompt_tokens
        .map_or(two.cached_prompt_tokens, |cached| Some(cached.saturating_add(two.cached_prompt_tokens.unwrap_or(0))));
    Usage { cached_prompt_tokens: cached, ..spent.usage }
}

impl Outcome {
    /// Of these rounds, of which there is one at least.
    pub fn new(rounds: Vec<Round>, names: &ToolNames, used_up: bool) -> Option<Self> {
        let last = rounds.last()?.answer.clone();
        let all = || rounds.iter().map(|round| &round.answer);
        let logprobs: Vec<TokenLogprob> = all().flat_map(|answer| &answer.first.logprobs).cloned().collect();
        let cost = all().fold(None, |cost, answer| {
            let spent = |cost| Spent { usage: Usage::default(), cost };
            spent(cost).and(Some(spent(answer.cost))).cost
        });
        let mut timing = last.timing;
        if let Some(first) = all().next() {
            (timing.queue_ms, timing.ttft_ms) = (first.timing.queue_ms, first.timing.ttft_ms);
        }
        timing.total_ms = all().map(|answer| answer.timing.total_ms).sum();
        let mut warnings: Vec<String> = all().flat_map(|answer| &answer.warnings).cloned().collect();
        warnings.dedup();
        let answer = Answer {
            first: AnswerChoice {
                text: joined(all().map(|answer| answer.first.text.as_str())),
                reasoning: joined(all().map(|answer| answer.first.reasoning.as_str())),
                tool_calls: names.own(&last.first.tool_calls),
                finish_reason: if used_up { FinishReason::Length } else { last.first.finish_reason },
                logprobs,
            },
            usage: all().map(|answer| answer.usage).reduce(sum).unwrap_or_default(),
            cost,
            timing,
            attempts: all().map(|answer| answer.attempts).sum(),
            warnings,
            cached: all().all(|answer| answer.cached),
            similarity: last.similarity.filter(|_| rounds.len() == 1),
            ..last
        };
        Some(Outcome { rounds, answer, used_up: used_up.then_some(names.most) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use symbia_events::integrations::{Cost, Timing};

    use super::{
        super::names::tests::{names, turn},
        *,
    };

    fn round(text: &str, calls: &[&str], finish: FinishReason, tokens: u64) -> Round {
        let first = AnswerChoice { text: text.to_owned(), ..turn(calls, finish) };
        let usage = Usage { prompt_tokens: tokens, completion_tokens: 1, total_tokens: tokens + 1, ..Usage::default() };
        let cost = Cost { input_micros: tokens, output_micros: 1, total_micros: tokens + 1, price_version: 1 };
        let answer = Answer {
            provider: "p".into(),
            model: "m".into(),
            first,
            others: Vec::new(),
            raw_finish_reason: None,
            usage,
            cost: Some(cost),
            timing: Timing { total_ms: 5, ..Timing::default() },
            attempts: 1,
            warnings: vec!["w".into()],
            provider_request_id: None,
            cached: false,
            similarity: None,
        };
        Round { request_id: "r".into(), answer, calls: Vec::new() }
    }

    #[test]
    fn what_was_said_stands_together_and_what_it_took_is_the_sum() {
        let rounds = vec![
            round("Let me see.", &["weather_get"], FinishReason::ToolCalls, 10),
            round("", &["weather_get"], FinishReason::ToolCalls, 20),
            round("It rains.", &["add", "weather_set"], FinishReason::ToolCalls, 30),
        ];
        let outcome = Outcome::new(rounds, &names(8), false).unwrap();
        let (answer, said) = (&outcome.answer, &outcome.answer.first);
        assert_eq!(said.text, "Let me see.\n\nIt rains.");
        let calls: Vec<&str> = said.tool_calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!((calls, said.finish_reason), (vec!["add"], FinishReason::ToolCalls));
        assert_eq!((answer.usage.prompt_tokens, answer.usage.total_tokens, answer.attempts), (60, 63, 3));
        assert_eq!((answer.cost.unwrap().total_micros, answer.timing.total_ms), (63, 15));
        assert_eq!((answer.warnings.len(), outcome.used_up), (1, None));
    }

    #[test]
    fn an_answer_that_would_go_on_is_cut_off_and_says_why() {
        let rounds = vec![round("", &["weather_get"], FinishReason::ToolCalls, 1); 3];
        let outcome = Outcome::new(rounds, &names(2), true).unwrap();
        assert_eq!((outcome.used_up, outcome.answer.first.finish_reason), (Some(2), FinishReason::Length));
        assert!(outcome.answer.first.tool_calls.is_empty());
    }
}
