//! The two outer layers of every request. [`edge`]: ids, trace span, access log, final error bodies, security headers.
//! [`guard`]: idempotency key, rate limit, time-out; inside CORS, so that a page can read the refusal.

use std::{any::Any, net::IpAddr, sync::Arc, time::Duration, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use symbia_commands::identity::AccessKind;
use symbia_events::Service;
use symbia_nats::{
    telemetry::{self, SpanExt},
    witness::{NOBODY, Seen},
};
use tracing::{Instrument, field::Empty};

use super::{
    auth::{Authenticator, Found},
    error::{self, ApiError},
    metrics,
    principal::Principal,
    rate::{RateLimits, refusal},
    request::{RequestScope, TrustedProxies, check_idempotency_key},
};

/// Set on every response that does not set them itself.
const SECURITY_HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];
const HSTS: &str = "max-age=31536000; includeSubDomains";

/// What the layers need to know; shared by all requests of a service.
pub(super) struct Edge {
    pub service: Service,
    pub production: bool,
    pub proxies: TrustedProxies,
    pub request_timeout: Duration,
    /// Routes that may take longer, with their times.
    pub patient: Vec<(&'static str, Duration)>,
    pub authenticator: Option<Arc<dyn Authenticator>>,
    pub rate_limits: Option<RateLimits>,
}

impl Edge {
    // Until the head of the answer.
    fn lasts(&self, route: &str) -> Duration {
        let patient = self.patient.iter().find(|(patient, _)| *patient == route);
        patient.map_or(self.request_timeout, |(_, lasts)| self.request_timeout.max(*lasts))
    }
}

pub(super) async fn edge(State(edge): State<Arc<Edge>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let (mut parts, body) = request.into_parts();
    let route = route(&parts.extensions).to_owned();
    let span = tracing::info_span!("request", service = edge.service.name(), method = %parts.method, %route,
        request_id = Empty, trace_id = Empty, span_id = Empty, otel.kind = "server");
    let scope = RequestScope::new(&parts, &edge.proxies).within(&span);
    parts.extensions.insert(scope.clone());
    if let Some(authenticator) = &edge.authenticator {
        parts.extensions.insert(Arc::clone(authenticator));
    }
    if let Some(limits) = &edge.rate_limits {
        parts.extensions.insert(limits.clone());
    }

    let (request_id, trace_id) = (scope.request_id.as_str(), scope.trace.trace_id());
    span.record("request_id", request_id).record("trace_id", &trace_id).record("span_id", scope.trace.span_id());
    let method = metrics::method(&parts.method);
    telemetry::rename(&span, format!("{method} {route}"));
    let api = parts.uri.path().starts_with("/api/");
    let response = next.run(Request::from_parts(parts, body)).instrument(span.clone()).await;
    let mut response = error::complete(response, request_id, &trace_id, &scope.operation);

    let status = response.status().as_u16();
    metrics::answered(edge.service, method, &route, status, started.elapsed());
    span.set_attribute("http.response.status_code", i64::from(status));
    let latency_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| match route.starts_with("/health") {
        true => tracing::debug!(status, latency_ms, "answered"),
        false => tracing::info!(status, latency_ms, "answered"),
    });

    let headers = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if edge.production {
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(HeaderValue::from_static(HSTS));
    }
    if api {
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    for (name, value) in [("x-request-id", request_id), ("x-trace-id", &trace_id)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}

pub(super) async fn guard(State(edge): State<Arc<Edge>>, request: Request, next: Next) -> Response {
    if let Err(error) = check_idempotency_key(request.method(), request.headers()) {
        return error.into_response();
    }
    let (mut parts, body) = request.into_parts();
    let route = route(&parts.extensions).to_owned();
    let scope = parts.extensions.get::<RequestScope>().cloned();
    let found = Found::default();
    parts.extensions.insert(found.clone());
    parts.extensions.insert(edge.service);
    let place = Place::of(&parts, &route);
    let limits = edge.rate_limits.as_ref().filter(|_| !route.starts_with("/health"));
    let decision = match (limits, &scope) {
        (Some(limits), Some(scope)) => limits.admit(&mut parts, scope, &route).await,
        _ => None,
    };
    let mut response = match decision {
        Some(decision) if !decision.allowed => refusal(decision).into_response(),
        _ => tokio::time::timeout(edge.lasts(&route), next.run(Request::from_parts(parts, body)))
            .await
            .unwrap_or_else(|_| ApiError::timeout().into_response()),
    };
    if let Some(authenticator) = &edge.authenticator
        && let Some(error) = response.extensions().get::<ApiError>()
        && error.is_denial()
    {
        match (found.principal(), &scope) {
            (Some(principal), _) => authenticator.witness(place.denied(principal, error)),
            // Whom nobody knows is refused all the time; that they ask too often is worth knowing.
            (None, Some(scope)) if error.is_flood() => authenticator.witness(place.flooded(scope.client_ip, error)),
            (None, _) => {}
        }
    }
    if let Some(decision) = decision {
        decision.write(response.headers_mut());
    }
    response
}

/// What a refusal was about.
struct Place {
    operation: String,
    org: Option<String>,
}

impl Place {
    // The route, not the path: whoever tries many ids tries one thing.
    fn of(parts: &Parts, route: &str) -> Self {
        let mut segments = parts.uri.path().split('/');
        let org = segments.find(|segment| *segment == "orgs").and_then(|_| segments.next()).map(str::to_owned);
        let named = || parts.extensions.get::<RequestScope>().and_then(|scope| scope.org_id.clone());
        Place { operation: format!("{} {route}", parts.method), org: org.or_else(named) }
    }

    fn denied(self, whom: &Principal, error: &ApiError) -> Seen {
        let principal = whom.acting.as_ref().map_or(&whom.id, |acting| &acting.agent).clone();
        let kind = AccessKind::Denied { code: error.code().to_owned() };
        // How much somebody asks for concerns where they belong, wherever they say that they ask.
        let org = match error.is_flood() {
            true => self.org.filter(|org| whom.belongs_to(org)).or_else(|| whom.home().map(str::to_owned)),
            false => self.org,
        };
        Seen { principal, org, operation: self.operation, kind, address: None }
    }

    fn flooded(self, from: IpAddr, error: &ApiError) -> Seen {
        let kind = AccessKind::Denied { code: error.code().to_owned() };
        Seen { principal: NOBODY.to_owned(), org: None, operation: self.operation, kind, address: Some(from) }
    }
}

/// The answer to a handler that panicked. The panic's text is for the log.
#[allow(clippy::needless_pass_by_value, reason = "the signature is the library's")]
pub(super) fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<&str>().copied().or_else(|| cause.downcast_ref::<String>().map(String::as_str));
    ApiError::internal(format_args!("a handler panicked: {}", text.unwrap_or("no text"))).into_response()
}

fn route(extensions: &axum::http::Extensions) -> &str {
    extensions.get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str)
}
