//! The models on this machine, through the inference processes. The protocol is in [`crate::models::wire`].

use std::time::Duration;

use async_nats::{Client, StatusCode, Subject};
use async_trait::async_trait;
use futures::StreamExt;
use symbia_events::integrations::{DroppedParam, ErrorCategory, FinishReason, PromptRole, Sampling, Usage};
use symbia_nats::telemetry;
use tokio::time::Instant;
use tracing::Span;
use uuid::Uuid;

use super::provider::{Answer, Deltas, Fault, Prompt, Provider, append};
use crate::models::{
    self, FailureKind, Message,
    wire::{CANCEL, Frame, JOBS, Job, SILENCE},
};

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
    client: Client,
    options: LocalOptions,
}

impl LocalProvider {
    /// A provider over a connection.
    #[must_use]
    pub fn new(client: Client, options: LocalOptions) -> Self {
        LocalProvider { client, options }
    }

    // None: there is no process now.
    async fn attempt(&self, job: &Job, prompt: &Prompt, deltas: Deltas<'_>) -> Result<Option<Answer>, Fault> {
        let away = |e: &dyn std::fmt::Display| lost(format!("the inference processes cannot be reached: {e}"));
        let payload = serde_json::to_vec(job).map_err(|e| internal(e.to_string()))?;
        let inbox = self.client.new_inbox();
        let mut frames = self.client.subscribe(inbox.clone()).await.map_err(|e| away(&e))?;
        self.client.publish_with_reply(JOBS, inbox, payload.into()).await.map_err(|e| away(&e))?;
        let mut given_up = GivenUp { client: &self.client, id: Some(&job.id) };
        let mut text = String::new();
        loop {
            let frame = tokio::time::timeout(SILENCE, frames.next()).await;
            let silence = || lost("the inference process fell silent: it died, or was stopped");
            let frame = frame.map_err(|_| silence())?.ok_or_else(silence)?;
            if frame.status == Some(StatusCode::NO_RESPONDERS) {
                given_up.id = None;
                return Ok(None);
            }
            let heard = serde_json::from_slice(&frame.payload).map_err(|e| internal(e.to_string()))?;
            match heard {
                Frame::Alive => self.reply(frame.reply).await,
                Frame::Delta { text: piece } => {
                    let before = text.len();
                    let fits = append(&mut text, &piece);
                    deltas(&text[before..]);
                    if !fits {
                        return Ok(Some(cut(prompt, text)));
                    }
                }
                Frame::Completed { text, finish_reason, prompt_tokens, completion_tokens } => {
                    given_up.id = None;
                    let usage = usage(prompt_tokens.into(), completion_tokens.into(), false);
                    return Ok(Some(answer(prompt, text, finish_reason, usage)));
                }
                Frame::Failed { kind, message } => {
                    given_up.id = None;
                    return Err(fault(&kind, message));
                }
                Frame::Cancelled => {
                    given_up.id = None;
                    return Err(lost("the inference process gave the answer up"));
                }
            }
        }
    }

    async fn reply(&self, to: Option<Subject>) {
        if let Some(to) = to {
            // Unheard, the process stops the model; the silence is noticed here as well.
            let _ = self.client.publish(to, Vec::new().into()).await;
        }
    }
}

// Tells the process that nobody wants the answer any more.
struct GivenUp<'a> {
    client: &'a Client,
    id: Option<&'a str>,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let (client, id) = (self.client.clone(), id.to_owned());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { client.publish(CANCEL, id.into_bytes().into()).await });
        }
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
        &self.options.default_model
    }

    fn dropped(&self, _model: &str, s: &Sampling) -> Vec<DroppedParam> {
        let given = [
            ("topK", s.top_k.is_some()),
            ("frequencyPenalty", s.frequency_penalty.is_some()),
            ("presencePenalty", s.presence_penalty.is_some()),
        ];
        let reason = "the local engine does not take it";
        let dropped = |(param, _): (&str, bool)| DroppedParam { param: param.to_owned(), reason: reason.to_owned() };
        given.into_iter().filter(|(_, given)| *given).map(dropped).collect()
    }

    async fn complete(&self, prompt: &Prompt, deltas: Deltas<'_>) -> Result<Answer, Fault> {
        let until = Instant::now() + self.options.patience;
        let sampling = &prompt.sampling;
        let job = Job {
            id: format!("{}-{}-{}", prompt.request_id, prompt.attempt, Uuid::new_v4().simple()),
            model: prompt.model.clone(),
            messages: prompt
                .turns
                .iter()
                .map(|turn| Message { role: role(turn.role), content: turn.content.clone() })
                .collect(),
            max_tokens: sampling.max_tokens,
            temperature: sampling.temperature.unwrap_or(0.0) as f32,
            top_p: sampling.top_p.filter(|p| *p > 0.0).unwrap_or(1.0) as f32,
            seed: sampling.seed.map(|seed| seed as u32),
            stop: sampling.stop.clone(),
            traceparent: telemetry::traceparent(&Span::current()),
        };
        loop {
            if let Some(answer) = self.attempt(&job, prompt, &mut *deltas).await? {
                return Ok(answer);
            }
            if Instant::now() >= until {
                let message = "no inference process answers; start one with `symbia work --roles inference`, or configure \
                               another provider";
                return Err(Fault::new(ErrorCategory::NotFound, "no_provider", message));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
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

fn usage(prompt_tokens: u64, completion_tokens: u64, estimated: bool) -> Usage {
    let total_tokens = prompt_tokens + completion_tokens;
    Usage { prompt_tokens, completion_tokens, total_tokens, cached_prompt_tokens: None, estimated }
}

fn answer(prompt: &Prompt, text: String, finish: models::FinishReason, usage: Usage) -> Answer {
    let (finish_reason, raw) = match finish {
        models::FinishReason::Stop => (FinishReason::Stop, "stop"),
        models::FinishReason::Length => (FinishReason::Length, "length"),
    };
    Answer {
        text,
        model: prompt.model.clone(),
        finish_reason,
        raw_finish_reason: Some(raw.to_owned()),
        usage,
        provider_request_id: None,
        warnings: Vec::new(),
    }
}

fn cut(prompt: &Prompt, text: String) -> Answer {
    let usage = usage(0, (text.len() as u64).div_ceil(4), true);
    let warnings = vec!["the answer was longer than 128 kB and is cut off".to_owned()];
    Answer { warnings, ..answer(prompt, text, models::FinishReason::Length, usage) }
}

fn fault(kind: &FailureKind, message: String) -> Fault {
    let (category, code) = match kind {
        FailureKind::InvalidRequest => (ErrorCategory::Validation, "request_refused"),
        FailureKind::ModelNotFound => (ErrorCategory::NotFound, "no_model"),
        FailureKind::ModelCorrupt => (ErrorCategory::Internal, "model_invalid"),
        FailureKind::PromptTooLong { .. } => (ErrorCategory::Validation, "context_length_exceeded"),
        FailureKind::QueueFull => (ErrorCategory::RateLimit, "queue_full"),
        FailureKind::Stopping => return lost(message),
        FailureKind::Internal => (ErrorCategory::Internal, "engine_failed"),
    };
    Fault::new(category, code, message)
}

fn lost(message: impl Into<String>) -> Fault {
    Fault { lost: true, ..Fault::new(ErrorCategory::Internal, "worker_lost", message) }
}

fn internal(reason: String) -> Fault {
    let message = format!("the inference process cannot be understood: {reason}; both must be of one version");
    Fault::new(ErrorCategory::Internal, "engine_failed", message)
}
