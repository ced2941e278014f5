//! A small service to aim requests at, and a client that calls its router.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
    routing::get,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_api::http::{
    ApiError, ApiResult, AuthError, Authenticator, Caller, Health, HttpService, Json, OptionalCaller, Path, Principal,
    Query, RequestScope, ServiceApp,
    discovery::ServiceInfo,
    principal::{AuthType, Membership, PrincipalKind},
    server::ServerConfig,
};
use symbia_events::Service;
use tower::ServiceExt;
use utoipa_axum::{router::OpenApiRouter, routes};

/// An answer, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().expect("a readable header"))
    }

    /// The body without its ids, after checking that they equal the headers.
    pub fn error(&self) -> Value {
        let mut body = self.json();
        let fields = body.as_object_mut().expect("an object");
        assert_eq!(fields.remove("requestId").as_ref().and_then(Value::as_str), self.header("x-request-id"));
        assert_eq!(fields.remove("traceId").as_ref().and_then(Value::as_str), self.header("x-trace-id"));
        assert_eq!(self.header("content-type"), Some("application/json"));
        body
    }
}

pub async fn send(router: &Router, request: Request<Body>) -> Answer {
    let (parts, body) = router.clone().oneshot(request).await.expect("infallible").into_parts();
    let bytes = to_bytes(body, usize::MAX).await.expect("a body");
    Answer { status: parts.status, headers: parts.headers, text: String::from_utf8_lossy(&bytes).into_owned() }
}

pub async fn call(router: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let request = headers.iter().fold(Request::builder().method(method).uri(path), |r, (k, v)| r.header(*k, *v));
    send(router, request.body(Body::from(body.to_owned())).expect("a request")).await
}

pub async fn fetch(router: &Router, path: &str, headers: &[(&str, &str)]) -> Answer {
    call(router, "GET", path, headers, "").await
}

#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Parcel {
    /// Who gets it.
    recipient: String,
    weight: u32,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Serialize, Deserialize, utoipa::ToSchema)]
pub struct Item {
    sku: String,
}

/// Send a parcel
#[utoipa::path(post, path = "/parcels", tag = "Parcels", request_body = Parcel, security(()),
    responses((status = 200, description = "The parcel", body = Parcel)))]
async fn send_parcel(Json(parcel): Json<Parcel>) -> Json<Parcel> {
    Json(parcel)
}

#[derive(Deserialize)]
struct Page {
    limit: u32,
}

/// Read a parcel
#[utoipa::path(get, path = "/parcels/{id}", tag = "Parcels",
    params(("id" = u64, Path, description = "Number of the parcel"), ("limit" = u32, Query)),
    responses((status = 200, description = "The parcel", body = Parcel)))]
async fn read_parcel(Path(id): Path<u64>, Query(page): Query<Page>) -> Json<Value> {
    Json(json!({ "id": id, "limit": page.limit }))
}

async fn whoami(caller: Caller) -> Json<Value> {
    Json(json!({ "id": caller.id, "authType": caller.auth_type }))
}

async fn maybe(OptionalCaller(caller): OptionalCaller) -> Json<Value> {
    Json(json!({ "id": caller.map(|c| c.id.clone()) }))
}

async fn org(caller: Caller, scope: RequestScope) -> ApiResult<Json<Value>> {
    Ok(Json(json!({ "org": caller.org(&scope)? })))
}

async fn scope(scope: RequestScope) -> Json<Value> {
    Json(json!({
        "requestId": scope.request_id, "traceparent": scope.traceparent(), "org": scope.org_id, "env": scope.env,
        "dataClass": scope.data_class, "policy": scope.policy_ref, "service": scope.service_id,
        "ip": scope.client_ip, "command": scope.command_id("user-1"),
    }))
}

async fn broken() -> ApiResult<()> {
    Err(ApiError::internal("password=hunter2 at 10.0.0.7"))
}

async fn panics() {
    panic!("password=hunter2 at 10.0.0.7")
}

/// Knows the tokens and keys by their names.
pub struct Directory;

#[async_trait]
impl Authenticator for Directory {
    async fn bearer(&self, token: &str) -> Result<Principal, AuthError> {
        match token {
            "expired" => Err(AuthError::Expired),
            "revoked" => Err(AuthError::Revoked),
            "down" => Err(AuthError::Unavailable),
            "good" | "root" | "many" | "former" => Ok(user(token)),
            _ => Err(AuthError::Invalid),
        }
    }

    async fn api_key(&self, key: &str) -> Result<Principal, AuthError> {
        match key {
            "sk_good" => Ok(Principal {
                key_id: Some("key-1".to_owned()),
                ..Principal::new("owner", PrincipalKind::User, AuthType::ApiKey)
            }),
            "sk_down" => Err(AuthError::Unavailable),
            _ => Err(AuthError::Invalid),
        }
    }
}

fn user(token: &str) -> Principal {
    let orgs: &[&str] = if token == "good" { &["org-a"] } else { &["org-a", "org-b"] };
    Principal {
        is_super_admin: token == "root",
        org_id: (token == "many").then(|| "org-b".to_owned()).or((token == "former").then(|| "org-z".to_owned())),
        organizations: orgs
            .iter()
            .map(|id| Membership {
                id: (*id).to_owned(),
                name: (*id).to_owned(),
                slug: (*id).to_owned(),
                role: "member".to_owned(),
            })
            .collect(),
        ..Principal::new(format!("user-{token}"), PrincipalKind::User, AuthType::Jwt)
    }
}

/// The service under test, ready.
pub fn app(config: ServerConfig) -> ServiceApp {
    let health = Health::new(Service::Identity, "1.2.3");
    health.set_ready(true);
    let info = ServiceInfo {
        endpoints: vec![("parcels", "/api/parcels")],
        ..ServiceInfo::new(Service::Identity, "Symbia Parcels", "Sends parcels.\nAnd nothing else.")
    };
    ServiceApp::new(info, health, config)
        .api(OpenApiRouter::new().routes(routes!(send_parcel)).routes(routes!(read_parcel)))
        .undocumented(
            Router::new()
                .route("/api/whoami", get(whoami))
                .route("/api/maybe", get(maybe))
                .route("/api/org", get(org))
                .route("/api/scope", get(scope).post(scope))
                .route("/api/broken", get(broken))
                .route("/api/panics", get(panics))
                .route("/api/never", get(std::future::pending::<()>)),
        )
        .authenticator(Arc::new(Directory))
}

pub fn service() -> HttpService {
    app(ServerConfig::default()).build()
}

/// Waits for a condition, and fails when it does not come true.
pub async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), poll).await.expect("the condition never came true");
}
