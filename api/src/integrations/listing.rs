//! Which models there are (integrations.md §5.2, §11), and OpenAI's list of them: as the providers list them for the caller's
//! keys, which the router keeps for a moment; else their defaults, and what has a price.

use axum::{extract::State, middleware::map_response};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use symbia_commands::{Actor, integrations::may_ask};
use symbia_nats::enquiry::{Found, ListedModel, What};
use symbia_projections::{
    Scope,
    identity::credential_for,
    integrations::{self as model, Price},
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, ProviderInfo, errors::as_openai};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(models_of)).routes(routes!(models))
}

pub(super) fn root_routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(listing)).routes(routes!(one)).layer(map_response(as_openai))
}

/// A model.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Model {
    pub id: String,
    pub name: String,
    pub provider: String,
    /// `chat` or `embedding`.
    pub capabilities: Vec<&'static str>,
    /// Tokens that it can read, where its provider tells.
    pub context_window: Option<u64>,
    /// US dollars for a million tokens, where a price is known.
    pub input_pricing: Option<f64>,
    pub output_pricing: Option<f64>,
    /// `live`: the provider lists it; `static`: it has not been asked.
    pub source: &'static str,
    #[serde(skip)]
    created: i64,
}

/// Which models.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Able to do any of these, separated by commas: `chat`, `embedding`.
    capability: Option<String>,
    /// For this: `chat`, `llm`, `embedding` or `embeddings`. Others are no filter.
    purpose: Option<String>,
}

impl Wanted {
    fn takes(&self, model: &Model) -> bool {
        let able = |what: &str| model.capabilities.iter().any(|of| of.eq_ignore_ascii_case(what.trim()));
        let purpose = match self.purpose.as_deref() {
            Some("chat" | "llm") => able("chat"),
            Some("embedding" | "embeddings") => able("embedding"),
            _ => true,
        };
        purpose && self.capability.as_deref().is_none_or(|wanted| wanted.split(',').any(able))
    }
}

impl Model {
    fn known(provider: &str, id: &str, capability: &'static str) -> Self {
        Model {
            id: id.to_owned(),
            name: id.to_owned(),
            provider: provider.to_owned(),
            capabilities: vec![capability],
            context_window: None,
            input_pricing: None,
            output_pricing: None,
            source: "static",
            created: 0,
        }
    }

    fn listed(provider: &str, model: ListedModel) -> Self {
        let known = Model::known(provider, &model.id, if model.embeds { "embedding" } else { "chat" });
        Model {
            name: model.name.unwrap_or_else(|| known.name.clone()),
            context_window: model.context_tokens,
            created: model.created.unwrap_or(0),
            source: "live",
            ..known
        }
    }

    fn as_openai(&self) -> Value {
        let id = format!("{}/{}", self.provider, self.id);
        json!({ "id": id, "object": "model", "created": self.created, "owned_by": self.provider })
    }
}

// Its defaults, and what has a price there.
fn known(provider: &ProviderInfo, prices: &[Price]) -> Vec<Model> {
    let name = provider.name.as_str();
    let mut models = vec![Model::known(name, &provider.default_model, "chat")];
    models.extend(provider.default_embedding_model.iter().map(|id| Model::known(name, id, "embedding")));
    for price in prices.iter().filter(|price| price.provider == name) {
        if models.iter().all(|model| model.id != price.model) {
            let capability = if price.model.contains("embedding") { "embedding" } else { "chat" };
            models.push(Model::known(name, &price.model, capability));
        }
    }
    models
}

impl Integrations {
    /// The models that a caller can know of, the default of each provider first.
    pub(super) async fn models(&self, caller: &Caller, scope: &RequestScope) -> ApiResult<Vec<Model>> {
        let (org, actor) = (caller.org(scope)?, Actor::from(&**caller));
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let prices = model::prices(&mut tx).await?;
        let mut usable = Vec::new();
        for provider in self.providers.iter() {
            let kept =
                provider.configured || credential_for(&mut tx, &caller.id, Some(&org), &provider.name).await?.is_some();
            usable.push(kept);
        }
        drop(tx);
        let asking = self.providers.iter().zip(usable).map(|(provider, usable)| {
            let (org, actor) = (org.clone(), &actor);
            async move { if usable { self.live(actor, org, provider).await } else { None } }
        });
        let mut models = Vec::new();
        for (provider, live) in self.providers.iter().zip(join_all(asking).await) {
            let mut of = live.unwrap_or_else(|| known(provider, &prices));
            of.retain(|model| may_ask(&caller.scopes, &provider.name, &model.id));
            of.sort_by_key(|model| model.id != provider.default_model);
            models.extend(of);
        }
        for model in &mut models {
            let dollars = |micros: i64| micros as f64 / 1e6;
            if let Some(price) = prices.iter().find(|p| p.provider == model.provider && p.model == model.id) {
                model.input_pricing = Some(dollars(price.input_micros_per_m));
                model.output_pricing = Some(dollars(price.output_micros_per_m));
            }
        }
        Ok(models)
    }

    // Routes first: they are few, and meant for those who read the list.
    async fn as_openai(&self, caller: &Caller, scope: &RequestScope) -> ApiResult<Vec<Value>> {
        let mut models = self.aliases(caller, scope).await?;
        models.extend(self.models(caller, scope).await?.iter().map(Model::as_openai));
        Ok(models)
    }

    // None: it does not tell.
    async fn live(&self, actor: &Actor, org: String, provider: &ProviderInfo) -> Option<Vec<Model>> {
        match self.enquire(actor, org, What::Models(provider.name.clone())).await {
            // This machine has those that it lists, others may not list what they have.
            Ok(Found::Models(listed)) if !listed.is_empty() || provider.base_url.is_empty() => {
                Some(listed.into_iter().map(|model| Model::listed(&provider.name, model)).collect())
            }
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(provider = provider.name, error = error.message(), "models are not listed");
                None
            }
        }
    }
}

/// List the models of a provider
#[utoipa::path(get, path = "/integrations/providers/{provider}/models", tag = "Providers",
    params(("provider" = String, Path, description = "Its name"), Wanted),
    responses((status = 200, description = "As it lists them, else what is known of it", body = Object),
        (status = 404, description = "There is none")))]
async fn models_of(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(name): Path<String>,
    Query(wanted): Query<Wanted>,
) -> ApiResult<Json<Value>> {
    let provider = service.provider(&name)?;
    let models = service.models(&caller, &scope).await?.into_iter();
    let models: Vec<Model> = models.filter(|m| m.provider == provider.name && wanted.takes(m)).collect();
    Ok(Json(json!({ "models": models })))
}

/// List models
#[utoipa::path(get, path = "/integrations/models", tag = "Providers", params(Wanted),
    responses((status = 200, description = "By provider, and all", body = Object)))]
async fn models(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> ApiResult<Json<Value>> {
    let all = service.models(&caller, &scope).await?.into_iter();
    let all: Vec<Model> = all.filter(|model| wanted.takes(model)).collect();
    let mut by_provider = Map::new();
    for provider in service.providers.iter() {
        let of: Vec<&Model> = all.iter().filter(|m| m.provider == provider.name).collect();
        if !of.is_empty() {
            by_provider.insert(provider.name.clone(), json!(of));
        }
    }
    Ok(Json(json!({ "models": by_provider, "all": all })))
}

/// List models, as OpenAI's API has it
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI-compatible",
    responses((status = 200, description = "The routes by their names, and the models as `provider/model`", body = Object)))]
async fn listing(State(service): State<Integrations>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    let models = service.as_openai(&caller, &scope).await?;
    Ok(Json(json!({ "object": "list", "data": models })))
}

/// Read a model, as OpenAI's API has it
#[utoipa::path(get, path = "/v1/models/{id}", tag = "OpenAI-compatible",
    params(("id" = String, Path, description = "`provider/model`, or a route")),
    responses((status = 200, description = "The model", body = Object), (status = 404, description = "There is none")))]
async fn one(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let found = service.as_openai(&caller, &scope).await?.into_iter().find(|model| model["id"] == id.as_str());
    Ok(Json(found.ok_or_else(|| ApiError::not_found("Model"))?))
}
