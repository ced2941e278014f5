//! Providers and models as the Catalog's resources: what they are, to be looked at, or taken along as a file.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::named;
use crate::{
    http::{ApiResult, Caller, Json, Query, RequestScope, routes},
    integrations::{Integrations, ProviderInfo, listing::Model},
    iso,
};

/// Longest id of a resource.
const LONGEST_ID: usize = 64;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(preview)).routes(routes!(export))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Only of these providers, separated by commas.
    providers: Option<String>,
}

// Short, and still nobody else's.
fn id(provider: &str, what: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let full: String = format!("int-{provider}-{what}").chars().map(plain).collect();
    if full.len() <= LONGEST_ID {
        return full;
    }
    let told_apart = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{provider}/{what}").as_bytes()).simple().to_string();
    format!("{}-{}", &full[..LONGEST_ID - 13], &told_apart[..12])
}

fn config(provider: &ProviderInfo) -> Value {
    let name = &provider.name;
    json!({
        "id": id(name, "config"),
        "key": format!("integrations/ai/{name}/config"),
        "name": format!("{name} configuration"),
        "type": "integration",
        "status": "published",
        "isBootstrap": true,
        "tags": ["ai", "llm", name],
        "metadata": {
            "provider": name, "baseUrl": provider.base_url, "defaultModel": provider.default_model,
            "supportedOperations": provider.supported_operations,
        },
    })
}

fn resource(model: &Model) -> Value {
    let kind = if model.capabilities.contains(&"embedding") { "embedding" } else { "llm" };
    let mut tags = vec!["ai", kind, &model.provider, &model.id];
    tags.extend(model.capabilities.iter().copied());
    json!({
        "id": id(&model.provider, &model.id),
        "key": format!("integrations/ai/{}/models/{}", model.provider, model.id),
        "name": model.name,
        "type": "integration",
        "status": "published",
        "isBootstrap": true,
        "tags": tags,
        "metadata": {
            "provider": model.provider, "modelId": model.id, "displayName": model.name,
            "capabilities": model.capabilities, "contextWindow": model.context_window,
            "inputPricePerMillion": model.input_pricing, "outputPricePerMillion": model.output_pricing,
        },
    })
}

impl Integrations {
    /// The resources of these providers, or of all, and whose they are.
    pub(super) async fn resources(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        only: &[&str],
    ) -> ApiResult<(Vec<Value>, Vec<&str>)> {
        only.iter().try_for_each(|name| self.provider(name).map(|_| ()))?;
        let models = self.models(caller, scope).await?;
        let takes = |provider: &&ProviderInfo| only.is_empty() || only.contains(&provider.name.as_str());
        let (mut resources, mut names) = (Vec::new(), Vec::new());
        for provider in self.providers.iter().filter(takes) {
            resources.push(config(provider));
            resources.extend(models.iter().filter(|model| model.provider == provider.name).map(resource));
            names.push(provider.name.as_str());
        }
        Ok((resources, names))
    }
}

/// Show providers and models as the Catalog's resources
#[utoipa::path(get, path = "/model-eval/catalog/preview", tag = "Model evaluation", params(Wanted),
    responses((status = 200, description = "What they would be", body = Object),
        (status = 404, description = "There is no such provider")))]
async fn preview(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> ApiResult<Json<Value>> {
    let (resources, providers) = service.resources(&caller, &scope, &named(wanted.providers.as_deref())).await?;
    Ok(Json(json!({ "count": resources.len(), "resources": resources, "providers": providers })))
}

/// Take providers and models along as a file of the Catalog's resources
#[utoipa::path(get, path = "/model-eval/catalog/export", tag = "Model evaluation", params(Wanted),
    responses((status = 200, description = "The file", body = Object), (status = 404, description = "There is no such provider")))]
async fn export(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> ApiResult<Response> {
    let (resources, _) = service.resources(&caller, &scope, &named(wanted.providers.as_deref())).await?;
    let now = OffsetDateTime::now_utc();
    let name = format!("attachment; filename=\"integrations-bootstrap-{}.json\"", now.date());
    let body = axum::Json(json!({ "exportedAt": iso(now), "resources": resources }));
    Ok(([(header::CONTENT_DISPOSITION, name)], body).into_response())
}
