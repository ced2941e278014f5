//! Who comes in to the tools: with the platform's tokens and keys, as everywhere, and with tokens that are for this address and no
//! other (RFC 8707). Where they are given, the address tells itself (RFC 9728).

use async_trait::async_trait;
use axum::extract::State;
use serde_json::{Value, json};
use symbia_nats::witness::Seen;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    http::{
        Json,
        auth::{AuthError, Authenticator},
        principal::Principal,
        routes,
    },
    identity::{ApiKeysAsBearer, Directory},
    integrations::Integrations,
};

/// Where the tools are.
const PATH: &str = "/api/integrations/mcp";

pub(in crate::integrations) fn root_routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(resource))
}

/// The address of the tools, as tokens name it.
fn address(service: &Integrations) -> String {
    let base = service.linking.callback_base.as_deref().unwrap_or_default();
    format!("{}{PATH}", base.trim_end_matches('/'))
}

/// Where it is told who gives tokens for it (RFC 9728 §3.1).
pub(super) fn metadata(service: &Integrations) -> String {
    let base = service.linking.callback_base.as_deref().unwrap_or_default();
    format!("{}/.well-known/oauth-protected-resource{PATH}", base.trim_end_matches('/'))
}

/// Read which authorization server gives tokens for the tools (RFC 9728)
#[utoipa::path(get, path = "/.well-known/oauth-protected-resource/api/integrations/mcp", tag = "MCP", security(()),
    responses((status = 200, description = "Metadata", body = Object)))]
async fn resource(State(service): State<Integrations>) -> Json<Value> {
    let identity = service.registry.identity(&service.platform.settings);
    Json(json!({
        "resource": address(&service),
        "authorization_servers": [service.platform.tokens.issuer()],
        "jwks_uri": format!("{identity}/.well-known/jwks.json"),
        "bearer_methods_supported": ["header"],
        "resource_name": "Symbia",
    }))
}

/// Lets callers in.
pub(in crate::integrations) struct Door {
    directory: ApiKeysAsBearer,
    address: String,
}

impl Door {
    pub fn new(directory: Directory, service: &Integrations) -> Self {
        Door { directory: ApiKeysAsBearer(directory), address: address(service) }
    }
}

#[async_trait]
impl Authenticator for Door {
    async fn bearer(&self, token: &str) -> Result<Principal, AuthError> {
        self.directory.bearer(token).await
    }

    async fn bearer_at(&self, token: &str, path: &str) -> Result<Principal, AuthError> {
        match self.directory.bearer(token).await {
            Err(AuthError::Invalid) if path == PATH => self.directory.0.identify_at(token, &self.address).await,
            found => found,
        }
    }

    async fn api_key(&self, key: &str) -> Result<Principal, AuthError> {
        self.directory.api_key(key).await
    }

    fn witness(&self, seen: Seen) {
        self.directory.witness(seen);
    }
}
