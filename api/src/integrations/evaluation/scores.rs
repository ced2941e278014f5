//! The marks of models.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{Ended, Marks, ModelScoreCommand, UpdateModelScore, score_id},
};
use symbia_events::{AggregateRef, CommandId, Service, integrations::TaskType};
use symbia_projections::integrations as model;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{admin, task};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Query, RequestScope, routes},
    integrations::{Integrations, usage::Asker},
    iso,
    platform::Consistency,
};

/// Evaluations that are summed up at most.
const MOST: i64 = 2000;
/// The provider whose models are one's own, and cost nothing.
const OWN: &str = "symbia-labs";

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(aggregate))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Wanted {
    provider: Option<String>,
    model_id: Option<String>,
    /// `routing`, `conversational`, `code`, `reasoning`, `function_calling` or `embedding`.
    task_type: Option<String>,
}

/// What is summed up.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Task {
    #[schema(example = "routing")]
    task_type: String,
}

pub(super) fn score(row: &model::ModelScore, org: &str) -> Value {
    json!({
        "id": row.id, "provider": row.provider, "modelId": row.model_id, "taskType": row.task_type,
        "qualityScore": row.quality_score, "speedScore": row.speed_score, "costScore": row.cost_score,
        "reliabilityScore": row.reliability_score, "compositeScore": row.composite_score,
        "evaluationIds": row.evaluation_ids.0, "orgId": org, "updatedAt": iso(row.updated_at),
    })
}

/// What a million tokens cost in US dollars, half of them read and half written; none where no price is known.
pub(super) fn dollars_per_million(prices: &[model::Price], provider: &str, model: &str) -> Option<f64> {
    if provider == OWN {
        return Some(0.0);
    }
    let price = prices.iter().find(|price| price.provider == provider && price.model == model)?;
    Some((price.input_micros_per_m as f64 + price.output_micros_per_m as f64) / 2e6)
}

impl Integrations {
    /// The evaluations of a task that came to an end of their own and asked a model, by provider and model.
    pub(super) async fn tried(
        &self,
        asker: &Asker,
        task: TaskType,
    ) -> ApiResult<BTreeMap<(String, String), Vec<model::Evaluation>>> {
        let filter = model::EvaluationFilter { task_type: Some(task.name()), ..Default::default() };
        let mut tx = self.platform.read(&asker.scope()).await?;
        let rows = model::evaluations(&mut tx, asker.org.as_str(), &filter, MOST, 0).await?;
        let mut by_model = BTreeMap::<_, Vec<_>>::new();
        for row in rows.into_iter().filter(|row| !row.mock && ["completed", "failed"].contains(&row.status.as_str())) {
            by_model.entry((row.provider.clone(), row.model_id.clone())).or_default().push(row);
        }
        Ok(by_model)
    }
}

/// List scores, the best first
#[utoipa::path(get, path = "/model-eval/scores", tag = "Model evaluation", params(Wanted),
    responses((status = 200, description = "The scores of the organization's models, each 0 to 100", body = Object),
        (status = 400, description = "There is no such task")))]
async fn list(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> ApiResult<Json<Value>> {
    let asker = Asker::new(&caller, &scope)?;
    let of = wanted.task_type.as_deref().map(task).transpose()?.map(TaskType::name);
    let mut tx = service.platform.read(&asker.scope()).await?;
    let (org, provider, model_id) = (asker.org.as_str(), wanted.provider.as_deref(), wanted.model_id.as_deref());
    let rows = model::model_scores(&mut tx, org, provider, model_id, of).await?;
    let shown: Vec<Value> = rows.iter().map(|row| score(row, org)).collect();
    Ok(Json(json!({ "count": shown.len(), "scores": shown })))
}

/// Sum up the evaluations of a task anew (admins of the organization)
#[utoipa::path(post, path = "/model-eval/scores/aggregate", tag = "Model evaluation", request_body = Task,
    responses((status = 200, description = "The scores of the models that were tried", body = Object),
        (status = 400, description = "There is no such task"), (status = 403, description = "Not an admin of the organization")))]
async fn aggregate(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(of): Json<Task>,
) -> ApiResult<Json<Value>> {
    let (asker, task) = (admin(&caller, &scope)?, task(&of.task_type)?);
    let (actor, org) = (Actor::from(&*caller), asker.org.as_str());
    let tried = service.tried(&asker, task).await?;
    let mut tx = service.platform.read(&asker.scope()).await?;
    let prices = model::prices(&mut tx).await?;
    drop(tx);
    let command_id = CommandId(scope.command_id(&actor.id));
    let mut processed = 0;
    for ((provider, model_id), rows) in tried {
        let ended = |row: &model::Evaluation| Ended {
            score: row.overall_score,
            latency_p50_ms: row.latency_p50_ms.map_or(0, i64::unsigned_abs),
        };
        let ended: Vec<Ended> = rows.iter().map(ended).collect();
        let Some(marks) = Marks::of(&ended, dollars_per_million(&prices, &provider, &model_id)) else { continue };
        let score_id = score_id(org, &provider, &model_id, task);
        let id = CommandId::derived(command_id.0, &score_id);
        let address = AggregateRef::new(Service::Integrations, asker.org.clone(), "model-score", &score_id);
        let command = ModelScoreCommand::from(UpdateModelScore {
            score_id,
            org_id: org.to_owned(),
            provider,
            model_id,
            task_type: task,
            quality_score: marks.quality,
            speed_score: marks.speed,
            cost_score: marks.cost,
            reliability_score: marks.reliability,
            evaluation_ids: rows.iter().map(|row| row.id.clone()).collect(),
        });
        let address = address.map_err(ApiError::internal)?;
        service.platform.submit_as(id, &address, &command, &actor, &scope, Consistency::Visible).await?;
        processed += 1;
    }
    service.recommended.forget();
    let mut tx = service.platform.read(&asker.scope()).await?;
    let rows = model::model_scores(&mut tx, org, None, None, Some(task.name())).await?;
    let shown: Vec<Value> = rows.iter().map(|row| score(row, org)).collect();
    Ok(Json(json!({
        "message": format!("{processed} models scored for {}", task.name()), "modelsProcessed": processed, "scores": shown,
    })))
}
