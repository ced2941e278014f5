//! The assistants service: who answers, by which rules, and why an answer came about (assistants.md §5).

mod listing;
mod runs;

use std::sync::Arc;

use symbia_events::Service;
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

/// What the handlers work with.
#[derive(Clone)]
struct Assistants {
    platform: Platform,
}

/// The service, to be built and served.
#[must_use]
pub fn service(platform: Platform, health: Health, config: ServerConfig) -> ServiceApp {
    platform.watch(&health, Service::Assistants);
    let directory = Directory::new(platform.clone());
    let buckets = Arc::new(TokenBuckets::default());
    let limits = RateLimits::new(Service::Assistants, buckets, platform.settings.rates, |_, _| RouteClass::Standard);
    let api = OpenApiRouter::new().merge(listing::routes()).merge(runs::routes());
    ServiceApp::new(info(), health, config)
        .api(api.with_state(Assistants { platform }))
        .authenticator(Arc::new(directory))
        .rate_limits(limits)
}

fn info() -> ServiceInfo {
    let description = "Assistants and the rules by which they answer; why each answer came about.";
    ServiceInfo {
        version: "1.0.0".to_owned(),
        highlights: [
            "Rules are data: loaded through commands, versioned, pinned by every run",
            "GET /api/runs/{id} says which rule answered, why, by which model and with how many tokens",
        ]
        .map(str::to_owned)
        .to_vec(),
        endpoints: vec![("assistants", "/api/assistants"), ("rules", "/api/rules"), ("runs", "/api/runs")],
        ..ServiceInfo::new(Service::Assistants, "Symbia Assistants", description)
    }
}
