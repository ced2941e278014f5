//! The models, the processes that run them, and what they have done (models.md §3, 15.1).

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode};
use serde_json::{Value, json};
use symbia_nats::inference::{Details, ModelState, ModelStatus, Status};
use symbia_projections::{Scope, models as model};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Models, error::error};
use crate::http::{ApiError, ApiResult, Caller, Json, Path};

const MIB: u64 = 1 << 20;

pub(super) fn root_routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(list_models)).routes(routes!(read_model))
}

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(workers)).routes(routes!(read)).routes(routes!(stats))
}

/// Names as the original's wire had them, and as its documentation did.
pub(super) fn shown(model: &ModelStatus) -> Value {
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
        "embedding_length": details.embedding_length, "memory_usage_mb": memory, "memoryUsageMB": memory,
        "symbia": {
            "source": "local", "provider": "symbia-labs", "brokered": true, "operations": operations,
            "availability": if loaded { "available" } else { "unavailable" },
            "availabilityReason": model.reason, "idSource": "local", "verified": model.digest.is_some(),
        },
    })
}

/// A model whose file is known, and no process that has it.
fn absent(row: model::Model) -> Value {
    let unsigned = |number: i64| number.unsigned_abs();
    shown(&ModelStatus {
        id: row.id,
        name: row.filename.trim_end_matches(".gguf").to_owned(),
        filename: row.filename,
        bytes: unsigned(row.size_bytes),
        modified: unsigned(row.created_at.unix_timestamp()),
        digest: Some(row.digest),
        details: Some(Details {
            title: row.name,
            architecture: row.architecture,
            license: row.license,
            quantization: row.quantization,
            parameters: unsigned(row.parameters),
            context_length: unsigned(row.context_length),
            embedding_length: unsigned(row.embedding_length),
            generates: row.capabilities.iter().any(|able| able == "completion"),
            capabilities: row.capabilities,
            ..Details::default()
        }),
        reason: Some(row.reason.unwrap_or_else(|| "no inference process has it now".to_owned())),
        ..ModelStatus::default()
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
        })
    });
    Some(json!({ "worker": worker.worker, "status": model.state.name(), "loaded": loaded }))
}

impl Models {
    /// A model by id or name.
    pub(super) async fn find(&self, name: &str) -> ApiResult<ModelStatus> {
        self.census.settle().await;
        let models = self.census.models();
        let exact = models.get(name).or_else(|| models.values().find(|model| model.is_called(name)));
        exact.cloned().ok_or_else(|| self.unknown(name))
    }

    /// The id that a name means; the name itself when nothing of that name is known.
    pub(super) fn name(&self, name: &str) -> String {
        let models = self.census.models();
        models.values().find(|model| model.is_called(name)).map_or_else(|| name.to_owned(), |model| model.id.clone())
    }

    fn unknown(&self, name: &str) -> ApiError {
        let known: Vec<String> = self.census.models().into_keys().take(3).collect();
        let near = if known.is_empty() {
            "there is none yet: `symbia models pull smollm2` gets a small one".to_owned()
        } else {
            format!("there is {}", known.join(", "))
        };
        error(StatusCode::NOT_FOUND, "model_not_found", format!("there is no model {name:?}; {near}"))
    }

    /// Those that the processes have, and those that are known though no process is there to tell.
    async fn all(&self) -> ApiResult<Value> {
        self.census.settle().await;
        let present = self.census.models();
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let known = model::models(&mut tx).await?;
        let known = known.into_iter().map(|row| (row.id.clone(), absent(row)));
        let mut all: BTreeMap<String, Value> = known.filter(|(id, _)| !present.contains_key(id)).collect();
        all.extend(present.iter().map(|(id, model)| (id.clone(), shown(model))));
        Ok(json!({ "object": "list", "data": all.into_values().collect::<Vec<_>>() }))
    }

    async fn one(&self, id: &str) -> ApiResult<Value> {
        let model = self.find(id).await?;
        let mut body = shown(&model);
        let workers = self.census.workers();
        body["placement"] = workers.iter().filter_map(|worker| placement(worker, &model.id)).collect();
        Ok(body)
    }
}

/// List the local models
#[utoipa::path(get, path = "/v1/models", tag = "Models", responses((status = 200, description = "By id", body = Object)))]
async fn list_models(State(models): State<Models>, _caller: Caller) -> ApiResult<Json<Value>> {
    Ok(Json(models.all().await?))
}

/// Read a local model
#[utoipa::path(get, path = "/v1/models/{id}", tag = "Models", params(("id" = String, Path, description = "Id of the model")),
    responses((status = 200, description = "The model", body = Object), (status = 404, description = "No such model")))]
async fn read_model(State(models): State<Models>, _caller: Caller, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    Ok(Json(models.one(&id).await?))
}

/// List the local models
#[utoipa::path(get, path = "/models", tag = "Models", responses((status = 200, description = "By id", body = Object)))]
async fn list(State(models): State<Models>, _caller: Caller) -> ApiResult<Json<Value>> {
    Ok(Json(models.all().await?))
}

/// Read a local model, and where it is loaded
#[utoipa::path(get, path = "/models/{id}", tag = "Models", params(("id" = String, Path, description = "Id of the model")),
    responses((status = 200, description = "The model", body = Object), (status = 404, description = "No such model")))]
async fn read(State(models): State<Models>, _caller: Caller, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    Ok(Json(models.one(&id).await?))
}

/// List the inference processes
#[utoipa::path(get, path = "/models/workers", tag = "Models",
    responses((status = 200, description = "Memory, queues and speeds", body = Object)))]
async fn workers(State(models): State<Models>, _caller: Caller) -> Json<Value> {
    models.census.settle().await;
    let worker = |worker: &Status| {
        let loaded = worker.models.iter().filter(|model| model.state == ModelState::Loaded);
        json!({
            "id": worker.worker, "build": worker.build, "threads": worker.threads,
            "memoryBudgetMb": worker.memory_budget.map(|bytes| bytes / MIB), "memoryUsedMb": worker.memory_used / MIB,
            "loaded": loaded.map(|model| &model.id).collect::<Vec<_>>(),
            "activeRequests": worker.totals.active, "queuedRequests": worker.totals.queued,
            "tokensPerSec": per_second(worker.totals.tokens_out, worker.totals.predicted_ms),
        })
    };
    Json(json!({ "workers": models.census.workers().iter().map(worker).collect::<Vec<_>>() }))
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
