//! The router of image requests: takes a text, has a provider make pictures of it, and records exactly one end.
//!
//! Error policy: retry for ever. A worker that dies leaves nothing behind but the request; the next one asks again, and the
//! aggregate takes one end.

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use async_trait::async_trait;
use symbia_commands::integrations::{CompleteImage, FailImage, ImageCommand, MAX_PICTURED};
use symbia_events::{
    Event, KeyRing, Position, Service, SubjectKey,
    integrations::{ErrorCategory, ImageEvent, ImageRequested, Target, Usage},
};
use symbia_nats::pictures::Pictures;

use super::{
    accounts::{Accounts, Taken},
    desk::{Desk, Errand, Made, Noted, Wish},
    pictures::keep,
    provider::{ApiKey, Drawing, Drawn, Fault, Provider, Providers},
    router::{RouterOptions, erased},
    routes::Candidate,
};
use crate::{
    content_keys::ContentKeys,
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// Tokens that a picture is expected to take, where pictures take any: a square one of medium quality.
const EXPECTED: u64 = 1056;

/// The router of image requests.
pub struct ImageRouter(Desk, Pictures);

/// A text to draw.
struct Prompt<'a> {
    request: &'a ImageRequested,
    text: String,
}

#[async_trait]
impl Wish for Prompt<'_> {
    type Got = Drawn;

    fn usual(provider: &dyn Provider) -> String {
        provider.default_image_model().unwrap_or_default().to_owned()
    }

    fn texts(&mut self) -> Vec<&mut String> {
        vec![&mut self.text]
    }

    fn expected(&self) -> Taken {
        let prompt_tokens = (self.text.len() as u64).div_ceil(4);
        let completion_tokens = EXPECTED * u64::from(self.request.count);
        let total_tokens = prompt_tokens + completion_tokens;
        let usage = Usage { prompt_tokens, completion_tokens, total_tokens, ..Usage::default() };
        Taken { usage, pictures: self.request.count, ..Taken::default() }
    }

    fn took(got: &Drawn) -> Taken {
        let pictures = u32::try_from(got.pictures.len()).unwrap_or(u32::MAX);
        Taken { usage: got.usage, pictures, ..Taken::default() }
    }

    async fn ask(&self, org: &str, target: &Candidate, key: Option<&ApiKey>) -> Result<Drawn, Fault> {
        let ImageRequested { count, shape, .. } = self.request;
        let drawing = Drawing { org, model: &target.model, text: &self.text, count: *count, shape };
        target.provider.draw(drawing, key).await
    }
}

impl ImageRouter {
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
        let pictures = Pictures::new(client.clone());
        let desk = Desk::open(client, keys, (sender, content_keys), providers, accounts, options).await?;
        Ok(ImageRouter(desk, pictures))
    }

    async fn requested(&self, event: &Event, request: &ImageRequested) -> anyhow::Result<()> {
        let key = self.0.content_keys.key(&request.prompt.kid).await?;
        let text = key.as_ref().and_then(|key| key.open(&request.prompt).ok());
        let (Some(key), Some(text)) = (key, text) else {
            return self.failed(event, request, &erased(), None, Noted::default()).await;
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
        let served = self.0.serve(&errand, &mut Prompt { request, text }).await?;
        match served.made {
            Ok(made) => self.completed(&errand, request, made, &key, served.noted).await,
            Err(fault) => self.failed(event, request, &fault, Some(&key), served.noted).await,
        }
    }

    async fn completed(
        &self,
        errand: &Errand<'_>,
        request: &ImageRequested,
        made: Made<Drawn>,
        key: &SubjectKey,
        noted: Noted,
    ) -> anyhow::Result<()> {
        let (source, mut drawn, spent) = (made.source(), made.got, made.cost);
        let place = (errand.event.orgid.as_str(), request.request_id.as_str());
        if let Err(error) = keep(&self.1, place, key, &mut drawn.pictures).await {
            tracing::warn!(request = request.request_id, %error, "pictures are not kept");
            let message = "the pictures were made and could not be kept: the broker does not take them";
            let fault = Fault::new(ErrorCategory::Internal, "not_stored", message);
            let failed =
                FailImage { usage: Some(drawn.usage), cost: spent, ..failure(request, &fault, Some(key), noted) };
            return self.0.record(errand.event, &ImageCommand::from(failed), "failed").await.map(|_| ());
        }
        let pictures = serde_json::to_string(&drawn.pictures)?;
        let complete = CompleteImage {
            request_id: request.request_id.clone(),
            provider: made.provider.to_owned(),
            model: drawn.model,
            pictures: key.seal(&pictures),
            count: u32::try_from(drawn.pictures.len()).unwrap_or(u32::MAX),
            usage: drawn.usage,
            cost: made.cost,
            total_ms: errand.took_ms(),
            credential_id: made.lease.map(|lease| lease.credential_id),
            credential_source: source.to_owned(),
            budgets: noted.budgets.clone(),
            guarded: noted.guarded.clone(),
        };
        if let Some(rejection) = self.0.record(errand.event, &ImageCommand::from(complete), "completed").await? {
            tracing::warn!(request = request.request_id, %rejection, "pictures not recorded");
            let message = format!(
                "the pictures could not be stored: they are {} bytes, {MAX_PICTURED} is the limit; ask for fewer, for their \
                 addresses (response_format url), or for smaller files (output_format, output_compression)",
                pictures.len()
            );
            let fault = Fault::new(ErrorCategory::Validation, "not_stored", message);
            let failed =
                FailImage { usage: Some(drawn.usage), cost: spent, ..failure(request, &fault, Some(key), noted) };
            return self.0.record(errand.event, &ImageCommand::from(failed), "failed").await.map(|_| ());
        }
        Ok(())
    }

    async fn failed(
        &self,
        event: &Event,
        request: &ImageRequested,
        fault: &Fault,
        key: Option<&SubjectKey>,
        noted: Noted,
    ) -> anyhow::Result<()> {
        tracing::info!(request = request.request_id, %fault, "no pictures");
        let fail = ImageCommand::from(failure(request, fault, key, noted));
        self.0.record(event, &fail, "failed").await.map(|_| ())
    }
}

fn failure(request: &ImageRequested, fault: &Fault, key: Option<&SubjectKey>, noted: Noted) -> FailImage {
    FailImage {
        request_id: request.request_id.clone(),
        category: fault.category,
        code: fault.code.clone(),
        message: key.map(|key| key.seal(&fault.message)),
        upstream: fault.upstream.as_deref().cloned(),
        retry_after_ms: fault.retry_after_ms(),
        usage: None,
        cost: None,
        budgets: noted.budgets,
        guarded: noted.guarded,
    }
}

#[async_trait]
impl Reactor for ImageRouter {
    fn name(&self) -> &'static str {
        "image-router"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.image.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &["symbia.integrations.image.image-requested."]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn react(&self, event: &Event, at: Position) -> anyhow::Result<()> {
        match event.decode()? {
            ImageEvent::ImageRequested(request) if !self.0.has_ended(event, at).await? => {
                self.requested(event, &request).await
            }
            ImageEvent::ImageRequested(_) => Ok(()),
            ImageEvent::ImageCompleted(_) | ImageEvent::ImageFailed(_) => Ok(()),
        }
    }
}
