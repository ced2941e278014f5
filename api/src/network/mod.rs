//! The network service: an organization's mesh. Who is on it, who may send what to whom, sending, and why each call was
//! decided as it was (network.md).

mod access;
mod bridges;
mod contracts;
mod defaults;
mod entity;
mod events;
mod hashing;
mod limits;
mod mesh;
mod metrics;
mod nodes;
mod passing;
mod policies;
mod redriving;
mod refusals;
mod sdn;
mod seeing;
mod sending;
mod services;
mod shapes;
mod simulation;
mod sockets;
mod status;
mod strangers;
mod why;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use symbia_commands::network::Options as Routing;
use symbia_events::Service;
use symbia_nats::leases::{LEASE, Leases};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    feed::Feed,
    http::{
        Authenticator, Health, ServiceApp,
        discovery::ServiceInfo,
        rate::{RateLimiter, RateLimits, RouteClass, TokenBuckets},
        server::ServerConfig,
        shared_rate::SharedBuckets,
    },
    identity::Directory,
    platform::{Platform, SecretText},
    socket::{self, SocketGround},
};

/// What a deployment decides about its mesh.
#[derive(Clone, Debug)]
pub struct Options {
    /// Calls that no policy or contract speaks about.
    pub routing: Routing,
    /// How far the clock of a publisher may be off.
    pub tolerance: Duration,
    /// How long a node may be silent.
    pub lease: Duration,
    /// The original's hash is given to clients that compare it, made with this secret.
    pub legacy_hash: Option<SecretText>,
    /// Where each service answers, for the health of the platform.
    pub services: Vec<(Service, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            routing: Routing::default(),
            tolerance: Duration::from_secs(300),
            lease: LEASE,
            legacy_hash: None,
            services: Vec::new(),
        }
    }
}

/// What the handlers work with.
#[derive(Clone)]
struct Network {
    platform: Platform,
    feed: Feed,
    drained: CancellationToken,
    gateway: sockets::Gateway,
    hub: Arc<OnceLock<sockets::Hub>>,
    options: Arc<Options>,
    leases: Leases,
    /// Counts in all processes together.
    flood: Arc<dyn RateLimiter>,
    meshes: mesh::Meshes,
    seeing: seeing::Seeing,
    refusals: refusals::Refusals,
    http: reqwest::Client,
}

/// The service, to be built and served.
#[must_use]
pub fn service(platform: Platform, feed: &Feed, options: Options, health: Health, config: ServerConfig) -> ServiceApp {
    platform.watch(&health, Service::Network);
    let refusals = refusals::Refusals::default();
    let authenticator: Arc<dyn Authenticator> = Arc::new(services::ServicesToo {
        directory: Directory::new(platform.clone()),
        platform: platform.clone(),
        refusals: refusals.clone(),
    });
    let buckets = Arc::new(TokenBuckets::default());
    // A transport that polls asks again and again, and who connects is authenticated.
    let limits = RateLimits::new(Service::Network, buckets, platform.settings.rates, |_, route| {
        if route.starts_with("/socket.io") { RouteClass::Exempt } else { RouteClass::Standard }
    });
    let ground = SocketGround {
        platform: platform.clone(),
        feed: feed.clone(),
        authenticator: Arc::clone(&authenticator),
        cors: config.cors.clone(),
        times: config.sockets,
        drained: health.drained(),
    };
    let leases = Leases::follow(platform.nats.clone(), options.lease);
    let network = Network {
        feed: feed.clone(),
        drained: health.drained(),
        gateway: sockets::Gateway::new(platform.nats.clone(), leases.clone()),
        hub: Arc::default(),
        leases,
        flood: Arc::new(SharedBuckets::new(platform.nats.clone())),
        meshes: mesh::Meshes::default(),
        seeing: seeing::Seeing::open(platform.reader().clone()),
        refusals,
        http: reqwest::Client::new(),
        options: Arc::new(options),
        platform,
    };
    let sockets =
        Arc::new(sockets::NetworkSockets(network.clone(), strangers::Strangers::new(network.platform.clone())));
    let api = OpenApiRouter::new()
        .merge(nodes::routes())
        .merge(entity::routes())
        .merge(contracts::routes())
        .merge(bridges::routes())
        .merge(sending::routes())
        .merge(hashing::routes())
        .merge(events::routes())
        .merge(redriving::routes())
        .merge(why::routes())
        .merge(policies::routes())
        .merge(simulation::routes())
        .merge(sdn::routes())
        .merge(status::routes());
    ServiceApp::new(info(), health, config)
        .api(api.with_state(network))
        .undocumented(socket::routes(ground, sockets))
        .authenticator(authenticator)
        .rate_limits(limits)
}

fn info() -> ServiceInfo {
    let description =
        "An organization's mesh: nodes, contracts, policies, and every call with the reason for its outcome.";
    ServiceInfo {
        highlights: [
            "Nobody sends without a contract, and nobody sends as somebody else",
            "Policies allow, deny, route, transform and log; one in the mode `observe` only records what it would do",
            "GET /api/events/{id}/why names rule, version, inputs and the event of the log for every decision",
            "POST /api/policies/simulate lists the past calls that a change of a policy would decide otherwise",
        ]
        .map(str::to_owned)
        .to_vec(),
        endpoints: vec![
            ("registry", "/api/registry"),
            ("events", "/api/events"),
            ("policies", "/api/policies"),
            ("sdn", "/api/sdn"),
            ("websocket", "/socket.io/"),
        ],
        ..ServiceInfo::new(Service::Network, "Symbia Network", description)
    }
}
