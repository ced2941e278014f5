//! Answers that may be given again: to the same prompt of the same organization, for as long as the asker allows. They are in
//! the memory of the process alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;
use serde_json::json;
use sha2::{Digest, Sha256};
use symbia_events::integrations::{FinishReason, Usage};

use super::{provider::Answer, router::Work};

/// Most bytes of answers.
const ROOM: u64 = 64 * 1024 * 1024;
/// The longest that one is kept.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The answers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Answers(Cache<[u8; 32], Arc<Kept>>);

struct Kept {
    answer: Answer,
    // Who gave it: provider and model.
    by: String,
    since: Instant,
}

/// What tells prompts apart.
#[derive(Clone, Copy)]
pub(super) struct Question {
    digest: [u8; 32],
    lasts: Duration,
}

impl Question {
    /// None: the asker wants an answer of its own.
    pub fn of(work: &Work<'_>) -> Option<Self> {
        let lasts = Duration::from_secs(work.asked.options.cache_seconds?.into());
        let turn = |turn: &super::provider::Turn| {
            json!([turn.role, turn.content, turn.name, turn.parts, turn.tool_calls, turn.tool_call_id])
        };
        let options = symbia_events::integrations::PromptOptions { cache_seconds: None, ..work.asked.options.clone() };
        let request = work.request;
        let asked = json!({
            "org": work.event.orgid, "provider": request.provider, "model": request.model, "fallbacks": request.fallbacks,
            "turns": work.asked.turns.iter().map(turn).collect::<Vec<_>>(), "sampling": request.sampling, "options": options,
            "credential": request.credential_id,
        });
        Some(Question { digest: Sha256::digest(asked.to_string()).into(), lasts })
    }
}

impl Default for Answers {
    fn default() -> Self {
        let weight = |_: &[u8; 32], kept: &Arc<Kept>| u32::try_from(size(&kept.answer)).unwrap_or(u32::MAX);
        Answers(Cache::builder().weigher(weight).max_capacity(ROOM).time_to_live(LONGEST).build())
    }
}

impl Answers {
    /// The answer that was given, if it is young enough, and who gave it. It takes no tokens.
    pub fn find(&self, question: Question) -> Option<(Answer, String)> {
        let kept = self.0.get(&question.digest).filter(|kept| kept.since.elapsed() < question.lasts)?;
        Some((Answer { usage: Usage::default(), cached: true, ..kept.answer.clone() }, kept.by.clone()))
    }

    /// Keeps an answer that came to its end.
    pub fn keep(&self, question: Question, answer: &Answer, by: String) {
        if !answer.cached && matches!(answer.finish_reason, FinishReason::Stop | FinishReason::ToolCalls) {
            let kept = Kept { answer: answer.clone(), by, since: Instant::now() };
            self.0.insert(question.digest, Arc::new(kept));
        }
    }
}

fn size(answer: &Answer) -> usize {
    let calls = answer.tool_calls.iter().map(|call| call.arguments.len()).sum::<usize>();
    let others = answer.others.iter().map(|other| other.text.len()).sum::<usize>();
    let likely = answer.logprobs.iter().map(|token| 64 * (1 + token.top.len())).sum::<usize>();
    1024 + answer.text.len() + answer.reasoning.len() + calls + others + likely
}
