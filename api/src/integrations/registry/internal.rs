//! The platform's own services as integrations (integrations.md §12.3): what their documents describe, called in the caller's
//! name. Such a call is in the log of the service that it concerns, and not a second time here.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::HeaderMap;
use futures::future::join_all;
use reqwest::{Method, Url};
use serde_json::{Map, Value};
use symbia_commands::integrations::openapi::{self, MAX_DOCUMENT, operation_of_path};
use symbia_egress::{Egress, EgressError, Errand, Reply, Request, Rules};
use symbia_events::{
    Service,
    integrations::{InvocationInput, Location, Operation},
};
use tokio::sync::Mutex;

use super::entry::{Entry, Origin};
use crate::http::{ApiError, ApiResult, RequestScope};

/// How long a document is kept, and how long reading one may take.
const KEPT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(3);
/// Largest answer.
const MOST: usize = 4 * 1024 * 1024;
/// What authenticates the caller; it goes along to our own services and nowhere else.
const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "cookie"];

/// What each service can do, and since when that is known.
type Known = HashMap<Service, (Instant, Arc<Vec<Operation>>)>;

/// The services of the platform, and what is known of them.
pub(super) struct Internals {
    services: Vec<(Service, String)>,
    known: Mutex<Known>,
}

impl Internals {
    /// All but this one, with their base URLs.
    pub fn new(services: Vec<(Service, String)>) -> Self {
        let others = services.into_iter().filter(|(service, _)| *service != Service::Integrations);
        Internals { services: others.collect(), known: Mutex::default() }
    }

    /// Those whose documents can be read.
    pub async fn entries(&self) -> Vec<Entry> {
        join_all(self.services.iter().map(|(service, base)| self.described(*service, base)))
            .await
            .into_iter()
            .flatten()
            .collect()
    }

    /// Where a service is.
    pub fn base_of(&self, service: Service) -> Option<&str> {
        self.services.iter().find(|(of, _)| *of == service).map(|(_, base)| base.as_str())
    }

    /// The service of this name.
    pub async fn entry(&self, key: &str) -> Option<Entry> {
        let (service, base) = self.services.iter().find(|(service, _)| service.name() == key)?;
        self.described(*service, base).await
    }

    async fn described(&self, service: Service, base: &str) -> Option<Entry> {
        let known = self.known.lock().await.get(&service).cloned();
        let operations = match known {
            Some((since, operations)) if since.elapsed() < KEPT => operations,
            known => match read(service, base).await {
                Ok(operations) => {
                    let operations = Arc::new(operations);
                    self.known.lock().await.insert(service, (Instant::now(), Arc::clone(&operations)));
                    operations
                }
                // One that is away for a moment has not changed for that.
                Err(error) => {
                    tracing::debug!(%service, error, "a service's document cannot be read");
                    known?.1
                }
            },
        };
        Some(Entry {
            key: service.name().to_owned(),
            operations: operations.to_vec(),
            origin: Origin::Internal(service, base.to_owned()),
        })
    }
}

// A service without routes of its own has nothing to call.
async fn read(service: Service, base: &str) -> Result<Vec<Operation>, String> {
    let url = format!("{base}/docs/openapi.json");
    let url = Url::parse(&url).map_err(|error| error.to_string())?;
    let egress = Egress::new(Rules::only(&url)).map_err(|error| error.to_string())?;
    let (method, headers, body) = (Method::GET, reqwest::header::HeaderMap::new(), None);
    let errand = Errand { method, url, headers, body, patience: PATIENCE, most: MAX_DOCUMENT };
    let reply = egress.fetch(errand).await.map_err(|error| error.to_string())?;
    let document = openapi::parse(&reply.body).map_err(|error| error.to_string())?;
    let document = with_whole_paths(document);
    let imported = openapi::import(&document, Some(base), None).map_err(|error| error.to_string())?;
    let mut operations: Vec<Operation> = imported.operations;
    operations.retain(|operation| is_for_callers(service, operation));
    // The headers that every route takes go along by themselves.
    operations.iter_mut().for_each(|operation| operation.parameters.retain(|p| p.location != Location::Header));
    let mut taken: BTreeSet<String> = operations.iter().map(|operation| operation.id.clone()).collect();
    for operation in &mut operations {
        let (path, method) = (operation.path.as_deref().unwrap_or_default(), operation.method.as_deref());
        let name = operation_of_path(path.strip_prefix("/api").unwrap_or(path), method.unwrap_or_default());
        if taken.insert(name.clone()) {
            operation.aliases.push(name);
        }
    }
    if operations.is_empty() { Err("it describes nothing".to_owned()) } else { Ok(operations) }
}

// Not what changes how somebody signs in, which is done by them and not by a tool; nor what every service has.
fn is_for_callers(service: Service, operation: &Operation) -> bool {
    let words = ["password", "reset", "forgot"];
    let signs_in = service == Service::Identity && words.iter().any(|word| operation.id.contains(word));
    let path = operation.path.as_deref().unwrap_or_default();
    !signs_in && !path.starts_with("/health") && !path.starts_with("/docs")
}

// Our documents name the server of each path, which is a prefix of it.
fn with_whole_paths(mut document: Value) -> Value {
    let prefix = |of: &Value| of["servers"][0]["url"].as_str().map(|url| url.trim_end_matches('/').to_owned());
    let usual = prefix(&document).unwrap_or_default();
    let Some(paths) = document["paths"].as_object() else { return document };
    let whole: Map<String, Value> = paths
        .iter()
        .map(|(path, item)| (format!("{}{path}", prefix(item).unwrap_or_else(|| usual.clone())), item.clone()))
        .collect();
    document["paths"] = Value::Object(whole);
    document["servers"] = Value::Null;
    document
}

/// Adds what makes a request to one of our own services the caller's.
pub(in crate::integrations) fn in_callers_name(headers: &mut HeaderMap, from: &HeaderMap, scope: &RequestScope) {
    for name in CREDENTIALS {
        if let Some(value) = from.get(name) {
            headers.insert(name, value.clone());
        }
    }
    for (name, value) in [("x-org-id", scope.org_id.as_deref()), ("x-request-id", Some(scope.request_id.as_str()))] {
        if let Some(value) = value.and_then(|value| value.parse().ok()) {
            headers.insert(name, value);
        }
    }
}

/// Calls an operation of a service in the caller's name.
pub(super) async fn call(
    base: &str,
    operation: &Operation,
    input: &InvocationInput,
    from: &HeaderMap,
    scope: &RequestScope,
    patience: Duration,
) -> ApiResult<Reply> {
    let mut request = Request::new(base, operation, input)
        .map_err(|invalid| ApiError::invalid("params", "format", invalid.to_string()))?;
    in_callers_name(&mut request.headers, from, scope);
    let egress = Egress::new(Rules::only(&request.url)).map_err(ApiError::internal)?;
    egress.fetch(request.errand(patience, MOST)).await.map_err(|error| match error {
        EgressError::Timeout | EgressError::Unreachable => ApiError::unavailable("The service", 2),
        error => ApiError::internal(error),
    })
}
