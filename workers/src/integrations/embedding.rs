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
    CommandId, Event, KeyRing, Position, Service, SubjectKey,
    integrations::{EmbeddingEvent, EmbeddingRequested, ErrorCategory, Target, Usage},
};
use symbia_nats::limits::Limits;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

use super::{
    accounts::{Accounts, Asker, Lease},
    admission::{Expected, Kept, leave, places, reserve},
    attempts::not_lent,
    balance::Standings,
    circuits::{Line, Lines},
    provider::{Fault, Inputs, Providers, Vectors},
    quotas::Quotas,
    rates::Rates,
    refusals::Refusals,
    retry::RetryOptions,
    router::{RouterOptions, not_allowed, router},
    routes::{Candidate, Chooser},
};
use crate::{
    content_keys::ContentKeys,
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// The router of embeddings.
pub struct EmbeddingRouter {
    sender: Sender,
    content_keys: ContentKeys,
    providers: Providers,
    accounts: Arc<dyn Accounts>,
    lines: Lines,
    rates: Rates,
    quotas: Quotas,
    timeout: Duration,
    retry: RetryOptions,
}

/// Vectors, and how they were come by.
struct Made {
    provider: &'static str,
    asked: String,
    vectors: Vectors,
    lease: Option<Lease>,
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
        let (retry, timeout) = (options.retry.clone(), options.timeout);
        let lines = Lines::open(&client, keys, sender.clone(), retry.clone()).await?;
        let rates = Rates::new(Limits::new(client.clone()), Refusals::new(sender.clone()));
        let quotas = Quotas::new(client);
        Ok(EmbeddingRouter { sender, content_keys, providers, accounts, lines, rates, quotas, timeout, retry })
    }

    async fn requested(&self, event: &Event, request: &EmbeddingRequested) -> anyhow::Result<()> {
        let key = self.content_keys.key(&request.inputs.kid).await?;
        let texts = key.as_ref().and_then(|key| key.open(&request.inputs).ok());
        let (Some(key), Some(texts)) = (key, texts) else {
            let message = "the key that the texts were sealed with was destroyed: they cannot be read";
            let fault = Fault::new(ErrorCategory::NotFound, "key_destroyed", message);
            return self.failed(event, request, &fault, None, Vec::new()).await;
        };
        let texts: Vec<String> = match serde_json::from_str(&texts) {
            Ok(texts) => texts,
            Err(e) => {
                let fault = Fault::new(ErrorCategory::Validation, "request_refused", format!("the texts: {e}"));
                return self.failed(event, request, &fault, Some(&key), Vec::new()).await;
            }
        };
        let target = match self.target(event.orgid.as_str(), request).await? {
            Ok(target) => target,
            Err(fault) => return self.failed(event, request, &fault, Some(&key), Vec::new()).await,
        };
        let asker = Asker {
            org: event.orgid.as_str(),
            principal: request.context.user_id.as_deref().unwrap_or(&request.requested_by),
            assistant: request.context.assistant_id.as_deref(),
            key: request.context.key_id.as_deref(),
        };
        if let Some(fault) = not_allowed(&*self.accounts, &asker, std::slice::from_ref(&target)).await? {
            return self.failed(event, request, &fault, Some(&key), Vec::new()).await;
        }
        let (provider, model) = (&target.provider, target.model.clone());
        let tokens = (texts.iter().map(String::len).sum::<usize>() as u64).div_ceil(4);
        let usage = Usage { prompt_tokens: tokens, total_tokens: tokens, ..Usage::default() };
        let expected = Expected { provider: provider.key(), model: &model, usage };
        let limits = self.accounts.budgets(asker.org).await?;
        let charged = match self.rates.charge(event, &limits, (&asker, &model, tokens)).await {
            Ok(charged) => charged,
            Err(fault) => return self.failed(event, request, &fault, Some(&key), Vec::new()).await,
        };
        let told = (&self.sender, &self.rates.refusals);
        let admitted = reserve(&*self.accounts, told, event, &request.request_id, &asker, expected).await?;
        let budgets = match admitted {
            Ok(Kept(budgets)) => budgets,
            Err(fault) => {
                self.rates.settle(charged, None).await;
                return self.failed(event, request, &fault, Some(&key), Vec::new()).await;
            }
        };
        let (org, request_id, dimensions) = (event.orgid.to_string(), request.request_id.clone(), request.dimensions);
        let inputs = Inputs { org, request_id, model, texts, dimensions };
        let made = self.made(event, request, &asker, &target, inputs).await?;
        let spent = made.as_ref().map_or(0, |made| made.vectors.usage.total_tokens);
        self.rates.settle(charged, Some(spent)).await;
        leave(&self.sender, event, &request.request_id, &places(&budgets, &limits)).await?;
        match made {
            Ok(made) => self.completed(event, request, made, &key, budgets).await,
            Err(fault) => self.failed(event, request, &fault, Some(&key), budgets).await,
        }
    }

    // Vectors of several models do not go together: what else a route names is not asked.
    async fn target(&self, org: &str, request: &EmbeddingRequested) -> anyhow::Result<Result<Candidate, Fault>> {
        let asked = Target { provider: request.provider.clone(), model: request.model.clone() };
        let chooser = Chooser {
            providers: &self.providers,
            accounts: &*self.accounts,
            standings: &Standings::default(),
            // One without a default has none: asking it says so.
            usual: |provider| provider.default_embedding_model().unwrap_or_default().to_owned(),
            conversation: &|| request.context.user_id.as_deref().unwrap_or(&request.requested_by).to_owned(),
        };
        Ok(chooser.choose(org, &asked, &[], None).await?.and_then(first))
    }

    // Vectors, after as many tries as it takes.
    async fn made(
        &self,
        event: &Event,
        request: &EmbeddingRequested,
        asker: &Asker<'_>,
        target: &Candidate,
        inputs: Inputs,
    ) -> anyhow::Result<Result<Made, Fault>> {
        let provider = &*target.provider;
        let deadline = Instant::now() + self.time_left(request);
        let named = request.credential_id.as_deref();
        let mut tries = 1;
        loop {
            let lease = match provider.takes_key() {
                true => self.accounts.lease(asker, provider.key(), named).await?,
                false => None,
            };
            if let (Some(named), None, true) = (named, &lease, provider.takes_key()) {
                return Ok(Err(not_lent(named, provider.key())));
            }
            let fault = match self.asked(event, target, &inputs, lease.as_ref(), deadline).await {
                Ok(vectors) => {
                    return Ok(Ok(Made { provider: provider.key(), asked: inputs.model, vectors, lease }));
                }
                Err(fault) if fault.code.as_deref() == Some("circuit_open") => return Ok(Err(fault)),
                Err(fault) => fault,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match self.retry.pause(&fault, tries, false).filter(|wait| *wait < left) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Ok(Err(fault)),
            }
            tracing::warn!(request = request.request_id, tries, %fault, "embedding failed, trying again");
            tries += 1;
        }
    }

    // One try.
    async fn asked(
        &self,
        event: &Event,
        target: &Candidate,
        inputs: &Inputs,
        lease: Option<&Lease>,
        deadline: Instant,
    ) -> Result<Vectors, Fault> {
        let provider = &*target.provider;
        let credential = lease.map(|lease| lease.credential_id.as_str());
        let leave = self.lines.admit(event, Line { provider: provider.key(), model: &inputs.model, credential })?;
        let lasts = deadline.saturating_duration_since(Instant::now());
        let held = self.quotas.enter(&inputs.org, target, &inputs.request_id, lasts).await?;
        let asked = provider.embed(inputs, lease.map(|lease| &lease.key));
        let answer = tokio::time::timeout_at(deadline, asked).await.unwrap_or_else(|_| {
            let message = format!("provider '{}' did not finish before the deadline", provider.key());
            Err(Fault::new(ErrorCategory::Timeout, "deadline", message))
        });
        held.leave().await;
        match &answer {
            Ok(_) => leave.succeeded().await,
            Err(fault) => leave.failed(fault.category).await,
        }
        answer
    }

    async fn completed(
        &self,
        event: &Event,
        request: &EmbeddingRequested,
        made: Made,
        key: &SubjectKey,
        budgets: Vec<String>,
    ) -> anyhow::Result<()> {
        let Made { provider, asked, vectors, lease } = made;
        let price = self.accounts.price(provider, &asked).await?;
        let dimensions = vectors.vectors.first().map_or(0, Vec::len);
        let numbers = vectors.vectors.iter().flatten().flat_map(|number| number.to_le_bytes());
        let took = (OffsetDateTime::now_utc() - event.time).whole_milliseconds();
        let source = match &lease {
            Some(lease) if lease.is_proxy => "org-wide",
            Some(_) => "personal",
            None => "none",
        };
        let complete = CompleteEmbedding {
            request_id: request.request_id.clone(),
            provider: provider.to_owned(),
            model: vectors.model,
            vectors: key.seal(&BASE64.encode(numbers.collect::<Vec<u8>>())),
            dimensions: u32::try_from(dimensions).context("vectors of such a length")?,
            usage: vectors.usage,
            cost: price.map(|price| price.of(&vectors.usage)),
            total_ms: u64::try_from(took).unwrap_or(0),
            credential_id: lease.map(|lease| lease.credential_id),
            credential_source: source.to_owned(),
            budgets: budgets.clone(),
        };
        if let Some(rejection) = self.record(event, complete.into(), "completed").await? {
            tracing::warn!(request = request.request_id, %rejection, "vectors not recorded");
            let fault = Fault::new(ErrorCategory::Internal, "not_stored", "the vectors could not be stored");
            // Another worker was quicker, or they are too many.
            self.failed(event, request, &fault, Some(key), budgets).await?;
        }
        Ok(())
    }

    async fn failed(
        &self,
        event: &Event,
        request: &EmbeddingRequested,
        fault: &Fault,
        key: Option<&SubjectKey>,
        budgets: Vec<String>,
    ) -> anyhow::Result<()> {
        tracing::info!(request = request.request_id, %fault, "embedding failed");
        let fail = FailEmbedding {
            request_id: request.request_id.clone(),
            category: fault.category,
            code: fault.code.clone(),
            message: key.map(|key| key.seal(&fault.message)),
            upstream: fault.upstream.as_deref().cloned(),
            retry_after_ms: fault.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            budgets,
        };
        self.record(event, fail.into(), "failed").await.map(|_| ())
    }

    // Why it was refused, if it was.
    async fn record(
        &self,
        event: &Event,
        command: EmbeddingCommand,
        purpose: &str,
    ) -> anyhow::Result<Option<symbia_commands::Rejection>> {
        let id = CommandId::derived(event.id, purpose);
        let outcome = self.sender.send(Some(event), &event.aggregate()?, &command, &router(), id).await?;
        Ok(outcome.rejection)
    }

    fn time_left(&self, request: &EmbeddingRequested) -> Duration {
        let named = request.deadline.as_deref().and_then(|d| OffsetDateTime::parse(d, &Rfc3339).ok());
        named.map_or(self.timeout, |at| (at - OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO))
    }
}

fn first(chosen: Vec<Candidate>) -> Result<Candidate, Fault> {
    let none = || Fault::new(ErrorCategory::NotFound, "no_provider", "no model is named");
    chosen.into_iter().next().ok_or_else(none)
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

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        match event.decode()? {
            EmbeddingEvent::EmbeddingRequested(request) => self.requested(event, &request).await,
            EmbeddingEvent::EmbeddingCompleted(_) | EmbeddingEvent::EmbeddingFailed(_) => Ok(()),
        }
    }
}
