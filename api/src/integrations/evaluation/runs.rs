//! Having a model tried, and what became of it.

use std::{collections::HashMap, time::Duration};

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{CancelEvaluation, EvaluationCommand, RunEvaluation, may_ask},
};
use symbia_events::{
    AggregateRef, CommandId, Service, SubjectKey,
    integrations::{CaseResult, ErrorCategory},
};
use symbia_projections::integrations as model;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::admin;
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes},
    integrations::{Integrations, chat::target, errors::refused, said::Failure, usage::Asker},
    iso,
    platform::Consistency,
};

/// How long it is waited for the end of an evaluation, and how often it is looked for.
const PATIENCE: Duration = Duration::from_secs(100);
const LOOK: Duration = Duration::from_millis(100);
const PAGE: i64 = 50;
const LARGEST_PAGE: i64 = 500;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(run)).routes(routes!(list)).routes(routes!(read)).routes(routes!(cancel))
}

/// Which model is tried with what.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewRun {
    #[schema(example = "symbia-labs")]
    provider: String,
    #[schema(example = "pico-chat")]
    model_id: String,
    #[schema(example = "routing.intent-classification")]
    benchmark_id: String,
    /// Only these cases.
    #[serde(default)]
    test_case_ids: Vec<String>,
    #[serde(default)]
    seed: Option<i64>,
    /// Nobody is asked: the expected answers are graded, and no model is marked by it.
    #[serde(default)]
    mock: bool,
    /// Who judges answers whose meaning counts, as `provider/model`; the default model when it is not given.
    #[serde(default)]
    #[schema(example = "openai/gpt-4o")]
    judge: Option<String>,
    /// Whether the end is waited for: true, when it is not given.
    #[serde(default = "yes")]
    wait: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Wanted {
    provider: Option<String>,
    model_id: Option<String>,
    benchmark_id: Option<String>,
    /// `running`, `completed`, `failed` or `cancelled`.
    status: Option<String>,
    /// At most so many, 1 to 500; 50 when it is not given.
    limit: Option<i64>,
    offset: Option<i64>,
}

fn summary(row: &model::Evaluation) -> Value {
    json!({
        "id": row.id,
        "provider": row.provider,
        "modelId": row.model_id,
        "benchmarkId": row.benchmark_id,
        "benchmarkVersion": row.benchmark_version,
        "taskType": row.task_type,
        "overallScore": row.overall_score,
        "accuracy": row.accuracy,
        "latencyP50Ms": row.latency_p50_ms,
        "latencyP95Ms": row.latency_p95_ms,
        "latencyP99Ms": row.latency_p99_ms,
        "totalInputTokens": row.input_tokens,
        "totalOutputTokens": row.output_tokens,
        "costMicros": row.cost_micros,
        "estimatedCostCents": row.cost_micros.map(|micros| micros as f64 / 10_000.0),
        "status": row.status,
        "mock": row.mock,
        "testCaseCount": row.cases,
        "orgId": row.org_id,
        "scope": "org",
        "startedBy": row.started_by,
        "startedAt": iso(row.started_at),
        "completedAt": row.ended_at.map(iso),
        "errorCategory": row.error_category,
        "errorMessage": row.error_message,
    })
}

fn case(result: &CaseResult, keys: &HashMap<String, SubjectKey>) -> Value {
    let opened = result.output.as_ref().and_then(|sealed| keys.get(&sealed.kid)?.open(sealed).ok());
    let output: Option<Value> = opened.and_then(|json| serde_json::from_str(&json).ok());
    let output = output.map(|said| {
        let calls = said["functionCalls"].as_array().cloned().unwrap_or_default();
        let call = calls.first().map(|call| json!({ "name": call["name"], "arguments": call["arguments"] }));
        json!({ "content": said["content"], "functionCall": call, "rawResponse": said })
    });
    json!({
        "testCaseId": result.test_case_id, "requestId": result.request_id, "output": output, "passed": result.passed,
        "score": result.score, "reason": result.reason, "latencyMs": result.latency_ms,
        "inputTokens": result.input_tokens, "outputTokens": result.output_tokens, "costMicros": result.cost_micros,
        "error": result.error,
    })
}

fn unknown() -> ApiError {
    ApiError::not_found("Evaluation")
}

impl Integrations {
    async fn evaluation(&self, asker: &Asker, id: &str) -> ApiResult<Option<model::Evaluation>> {
        let mut tx = self.platform.read(&asker.scope()).await?;
        Ok(model::evaluation(&mut tx, asker.org.as_str(), id).await?)
    }

    // All of it: what was answered is read with the key of whom it was asked for, as long as there is one.
    async fn whole(&self, row: &model::Evaluation) -> ApiResult<Value> {
        let sealed = row.results.iter().filter_map(|result| result.output.as_ref());
        let mut kids: Vec<String> = sealed.map(|sealed| sealed.kid.clone()).collect();
        kids.sort_unstable();
        kids.dedup();
        let keys = self.platform.secrets.subject_keys(&kids).await?.into_iter().collect();
        let mut whole = summary(row);
        whole["testCaseResults"] = row.results.iter().map(|result| case(result, &keys)).collect();
        whole["runConfig"] = json!(row.run_config.0);
        Ok(whole)
    }

    async fn ended(&self, asker: &Asker, id: &str, wait: bool) -> ApiResult<model::Evaluation> {
        let deadline = Instant::now() + if wait { PATIENCE } else { Duration::ZERO };
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            let row = self.evaluation(asker, id).await?.ok_or_else(unknown)?;
            if row.status != "running" || Instant::now() >= deadline {
                return Ok(row);
            }
        }
    }
}

// Why nothing could be tried, as the request of a case would have been refused.
fn refusal(row: &model::Evaluation) -> ApiError {
    let category = row.error_category.clone().unwrap_or_default();
    let category = serde_json::from_value(Value::String(category)).unwrap_or(ErrorCategory::Internal);
    let message = row.error_message.clone().unwrap_or_default();
    Failure::new(category, "evaluation_failed", message).refusal().with_extra("evaluationId", row.id.clone())
}

/// Try a model with a benchmark (admins of the organization)
///
/// Each case is a request of the caller's, with their keys and budgets, and the models and limits of the API key that they use. The end is waited for as long as an answer may take;
/// what takes longer, or is not to be waited for, is found under its id.
#[utoipa::path(post, path = "/model-eval/benchmarks/run", tag = "Model evaluation", request_body = NewRun,
    responses((status = 200, description = "What came of it", body = Object),
        (status = 202, description = "It is under way", body = Object),
        (status = 400, description = "A field is not valid"), (status = 401, description = "There is no key for the provider"),
        (status = 402, description = "A budget is used up"), (status = 403, description = "Not an admin of the organization, or a key that names other models"),
        (status = 404, description = "No such provider or model")))]
async fn run(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewRun>,
) -> ApiResult<Response> {
    let (asker, actor) = (admin(&caller, &scope)?, Actor::from(&*caller));
    service.provider(&new.provider)?;
    // The gateway would say so of each case.
    if !may_ask(&caller.scopes, &new.provider, &new.model_id) {
        let named = format!("{}/{}", new.provider, new.model_id);
        let message = format!("this API key may not ask '{named}': its scopes name other models");
        return Err(Failure::new(ErrorCategory::Auth, "model_not_allowed", message).refusal());
    }
    // What is asked in somebody's name is sealed with their key.
    service.key_of(&actor).await?;
    let command_id = CommandId(scope.command_id(&actor.id));
    let id = Uuid::new_v5(&command_id.0, b"evaluation").to_string();
    let address = AggregateRef::new(Service::Integrations, asker.org.clone(), "evaluation", &id);
    let command = EvaluationCommand::from(RunEvaluation {
        evaluation_id: id.clone(),
        org_id: asker.org.to_string(),
        provider: new.provider,
        model_id: new.model_id,
        benchmark_id: new.benchmark_id,
        test_case_ids: new.test_case_ids,
        seed: new.seed,
        mock: new.mock,
        judge: new.judge.map(|judge| target(Some(judge))),
        started_by: None,
    });
    let address = address.map_err(ApiError::internal)?;
    service.platform.submit_as(command_id, &address, &command, &actor, &scope, Consistency::Visible).await?;
    let row = service.ended(&asker, &id, new.wait).await?;
    if row.status == "failed" {
        return Err(refusal(&row));
    }
    let status = if row.status == "running" { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, axum::Json(service.whole(&row).await?)).into_response())
}

/// List evaluations, those that ended last first
#[utoipa::path(get, path = "/model-eval/evaluations", tag = "Model evaluation", params(Wanted),
    responses((status = 200, description = "The evaluations of the organization", body = Object)))]
async fn list(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> ApiResult<Json<Value>> {
    let asker = Asker::new(&caller, &scope)?;
    let (limit, offset) = (wanted.limit.unwrap_or(PAGE), wanted.offset.unwrap_or(0));
    if !(1..=LARGEST_PAGE).contains(&limit) || offset < 0 {
        return Err(refused("limit", "must be 1 to 500, and offset not negative"));
    }
    let filter = model::EvaluationFilter {
        provider: wanted.provider.as_deref(),
        model_id: wanted.model_id.as_deref(),
        benchmark_id: wanted.benchmark_id.as_deref(),
        status: wanted.status.as_deref(),
        task_type: None,
    };
    let mut tx = service.platform.read(&asker.scope()).await?;
    let rows = model::evaluations(&mut tx, asker.org.as_str(), &filter, limit, offset).await?;
    let count = rows.len();
    let shown: Vec<Value> = rows.iter().map(summary).collect();
    Ok(Json(json!({ "evaluations": shown, "count": count, "limit": limit, "offset": offset })))
}

/// Read an evaluation, with its cases
#[utoipa::path(get, path = "/model-eval/evaluations/{id}", tag = "Model evaluation",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "All of it", body = Object), (status = 404, description = "There is none")))]
async fn read(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let asker = Asker::new(&caller, &scope)?;
    let row = service.evaluation(&asker, &id).await?.ok_or_else(unknown)?;
    Ok(Json(service.whole(&row).await?))
}

/// Stop an evaluation under way (admins of the organization)
#[utoipa::path(post, path = "/model-eval/evaluations/{id}/cancel", tag = "Model evaluation",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "As far as it came", body = Object), (status = 404, description = "There is none"),
        (status = 403, description = "Not an admin of the organization"), (status = 409, description = "It has its end")))]
async fn cancel(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let asker = admin(&caller, &scope)?;
    let address = AggregateRef::new(Service::Integrations, asker.org.clone(), "evaluation", &id);
    let cancel = CancelEvaluation { evaluation_id: id.clone(), org_id: asker.org.to_string() };
    let command = EvaluationCommand::from(cancel);
    service.platform.submit(&address.map_err(|_| unknown())?, &command, &Actor::from(&*caller), &scope).await?;
    let row = service.evaluation(&asker, &id).await?.ok_or_else(unknown)?;
    Ok(Json(service.whole(&row).await?))
}
