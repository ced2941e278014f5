//! A model that follows a script: what it does is in the question.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use symbia_events::integrations::{DroppedParam, ErrorCategory, Usage};
use symbia_workers::integrations::{Answer, ApiKey, Delta, Deltas, Fault, Prompt, Provider};

/// Counts one, two, three; with `wait` in the question it says "one " and goes on thinking; with `stumble` its first attempt
/// is lost after "one ".
#[derive(Clone, Default)]
pub struct Scripted {
    /// Calls that were given up.
    pub given_up: Arc<AtomicUsize>,
}

struct Call(Arc<AtomicUsize>, bool);

impl Drop for Call {
    fn drop(&mut self) {
        if !self.1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[async_trait]
impl Provider for Scripted {
    fn key(&self) -> &'static str {
        "scripted"
    }

    fn default_model(&self) -> &'static str {
        "counting-1"
    }

    fn dropped(&self, _: &Prompt) -> Vec<DroppedParam> {
        Vec::new()
    }

    async fn complete(&self, prompt: &Prompt, _: Option<&ApiKey>, deltas: Deltas<'_>) -> Result<Answer, Fault> {
        let mut call = Call(Arc::clone(&self.given_up), false);
        let question = prompt.turns.last().map(|turn| turn.content.as_str()).unwrap_or_default();
        deltas(0, Delta::Text("one "));
        if question.contains("wait") {
            std::future::pending::<()>().await;
        }
        if question.contains("stumble") && prompt.attempt == 1 {
            call.1 = true;
            let lost = Fault::new(ErrorCategory::Provider, "worker_lost", "the worker was lost");
            return Err(Fault { lost: true, ..lost });
        }
        deltas(0, Delta::Text("two "));
        deltas(0, Delta::Text("three"));
        call.1 = true;
        let usage = Usage { prompt_tokens: 5, completion_tokens: 3, total_tokens: 8, ..Usage::default() };
        Ok(Answer { text: "one two three".to_owned(), usage, ..Answer::empty("counting-1") })
    }
}
