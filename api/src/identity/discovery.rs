//! What identity tells anyone: configuration, key set, counters, namespace (identity.md §1, 4.10, 6.12).

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, header},
};
use serde::Serialize;
use serde_json::{Value, json};
use symbia_projections::{Scope, identity as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::Identity;
use crate::http::{ApiResult, Json, routes};

/// Under `/api`.
pub(super) fn routes() -> OpenApiRouter<Identity> {
    addresses().routes(routes!(stats))
}

/// Where to sign in.
pub(super) fn addresses() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(config))
}

/// At the root.
pub(super) fn root() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(jwks)).routes(routes!(openid)).routes(routes!(namespace))
}

/// Addresses for signing in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Config {
    identity_service_url: String,
    login_url: String,
    logout_url: String,
}

/// Read where to sign in
#[utoipa::path(get, path = "/auth/config", tag = "Discovery", security(()),
    responses((status = 200, description = "Addresses", body = Config)))]
async fn config(State(identity): State<Identity>) -> Json<Config> {
    let base = identity.platform.settings.base_url.trim_end_matches('/');
    Json(Config {
        identity_service_url: base.to_owned(),
        login_url: format!("{base}/login"),
        logout_url: format!("{base}/api/auth/logout"),
    })
}

/// Counters of the platform.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Stats {
    total_users: i64,
    total_orgs: i64,
    total_agents: i64,
}

/// Read the platform's counters
#[utoipa::path(get, path = "/stats", tag = "Discovery", security(()),
    responses((status = 200, description = "Counters", body = Stats)))]
async fn stats(State(identity): State<Identity>) -> ApiResult<Json<Stats>> {
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let counts = model::counts(&mut tx).await?;
    Ok(Json(Stats { total_users: counts.users, total_orgs: counts.organizations, total_agents: counts.agents }))
}

/// Read the keys that verify access tokens
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "Discovery", security(()),
    responses((status = 200, description = "JSON Web Key Set (RFC 7517)", body = Object)))]
async fn jwks(State(identity): State<Identity>) -> ([(HeaderName, &'static str); 1], Json<Value>) {
    ([(header::CACHE_CONTROL, "public, max-age=3600")], Json(identity.platform.tokens.jwks()))
}

/// Read where tokens are issued, verified and introspected
///
/// The part of OpenID Connect discovery that applies: there are no ID tokens.
#[utoipa::path(get, path = "/.well-known/openid-configuration", tag = "Discovery", security(()),
    responses((status = 200, description = "Issuer and addresses", body = Object)))]
async fn openid(State(identity): State<Identity>, headers: HeaderMap) -> Json<Value> {
    let (tokens, base) = (&identity.platform.tokens, identity.base(&headers));
    Json(json!({
        "issuer": tokens.issuer(),
        "jwks_uri": format!("{base}/.well-known/jwks.json"),
        "introspection_endpoint": format!("{base}/api/auth/introspect"),
        "introspection_endpoint_auth_methods_supported": ["none"],
        "userinfo_endpoint": format!("{base}/api/auth/me"),
        "end_session_endpoint": format!("{base}/api/auth/logout"),
        "subject_types_supported": ["public"],
        "token_signing_alg_values_supported": [tokens.algorithm()],
        "id_token_signing_alg_values_supported": [tokens.algorithm()],
        "claims_supported": ["sub", "type", "email", "name", "agentId", "orgId", "iss", "aud", "iat", "exp", "jti", "sid"],
    }))
}

impl Identity {
    /// The service's public address: the configured one, else the one that the request was sent to.
    pub(super) fn base(&self, headers: &HeaderMap) -> String {
        let configured = self.platform.settings.base_url.trim_end_matches('/');
        if !configured.is_empty() {
            return configured.to_owned();
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost:5001");
        format!("http://{host}")
    }
}

/// Read the names that scripts can refer to
#[utoipa::path(get, path = "/symbia-namespace", tag = "Discovery", security(()),
    responses((status = 200, description = "The namespace", body = Object)))]
async fn namespace() -> Json<Value> {
    let number = |description: &str| json!({ "type": "number", "description": description });
    Json(json!({
        "namespace": "identity",
        "version": super::VERSION,
        "description": "Principals and tenants of the platform",
        "properties": {
            "users.count": number("Number of users"),
            "orgs.count": number("Number of organizations"),
            "agents.count": number("Number of agents"),
            "entities.count": number("Number of directory entries"),
        },
    }))
}
