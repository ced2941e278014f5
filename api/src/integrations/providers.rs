//! Which providers there are, and what a caller can use of them (integrations.md §5.2, §5.7, §11).

use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value, json};
use symbia_commands::integrations::builtin::BUILTINS;
use symbia_projections::{Scope, identity::credential_for};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, listing::Model};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes};

/// A provider that the routers ask.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderInfo {
    /// Its key in requests, e.g. `openai`.
    pub name: String,
    /// Where it is; empty for the models on this machine.
    pub base_url: String,
    /// The model of a request that names none.
    pub default_model: String,
    /// The same for embeddings, where it has them.
    pub default_embedding_model: Option<String>,
    /// What it can be asked for.
    pub supported_operations: Vec<String>,
    /// Whether it can be asked without somebody's own key.
    pub configured: bool,
}

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new()
        .routes(routes!(providers))
        .routes(routes!(provider))
        .routes(routes!(capabilities))
        .routes(routes!(credentials))
        .routes(routes!(status))
        .routes(routes!(stats))
}

/// The providers.
#[derive(Serialize, ToSchema)]
struct Providers {
    providers: Vec<ProviderInfo>,
}

/// List providers
#[utoipa::path(get, path = "/integrations/providers", tag = "Providers", security(()),
    responses((status = 200, description = "The providers", body = Providers)))]
async fn providers(State(service): State<Integrations>) -> Json<Providers> {
    Json(Providers { providers: service.providers.to_vec() })
}

impl Integrations {
    /// A provider by its name.
    pub(super) fn provider(&self, name: &str) -> ApiResult<&ProviderInfo> {
        self.providers.iter().find(|provider| provider.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.providers.iter().map(|provider| provider.name.as_str()).collect();
            ApiError::not_found("Provider").with_hint(format!("There are: {}.", names.join(", ")))
        })
    }
}

/// Read a provider
#[utoipa::path(get, path = "/integrations/providers/{provider}", tag = "Providers", security(()),
    params(("provider" = String, Path, description = "Its name")),
    responses((status = 200, description = "The provider", body = ProviderInfo), (status = 404, description = "There is none")))]
async fn provider(State(service): State<Integrations>, Path(name): Path<String>) -> ApiResult<Json<ProviderInfo>> {
    Ok(Json(service.provider(&name)?.clone()))
}

/// Tell what the caller can use: which providers, with whose key, and their models
#[utoipa::path(get, path = "/integrations/capabilities", tag = "Providers",
    responses((status = 200, description = "Providers with access, models by purpose, defaults", body = Object)))]
async fn capabilities(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
) -> ApiResult<Json<Value>> {
    let org = caller.org(&scope)?;
    let models = service.models(&caller, &scope).await?;
    let mut tx = service.platform.read(&Scope::platform()).await?;
    let (mut all, mut by_provider) = (Vec::new(), Map::new());
    for provider in service.providers.iter() {
        let found = credential_for(&mut tx, &caller.id, Some(&org), &provider.name).await?;
        let source = match &found {
            Some(credential) if credential.owner_id == caller.id => "personal",
            Some(_) => "org-wide",
            None => "none",
        };
        let of: Vec<&Model> = models.iter().filter(|m| m.provider == provider.name).collect();
        // Those of this machine are known; what others have, a key alone may tell.
        let has_models = !provider.base_url.is_empty() || !of.is_empty();
        let usable = (provider.configured || found.is_some()) && has_models;
        let described = json!({
            "provider": provider.name, "name": provider.name, "baseUrl": provider.base_url,
            "defaultModel": provider.default_model, "supportedOperations": provider.supported_operations, "models": of,
            "access": {
                "hasCredential": found.is_some(), "credentialSource": source, "isEnabled": usable,
                "lastUsedAt": found.and_then(|credential| credential.last_used_at).map(crate::iso),
            },
            "status": if usable { "available" } else { "unavailable" },
        });
        by_provider.insert(provider.name.clone(), described.clone());
        all.push(described);
    }
    drop(tx);
    let purpose = |capability: &str| -> Vec<Value> {
        let of = models.iter().filter(|m| m.capabilities.contains(&capability));
        of.map(|m| json!({ "provider": m.provider, "model": m.id })).collect()
    };
    let usable = all.iter().find(|provider| provider["status"] == "available");
    let embeds = usable
        .and_then(|p| service.provider(p["provider"].as_str()?).ok())
        .filter(|p| p.default_embedding_model.is_some());
    Ok(Json(json!({
        "providers": all,
        "byProvider": by_provider,
        "modelsByPurpose": { "chat": purpose("chat"), "embedding": purpose("embedding") },
        "defaults": {
            "chatProvider": usable.map(|p| p["provider"].clone()),
            "chatModel": usable.map(|p| p["defaultModel"].clone()),
            "embeddingProvider": embeds.map(|p| p.name.clone()),
            "embeddingModel": embeds.and_then(|p| p.default_embedding_model.clone()),
        },
        "fetchedAt": crate::iso(time::OffsetDateTime::now_utc()),
    })))
}

/// Tell for which providers the caller has a key
#[utoipa::path(get, path = "/integrations/credentials/status", tag = "Providers",
    responses((status = 200, description = "Whether there is a key for each, never the key", body = Object)))]
async fn credentials(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
) -> ApiResult<Json<Value>> {
    let org = caller.org(&scope)?;
    let mut tx = service.platform.read(&Scope::platform()).await?;
    let mut status = json!({});
    for (provider, name) in [("openai", "hasOpenAI"), ("huggingface", "hasHuggingFace"), ("anthropic", "hasAnthropic")]
    {
        status[name] = json!(credential_for(&mut tx, &caller.id, Some(&org), provider).await?.is_some());
    }
    status["defaultProvider"] = json!(service.providers.iter().find(|p| p.configured).map(|p| &p.name));
    Ok(Json(status))
}

/// Tell which providers are configured
#[utoipa::path(get, path = "/integrations/status", tag = "Providers", security(()),
    responses((status = 200, description = "The providers; nobody's key is checked", body = Object)))]
async fn status(State(service): State<Integrations>) -> Json<Value> {
    let of = |p: &ProviderInfo| json!({ "name": p.name, "configured": p.configured, "registered": true, "credential": "not_checked" });
    let providers: Vec<Value> = service.providers.iter().map(of).collect();
    Json(json!({ "status": "healthy", "providers": providers, "note": "Keys of providers are not checked here." }))
}

/// Count providers
#[utoipa::path(get, path = "/stats", tag = "Providers", security(()),
    responses((status = 200, description = "How many there are, and how many can be asked", body = Object)))]
async fn stats(State(service): State<Integrations>) -> Json<Value> {
    let configured = service.providers.iter().filter(|p| p.configured).count();
    // Those that everybody has: how many others registered is nobody's business.
    let integrations = BUILTINS.len();
    Json(json!({
        "totalProviders": service.providers.len(), "configuredProviders": configured, "totalIntegrations": integrations,
    }))
}
