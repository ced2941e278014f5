//! Takes the lines of batches to models: each when its turn has come, behind what people wait for. They come from
//! a queue of their own, so that however many lines wait, they wait for one another alone; and nothing of a line is opened before.
//!
//! Error policy: retry for ever, as the routers that see a line through.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use symbia_commands::integrations::{Batch, Completion, Phase};
use symbia_events::{
    AggregateRef, Event, Position, Service,
    integrations::{CompletionContext, CompletionEvent, CompletionRequested, EmbeddingEvent, EmbeddingRequested},
};
use symbia_nats::jobs;

use crate::{
    integrations::{embedding::EmbeddingRouter, precedence::Precedence, router::LlmRouter},
    reactor::{OnError, Reactor},
};

/// Lines that wait, of all batches: what is held of each is what stands in its event.
const WAITING: i64 = 256;

/// The reactor.
pub struct BatchLines {
    router: Arc<LlmRouter>,
    embedding: Arc<EmbeddingRouter>,
}

impl BatchLines {
    /// One that has these routers see lines through.
    #[must_use]
    pub fn new(router: Arc<LlmRouter>, embedding: Arc<EmbeddingRouter>) -> Self {
        BatchLines { router, embedding }
    }

    fn precedence(&self) -> &Precedence {
        &self.router.options.precedence
    }

    async fn completion(&self, event: &Event, request: &CompletionRequested) -> anyhow::Result<()> {
        let running = &self.router.running;
        let Some(registered) = running.begin_after(&request.request_id).await else { return Ok(()) };
        let cancelled = registered.cancelled();
        if self.is_over(event).await? {
            registered.done();
            return Ok(());
        }
        let turn = tokio::select! {
            turn = self.precedence().behind() => turn,
            // It has its end, for which nothing needs to be opened; one that is on its way is met when it is asked.
            () = cancelled.cancelled() => {
                if self.is_over(event).await? {
                    registered.done();
                    return Ok(());
                }
                self.precedence().behind().await
            }
        };
        self.router.work_on(event, request, cancelled, None, None).await?;
        drop(turn);
        registered.done();
        Ok(())
    }

    async fn is_over(&self, event: &Event) -> anyhow::Result<bool> {
        let state = self.router.store.load::<Completion>(&event.aggregate()?).await?.state;
        Ok(state.phase() == Phase::Over)
    }

    async fn vectors(&self, event: &Event, at: Position, request: &EmbeddingRequested) -> anyhow::Result<()> {
        if self.embedding.has_ended(event, at).await? {
            return Ok(());
        }
        let _turn = self.precedence().behind().await;
        if self.embedding.has_ended(event, at).await? {
            return Ok(());
        }
        // Embeddings are not cancelled; one that nobody was asked for yet needs not be made.
        if self.is_stopped(event, &request.context).await? {
            return self.embedding.drop_line(event, request).await;
        }
        self.embedding.requested(event, request).await
    }

    async fn is_stopped(&self, event: &Event, context: &CompletionContext) -> anyhow::Result<bool> {
        let Some(batch) = &context.batch_id else { return Ok(false) };
        let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "batch", batch)?;
        Ok(self.router.store.load::<Batch>(&to).await?.state.stop().is_some())
    }
}

#[async_trait]
impl Reactor for BatchLines {
    fn name(&self) -> &'static str {
        "batch-lines"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        Vec::new()
    }

    fn takes(&self) -> Option<&'static str> {
        Some(jobs::BATCH_LINE)
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(3)
    }

    fn at_once(&self) -> i64 {
        WAITING
    }

    async fn react(&self, event: &Event, at: Position) -> anyhow::Result<()> {
        match event.aggregatetype.as_str() {
            "completion" => match event.decode()? {
                CompletionEvent::CompletionRequested(request) if request.context.batch_id.is_some() => {
                    self.completion(event, &request).await
                }
                _ => Ok(()),
            },
            _ => match event.decode()? {
                EmbeddingEvent::EmbeddingRequested(request) if request.context.batch_id.is_some() => {
                    self.vectors(event, at, &request).await
                }
                _ => Ok(()),
            },
        }
    }
}
