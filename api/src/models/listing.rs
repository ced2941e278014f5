//! The models, the processes that run them, and what they have done (models.md §3, 15.1).

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::models::MANAGE;
use symbia_events::models::ModelSettings;
use symbia_nats::inference::{ModelState, ModelStatus, Status};
use symbia_projections::{Scope, models as model};
use time::OffsetDateTime;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;

use super::{Models, error::shaped, settings::whole};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes},
    iso,
};

const MIB: u64 = 1 << 20;

pub(super) fn root_routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(list_models)).routes(routes!(read_model))
}

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(workers))
        .routes(routes!(read))
        .routes(routes!(stats))
        .routes(routes!(hourly))
}

/// Names as the original's wire had them, and as its documentation did.
pub(super) fn shown(model: &ModelStatus, settings: &ModelSettings) -> Value {
    let details = model.details.clone().unwrap_or_default();
    let memory = model.loaded.map_or(0, |loaded| loaded.bytes()) / MIB;
    let context = model.loaded.map_or(details.context_length, |loaded| loaded.context_tokens.into());
    let loaded = model.state == ModelState::Loaded;
    let operations: Vec<&str> = match details.generates {
        _ if model.details.is_none() => Vec::new(),
        true => vec!["chat.completions", "messages", "completions", "text.generation"],
        false => vec!["embeddings"],
    };
    json!({
        "id": model.id, "object": "model", "created": model.modified, "owned_by": "symbia-labs", "permission": [],
        "root": model.id, "parent": null, "capabilities": details.capabilities, "status": model.state.name(),
        "reason": model.reason, "name": model.name, "filename": model.filename, "loaded": loaded, "digest": model.digest,
        "size_bytes": model.bytes, "sizeBytes": model.bytes, "quantization": details.quantization,
        "architecture": details.architecture, "parameters": details.parameters, "license": details.license,
        "context_length": context, "contextLength": context, "max_context_length": details.context_length,
        "aliases": settings.aliases, "enabled": settings.enabled, "pinned": settings.pinned,
        "embedding_length": details.embedding_length, "memory_usage_mb": memory, "memoryUsageMB": memory,
        "symbia": {
            "source": "local", "provider": "symbia-labs", "brokered": true, "operations": operations,
            "availability": if loaded && settings.enabled { "available" } else { "unavailable" },
            "availabilityReason": model.reason, "idSource": "local", "verified": model.digest.is_some(),
        },
    })
}

fn placement(worker: &Status, id: &str) -> Option<Value> {
    let model = worker.models.iter().find(|model| model.id == id)?;
    let loaded = model.loaded.map(|loaded| {
        json!({
            "contextLength": loaded.context_tokens, "slots": loaded.parallel, "requests": loaded.requests,
            "memoryMb": { "weights": loaded.weight_bytes / MIB, "kv": loaded.cache_bytes / MIB,
                "compute": loaded.compute_bytes / MIB },
            "loadMs": loaded.load_ms, "loadedAt": loaded.loaded_at, "lastUsed": loaded.last_used,
            "keepSeconds": loaded.keep_seconds,
        })
    });
    Some(json!({ "worker": worker.worker, "status": model.state.name(), "loaded": loaded }))
}

impl Models {
    async fn all(&self, caller: &Caller, scope: &RequestScope) -> ApiResult<Value> {
        let view = self.view(caller, scope).await?;
        let data: Vec<Value> = view.models().map(|model| shown(model, &view.settings(&model.id))).collect();
        Ok(json!({ "object": "list", "data": data }))
    }

    async fn one(&self, caller: &Caller, scope: &RequestScope, name: &str) -> ApiResult<Value> {
        let view = self.view(caller, scope).await?;
        let model = view.find(name)?;
        let settings = view.settings(&model.id);
        let mut body = shown(model, &settings);
        let workers = self.census.workers();
        body["placement"] = workers.iter().filter_map(|worker| placement(worker, &model.id)).collect();
        if caller.require_capability(&MANAGE).is_ok() {
            body["settings"] = whole(&settings);
        }
        Ok(body)
    }
}

/// List the local models
#[utoipa::path(get, path = "/v1/models", tag = "Models", responses((status = 200, description = "By id", body = Object)))]
async fn list_models(State(models): State<Models>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    Ok(Json(models.all(&caller, &scope).await?))
}

/// Read a local model
#[utoipa::path(get, path = "/v1/models/{id}", tag = "Models", params(("id" = String, Path, description = "Id of the model")),
    responses((status = 200, description = "The model", body = Object), (status = 404, description = "No such model")))]
async fn read_model(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    Ok(Json(models.one(&caller, &scope, &id).await?))
}

/// List the local models
#[utoipa::path(get, path = "/models", tag = "Models", responses((status = 200, description = "By id", body = Object)))]
async fn list(State(models): State<Models>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    Ok(Json(models.all(&caller, &scope).await?))
}

/// Read a local model, and where it is loaded
#[utoipa::path(get, path = "/models/{id}", tag = "Models", params(("id" = String, Path, description = "Id of the model")),
    responses((status = 200, description = "The model", body = Object), (status = 404, description = "No such model")))]
async fn read(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    Ok(Json(models.one(&caller, &scope, &id).await?))
}

/// List the inference processes
#[utoipa::path(get, path = "/models/workers", tag = "Models",
    responses((status = 200, description = "Memory, queues and speeds", body = Object)))]
async fn workers(State(models): State<Models>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    let view = models.view(&caller, &scope).await?;
    let seen: Vec<&str> = view.models().map(|model| model.id.as_str()).collect();
    let worker = |worker: &Status| {
        let loaded = worker.models.iter().filter(|model| model.state == ModelState::Loaded);
        let loaded = loaded.filter(|model| seen.contains(&model.id.as_str()));
        json!({
            "id": worker.worker, "build": worker.build, "threads": worker.threads,
            "memoryBudgetMb": worker.memory_budget.map(|bytes| bytes / MIB), "memoryUsedMb": worker.memory_used / MIB,
            "loaded": loaded.map(|model| &model.id).collect::<Vec<_>>(),
            "pinned": worker.pinned.iter().filter(|id| seen.contains(&id.as_str())).collect::<Vec<_>>(),
            "activeRequests": worker.totals.active, "queuedRequests": worker.totals.queued,
            "tokensPerSec": per_second(worker.totals.tokens_out, worker.totals.predicted_ms),
        })
    };
    Ok(Json(json!({ "workers": models.census.workers().iter().map(worker).collect::<Vec<_>>() })))
}

fn per_second(tokens: u64, ms: f64) -> f64 {
    if ms > 0.0 { tokens as f64 / ms * 1e3 } else { 0.0 }
}

/// What the inference processes have done since they started
#[utoipa::path(get, path = "/stats", tag = "Models", responses((status = 200, description = "Counts", body = Object)))]
async fn stats(State(models): State<Models>, _caller: Caller) -> Json<Value> {
    models.census.settle().await;
    let workers = models.census.workers();
    let all = models.census.models();
    let sum = |of: fn(&Status) -> u64| workers.iter().map(of).sum::<u64>();
    let total = |of: fn(&Status) -> f64| workers.iter().map(of).sum::<f64>();
    let first_tokens = sum(|w| w.totals.first_tokens);
    let ttft = if first_tokens > 0 { total(|w| w.totals.first_token_ms) / first_tokens as f64 } else { 0.0 };
    Json(json!({
        "loadedModels": all.values().filter(|model| model.state == ModelState::Loaded).count(),
        "memoryUsageMB": sum(|w| w.memory_used) / MIB,
        "totalRequests": sum(|w| w.totals.requests),
        "availableModels": all.values().filter(|model| model.details.is_some()).count(),
        "activeRequests": sum(|w| w.totals.active),
        "queuedRequests": sum(|w| w.totals.queued),
        "tokensIn": sum(|w| w.totals.tokens_in),
        "tokensCached": sum(|w| w.totals.tokens_cached),
        "tokensOut": sum(|w| w.totals.tokens_out),
        "avgTtftMs": ttft,
        "avgTokensPerSec": per_second(sum(|w| w.totals.tokens_out), total(|w| w.totals.predicted_ms)),
        "errors": sum(|w| w.totals.errors),
        "workers": workers.len(),
    }))
}

/// For how long.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct HourlyQuery {
    /// Hours back, 1 to 744; 24 when it is not given.
    #[serde(default)]
    hours: Option<i64>,
}

/// What the models have done for your organization, by hour, model and inference process
#[utoipa::path(get, path = "/stats/hourly", tag = "Models", params(HourlyQuery),
    responses((status = 200, description = "The latest hour first; recorded once a minute", body = Object)))]
async fn hourly(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    query: ApiResult<Query<HourlyQuery>>,
) -> ApiResult<Json<Value>> {
    let Query(HourlyQuery { hours }) = query.map_err(shaped)?;
    let org = caller.org(&scope).map_err(shaped)?;
    let tenant = org.parse().map_err(|_| shaped(ApiError::org_access_denied()))?;
    let scope = Scope::member(tenant, &caller.id);
    let since = OffsetDateTime::now_utc() - time::Duration::hours(hours.unwrap_or(24).clamp(1, 744));
    let mut tx = models.platform.read(&scope).await.map_err(shaped)?;
    let rows = model::inference_stats(&mut tx, &org, since).await.map_err(|error| shaped(error.into()))?;
    let row = |row: &model::InferenceStats| {
        json!({
            "hour": iso(row.hour), "model": row.model_id, "worker": row.worker_id, "requests": row.requests,
            "errors": row.errors, "tokensIn": row.tokens_in, "tokensCached": row.tokens_cached,
            "tokensOut": row.tokens_out, "ttftMsP50": row.ttft_ms_p50, "ttftMsP95": row.ttft_ms_p95,
            "tokensPerSecP50": row.tokens_per_sec_p50, "queueMsP95": row.queue_ms_p95,
        })
    };
    Ok(Json(json!({ "org": org, "hours": rows.iter().map(row).collect::<Vec<_>>() })))
}
