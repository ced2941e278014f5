//! What a provider of language models is to the router.

mod task;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use symbia_commands::integrations::MAX_PROMPT;
use symbia_events::integrations::{
    AnswerChoice, AnswerMore, DroppedParam, ErrorCategory, FinishReason, ImageShape, Picture, PromptOptions,
    PromptPart, PromptRole, Sampling, Target, TaskKind, TokenLogprob, ToolCall, Upstream, Usage,
};
use symbia_nats::enquiry::ListedModel;
use zeroize::Zeroizing;

pub(super) use self::task::not_done;
pub use self::task::{Moderated, Moderating, Ranked, Ranking, Speaking, Spoken, Transcribed, Transcribing};

/// Longest answer in bytes: sealed, it must fit into an event. What goes beyond is cut off.
pub const MAX_ANSWER: usize = 128 * 1024;

/// A key of a provider. It cannot be printed.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// The key.
    #[must_use]
    pub fn new(key: Zeroizing<String>) -> Self {
        ApiKey(key)
    }

    /// The key in clear, for the header that carries it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// One message of a prompt, opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// Who speaks.
    pub role: PromptRole,
    /// What they say.
    pub content: String,
    /// Which of several speakers.
    pub name: Option<String>,
    /// All of it, when it is not text alone.
    pub parts: Vec<PromptPart>,
    /// The calls that an assistant's turn asked for.
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's turn answers.
    pub tool_call_id: Option<String>,
}

impl Turn {
    /// A turn of text alone.
    pub fn text(role: PromptRole, content: impl Into<String>) -> Self {
        let content = content.into();
        Turn { role, content, name: None, parts: Vec::new(), tool_calls: Vec::new(), tool_call_id: None }
    }
}

/// A prompt for a model.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The organization that asks.
    pub org: String,
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
    /// Tools, the answer's shape, reasoning.
    pub options: PromptOptions,
}

impl Prompt {
    /// How many answers are asked for, 1 to 128.
    #[must_use]
    pub fn choices(&self) -> u32 {
        self.options.choices.unwrap_or(1).clamp(1, 128)
    }

    /// Tokens of the prompt, until a provider counts: four bytes are about one.
    #[must_use]
    pub fn estimated_tokens(&self) -> u64 {
        let tools = self.options.tools.iter().map(|tool| tool.name.len() + tool.parameters.to_string().len());
        let of = |turn: &Turn| turn.content.len() + turn.tool_calls.iter().map(|c| c.arguments.len()).sum::<usize>();
        (self.turns.iter().map(of).chain(tools).sum::<usize>() as u64).div_ceil(4)
    }
}

/// Texts for an embedding model.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The organization that asks.
    pub org: String,
    /// Id of the request.
    pub request_id: String,
    /// The model, as the provider names it.
    pub model: String,
    /// The texts.
    pub texts: Vec<String>,
    /// Length of the vectors; absent: the model's own.
    pub dimensions: Option<u32>,
}

/// What an embedding model made of texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    /// The model that made them, as the provider names it.
    pub model: String,
    /// One for each text, in their order, all of one length.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens.
    pub usage: Usage,
}

/// A text for a model that makes pictures.
#[derive(Clone, Copy, Debug)]
pub struct Drawing<'a> {
    /// The organization that asks.
    pub org: &'a str,
    /// The model, as the provider names it.
    pub model: &'a str,
    /// What is to be seen.
    pub text: &'a str,
    /// How many pictures.
    pub count: u32,
    /// How they are to be.
    pub shape: &'a ImageShape,
}

/// What a model drew.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The model that drew it, as the provider names it.
    pub model: String,
    /// The pictures.
    pub pictures: Vec<Picture>,
    /// Tokens, where it counts any.
    pub usage: Usage,
}

/// A piece of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delta<'a> {
    /// Text.
    Text(&'a str),
    /// What the model thinks.
    Reasoning(&'a str),
    /// A piece of a tool call.
    Tool {
        /// Which of the calls, from 0.
        index: usize,
        /// Its id, with the first piece.
        id: Option<&'a str>,
        /// The tool, with the first piece.
        name: Option<&'a str>,
        /// More of its arguments.
        arguments: &'a str,
    },
    /// How likely the tokens of the next text are.
    Logprobs(&'a [TokenLogprob]),
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The tools that it asks for.
    pub tool_calls: Vec<ToolCall>,
    /// What the model thought, where it tells.
    pub reasoning: String,
    /// The provider's id of it.
    pub provider_request_id: Option<String>,
    /// What a reader of the answer should know.
    pub warnings: Vec<String>,
    /// How likely its tokens were, where that was asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// The answers beside it, where several were asked for.
    pub others: Vec<AnswerChoice>,
    /// It was given before, and the model was not asked.
    #[serde(skip)]
    pub cached: bool,
    /// How near the message that it was given to is to that of the request, where they are not the same.
    #[serde(skip)]
    pub similarity: Option<f64>,
    /// How much of what the provider grants is used, 0 to 1, where it tells.
    #[serde(skip)]
    pub quota_used: Option<f64>,
}

impl Answer {
    /// An empty answer that stopped by itself.
    #[must_use]
    pub fn empty(model: impl Into<String>) -> Self {
        Answer {
            text: String::new(),
            model: model.into(),
            finish_reason: FinishReason::Stop,
            raw_finish_reason: None,
            usage: Usage::default(),
            tool_calls: Vec::new(),
            reasoning: String::new(),
            provider_request_id: None,
            warnings: Vec::new(),
            logprobs: Vec::new(),
            others: Vec::new(),
            cached: false,
            similarity: None,
            quota_used: None,
        }
    }

    /// What it is besides its text, as JSON, and what is to be said of that: probabilities of a long answer are more than an
    /// event holds.
    pub(super) fn more(&self) -> serde_json::Result<(Option<String>, Option<String>)> {
        let mut more = AnswerMore { logprobs: self.logprobs.clone(), others: self.others.clone() };
        let json = serde_json::to_string(&more)?;
        if json.len() <= MAX_PROMPT {
            return Ok(((!more.is_empty()).then_some(json), None));
        }
        more.logprobs.clear();
        more.others.iter_mut().for_each(|choice| choice.logprobs.clear());
        let json = (!more.is_empty()).then(|| serde_json::to_string(&more)).transpose()?;
        let warning = format!("the probabilities of the tokens are more than {MAX_PROMPT} bytes and are left away");
        Ok((json, Some(warning)))
    }
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
    pub upstream: Option<Box<Upstream>>,
    /// When the provider wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Whoever worked on it is gone without a word: another attempt is due.
    pub lost: bool,
}

impl Fault {
    /// A failure with its finer reason.
    pub fn new(category: ErrorCategory, code: &str, message: impl Into<String>) -> Self {
        let (code, message) = (Some(code.to_owned()), message.into());
        Fault { category, code, message, upstream: None, retry_after: None, lost: false }
    }

    /// When to ask again, in milliseconds.
    pub(super) fn retry_after_ms(&self) -> Option<u64> {
        self.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    }

    /// Nobody answered in time.
    pub(super) fn timeout(what: &str, after: Duration) -> Self {
        Fault::new(ErrorCategory::Timeout, "timeout", format!("{what} within {} ms", after.as_millis()))
    }
}

/// Where calls of an organization may go is not known at the moment: then none is made.
pub(super) fn not_looked_up(error: &anyhow::Error) -> Fault {
    tracing::warn!(error = format!("{error:#}"), "an egress policy is not looked up");
    let message = "the organization's egress policy cannot be looked up at the moment, so nothing is called; try again";
    Fault::new(ErrorCategory::Internal, "unavailable", message)
}

/// Receives the pieces of answers as they come, with the number of the answer from 0.
pub type Deltas<'a> = &'a mut (dyn FnMut(u32, Delta<'_>) + Send);

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
    /// The same for embeddings; none: it has no such models.
    fn default_embedding_model(&self) -> Option<&str> {
        None
    }
    /// The same for pictures.
    fn default_image_model(&self) -> Option<&str> {
        None
    }
    /// Whether somebody's key for it is looked for in the vault.
    fn takes_key(&self) -> bool {
        true
    }
    /// Whether it can be asked without somebody's key.
    fn is_ready(&self) -> bool {
        true
    }
    /// Parameters that a model does not take; they are not sent.
    fn dropped(&self, prompt: &Prompt) -> Vec<DroppedParam>;
    /// Asks the model, with this key if there is one, else with its own. No retry: the router decides about that, and
    /// records it.
    async fn complete(&self, prompt: &Prompt, key: Option<&ApiKey>, deltas: Deltas<'_>) -> Result<Answer, Fault>;
    /// The models that it has for an organization. One that keeps no list has none to tell.
    async fn models(&self, _org: &str, _key: Option<&ApiKey>) -> Result<Vec<ListedModel>, Fault> {
        Ok(Vec::new())
    }
    /// Whether a model is there for an organization: an answer that it gave before is not given again otherwise.
    async fn offers(&self, _org: &str, _model: &str) -> Result<(), Fault> {
        Ok(())
    }
    /// Whether it counts the tokens of a prompt without answering it.
    fn counts(&self) -> bool {
        false
    }
    /// Counts them.
    async fn count(&self, prompt: &Prompt, _key: Option<&ApiKey>) -> Result<u64, Fault> {
        Ok(prompt.estimated_tokens())
    }
    /// Has texts turned into vectors. No retry here either.
    async fn embed(&self, _inputs: &Inputs, _key: Option<&ApiKey>) -> Result<Vectors, Fault> {
        let message = format!("provider '{}' has no embedding models; name another provider", self.key());
        Err(Fault::new(ErrorCategory::Validation, "no_embeddings", message))
    }
    /// Has pictures made of a text. No retry here either.
    async fn draw(&self, _drawing: Drawing<'_>, _key: Option<&ApiKey>) -> Result<Drawn, Fault> {
        let message = format!("provider '{}' makes no pictures; name another provider", self.key());
        Err(Fault::new(ErrorCategory::Validation, "no_images", message))
    }
    /// Whether it does tasks of a kind.
    fn does(&self, kind: TaskKind) -> bool {
        self.default_model_for(kind).is_some()
    }
    /// The model of such a task that names none; none: it has to be named.
    fn default_model_for(&self, _kind: TaskKind) -> Option<&str> {
        None
    }
    /// Whether it takes such a task of a model that is named, or of one of its own.
    fn takes(&self, kind: TaskKind, named: bool) -> bool {
        if named { self.does(kind) } else { self.default_model_for(kind).is_some() }
    }
    /// Has documents put in order. No retry here either.
    async fn rerank(&self, _ranking: Ranking<'_>, _key: Option<&ApiKey>) -> Result<Ranked, Fault> {
        Err(not_done(self.key(), TaskKind::Rerank))
    }
    /// Has it said what is harmful. No retry here either.
    async fn moderate(&self, _moderating: Moderating<'_>, _key: Option<&ApiKey>) -> Result<Moderated, Fault> {
        Err(not_done(self.key(), TaskKind::Moderation))
    }
    /// Has a text spoken; what comes is read while it does. No retry here either.
    async fn speak<'a>(&'a self, _speaking: Speaking<'a>, _key: Option<&'a ApiKey>) -> Result<Spoken<'a>, Fault> {
        Err(not_done(self.key(), TaskKind::Speech))
    }
    /// Has it written down what is said in audio. No retry here either.
    async fn transcribe(&self, transcribing: Transcribing<'_>, _key: Option<&ApiKey>) -> Result<Transcribed, Fault> {
        Err(not_done(self.key(), transcribing.kind))
    }
}

/// The providers at hand; the first that is ready is the default.
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
        let Some(name) = name else {
            let first = self.0.iter().find(|provider| provider.is_ready());
            return first.ok_or_else(|| Fault::new(ErrorCategory::NotFound, "no_provider", none));
        };
        self.named(name).ok_or_else(|| {
            let message = format!("there is no provider '{name}' here; there are: {}", self.names());
            Fault::new(ErrorCategory::NotFound, "no_provider", message)
        })
    }

    // The first that is able to and ready, else the first that somebody may have a key for.
    fn first(&self, able: impl Fn(&dyn Provider) -> bool) -> Result<&Arc<dyn Provider>, Fault> {
        let ready = self.0.iter().find(|of| of.is_ready() && able(&***of));
        let first = ready.or_else(|| self.0.iter().find(|of| of.takes_key() && able(&***of)));
        first.ok_or_else(|| Fault::new(ErrorCategory::NotFound, "no_provider", "no provider at hand does this"))
    }

    fn named(&self, name: &str) -> Option<&Arc<dyn Provider>> {
        self.0.iter().find(|p| p.key() == name || p.aliases().contains(&name))
    }

    /// The provider that a request means, and the model as that one names it; none: its default. A model is told by its
    /// provider (`anthropic/claude-3-5-haiku`), else by a family that only one provider has.
    pub fn resolve(&self, asked: &Target) -> Result<(&Arc<dyn Provider>, Option<String>), Fault> {
        self.resolve_able(asked, None)
    }

    /// The same where the default is the first that is able to: with a model that is named, or with one of its own.
    pub(super) fn resolve_able(
        &self,
        asked: &Target,
        able: Option<fn(&dyn Provider, bool) -> bool>,
    ) -> Result<(&Arc<dyn Provider>, Option<String>), Fault> {
        let usual = |named: bool| able.map_or_else(|| self.find(None), |able| self.first(|of| able(of, named)));
        let model = asked.model.as_deref().filter(|model| !model.is_empty() && *model != "auto");
        if let Some(provider) = &asked.provider {
            return Ok((self.find(Some(provider))?, model.map(str::to_owned)));
        }
        let Some(model) = model else { return Ok((usual(false)?, None)) };
        if let Some((prefix, rest)) = model.split_once('/')
            && let Some(provider) = self.named(prefix)
        {
            return Ok((provider, Some(rest.to_owned()).filter(|rest| rest != "*")));
        }
        let family = family(model).and_then(|key| self.named(key)).filter(|provider| provider.takes_key());
        let provider = family.map_or_else(|| usual(true), Ok)?;
        Ok((provider, Some(model.to_owned())))
    }

    /// Their keys, for people.
    #[must_use]
    pub fn names(&self) -> String {
        self.0.iter().map(|p| p.key()).collect::<Vec<_>>().join(", ")
    }
}

const OPENAI_FAMILIES: [&str; 8] =
    ["gpt-", "chatgpt-", "text-embedding-", "omni-moderation-", "text-moderation-", "tts-", "whisper-", "dall-e-"];

fn family(model: &str) -> Option<&'static str> {
    let o_series = model.strip_prefix('o').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    match model {
        _ if model.starts_with("claude-") => Some("anthropic"),
        _ if o_series || OPENAI_FAMILIES.iter().any(|p| model.starts_with(p)) => Some("openai"),
        _ => None,
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
