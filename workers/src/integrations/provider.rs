//! What a provider of language models is to the router.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use symbia_events::integrations::{DroppedParam, ErrorCategory, FinishReason, PromptRole, Sampling, Upstream, Usage};

/// Longest answer in bytes: sealed, it must fit into an event. What goes beyond is cut off.
pub const MAX_ANSWER: usize = 128 * 1024;

/// One message of a prompt, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Who speaks.
    pub role: PromptRole,
    /// What they say.
    pub content: String,
    /// Which of several speakers.
    pub name: Option<String>,
}

/// A prompt for a model.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Id of the request; attempts have the same.
    pub request_id: String,
    /// Which attempt.
    pub attempt: u32,
    /// The model, as the provider names it.
    pub model: String,
    /// The conversation, oldest turn first.
    pub turns: Vec<Turn>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The model that gave it, as the provider names it.
    pub model: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The same in the provider's own word.
    pub raw_finish_reason: Option<String>,
    /// Tokens.
    pub usage: Usage,
    /// The provider's id of it.
    pub provider_request_id: Option<String>,
    /// What a reader of the answer should know.
    pub warnings: Vec<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What kind of failure.
    pub category: ErrorCategory,
    /// Finer reason, e.g. `context_length_exceeded`.
    pub code: Option<String>,
    /// What was wrong, where, and what to do.
    pub message: String,
    /// What the provider said.
    pub upstream: Option<Upstream>,
    /// Whoever worked on it is gone without a word: another attempt is due.
    pub lost: bool,
}

impl Fault {
    /// A failure with its finer reason.
    pub fn new(category: ErrorCategory, code: &str, message: impl Into<String>) -> Self {
        Fault { category, code: Some(code.to_owned()), message: message.into(), upstream: None, lost: false }
    }

    /// Nobody answered in time.
    pub(super) fn timeout(what: &str, after: Duration) -> Self {
        Fault::new(ErrorCategory::Timeout, "timeout", format!("{what} within {} ms", after.as_millis()))
    }
}

/// Receives the pieces of an answer as they come.
pub type Deltas<'a> = &'a mut (dyn FnMut(&str) + Send);

/// A provider of language models. A call is given up by dropping it, which stops the model.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Its key in events, e.g. `openai`.
    fn key(&self) -> &'static str;
    /// Other names that settings may give it.
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }
    /// The model of a request that names none.
    fn default_model(&self) -> &str;
    /// Parameters that a model does not take; they are not sent.
    fn dropped(&self, model: &str, sampling: &Sampling) -> Vec<DroppedParam>;
    /// Asks the model. No retry: the router decides about that, and records it.
    async fn complete(&self, prompt: &Prompt, deltas: Deltas<'_>) -> Result<Answer, Fault>;
}

/// The providers at hand; the first is the default.
#[derive(Clone, Default)]
pub struct Providers(Vec<Arc<dyn Provider>>);

impl Providers {
    /// And this one.
    #[must_use]
    pub fn with(mut self, provider: impl Provider) -> Self {
        self.0.push(Arc::new(provider));
        self
    }

    /// The provider of a name, or the default.
    pub fn find(&self, name: Option<&str>) -> Result<&Arc<dyn Provider>, Fault> {
        let none = "no provider is at hand: this build has no local engine (feature `llama`), and neither OPENAI_API_KEY \
                    nor OPENAI_BASE_URL is set";
        let first = self.0.first().ok_or_else(|| Fault::new(ErrorCategory::NotFound, "no_provider", none))?;
        let Some(name) = name else { return Ok(first) };
        let named = |p: &&Arc<dyn Provider>| p.key() == name || p.aliases().contains(&name);
        self.0.iter().find(named).ok_or_else(|| {
            let message = format!("there is no provider '{name}' here; there are: {}", self.names());
            Fault::new(ErrorCategory::NotFound, "no_provider", message)
        })
    }

    /// Their keys, for people.
    #[must_use]
    pub fn names(&self) -> String {
        self.0.iter().map(|p| p.key()).collect::<Vec<_>>().join(", ")
    }
}

/// Appends to an answer what fits; false when something was cut off.
pub(super) fn append(answer: &mut String, piece: &str) -> bool {
    let room = MAX_ANSWER - answer.len();
    if piece.len() <= room {
        answer.push_str(piece);
        return true;
    }
    let end = (0..=room).rev().find(|end| piece.is_char_boundary(*end)).unwrap_or(0);
    answer.push_str(&piece[..end]);
    false
}
