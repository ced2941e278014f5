//! Which providers and models there are (integrations.md §5.2, §5.7, §11), and OpenAI's list of models.

use axum::{extract::State, middleware::map_response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use symbia_projections::{
    Scope,
    identity::credential_for,
    integrations::{self as model},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Integrations, errors::as_openai};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope};

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
        .routes(routes!(models_of))
        .routes(routes!(models))
        .routes(routes!(capabilities))
        .routes(routes!(credentials))
        .routes(routes!(status))
        .routes(routes!(stats))
}

pub(super) fn root_routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(listing)).routes(routes!(one)).layer(map_response(as_openai))
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
    fn provider(&self, name: &str) -> ApiResult<&ProviderInfo> {
        self.providers.iter().find(|provider| provider.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.providers.iter().map(|provider| provider.name.as_str()).collect();
            ApiError::not_found("Provider").with_hint(format!("There are: {}.", names.join(", ")))
        })
    }

    // Defaults, and what has a price: nobody else's list is asked for.
    async fn models(&self) -> ApiResult<Vec<Model>> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let prices = model::prices(&mut tx).await?;
        drop(tx);
        let mut models = Vec::<Model>::new();
        for provider in self.providers.iter() {
            models.push(Model::of(provider, &provider.default_model, "chat"));
            if let Some(embedding) = &provider.default_embedding_model {
                models.push(Model::of(provider, embedding, "embedding"));
            }
        }
        for price in prices {
            let known = models.iter_mut().find(|m| m.provider == price.provider && m.id == price.model);
            let dollars = |micros: i64| micros as f64 / 1e6;
            let priced = (Some(dollars(price.input_micros_per_m)), Some(dollars(price.output_micros_per_m)));
            match known {
                Some(known) => (known.input_pricing, known.output_pricing) = priced,
                None => models.push(Model {
                    name: price.model.clone(),
                    capabilities: vec![if price.model.contains("embedding") { "embedding" } else { "chat" }],
                    id: price.model,
                    provider: price.provider,
                    input_pricing: priced.0,
                    output_pricing: priced.1,
                }),
            }
        }
        Ok(models)
    }
}

/// A model.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Model {
    id: String,
    name: String,
    provider: String,
    /// `chat` or `embedding`.
    capabilities: Vec<&'static str>,
    /// US dollars for a million tokens, where a price is known.
    input_pricing: Option<f64>,
    output_pricing: Option<f64>,
}

impl Model {
    fn of(provider: &ProviderInfo, id: &str, capability: &'static str) -> Self {
        Model {
            id: id.to_owned(),
            name: id.to_owned(),
            provider: provider.name.clone(),
            capabilities: vec![capability],
            input_pricing: None,
            output_pricing: None,
        }
    }
}

/// Read a provider
#[utoipa::path(get, path = "/integrations/providers/{provider}", tag = "Providers", security(()),
    params(("provider" = String, Path, description = "Its name")),
    responses((status = 200, description = "The provider", body = ProviderInfo), (status = 404, description = "There is none")))]
async fn provider(State(service): State<Integrations>, Path(name): Path<String>) -> ApiResult<Json<ProviderInfo>> {
    Ok(Json(service.provider(&name)?.clone()))
}

/// List the models of a provider that are known
#[utoipa::path(get, path = "/integrations/providers/{provider}/models", tag = "Providers",
    params(("provider" = String, Path, description = "Its name")),
    responses((status = 200, description = "Its default models, and those with a price", body = Object),
        (status = 404, description = "There is none")))]
async fn models_of(
    State(service): State<Integrations>,
    _caller: Caller,
    Path(name): Path<String>,
) -> ApiResult<Json<Value>> {
    let provider = service.provider(&name)?;
    let models: Vec<Model> = service.models().await?.into_iter().filter(|m| m.provider == provider.name).collect();
    Ok(Json(json!({ "models": models })))
}

/// List the models that are known
#[utoipa::path(get, path = "/integrations/models", tag = "Providers",
    responses((status = 200, description = "By provider, and all", body = Object)))]
async fn models(State(service): State<Integrations>, _caller: Caller) -> ApiResult<Json<Value>> {
    let all = service.models().await?;
    let mut by_provider = Map::new();
    for provider in service.providers.iter() {
        let of: Vec<&Model> = all.iter().filter(|m| m.provider == provider.name).collect();
        by_provider.insert(provider.name.clone(), json!(of));
    }
    Ok(Json(json!({ "models": by_provider, "all": all })))
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
    let models = service.models().await?;
    let mut tx = service.platform.read(&Scope::platform()).await?;
    let (mut all, mut by_provider) = (Vec::new(), Map::new());
    for provider in service.providers.iter() {
        let found = credential_for(&mut tx, &caller.id, Some(&org), &provider.name).await?;
        let source = match &found {
            Some(credential) if credential.owner_id == caller.id => "personal",
            Some(_) => "org-wide",
            None => "none",
        };
        let usable = provider.configured || found.is_some();
        let of: Vec<&Model> = models.iter().filter(|m| m.provider == provider.name).collect();
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
    Json(json!({ "totalProviders": service.providers.len(), "configuredProviders": configured }))
}

fn listed(model: &Model) -> Value {
    let id = format!("{}/{}", model.provider, model.id);
    json!({ "id": id, "object": "model", "created": 0, "owned_by": model.provider })
}

/// List models, as OpenAI's API has it
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI-compatible",
    responses((status = 200, description = "The models, as `provider/model`", body = Object)))]
async fn listing(State(service): State<Integrations>, _caller: Caller) -> ApiResult<Json<Value>> {
    let models: Vec<Value> = service.models().await?.iter().map(listed).collect();
    Ok(Json(json!({ "object": "list", "data": models })))
}

/// Read a model, as OpenAI's API has it
#[utoipa::path(get, path = "/v1/models/{id}", tag = "OpenAI-compatible",
    params(("id" = String, Path, description = "`provider/model`")),
    responses((status = 200, description = "The model", body = Object), (status = 404, description = "There is none")))]
async fn one(State(service): State<Integrations>, _caller: Caller, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let models = service.models().await?;
    let found = models.iter().map(listed).find(|model| model["id"] == id.as_str());
    Ok(Json(found.ok_or_else(|| ApiError::not_found("Model"))?))
}
