//! The integrations service: the gateway to language models (integrations.md §5, §6, §28), by its own routes and by those of
//! OpenAI's and Anthropic's APIs. Whatever the route, a request is one completion in the log, like a rule's.

mod ask;
mod audio;
mod batches;
mod budgets;
mod channels;
mod chat;
mod circuits;
mod dialect;
mod egress_policy;
mod embeddings;
mod enquiries;
mod errors;
mod evaluation;
mod execute;
mod executions;
mod files;
mod following;
mod guardrails;
mod health;
mod hub;
mod images;
mod leftover;
mod listing;
mod mcp;
mod messages;
mod moderations;
mod oauth;
mod passthrough;
mod pictures;
mod prices;
mod providers;
mod registry;
mod reply;
mod rerank;
mod responses;
mod routes;
mod said;
mod stream;
mod tape;
mod tasks;
mod tooling;
mod usage;

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::extract::DefaultBodyLimit;
use moka::sync::Cache;
use symbia_events::{Service, SubjectKey};
use symbia_nats::{sessions::EndedSessions, subscriptions::Subscriptions};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

pub use self::{
    channels::ChannelOptions,
    dialect::OpenAiDialect,
    oauth::LinkingOptions,
    passthrough::{KeyStands, ProviderDoor},
    providers::ProviderInfo,
};
use self::{evaluation::Recommended, hub::Hub, passthrough::Doors, registry::Registry};
use crate::{
    feed::{Feed, access::Slots},
    http::{
        Health, ServiceApp,
        discovery::ServiceInfo,
        rate::{Quota, RateLimits, RatePolicy, RouteClass, TokenBuckets},
        server::ServerConfig,
    },
    identity::Directory,
    platform::Platform,
};

const VERSION: &str = "1.0.0";
/// Largest body; that of a prompt is larger.
const BODY: usize = 4 * 1024 * 1024;
/// How long a caller's key is kept; a destroyed one is forgotten within it.
const KEPT: Duration = Duration::from_secs(10);
const MOST_KEYS: u64 = 10_000;

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
struct Integrations(Arc<Parts>);

struct Parts {
    platform: Platform,
    hub: Hub,
    providers: Arc<[ProviderInfo]>,
    doors: Doors,
    registry: Registry,
    linking: Arc<LinkingOptions>,
    channels: Arc<ChannelOptions>,
    kept_keys: Cache<String, SubjectKey>,
    recommended: Recommended,
    // Of the Model Context Protocol: sessions that have ended, what others hear of, whose lists have changed, and who listens.
    sessions: EndedSessions,
    subscriptions: Subscriptions,
    changes: mcp::Changes,
    listeners: Slots,
    drained: CancellationToken,
}

impl Deref for Integrations {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// The service, to be built and served; `providers` are those that the routers of this installation ask, `doors` those of them
/// whose own APIs calls are passed on to, `services` the base
/// URLs of its services.
#[must_use]
pub fn service(
    (platform, feed): (Platform, &Feed),
    (providers, doors): (Vec<ProviderInfo>, Vec<ProviderDoor>),
    services: Vec<(Service, String)>,
    (mut linking, mut channels): (LinkingOptions, ChannelOptions),
    health: Health,
    config: ServerConfig,
) -> ServiceApp {
    platform.watch(&health, Service::Integrations);
    let directory = Directory::new(platform.clone());
    let buckets = Arc::new(TokenBuckets::default());
    let limits =
        RateLimits::new(Service::Integrations, buckets, rates(platform.settings.rates), |_, _| RouteClass::Standard);
    let own = services.iter().find(|(service, _)| *service == Service::Integrations);
    linking.callback_base = linking.callback_base.or_else(|| own.map(|(_, base)| base.clone()));
    channels.webhook_base = channels.webhook_base.or_else(|| own.map(|(_, base)| base.clone()));
    let service = Integrations(Arc::new(Parts {
        linking: linking.into(),
        channels: channels.into(),
        registry: Registry::new(&platform, services),
        hub: Hub::open(platform.nats.clone(), Arc::clone(&platform.keys)),
        sessions: EndedSessions::new(platform.nats.clone()),
        subscriptions: Subscriptions::new(platform.nats.clone()),
        changes: mcp::Changes::follow(platform.clone(), feed.clone()),
        listeners: Slots::default(),
        drained: health.drained(),
        platform,
        providers: providers.into(),
        doors: Doors::new(doors),
        kept_keys: Cache::builder().max_capacity(MOST_KEYS).time_to_live(KEPT).build(),
        recommended: Recommended::new(),
    }));
    let api = OpenApiRouter::new()
        .merge(execute::routes().layer(DefaultBodyLimit::max(pictures::BODY)))
        .merge(executions::routes())
        .merge(following::routes())
        .merge(providers::routes())
        .merge(listing::routes())
        .merge(usage::routes())
        .merge(circuits::routes())
        .merge(routes::routes())
        .merge(guardrails::routes())
        .merge(egress_policy::routes())
        .merge(health::routes())
        .merge(passthrough::routes())
        .merge(budgets::routes())
        .merge(evaluation::routes())
        .merge(prices::routes())
        .merge(registry::routes())
        .merge(mcp::routes(&service))
        .merge(oauth::routes())
        .merge(channels::routes());
    let root = OpenApiRouter::new()
        .merge(chat::routes().layer(DefaultBodyLimit::max(pictures::BODY)))
        .merge(messages::routes().layer(DefaultBodyLimit::max(pictures::BODY)))
        .merge(responses::routes().layer(DefaultBodyLimit::max(pictures::BODY)))
        .merge(embeddings::routes())
        .merge(images::routes())
        .merge(rerank::routes())
        .merge(audio::routes())
        .merge(moderations::routes().layer(DefaultBodyLimit::max(pictures::BODY)))
        .merge(files::routes())
        .merge(batches::routes())
        .merge(listing::root_routes())
        .merge(mcp::root_routes());
    let door = mcp::Door::new(directory, &service);
    ServiceApp::new(info(), health, config)
        .api(api.with_state(service.clone()))
        .root(root.with_state(service))
        .authenticator(Arc::new(door))
        .rate_limits(limits)
        .body_limit(BODY)
        .patient(files::UPLOAD.0, files::UPLOAD.1)
}

// A gateway is asked by programs, thousands of times a second; what they may use, budgets say.
fn rates(policy: RatePolicy) -> RatePolicy {
    let burst = policy.standard.burst.saturating_mul(1000);
    RatePolicy { standard: Quota { burst, ..policy.standard }, ..policy }
}

fn info() -> ServiceInfo {
    ServiceInfo {
        version: VERSION.to_owned(),
        highlights: [
            "POST /v1/chat/completions, /v1/responses, /v1/completions, /v1/embeddings and /v1/messages are OpenAI's and \
             Anthropic's: give their SDKs this base URL and a token or API key of the platform",
            "Every request is in the log, with its attempts and exactly one end",
            "Keys of providers are kept in identity's vault (POST /api/credentials) and lent for moments, on record",
            "Budgets of organizations, users, assistants and models cannot be overspent by requests at once",
        ]
        .map(str::to_owned)
        .to_vec(),
        endpoints: vec![("rest", "/api/integrations"), ("openai", "/v1")],
        ..ServiceInfo::new(
            Service::Integrations,
            "Symbia Integrations",
            "Language models of any provider, behind one interface.",
        )
    }
}
