//! The messaging service: conversations, who takes part, what is said, and following it live (messaging.md).

mod access;
mod admin;
mod channels;
mod control;
mod conversations;
mod erasure;
mod files;
mod members;
mod messages;
mod reading;
mod shapes;
mod sockets;
mod stream;
mod telling;
mod webhooks;
mod words;

use std::{sync::Arc, time::Duration};

use self::{access::Home, reading::Seen, sockets::MessagingSockets, words::ContentKeys};
use symbia_events::Service;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    feed::Feed,
    http::{
        Authenticator, Health, ServiceApp,
        discovery::ServiceInfo,
        rate::{RateLimiter, RateLimits, RouteClass, TokenBuckets},
        server::ServerConfig,
        shared_rate::NearBuckets,
    },
    identity::{self, Directory},
    platform::Platform,
    socket::{self, SocketGround},
};

/// Version of the API.
const VERSION: &str = "1.0.0";
/// Addresses of conversations kept, and for how long.
const HOMES_MAX: u64 = 100_000;
const HOME_LASTS: Duration = Duration::from_secs(30);

/// What the handlers work with.
#[derive(Clone)]
struct Messaging {
    platform: Platform,
    feed: Feed,
    drained: CancellationToken,
    keys: ContentKeys,
    flood: Arc<dyn RateLimiter>,
    homes: Homes,
    seen: Seen,
}

/// Where the conversations are that somebody read or wrote to a moment ago, by principal and id.
type Homes = moka::sync::Cache<(String, String), Home>;

/// The service, to be built and served.
#[must_use]
pub fn service(platform: Platform, feed: &Feed, health: Health, config: ServerConfig) -> ServiceApp {
    platform.watch(&health, Service::Messaging);
    let directory = Directory::new(platform.clone());
    let buckets = Arc::new(TokenBuckets::default());
    // A transport that polls asks again and again; who connects is authenticated, and messages are counted by themselves.
    let limits = RateLimits::new(Service::Messaging, buckets, platform.settings.rates, |_, route| match route {
        "/api/auth/login" | "/api/auth/user/login" | "/api/auth/login/mfa" => RouteClass::Auth,
        route if route.starts_with("/socket.io") => RouteClass::Exempt,
        _ => RouteClass::Standard,
    });
    let front = identity::front(&platform, &directory);
    let authenticator: Arc<dyn Authenticator> = Arc::new(directory);
    let ground = SocketGround {
        platform: platform.clone(),
        feed: feed.clone(),
        authenticator: Arc::clone(&authenticator),
        cors: config.cors.clone(),
        times: config.sockets,
        drained: health.drained(),
    };
    let messaging = Messaging {
        keys: ContentKeys::new(&platform),
        flood: Arc::new(NearBuckets::new(platform.nats.clone())),
        seen: Seen::default(),
        homes: Homes::builder().max_capacity(HOMES_MAX).time_to_live(HOME_LASTS).build(),
        platform,
        feed: feed.clone(),
        drained: health.drained(),
    };
    let sockets = Arc::new(MessagingSockets::new(messaging.clone()));
    let api = OpenApiRouter::new()
        .merge(conversations::routes())
        .merge(members::routes())
        .merge(messages::routes())
        .merge(files::routes())
        .merge(reading::routes())
        .merge(control::routes())
        .merge(channels::routes())
        .merge(webhooks::routes())
        .merge(erasure::routes())
        .merge(admin::routes())
        .merge(stream::routes());
    ServiceApp::new(info(), health, config)
        .api(api.with_state(messaging).merge(front))
        .undocumented(socket::routes(ground, sockets))
        .authenticator(authenticator)
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
            "What is said is sealed under its author's key in the conversation: destroying keys erases an author, or a conversation",
        ]
        .map(str::to_owned)
        .to_vec(),
        endpoints: vec![
            ("auth", "/api/auth"),
            ("rest", "/api/conversations"),
            ("admin", "/api/admin"),
            ("websocket", "/"),
        ],
        websocket_events: Some(socket_events()),
        ..ServiceInfo::new(Service::Messaging, "Symbia Messaging", description)
    }
}

/// What sockets say and hear (messaging.md §7.4, 7.5).
fn socket_events() -> (Vec<String>, Vec<String>) {
    let client = [
        "join:conversation",
        "leave:conversation",
        "message:send",
        "message:edit",
        "message:delete",
        "control:send",
        "typing:start",
        "typing:stop",
        "presence:update",
        "announce:presence",
        "watch:conversation",
        "unwatch:conversation",
        "conversation:read",
    ];
    let server = [
        "message:new",
        "message:updated",
        "message:deleted",
        "stream.pause",
        "stream.resume",
        "stream.preempt",
        "stream.route",
        "stream.handoff",
        "stream.cancel",
        "stream.priority",
        "typing:started",
        "typing:stopped",
        "presence:changed",
        "participant:online",
        "participant:offline",
        "participant:added",
        "participant:removed",
        "participant:role_changed",
        "conversation:updated",
        "conversation:deleted",
        "control:recorded",
        "message:delta",
        "message:reset",
        "turn:state",
    ];
    (client.map(str::to_owned).to_vec(), server.map(str::to_owned).to_vec())
}
