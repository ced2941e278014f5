//! The router of embeddings: takes texts, has a provider turn them into vectors, and records exactly one end.
//!
//! Error policy: retry for ever. A worker that dies leaves nothing behind but the request; the next one asks again, and the
//! aggregate takes one end.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use async_nats::Client;
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use symbia_commands::integrations::{CompleteEmbedding, EmbeddingCommand, FailEmbedding};
use symbia_events::{
    Event, KeyRing, Position, Service, SubjectKey,
    integrations::{EmbeddingEvent, EmbeddingRequested, ErrorCategory, Target, Usage},
};

use super::{
    accounts::{Accounts, Taken},
    batches::BATCH_STOPPED,
    desk::{Desk, Errand, Made, Noted, Wish},
    provider::{ApiKey, Fault, Inputs, Provider, Providers, Vectors},
    router::{RouterOptions, erased},
    routes::Candidate,
};
use crate::{
    content_keys::ContentKeys,
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// The router of embeddings.
pub struct EmbeddingRouter(Desk);

/// Texts.
struct Texts<'a> {
    request_id: &'a str,
    texts: Vec<String>,
    dimensions: Option<u32>,
}

#[async_trait]
impl Wish for Texts<'_> {
    type Got = Vectors;

    fn usual(provider: &dyn Provider) -> String {
        provider.default_embedding_model().unwrap_or_default().to_owned()
    }

    fn texts(&mut self) -> Vec<&mut String> {
        self.texts.iter_mut().collect()
    }

    fn expected(&self) -> Taken {
        let tokens = (self.texts.iter().map(String::len).sum::<usize>() as u64).div_ceil(4);
        Usage { prompt_tokens: tokens, total_tokens: tokens, ..Usage::default() }.into()
    }

    fn took(got: &Vectors) -> Taken {
        got.usage.into()
    }

    async fn ask(&self, org: &str, target: &Candidate, key: Option<&ApiKey>) -> Result<Vectors, Fault> {
        let inputs = Inputs {
            org: org.to_owned(),
            request_id: self.request_id.to_owned(),
            model: target.model.clone(),
            texts: self.texts.clone(),
            dimensions: self.dimensions,
        };
        target.provider.embed(&inputs, key).await
    }
}

impl EmbeddingRouter {
    /// A router over providers.
    pub async fn open(
        client: Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        content_keys: ContentKeys,
        providers: Providers,
        accounts: Arc<dyn Accounts>,
        options: &RouterOptions,
    ) -> Result<Self, async_nats::SubscribeError> {
        Ok(EmbeddingRouter(Desk::open(client, keys, (sender, content_keys), providers, accounts, options).await?))
    }

    /// Whether a request, at its place in the log, has its end.
    pub(super) async fn has_ended(&self, event: &Event, at: Position) -> anyhow::Result<bool> {
        self.0.has_ended(event, at).await
    }

    /// Ends a line of a batch that was stopped before anybody was asked.
    pub(super) async fn drop_line(&self, event: &Event, request: &EmbeddingRequested) -> anyhow::Result<()> {
        let fault =
            Fault::new(ErrorCategory::Internal, BATCH_STOPPED, "its batch was stopped before a model was asked");
        let key = self.0.content_keys.key(&request.inputs.kid).await?;
        self.failed(event, request, &fault, key.as_ref(), Noted::default()).await
    }

    /// Has texts turned into vectors, up to the end on record.
    pub(super) async fn requested(&self, event: &Event, request: &EmbeddingRequested) -> anyhow::Result<()> {
        let key = self.0.content_keys.key(&request.inputs.kid).await?;
        let texts = key.as_ref().and_then(|key| key.open(&request.inputs).ok());
        let (Some(key), Some(texts)) = (key, texts) else {
            return self.failed(event, request, &erased(), None, Noted::default()).await;
        };
        let texts: Vec<String> = match serde_json::from_str(&texts) {
            Ok(texts) => texts,
            Err(e) => {
                let fault = Fault::new(ErrorCategory::Validation, "request_refused", format!("the texts: {e}"));
                return self.failed(event, request, &fault, Some(&key), Noted::default()).await;
            }
        };
        let errand = Errand {
            event,
            request_id: &request.request_id,
            requested_by: &request.requested_by,
            context: &request.context,
            asked: Target { provider: request.provider.clone(), model: request.model.clone() },
            credential_id: request.credential_id.as_deref(),
            deadline: request.deadline.as_deref(),
        };
        let mut texts = Texts { request_id: &request.request_id, texts, dimensions: request.dimensions };
        let served = self.0.serve(&errand, &mut texts).await?;
        match served.made {
            Ok(made) => self.completed(&errand, request, made, &key, served.noted).await,
            Err(fault) => self.failed(event, request, &fault, Some(&key), served.noted).await,
        }
    }

    async fn completed(
        &self,
        errand: &Errand<'_>,
        request: &EmbeddingRequested,
        made: Made<Vectors>,
        key: &SubjectKey,
        noted: Noted,
    ) -> anyhow::Result<()> {
        let (source, vectors) = (made.source(), made.got);
        let dimensions = vectors.vectors.first().map_or(0, Vec::len);
        let numbers = vectors.vectors.iter().flatten().flat_map(|number| number.to_le_bytes());
        let complete = CompleteEmbedding {
            request_id: request.request_id.clone(),
            provider: made.provider.to_owned(),
            model: vectors.model,
            vectors: key.seal(&BASE64.encode(numbers.collect::<Vec<u8>>())),
            dimensions: u32::try_from(dimensions).context("vectors of such a length")?,
            usage: vectors.usage,
            cost: made.cost,
            total_ms: errand.took_ms(),
            credential_id: made.lease.map(|lease| lease.credential_id),
            credential_source: source.to_owned(),
            budgets: noted.budgets.clone(),
            guarded: noted.guarded.clone(),
        };
        if let Some(rejection) = self.0.record(errand.event, &EmbeddingCommand::from(complete), "completed").await? {
            tracing::warn!(request = request.request_id, %rejection, "vectors not recorded");
            let fault = Fault::new(ErrorCategory::Internal, "not_stored", "the vectors could not be stored");
            // Another worker was quicker, or they are too many.
            return self.failed(errand.event, request, &fault, Some(key), noted).await;
        }
        Ok(())
    }

    async fn failed(
        &self,
        event: &Event,
        request: &EmbeddingRequested,
        fault: &Fault,
        key: Option<&SubjectKey>,
        noted: Noted,
    ) -> anyhow::Result<()> {
        tracing::info!(request = request.request_id, %fault, "embedding failed");
        let fail = FailEmbedding {
            request_id: request.request_id.clone(),
            category: fault.category,
            code: fault.code.clone(),
            message: key.map(|key| key.seal(&fault.message)),
            upstream: fault.upstream.as_deref().cloned(),
            retry_after_ms: fault.retry_after_ms(),
            budgets: noted.budgets,
            guarded: noted.guarded,
        };
        self.0.record(event, &EmbeddingCommand::from(fail), "failed").await.map(|_| ())
    }
}

#[async_trait]
impl Reactor for EmbeddingRouter {
    fn name(&self) -> &'static str {
        "embedding-router"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.embedding.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &["symbia.integrations.embedding.embedding-requested."]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn react(&self, event: &Event, at: Position) -> anyhow::Result<()> {
        match event.decode()? {
            // Lines of batches wait for their turn.
            EmbeddingEvent::EmbeddingRequested(request) if request.context.batch_id.is_some() => Ok(()),
            EmbeddingEvent::EmbeddingRequested(request) if !self.has_ended(event, at).await? => {
                self.requested(event, &request).await
            }
            EmbeddingEvent::EmbeddingRequested(_) => Ok(()),
            EmbeddingEvent::EmbeddingCompleted(_) | EmbeddingEvent::EmbeddingFailed(_) => Ok(()),
        }
    }
}
