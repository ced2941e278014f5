//! The models service: the language models of this installation behind OpenAI's API, and their life cycle (models.md).
//!
//! Inference itself is no event: it goes to the inference processes directly and is counted there. The integrations service
//! records completions, with the same models among its providers.

mod answer;
mod body;
mod chat;
mod downloads;
mod embeddings;
mod error;
mod execute;
mod lifecycle;
mod listing;
pub mod ollama;
mod request;
mod rerank;
mod settings;
mod stream;
mod tokens;
mod turns;
mod view;
mod vision;

use std::{sync::Arc, time::Duration};

use serde_json::{Map, json};
use symbia_events::Service;
use symbia_nats::inference::{Census, Inference};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    http::{
        Health, ServiceApp,
        discovery::ServiceInfo,
        rate::{RateLimits, RouteClass, TokenBuckets},
        server::ServerConfig,
    },
    identity::Directory,
    platform::Platform,
};

/// Largest body.
const BODY: usize = 20 << 20;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(600);
/// How long an inference process is looked for: one that died is started again within seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the handlers work with.
#[derive(Clone)]
struct Models {
    platform: Platform,
    inference: Inference,
    census: Census,
}

/// The service, to be built and served.
#[must_use]
pub fn service(platform: Platform, health: Health, config: ServerConfig) -> ServiceApp {
    platform.watch(&health, Service::Models);
    let models = Models::new(platform);
    models.watch(&health);
    let api = OpenApiRouter::new()
        .merge(listing::routes())
        .merge(lifecycle::routes())
        .merge(settings::routes())
        .merge(downloads::routes())
        .merge(tokens::routes())
        .merge(vision::routes())
        .merge(execute::routes());
    let root = OpenApiRouter::new().merge(chat::routes()).merge(embeddings::routes()).merge(rerank::routes());
    let root = root.merge(listing::root_routes());
    app(info(), &models, health, config).api(api.with_state(models.clone())).root(root.with_state(models))
}

/// An app without routes yet: who may ask, how often, how much and how long.
fn app(info: ServiceInfo, models: &Models, health: Health, mut config: ServerConfig) -> ServiceApp {
    config.limits.request_timeout = config.limits.request_timeout.max(ANSWER);
    let (directory, buckets) = (Directory::new(models.platform.clone()), Arc::new(TokenBuckets::default()));
    let rates = models.platform.settings.rates;
    let limits = RateLimits::new(Service::Models, buckets, rates, |_, _| RouteClass::Standard);
    let app = ServiceApp::new(info, health, config).authenticator(Arc::new(directory));
    app.rate_limits(limits).body_limit(BODY)
}

impl Models {
    fn new(platform: Platform) -> Self {
        let (inference, census) =
            (Inference::new(platform.nats.clone(), PATIENCE), Census::listen(platform.nats.clone()));
        Models { platform, inference, census }
    }

    /// Without a model the service is ready: it can say so. It is not of much use, and says that, too.
    fn watch(&self, health: &Health) {
        let census = self.census.clone();
        health.check("models", move || {
            let census = census.clone();
            async move {
                let (workers, models) = (census.workers().len(), census.models());
                let usable = models.values().filter(|model| model.details.is_some()).count();
                let mut found = Map::from_iter([("workers".into(), json!(workers)), ("models".into(), json!(usable))]);
                if usable == 0 {
                    found.insert("status".into(), json!("degraded"));
                }
                Ok(found)
            }
        });
    }
}

fn info() -> ServiceInfo {
    let description = "Language models on this installation's own machines, behind OpenAI's API.";
    ServiceInfo {
        highlights: [
            "POST /v1/chat/completions: streaming, tools, JSON schemas, grammars, seeds, log probabilities",
            "POST /v1/embeddings: vectors of length 1",
            "POST /v1/rerank: documents in the order in which they answer a question",
            "GET /v1/models lists the GGUF files of the model directory and what is in memory",
        ]
        .map(str::to_owned)
        .to_vec(),
        endpoints: vec![("openai", "/v1"), ("models", "/api/models"), ("stats", "/api/stats")],
        ..ServiceInfo::new(Service::Models, "Symbia Models", description)
    }
}
