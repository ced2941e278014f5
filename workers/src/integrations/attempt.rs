//! An attempt at a completion as telemetry sees it: one span, named after OpenTelemetry's conventions for generative AI. The
//! tokens are numbers and moments of it, not spans, and no text.

use tokio::time::Instant;
use tracing::Span;

use super::provider::{Answer, Fault, Provider};
use crate::metrics;
use symbia_nats::telemetry::SpanExt;

pub(super) struct Attempt {
    /// What is done for the attempt happens in it.
    pub span: Span,
    provider: &'static str,
    since: Instant,
}

impl Attempt {
    pub fn begin(provider: &dyn Provider, request_id: &str, model: &str, number: u32) -> Self {
        let provider = provider.key();
        let span = tracing::debug_span!(
            "completion",
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            gen_ai.operation.name = "chat",
            gen_ai.provider.name = provider,
            gen_ai.request.model = model,
            symbia.request.id = request_id,
            symbia.attempt = number
        );
        Attempt { span, provider, since: Instant::now() }
    }

    /// The first piece of the answer came.
    pub fn first(&self) {
        self.span.add_event("gen_ai.first_token", Vec::new());
        metrics::first_token(self.provider, self.since.elapsed());
    }

    pub fn completed(&self, answer: &Answer) {
        let (read, written) = (answer.usage.prompt_tokens, answer.usage.completion_tokens);
        let count = |tokens| i64::try_from(tokens).unwrap_or(i64::MAX);
        self.span.set_attribute("gen_ai.usage.input_tokens", count(read));
        self.span.set_attribute("gen_ai.usage.output_tokens", count(written));
        self.span.set_attribute("gen_ai.response.model", answer.model.clone());
        metrics::tokens(self.provider, read, written);
        self.ended("completed");
    }

    pub fn failed(&self, fault: &Fault) {
        self.span.record("otel.status_code", "ERROR");
        self.span.set_attribute("error.type", fault.code.clone().unwrap_or_else(|| "unknown".to_owned()));
        self.ended(if fault.lost { "lost" } else { "failed" });
    }

    pub fn cancelled(&self) {
        self.ended("cancelled");
    }

    fn ended(&self, outcome: &'static str) {
        self.span.set_attribute("symbia.outcome", outcome);
        metrics::attempted(self.provider, outcome, self.since.elapsed());
    }
}
