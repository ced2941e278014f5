//! The models on this machine, through the inference processes. The protocol is in [`symbia_nats::inference`].

use std::time::Duration;

use async_nats::Client;
use async_trait::async_trait;
use symbia_events::integrations::{DroppedParam, ErrorCategory, FinishReason, PromptRole, Usage};
use symbia_nats::{
    inference::{
        self, AskError, Choice, Completed, Failure, FailureKind, Frame, Inference, Job, Message, Piece, Request,
        Sampling, Work,
    },
    telemetry,
};
use tracing::Span;
use uuid::Uuid;

use super::provider::{Answer, ApiKey, Delta, Deltas, Fault, Prompt, Provider, append};

/// How the models on this machine are asked.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The model of a request that names none.
    pub default_model: String,
    /// How long to look for an inference process: one that died is started again within seconds.
    pub patience: Duration,
}

impl Default for LocalOptions {
    fn default() -> Self {
        LocalOptions { default_model: "pico-chat".to_owned(), patience: Duration::from_secs(15) }
    }
}

/// The provider `symbia-labs`.
#[derive(Clone, Debug)]
pub struct LocalProvider {
    inference: Inference,
    default_model: String,
}

impl LocalProvider {
    /// A provider over a connection.
    #[must_use]
    pub fn new(client: Client, options: LocalOptions) -> Self {
        let inference = Inference::new(client, options.patience);
        LocalProvider { inference, default_model: options.default_model }
    }
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
        &self.default_model
    }

    fn takes_key(&self) -> bool {
        false
    }

    fn dropped(&self, prompt: &Prompt) -> Vec<DroppedParam> {
        let o = &prompt.options;
        let given = [
            ("tools", !o.tools.is_empty()),
            ("responseFormat", o.format.is_some()),
            ("reasoningEffort", o.reasoning_effort.is_some()),
        ];
        let reason = "not passed on to the local engine by the router; ask the models service for it";
        let dropped = |(param, _): (&str, bool)| DroppedParam { param: param.to_owned(), reason: reason.to_owned() };
        given.into_iter().filter(|(_, given)| *given).map(dropped).collect()
    }

    async fn complete(&self, prompt: &Prompt, _key: Option<&ApiKey>, deltas: Deltas<'_>) -> Result<Answer, Fault> {
        let job = Job {
            id: format!("{}-{}-{}", prompt.request_id, prompt.attempt, Uuid::new_v4().simple()),
            work: Work::Generate(Box::new(request(prompt))),
            traceparent: telemetry::traceparent(&Span::current()),
        };
        let mut frames = self.inference.ask(&job).await?;
        let mut text = String::new();
        loop {
            match frames.next().await? {
                Frame::Delta { piece: Piece::Text(piece), .. } => {
                    let before = text.len();
                    let fits = append(&mut text, &piece);
                    deltas(Delta::Text(&text[before..]));
                    if !fits {
                        return Ok(cut(prompt, text));
                    }
                }
                Frame::Completed(completed) => return Ok(answer(prompt, *completed)),
                Frame::Failed(failure) => return Err(fault(failure)),
                Frame::Cancelled => return Err(lost("the inference process gave the answer up")),
                _ => {}
            }
        }
    }
}

fn request(prompt: &Prompt) -> Request {
    let asked = &prompt.sampling;
    let defaults = Sampling::default();
    Request {
        model: Some(prompt.model.clone()),
        max_tokens: asked.max_tokens,
        stop: asked.stop.clone(),
        sampling: Sampling {
            temperature: asked.temperature.map_or(defaults.temperature, |t| t as f32),
            top_p: asked.top_p.filter(|p| *p > 0.0).map_or(defaults.top_p, |p| p as f32),
            top_k: asked.top_k.unwrap_or(defaults.top_k),
            frequency_penalty: asked.frequency_penalty.map_or(defaults.frequency_penalty, |p| p as f32),
            presence_penalty: asked.presence_penalty.map_or(defaults.presence_penalty, |p| p as f32),
            seed: asked.seed.map(|seed| seed as u32),
            ..defaults
        },
        ..Request::new(prompt.turns.iter().map(|turn| Message::new(role(turn.role), turn.content.clone())).collect())
    }
}

fn role(role: PromptRole) -> String {
    match role {
        PromptRole::System => "system",
        PromptRole::User => "user",
        PromptRole::Assistant => "assistant",
        PromptRole::Tool => "tool",
    }
    .to_owned()
}

fn answer(prompt: &Prompt, completed: Completed) -> Answer {
    let Completed { choices, usage, .. } = completed;
    let Choice { text, finish_reason, .. } = choices.into_iter().next().unwrap_or_default();
    let (prompt_tokens, completion_tokens) = (usage.prompt_tokens.into(), usage.completion_tokens.into());
    Answer {
        text,
        model: prompt.model.clone(),
        finish_reason: match finish_reason {
            inference::FinishReason::Stop => FinishReason::Stop,
            inference::FinishReason::Length => FinishReason::Length,
            inference::FinishReason::ToolCalls => FinishReason::ToolCalls,
        },
        raw_finish_reason: Some(finish_reason.name().to_owned()),
        usage: Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            cached_prompt_tokens: Some(usage.cached_tokens.into()),
            estimated: false,
        },
        tool_calls: Vec::new(),
        reasoning: String::new(),
        provider_request_id: None,
        warnings: Vec::new(),
    }
}

fn cut(prompt: &Prompt, text: String) -> Answer {
    let completion_tokens = (text.len() as u64).div_ceil(4);
    Answer {
        text,
        model: prompt.model.clone(),
        finish_reason: FinishReason::Length,
        raw_finish_reason: Some("length".to_owned()),
        usage: Usage { completion_tokens, total_tokens: completion_tokens, estimated: true, ..Usage::default() },
        tool_calls: Vec::new(),
        reasoning: String::new(),
        provider_request_id: None,
        warnings: vec!["the answer was longer than 128 kB and is cut off".to_owned()],
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
