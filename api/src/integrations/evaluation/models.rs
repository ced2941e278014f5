//! Models that can be tried.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_events::integrations::TaskType;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;

use super::{named, task};
use crate::{
    http::{ApiResult, Caller, Json, Query, RequestScope, routes},
    integrations::{Integrations, listing::Model},
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// `routing`, `conversational`, `code`, `reasoning`, `function_calling` or `embedding`.
    task_type: Option<String>,
    /// Only of these providers, separated by commas.
    providers: Option<String>,
}

// What a model for a task can do: one of these is enough.
fn capabilities(task: TaskType) -> &'static [&'static str] {
    match task {
        TaskType::Routing | TaskType::Code | TaskType::FunctionCalling => &["chat", "function_calling"],
        TaskType::Conversational => &["chat"],
        TaskType::Reasoning => &["chat", "reasoning"],
        TaskType::Embedding => &["embedding"],
    }
}

pub(super) fn discovered(model: &Model) -> Value {
    json!({
        "provider": model.provider, "modelId": model.id, "displayName": model.name, "capabilities": model.capabilities,
        "contextWindow": model.context_window, "inputPricePerMillion": model.input_pricing,
        "outputPricePerMillion": model.output_pricing, "source": model.source,
    })
}

/// List models that can be tried
#[utoipa::path(get, path = "/model-eval/models", tag = "Model evaluation", params(Wanted),
    responses((status = 200, description = "The models that the caller can ask", body = Object),
        (status = 400, description = "There is no such task")))]
async fn list(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> ApiResult<Json<Value>> {
    let able = wanted.task_type.as_deref().map(task).transpose()?.map(capabilities);
    let providers = named(wanted.providers.as_deref());
    let takes = |model: &&Model| {
        let of = providers.is_empty() || providers.contains(&model.provider.as_str());
        of && able.is_none_or(|able| model.capabilities.iter().any(|capability| able.contains(capability)))
    };
    let models = service.models(&caller, &scope).await?;
    let shown: Vec<Value> = models.iter().filter(takes).map(discovered).collect();
    Ok(Json(json!({ "count": shown.len(), "models": shown })))
}
