//! Which benchmarks there are.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::integrations::{Benchmark, benchmark, benchmarks};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;

use super::task;
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, routes},
    integrations::Integrations,
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// `routing`, `conversational`, `code`, `reasoning`, `function_calling` or `embedding`.
    task_type: Option<String>,
}

fn summary(of: &Benchmark) -> Value {
    json!({
        "id": of.id, "name": of.name, "description": of.description, "version": of.version, "taskType": of.task_type,
        "category": of.category, "testCaseCount": of.test_cases.len(),
    })
}

/// List benchmarks
#[utoipa::path(get, path = "/model-eval/benchmarks", tag = "Model evaluation", params(Wanted),
    responses((status = 200, description = "The benchmarks, and how many there are of each kind", body = Object),
        (status = 400, description = "There is no such task")))]
async fn list(_: State<Integrations>, _caller: Caller, Query(wanted): Query<Wanted>) -> ApiResult<Json<Value>> {
    let wanted = wanted.task_type.as_deref().map(task).transpose()?;
    let chosen: Vec<&Benchmark> =
        benchmarks().iter().filter(|of| wanted.is_none_or(|task| of.task_type == task)).collect();
    let (mut by_task, mut by_category) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, usize>::new());
    for of in &chosen {
        *by_task.entry(of.task_type.name()).or_default() += 1;
        *by_category.entry(&of.category).or_default() += 1;
    }
    let total = chosen.len();
    Ok(Json(json!({
        "benchmarks": chosen.into_iter().map(summary).collect::<Vec<_>>(),
        "summary": { "total": total, "byTaskType": by_task, "byCategory": by_category },
    })))
}

/// Read a benchmark, with its cases
#[utoipa::path(get, path = "/model-eval/benchmarks/{id}", tag = "Model evaluation",
    params(("id" = String, Path, description = "Its id, `code.security-detection`")),
    responses((status = 200, description = "All of it", body = Object), (status = 404, description = "There is none")))]
async fn read(_: State<Integrations>, _caller: Caller, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let found = benchmark(&id).ok_or_else(|| ApiError::not_found("Benchmark"))?;
    Ok(Json(serde_json::to_value(found).map_err(ApiError::internal)?))
}
