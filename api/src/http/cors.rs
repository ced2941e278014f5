//! Which web pages may call us (platform.md §13). The same test guards WebSocket upgrades.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::error::ApiError;

const METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
const READ_METHODS: &str = "GET, HEAD, OPTIONS";
const REQUEST_HEADERS: &str = "Content-Type, Authorization, X-API-Key, X-Org-Id, X-Service-Id, X-Env, X-Environment, \
     X-Data-Class, X-Policy-Ref, X-Symbia-Tags, X-Access-Reason, X-As-User-Id, X-Request-Id, X-Trace-Id, traceparent, Idempotency-Key";
const EXPOSED_HEADERS: &str = "X-Request-Id, x-trace-id, Retry-After, X-Next-Cursor, X-RateLimit-Limit, \
     X-RateLimit-Remaining, X-RateLimit-Reset, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset";
const MAX_AGE: &str = "86400";

/// Documents that any page may read.
const PUBLIC_PATHS: [&str; 11] = [
    "/docs",
    "/docs/openapi.json",
    "/docs/llms.txt",
    "/docs/llms-full.txt",
    "/openapi.json",
    "/llm.txt",
    "/llms.txt",
    "/llms-full.txt",
    "/api/openapi.json",
    "/api/docs/openapi.json",
    "/.well-known/openapi.json",
];

/// Configured origins. Outside production, pages of this machine are allowed as well, and an empty list allows any page
/// without credentials; in production only the list counts.
#[derive(Clone, Debug, Default)]
pub struct CorsConfig {
    origins: Arc<[Pattern]>,
    production: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    Any,
    Exact(String),
    Suffix(String),
}

/// How an origin is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    /// Named by the list, or a page of this machine: may send cookies.
    Named,
    /// Only by `*`, or by the empty list outside production: without credentials.
    Anyone,
    /// Not allowed.
    Denied,
}

impl CorsConfig {
    /// Origins as in `CORS_ALLOWED_ORIGINS`: `*`, an exact origin, or `*.suffix` of the host name. A trailing slash is
    /// ignored.
    #[must_use]
    pub fn new<I: IntoIterator<Item: AsRef<str>>>(origins: I, production: bool) -> Self {
        let pattern = |origin: I::Item| match origin.as_ref().trim().trim_end_matches('/').to_ascii_lowercase() {
            text if text.is_empty() => None,
            text if text == "*" => Some(Pattern::Any),
            text if text.starts_with("*.") => Some(Pattern::Suffix(text[1..].to_owned())),
            text => Some(Pattern::Exact(text)),
        };
        Self { origins: origins.into_iter().filter_map(pattern).collect(), production }
    }

    /// Whether a page of this origin may open a WebSocket. A client without an origin is not a page and may.
    #[must_use]
    pub fn allows(&self, origin: Option<&HeaderValue>) -> bool {
        origin.is_none_or(|origin| self.grant(origin) != Grant::Denied)
    }

    fn grant(&self, origin: &HeaderValue) -> Grant {
        let Ok(origin) = origin.to_str().map(str::to_ascii_lowercase) else { return Grant::Denied };
        let host = host(&origin);
        let local = matches!(host.as_deref(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let named = self.origins.iter().any(|pattern| match pattern {
            Pattern::Any => false,
            Pattern::Exact(exact) => *exact == origin,
            Pattern::Suffix(suffix) => host.as_deref().is_some_and(|host| host.ends_with(suffix.as_str())),
        });
        if named || (local && !self.production) {
            Grant::Named
        } else if self.origins.contains(&Pattern::Any) || (self.origins.is_empty() && !self.production) {
            Grant::Anyone
        } else {
            Grant::Denied
        }
    }
}

fn host(origin: &str) -> Option<String> {
    let uri: Uri = origin.parse().ok()?;
    uri.scheme().and(uri.host()).map(str::to_owned)
}

/// Middleware: answers every OPTIONS itself and sets the headers of everything else.
pub(super) async fn cors(State(config): State<CorsConfig>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let public = reads && PUBLIC_PATHS.contains(&request.uri().path());
    let grant = origin.as_ref().map(|origin| config.grant(origin));

    let mut response = if request.method() != Method::OPTIONS {
        next.run(request).await
    } else if grant == Some(Grant::Denied) && !public {
        ApiError::new(StatusCode::FORBIDDEN, "ORIGIN_NOT_ALLOWED", "Pages of this origin may not call this service")
            .with_hint("Add the origin to CORS_ALLOWED_ORIGINS.")
            .into_response()
    } else {
        StatusCode::OK.into_response()
    };

    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    match (grant, origin) {
        (Some(Grant::Named), Some(origin)) => {
            allow(headers, origin, METHODS);
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        (Some(Grant::Denied), _) if public => allow(headers, HeaderValue::from_static("*"), READ_METHODS),
        (Some(Grant::Denied), _) => {}
        _ => allow(headers, HeaderValue::from_static("*"), METHODS),
    }
    response
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue, methods: &'static str) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
}
