//! Assembles a service from its routes: every request passes edge, CORS, panic barrier, guard, then the routes (platform.md §2).

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, middleware::from_fn_with_state};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use super::{
    auth::Authenticator,
    cors::{self, CorsConfig},
    discovery::ServiceInfo,
    docs,
    edge::{self, Edge},
    health::{self, Health},
    listen,
    rate::RateLimits,
    request::TrustedProxies,
};
use crate::socket::SocketOptions;

/// Sizes and times of the HTTP surface. Defaults: platform.md §2.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest body in bytes. A route takes another with its own `DefaultBodyLimit` layer.
    pub body: usize,
    /// Until the head of the answer; streams may go on for longer.
    pub request_timeout: Duration,
    /// For the head of a request to arrive, and for a kept-alive connection to be used again.
    pub header_timeout: Duration,
    /// Between "not ready" and the end of accepting.
    pub drain: Duration,
    /// For requests in flight to end.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 100 * 1024,
            request_timeout: Duration::from_secs(120),
            header_timeout: Duration::from_secs(65),
            drain: Duration::from_secs(5),
            grace: Duration::from_secs(30),
        }
    }
}

/// How a service is served; the same for all services of a deployment, except where one differs.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// Which pages may call.
    pub cors: CorsConfig,
    /// Production: sends Strict-Transport-Security.
    pub production: bool,
    /// Whose `X-Forwarded-For` counts.
    pub proxies: TrustedProxies,
    /// Sizes and times.
    pub limits: Limits,
    /// Times of Socket.IO, where a service has it.
    pub sockets: SocketOptions,
}

/// A service under construction.
pub struct ServiceApp {
    info: ServiceInfo,
    config: ServerConfig,
    health: Health,
    authenticator: Option<Arc<dyn Authenticator>>,
    rate_limits: Option<RateLimits>,
    patient: Vec<(&'static str, Duration)>,
    api: OpenApiRouter,
    root: OpenApiRouter,
    other: Router,
}

impl ServiceApp {
    /// A service without routes of its own.
    #[must_use]
    pub fn new(info: ServiceInfo, health: Health, config: ServerConfig) -> Self {
        Self {
            info,
            config,
            health,
            authenticator: None,
            rate_limits: None,
            patient: Vec::new(),
            api: OpenApiRouter::new(),
            root: OpenApiRouter::new(),
            other: Router::new(),
        }
    }

    /// Adds documented routes under `/api`; their paths, in code and document, are without that prefix.
    #[must_use]
    pub fn api(mut self, routes: OpenApiRouter) -> Self {
        self.api = self.api.merge(routes);
        self
    }

    /// Adds documented routes at the root (`/symbia-namespace`, `/.well-known/jwks.json`, `/v1/chat/completions`).
    #[must_use]
    pub fn root(mut self, routes: OpenApiRouter) -> Self {
        self.root = self.root.merge(routes);
        self
    }

    /// Adds routes that no document lists (Socket.IO, WebSocket, static files).
    #[must_use]
    pub fn undocumented(mut self, routes: Router) -> Self {
        self.other = self.other.merge(routes);
        self
    }

    /// Who turns credentials into principals. Needed by routes that take a `Caller`.
    #[must_use]
    pub fn authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticator = Some(authenticator);
        self
    }

    /// Limits the rate of requests.
    #[must_use]
    pub fn rate_limits(mut self, limits: RateLimits) -> Self {
        self.rate_limits = Some(limits);
        self
    }

    /// Largest body of this service, instead of the configured one.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.config.limits.body = bytes;
        self
    }

    /// Lets a route, as it was declared, take longer than the others until the head of its answer.
    #[must_use]
    pub fn patient(mut self, route: &'static str, lasts: Duration) -> Self {
        self.patient.push((route, lasts));
        self
    }

    /// Generates the documents and puts the layers in order.
    #[must_use]
    pub fn build(self) -> HttpService {
        let ServerConfig { cors, production, proxies, limits, .. } = self.config;
        let (api, api_document) = self.api.split_for_parts();
        let (root, root_document) = self.root.split_for_parts();
        let document = docs::document(&self.info, api_document, root_document);
        let edge = Arc::new(Edge {
            service: self.info.service,
            production,
            proxies,
            request_timeout: limits.request_timeout,
            patient: self.patient,
            authenticator: self.authenticator,
            rate_limits: self.rate_limits,
        });
        // The last layer is the outermost.
        let router = Router::new()
            .nest("/api", api)
            .merge(root)
            .merge(self.other)
            .merge(health::router(self.health.clone()))
            .merge(docs::router(&self.info, &document))
            .layer(DefaultBodyLimit::max(limits.body))
            .layer(from_fn_with_state(Arc::clone(&edge), edge::guard))
            .layer(CatchPanicLayer::custom(edge::panicked))
            .layer(from_fn_with_state(cors, cors::cors))
            .layer(from_fn_with_state(edge, edge::edge));
        HttpService { router, document, health: self.health, limits }
    }
}

/// A service that is ready to be served.
pub struct HttpService {
    router: Router,
    document: OpenApi,
    health: Health,
    limits: Limits,
}

impl HttpService {
    /// All routes with their layers, for tests and in-process calls.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// The OpenAPI document.
    #[must_use]
    pub fn document(&self) -> &OpenApi {
        &self.document
    }

    /// The health of the service.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Serves until `shutdown` and then stops without dropping requests; returns when the last connection is closed.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let service = self.health.service().name();
        // It is written out by now: as a tree it takes several times its room.
        drop(self.document);
        tracing::info!(event = %format_args!("{service}.service.started"), service, "serves");
        listen::serve(listener, self.router, self.health, self.limits, shutdown).await;
        tracing::info!(event = %format_args!("{service}.service.stopped"), service, "serves no more");
    }
}
