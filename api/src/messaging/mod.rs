//! The messaging service: conversations, who takes part, what is said, and following it live (messaging.md).

mod access;
mod admin;
mod control;
mod conversations;
mod members;
mod messages;
mod reading;
mod shapes;
mod stream;
mod telling;

use std::sync::Arc;

use symbia_events::Service;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    feed::Feed,
    http::{
        Health, ServiceApp,
        discovery::ServiceInfo,
        rate::{RateLimits, RouteClass, TokenBuckets},
        server::ServerConfig,
    },
    identity::Directory,
    platform::Platform,
};

/// Version of the API.
const VERSION: &str = "1.0.0";

/// What the handlers work with.
#[derive(Clone)]
struct Messaging {
    platform: Platform,
    feed: Feed,
    drained: CancellationToken,
}

/// The service, to be built and served.
#[must_use]
pub fn service(platform: Platform, feed: &Feed, health: Health, config: ServerConfig) -> ServiceApp {
    platform.watch(&health, Service::Messaging);
    let directory = Directory::new(platform.clone());
    let buckets = Arc::new(TokenBuckets::default());
    let limits = RateLimits::new(Service::Messaging, buckets, platform.settings.rates, |_, _| RouteClass::Standard);
    let messaging = Messaging { platform, feed: feed.clone(), drained: health.drained() };
    let api = OpenApiRouter::new()
        .merge(conversations::routes())
        .merge(members::routes())
        .merge(messages::routes())
        .merge(reading::routes())
        .merge(control::routes())
        .merge(admin::routes())
        .merge(stream::routes());
    ServiceApp::new(info(), health, config)
        .api(api.with_state(messaging))
        .authenticator(Arc::new(directory))
        .rate_limits(limits)
}

fn info() -> ServiceInfo {
    let description = "Conversations between people and assistants: ordered messages, live answers, control.";
    ServiceInfo {
        version: VERSION.to_owned(),
        highlights: [
            "Messages of a conversation have one dense sequence, from 1",
            "The id of a message is its idempotency key: sending it again changes nothing",
            "GET /api/conversations/{id}/stream follows a conversation: messages, token deltas, runs",
            "What is said is sealed under the conversation's own key; destroying it erases the conversation",
        ]
        .map(str::to_owned)
        .to_vec(),
        endpoints: vec![("rest", "/api/conversations")],
        ..ServiceInfo::new(Service::Messaging, "Symbia Messaging", description)
    }
}
