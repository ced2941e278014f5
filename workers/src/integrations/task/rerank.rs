//! Reranking: documents in the order in which they answer a question.

use async_trait::async_trait;
use symbia_events::integrations::{ErrorCategory, RerankInput, TaskKind, Usage};

use super::{
    super::{
        accounts::Taken,
        desk::Wish,
        provider::{ApiKey, Fault, Provider, Ranking},
        routes::Candidate,
    },
    Done, written,
};

/// Documents to put in order.
pub(super) struct Reranking(pub RerankInput);

#[async_trait]
impl Wish for Reranking {
    type Got = Done;

    fn usual(provider: &dyn Provider) -> String {
        provider.default_model_for(TaskKind::Rerank).unwrap_or_default().to_owned()
    }

    fn able() -> Option<fn(&dyn Provider, bool) -> bool> {
        Some(|provider, named| provider.takes(TaskKind::Rerank, named))
    }

    fn nobody() -> Option<Fault> {
        let message = "no provider at hand reranks: name a model, as 'openai/<model>', of a server that does \
                       (OPENAI_BASE_URL), or start the platform with models of its own";
        Some(Fault::new(ErrorCategory::NotFound, "no_provider", message))
    }

    fn texts(&mut self) -> Vec<&mut String> {
        std::iter::once(&mut self.0.query).chain(&mut self.0.documents).collect()
    }

    fn expected(&self) -> Taken {
        let tokens = self.0.estimated_tokens();
        let usage = Usage { prompt_tokens: tokens, total_tokens: tokens, ..Usage::default() };
        Taken { is_task: true, ..usage.into() }
    }

    fn took(got: &Done) -> Taken {
        got.taken
    }

    async fn ask(&self, org: &str, target: &Candidate, key: Option<&ApiKey>) -> Result<Done, Fault> {
        let ranking = Ranking { org, model: &target.model, input: &self.0 };
        let ranked = target.provider.rerank(ranking, key).await?;
        let output = written(&ranked.documents)?;
        Ok(Done { model: ranked.model, output, taken: Taken { is_task: true, ..ranked.usage.into() } })
    }
}
