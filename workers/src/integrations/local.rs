//! The models on this machine, through the inference processes. The protocol is in [`symbia_nats::inference`].

mod models;

use std::time::Duration;

use async_nats::Client;
use async_trait::async_trait;
use symbia_events::integrations::{
    AnswerChoice, AnswerFormat, DroppedParam, ErrorCategory, FinishReason, LikelyToken, PromptPart, PromptRole,
    RankedDocument, RerankInput, TaskKind, TokenLogprob, ToolCall, ToolChoice, Usage,
};
use symbia_nats::{
    enquiry::ListedModel,
    inference::{
        self, AskError, Census, Choice, Completed, Embed, Failure, FailureKind, Format, Frame, Inference, Job, Message,
        ModelStatus, Piece, Request, Sampling, Tool, Work, nearest,
    },
    telemetry,
};
use symbia_projections::ReadPool;
use tracing::Span;
use uuid::Uuid;

use self::models::{Admitted, Models};
use super::provider::{
    Answer, ApiKey, Delta, Deltas, Fault, Inputs, Prompt, Provider, Ranked, Ranking, Turn, Vectors, append,
};

/// How the models on this machine are asked.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The model of a request that names none.
    pub default_model: String,
    /// The same for embeddings.
    pub default_embedding_model: String,
    /// How long to look for an inference process: one that died is started again within seconds.
    pub patience: Duration,
}

impl Default for LocalOptions {
    fn default() -> Self {
        LocalOptions {
            default_model: "pico-chat".to_owned(),
            default_embedding_model: "all-minilm-l6-v2".to_owned(),
            patience: Duration::from_secs(15),
        }
    }
}

/// The provider `symbia-labs`.
#[derive(Clone, Debug)]
pub struct LocalProvider {
    inference: Inference,
    models: Models,
    options: LocalOptions,
}

impl LocalProvider {
    /// A provider over a connection; it listens to the inference processes from now on.
    #[must_use]
    pub fn new(client: Client, options: LocalOptions) -> Self {
        let models = Models::new(Census::listen(client.clone()), options.patience);
        LocalProvider { inference: Inference::new(client, options.patience), models, options }
    }

    /// The same with what operators set for the models: names, defaults, and for whom they are there.
    #[must_use]
    pub fn set_by(self, reader: ReadPool) -> Self {
        LocalProvider { models: self.models.set_by(reader), ..self }
    }
}

// The part of a file's name before the first dot, by which a model can be called.
fn short(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

#[async_trait]
impl Provider for LocalProvider {
    fn key(&self) -> &'static str {
        "symbia-labs"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["local"]
    }

    fn default_model(&self) -> &str {
        &self.options.default_model
    }

    fn default_embedding_model(&self) -> Option<&str> {
        Some(&self.options.default_embedding_model)
    }

    fn takes_key(&self) -> bool {
        false
    }

    fn dropped(&self, prompt: &Prompt) -> Vec<DroppedParam> {
        let o = &prompt.options;
        let given = [
            ("parallelToolCalls", o.parallel_tool_calls == Some(false)),
            ("reasoningEffort", o.reasoning_effort.is_some()),
            ("thinkingTokens", o.thinking_tokens.is_some()),
        ];
        let reason = "the local engine has no such parameter";
        let dropped = |(param, _): (&str, bool)| DroppedParam { param: param.to_owned(), reason: reason.to_owned() };
        given.into_iter().filter(|(_, given)| *given).map(dropped).collect()
    }

    async fn complete(&self, prompt: &Prompt, _key: Option<&ApiKey>, deltas: Deltas<'_>) -> Result<Answer, Fault> {
        let model = self.models.admit(&prompt.org, &prompt.model).await?;
        let job = Job {
            id: format!("{}-{}-{}", prompt.request_id, prompt.attempt, Uuid::new_v4().simple()),
            work: Work::Generate(Box::new(request(prompt, &model)?)),
            traceparent: telemetry::traceparent(&Span::current()),
            keep: None,
        };
        let mut frames = self.inference.ask(&job).await?;
        let mut heard = vec![Heard::default(); prompt.choices() as usize];
        loop {
            match frames.next().await? {
                Frame::Delta { choice, piece } => {
                    let Some(of) = heard.get_mut(choice as usize) else { continue };
                    if !of.take(piece, &mut |delta| deltas(choice, delta)) {
                        return Ok(cut(model.name, heard));
                    }
                }
                Frame::Completed(completed) => return Ok(answer(model.name, *completed)),
                Frame::Failed(failure) => return Err(fault(failure)),
                Frame::Cancelled => return Err(lost("the inference process gave the answer up")),
                _ => {}
            }
        }
    }

    async fn models(&self, org: &str, _key: Option<&ApiKey>) -> Result<Vec<ListedModel>, Fault> {
        let models = self.models.seen_by(org).await?;
        let names: Vec<&str> = models.values().map(|model| short(&model.name)).collect();
        let listed = |model: &ModelStatus| {
            let details = model.details.as_ref()?;
            // The short name, where it means one model alone.
            let name = short(&model.name);
            let alone = names.iter().filter(|other| **other == name).count() == 1;
            Some(ListedModel {
                id: if alone { name.to_owned() } else { model.id.clone() },
                name: Some(details.title.clone()),
                embeds: !details.generates,
                context_tokens: Some(details.context_length),
                created: i64::try_from(model.modified).ok(),
            })
        };
        Ok(models.values().filter_map(listed).collect())
    }

    async fn offers(&self, org: &str, model: &str) -> Result<(), Fault> {
        self.models.admit(org, model).await.map(|_| ())
    }

    fn counts(&self) -> bool {
        true
    }

    async fn count(&self, prompt: &Prompt, _key: Option<&ApiKey>) -> Result<u64, Fault> {
        let model = self.models.admit(&prompt.org, &prompt.model).await?;
        let work = Work::Generate(Box::new(Request { max_tokens: Some(1), ..request(prompt, &model)? }));
        let mut frames = self.inference.ask(&self.inference.job(work, None)).await?;
        loop {
            // Known before the first token is computed; who goes stops the model.
            match frames.next().await? {
                Frame::Started { prompt_tokens, .. } => return Ok(prompt_tokens.into()),
                Frame::Failed(Failure { kind: FailureKind::PromptTooLong { tokens, .. }, .. }) => {
                    return Ok(tokens.into());
                }
                Frame::Failed(failure) => return Err(fault(failure)),
                frame if frame.is_terminal() => return Err(lost("the inference process gave the prompt up")),
                _ => {}
            }
        }
    }

    async fn embed(&self, inputs: &Inputs, _key: Option<&ApiKey>) -> Result<Vectors, Fault> {
        let (model, org) = self.models.admit(&inputs.org, &inputs.model).await?.address();
        let embed = Embed { model, org, inputs: inputs.texts.clone(), ..Embed::default() };
        let (model, vectors, tokens) = self.inference.embed(embed).await?;
        let length = vectors.first().map_or(0, Vec::len);
        if inputs.dimensions.is_some_and(|dimensions| dimensions as usize != length) {
            let message = format!("dimensions must be {length}: the vectors of {model} cannot be cut");
            return Err(Fault::new(ErrorCategory::Validation, "unsupported_parameter", message));
        }
        Ok(Vectors { model, vectors, usage: read(tokens) })
    }

    fn default_model_for(&self, kind: TaskKind) -> Option<&str> {
        match kind {
            TaskKind::Rerank => Some(&self.options.default_embedding_model),
            TaskKind::Moderation | TaskKind::Speech | TaskKind::Transcription | TaskKind::Translation => None,
        }
    }

    // By the vectors of an embedding model; what is longer than it takes is cut off.
    async fn rerank(&self, ranking: Ranking<'_>, _key: Option<&ApiKey>) -> Result<Ranked, Fault> {
        let (model, org) = self.models.admit(ranking.org, ranking.model).await?.address();
        let RerankInput { query, documents, top_n } = ranking.input;
        let inputs = std::iter::once(query).chain(documents).cloned().collect();
        let embed = Embed { model, org, inputs, truncate: true, ..Embed::default() };
        let (model, vectors, tokens) = self.inference.embed(embed).await?;
        let ranked = |(index, score): (usize, f32)| RankedDocument { index, score: score.into() };
        let wanted = top_n.map_or(usize::MAX, |top| top as usize);
        let documents = nearest(&vectors).into_iter().take(wanted).map(ranked).collect();
        Ok(Ranked { model, documents, usage: read(tokens) })
    }
}

fn read(tokens: u64) -> Usage {
    Usage { prompt_tokens: tokens, total_tokens: tokens, ..Usage::default() }
}

/// What was heard of one answer.
#[derive(Clone, Default)]
struct Heard {
    text: String,
    calls: usize,
}

impl Heard {
    // False when no more of it fits.
    fn take(&mut self, piece: Piece, tell: &mut dyn FnMut(Delta<'_>)) -> bool {
        match piece {
            Piece::Text(piece) => {
                let before = self.text.len();
                let fits = append(&mut self.text, &piece);
                tell(Delta::Text(&self.text[before..]));
                return fits;
            }
            Piece::Reasoning(piece) => tell(Delta::Reasoning(&piece)),
            Piece::ToolCall(inference::ToolCall { id, name, arguments }) => {
                tell(Delta::Tool { index: self.calls, id: Some(&id), name: Some(&name), arguments: &arguments });
                self.calls += 1;
            }
            Piece::Logprobs(tokens) => tell(Delta::Logprobs(&likely(tokens))),
        }
        true
    }
}

fn likely(tokens: Vec<inference::TokenLogprob>) -> Vec<TokenLogprob> {
    let token = |token: inference::TokenLogprob| TokenLogprob {
        chosen: LikelyToken::new(&token.bytes, token.logprob.into()),
        top: token.top.iter().map(|(bytes, logprob)| LikelyToken::new(bytes, (*logprob).into())).collect(),
    };
    tokens.into_iter().map(token).collect()
}

fn request(prompt: &Prompt, model: &Admitted) -> Result<Request, Fault> {
    let (asked, options, set) = (&prompt.sampling, &prompt.options, &model.settings.defaults);
    let defaults = Sampling::default();
    let tool = |tool: &symbia_events::integrations::Tool| Tool {
        name: tool.name.clone(),
        description: tool.description.clone(),
        parameters: tool.parameters.to_string(),
    };
    let request = Request {
        max_tokens: asked.max_tokens.or(set.max_tokens),
        stop: asked.stop.clone(),
        sampling: Sampling {
            temperature: asked.temperature.or(set.temperature).map_or(defaults.temperature, |t| t as f32),
            top_p: asked.top_p.or(set.top_p).filter(|p| *p > 0.0).map_or(defaults.top_p, |p| p as f32),
            top_k: asked.top_k.or(set.top_k).unwrap_or(defaults.top_k),
            min_p: set.min_p.map_or(defaults.min_p, |p| p as f32),
            repeat_penalty: set.repeat_penalty.map_or(defaults.repeat_penalty, |p| p as f32),
            frequency_penalty: asked.frequency_penalty.map_or(defaults.frequency_penalty, |p| p as f32),
            presence_penalty: asked.presence_penalty.map_or(defaults.presence_penalty, |p| p as f32),
            seed: asked.seed.map(|seed| seed as u32),
            ..defaults
        },
        tools: options.tools.iter().map(tool).collect(),
        tool_choice: match &options.tool_choice {
            None | Some(ToolChoice::Auto) => inference::ToolChoice::Auto,
            Some(ToolChoice::None) => inference::ToolChoice::None,
            Some(ToolChoice::Required) => inference::ToolChoice::Required,
            Some(ToolChoice::Named(name)) => inference::ToolChoice::Function(name.clone()),
        },
        format: match &options.format {
            None => Format::Text,
            Some(AnswerFormat::JsonObject) => Format::Json,
            Some(AnswerFormat::JsonSchema { schema, .. }) => Format::Schema(schema.clone()),
            Some(AnswerFormat::Grammar { grammar }) => Format::Grammar(grammar.clone()),
        },
        choices: prompt.choices(),
        logprobs: options.logprobs,
        ..Request::new(prompt.turns.iter().map(message).collect::<Result<_, _>>()?)
    };
    Ok(model.direct(request))
}

fn message(turn: &Turn) -> Result<Message, Fault> {
    if turn.parts.iter().any(|part| matches!(part, PromptPart::Image { .. })) {
        let message = "the models on this machine read text only: name a provider whose models see images";
        return Err(Fault::new(ErrorCategory::Validation, "unsupported_content", message));
    }
    let role = match turn.role {
        PromptRole::System => "system",
        PromptRole::User => "user",
        PromptRole::Assistant => "assistant",
        PromptRole::Tool => "tool",
    };
    let call = |call: &ToolCall| inference::ToolCall {
        id: call.id.clone(),
        name: call.name.clone(),
        arguments: call.arguments.clone(),
    };
    Ok(Message {
        tool_calls: turn.tool_calls.iter().map(call).collect(),
        tool_call_id: turn.tool_call_id.clone(),
        name: turn.name.clone(),
        ..Message::new(role, turn.content.clone())
    })
}

fn choice(choice: Choice) -> AnswerChoice {
    let call = |call: inference::ToolCall| ToolCall { id: call.id, name: call.name, arguments: call.arguments };
    AnswerChoice {
        text: choice.text,
        reasoning: choice.reasoning,
        tool_calls: choice.tool_calls.into_iter().map(call).collect(),
        finish_reason: match choice.finish_reason {
            inference::FinishReason::Stop => FinishReason::Stop,
            inference::FinishReason::Length => FinishReason::Length,
            inference::FinishReason::ToolCalls => FinishReason::ToolCalls,
        },
        logprobs: likely(choice.logprobs),
    }
}

fn answer(model: String, completed: Completed) -> Answer {
    let Completed { choices, usage, .. } = completed;
    let (prompt_tokens, completion_tokens) = (usage.prompt_tokens.into(), usage.completion_tokens.into());
    let usage = Usage {
        prompt_tokens,
        completion_tokens,
        total_tokens: prompt_tokens + completion_tokens,
        cached_prompt_tokens: Some(usage.cached_tokens.into()),
        estimated: false,
    };
    let mut choices = choices.into_iter();
    let first = choices.next().unwrap_or_default();
    let raw_finish_reason = Some(first.finish_reason.name().to_owned());
    let AnswerChoice { text, reasoning, tool_calls, finish_reason, logprobs } = choice(first);
    let others = choices.map(choice).collect();
    let said = Answer { text, reasoning, tool_calls, finish_reason, logprobs, others, ..Answer::empty(model) };
    Answer { raw_finish_reason, usage, ..said }
}

fn cut(model: String, heard: Vec<Heard>) -> Answer {
    let completion_tokens = (heard.iter().map(|of| of.text.len()).sum::<usize>() as u64).div_ceil(4);
    let mut texts = heard.into_iter().map(|of| of.text);
    let text = texts.next().unwrap_or_default();
    let finish_reason = FinishReason::Length;
    let other = |text| AnswerChoice {
        text,
        reasoning: String::new(),
        tool_calls: Vec::new(),
        finish_reason,
        logprobs: Vec::new(),
    };
    Answer {
        text,
        finish_reason,
        raw_finish_reason: Some("length".to_owned()),
        usage: Usage { completion_tokens, total_tokens: completion_tokens, estimated: true, ..Usage::default() },
        warnings: vec!["the answer was longer than 128 kB and is cut off".to_owned()],
        others: texts.map(other).collect(),
        ..Answer::empty(model)
    }
}

impl From<AskError> for Fault {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Nobody => {
                let message = format!("{error}, or configure another provider");
                Fault::new(ErrorCategory::NotFound, "no_provider", message)
            }
            AskError::Lost(why) => lost(why),
            AskError::Malformed(_) => Fault::new(ErrorCategory::Internal, "engine_failed", error.to_string()),
            AskError::Failed(failure) => fault(failure),
        }
    }
}

fn fault(Failure { kind, message }: Failure) -> Fault {
    let (category, code) = match kind {
        FailureKind::InvalidRequest => (ErrorCategory::Validation, "request_refused"),
        FailureKind::InvalidFormat => (ErrorCategory::Validation, "invalid_schema"),
        FailureKind::ModelNotFound => (ErrorCategory::NotFound, "no_model"),
        FailureKind::ModelCorrupt => (ErrorCategory::Internal, "model_invalid"),
        FailureKind::PromptTooLong { .. } => (ErrorCategory::Validation, "context_length_exceeded"),
        FailureKind::QueueFull => (ErrorCategory::RateLimit, "queue_full"),
        FailureKind::Memory => (ErrorCategory::Internal, "insufficient_memory"),
        FailureKind::Stopping => return lost(message),
        FailureKind::Internal => (ErrorCategory::Internal, "engine_failed"),
    };
    Fault::new(category, code, message)
}

fn lost(message: impl Into<String>) -> Fault {
    Fault { lost: true, ..Fault::new(ErrorCategory::Internal, "worker_lost", message) }
}
