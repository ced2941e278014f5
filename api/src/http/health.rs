//! `/health`, `/health/live`, `/health/ready` (platform.md §10). Liveness touches nothing outside the process; readiness asks
//! the event bus, the database and the projections, at most once per [`FRESH`].

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use futures::future::join_all;
use serde_json::{Map, Value, json};
use symbia_events::Service;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long one check may take.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer is reused, so that probing the public endpoint does not load what it probes.
pub const FRESH: Duration = Duration::from_millis(500);

/// What a check found: fields to report beside the status (`lag`), or a text for operators on what is wrong. A `status` among
/// the fields takes the place of `ok`: a service that does less than it could is `degraded`, and ready.
pub type CheckResult = Result<Map<String, Value>, String>;

type CheckFuture = Pin<Box<dyn Future<Output = CheckResult> + Send>>;
type Results = Vec<(&'static str, Value)>;
type Check = Arc<dyn Fn() -> CheckFuture + Send + Sync>;

/// The health of one service; cheap to clone. Not ready until [`Health::set_ready`].
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    service: Service,
    version: String,
    ready: AtomicBool,
    draining: CancellationToken,
    checks: Mutex<Vec<(&'static str, Check)>>,
    latest: tokio::sync::Mutex<Option<(Instant, Results)>>,
}

impl Health {
    /// A service that is starting.
    pub fn new(service: Service, version: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            service,
            version: version.into(),
            ready: AtomicBool::new(false),
            draining: CancellationToken::new(),
            checks: Mutex::default(),
            latest: tokio::sync::Mutex::default(),
        }))
    }

    /// Whose health it is.
    pub(super) fn service(&self) -> Service {
        self.0.service
    }

    /// Adds a readiness check (`eventBus`, `database`, `projections`). The text of its error is public.
    pub fn check<F, Fut>(&self, name: &'static str, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = CheckResult> + Send + 'static,
    {
        let check: Check = Arc::new(move || Box::pin(check()));
        self.0.checks.lock().unwrap_or_else(PoisonError::into_inner).push((name, check));
    }

    /// Says that starting is done, or that it is not any more.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Release);
    }

    /// Says that the process is about to stop: not ready for good, and [`Health::drained`] fires.
    pub fn draining(&self) {
        self.0.draining.cancel();
    }

    /// Fires when the service begins to stop. Streams and sockets that would outlive it end on it.
    #[must_use]
    pub fn drained(&self) -> CancellationToken {
        self.0.draining.clone()
    }

    /// Started and not draining. Says nothing about what the service depends on.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.0.ready.load(Ordering::Acquire) && !self.0.draining.is_cancelled()
    }

    fn server(&self) -> Result<(), &'static str> {
        match (self.0.draining.is_cancelled(), self.0.ready.load(Ordering::Acquire)) {
            (true, _) => Err("the service is shutting down"),
            (false, false) => Err("the service is starting"),
            (false, true) => Ok(()),
        }
    }

    /// The results of all checks: of the last [`FRESH`], or newly asked. Concurrent callers share one round.
    async fn checks(&self) -> Results {
        let mut latest = self.0.latest.lock().await;
        if let Some((_, results)) = latest.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return results.clone();
        }
        let checks = self.0.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let results = join_all(checks.into_iter().map(|(name, check)| async move { (name, run(check).await) })).await;
        *latest = Some((Instant::now(), results.clone()));
        results
    }

    fn body(&self, status: &str) -> Map<String, Value> {
        let fields = [
            ("status", json!(status)),
            ("timestamp", json!(timestamp())),
            ("service", json!(self.0.service.name())),
            ("version", json!(self.0.version)),
        ];
        fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }
}

async fn run(check: Check) -> Value {
    let started = Instant::now();
    let result = tokio::time::timeout(CHECK_TIMEOUT, check())
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", CHECK_TIMEOUT.as_secs())));
    let (mut entry, status) = match result {
        Ok(fields) => (fields, "ok"),
        Err(message) => (Map::from_iter([("message".to_owned(), json!(message))]), "unhealthy"),
    };
    entry.entry("status").or_insert_with(|| json!(status));
    entry.insert("latencyMs".to_owned(), json!(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)));
    Value::Object(entry)
}

/// ISO 8601 in UTC with milliseconds, as the original wrote it.
fn timestamp() -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::now_utc().format(FORMAT).unwrap_or_default()
}

/// The three endpoints.
pub(super) fn router(health: Health) -> Router {
    Router::new()
        .route("/health", get(overall))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(health)
}

async fn overall(State(health): State<Health>) -> impl IntoResponse {
    match health.is_serving() {
        true => (StatusCode::OK, Json(health.body("ok"))),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(health.body("degraded"))),
    }
}

async fn live(State(health): State<Health>) -> impl IntoResponse {
    Json(health.body("ok"))
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let server = match health.server() {
        Ok(()) => json!({ "status": "ok" }),
        Err(message) => json!({ "status": "unhealthy", "message": message }),
    };
    let checks: Map<String, Value> = health
        .checks()
        .await
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .chain([("server".to_owned(), server)])
        .collect();
    let healthy = checks.values().all(|check| check["status"] != "unhealthy");
    let (status, text) = if healthy { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unhealthy") };
    let mut body = health.body(text);
    body.insert("checks".to_owned(), Value::Object(checks));
    (status, Json(body))
}
