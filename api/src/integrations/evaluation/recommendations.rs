//! Which model to take for a task.

use std::time::Duration;

use axum::extract::State;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_commands::integrations::{Marks, Weights};
use symbia_projections::integrations as model;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{scores::dollars_per_million, task};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, RequestScope, routes},
    integrations::{Integrations, errors::refused, usage::Asker},
    iso,
};

/// How long a recommendation counts.
const KEPT: Duration = Duration::from_secs(300);
const MOST: u64 = 1000;
const LIMIT: usize = 5;
const LARGEST_LIMIT: usize = 50;

/// Recommendations that were made lately. Cheap to clone.
#[derive(Clone)]
pub(in crate::integrations) struct Recommended(Cache<String, Value>);

impl Recommended {
    pub fn new() -> Self {
        Recommended(Cache::builder().max_capacity(MOST).time_to_live(KEPT).build())
    }

    /// What was recommended counts no longer.
    pub fn forget(&self) {
        self.0.invalidate_all();
    }
}

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(recommend))
}

/// What a model is wanted for.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wanted {
    #[schema(example = "routing")]
    task_type: String,
    #[serde(default)]
    constraints: Constraints,
    #[serde(default)]
    weights: Weighing,
    /// At most so many, 1 to 50; 5 when it is not given.
    #[serde(default)]
    limit: Option<usize>,
    /// The organization, when it is not the caller's own.
    #[serde(default)]
    org_id: Option<String>,
}

/// What a model must keep to.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Constraints {
    /// Of the median answer.
    max_latency_ms: Option<u64>,
    /// US dollars for a million tokens, half of them read. A model without a price does not keep to it.
    max_cost_per_m_tokens: Option<f64>,
    /// 0 to 100.
    min_quality_score: Option<f64>,
    /// All of them: `chat`, `embedding`.
    required_capabilities: Vec<String>,
    exclude_providers: Vec<String>,
    /// By their names, or as `provider/model`.
    exclude_models: Vec<String>,
}

/// How much each mark counts.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Weighing {
    quality: Option<f64>,
    speed: Option<f64>,
    cost: Option<f64>,
    reliability: Option<f64>,
}

impl Weighing {
    fn read(&self) -> ApiResult<Weights> {
        let usual = Weights::default();
        let weights = Weights {
            quality: self.quality.unwrap_or(usual.quality),
            speed: self.speed.unwrap_or(usual.speed),
            cost: self.cost.unwrap_or(usual.cost),
            reliability: self.reliability.unwrap_or(usual.reliability),
        };
        let all = [weights.quality, weights.speed, weights.cost, weights.reliability];
        if all.iter().any(|weight| !weight.is_finite() || *weight < 0.0) || all.iter().sum::<f64>() <= 0.0 {
            return Err(refused("weights", "must not be negative, and not all zero"));
        }
        Ok(weights)
    }
}

/// What is known of a model that may be recommended.
struct Known {
    latency_ms: Option<f64>,
    dollars_per_million: Option<f64>,
    capabilities: Vec<&'static str>,
}

impl Constraints {
    fn keeps(&self, row: &model::ModelScore, known: &Known) -> bool {
        let full = format!("{}/{}", row.provider, row.model_id);
        let excluded = self.exclude_providers.contains(&row.provider)
            || self.exclude_models.iter().any(|name| *name == row.model_id || *name == full);
        let quick = self.max_latency_ms.is_none_or(|most| known.latency_ms.is_some_and(|ms| ms <= most as f64));
        let most = self.max_cost_per_m_tokens;
        let cheap = most.is_none_or(|most| known.dollars_per_million.is_some_and(|dollars| dollars <= most));
        let good = self.min_quality_score.is_none_or(|least| row.quality_score >= least);
        let able = self.required_capabilities.iter().all(|wanted| known.capabilities.contains(&wanted.as_str()));
        !excluded && quick && cheap && good && able
    }
}

/// Recommend models for a task
///
/// Of those that have scores for it, the best first. What was recommended counts for five minutes, or until scores are summed
/// up anew.
#[utoipa::path(post, path = "/model-eval/recommendations", tag = "Model evaluation", request_body = Wanted,
    responses((status = 200, description = "The models, the best first", body = Object),
        (status = 400, description = "A field is not valid"), (status = 403, description = "Another organization")))]
async fn recommend(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(wanted): Json<Wanted>,
) -> ApiResult<Json<Value>> {
    let asker = Asker::new(&caller, &scope)?;
    if wanted.org_id.as_deref().is_some_and(|org| org != asker.org.as_str()) {
        return Err(ApiError::org_access_denied());
    }
    let (task, weights) = (task(&wanted.task_type)?, wanted.weights.read()?);
    let limit = wanted.limit.unwrap_or(LIMIT);
    if !(1..=LARGEST_LIMIT).contains(&limit) {
        return Err(refused("limit", "must be 1 to 50"));
    }
    // What a caller's key reaches is part of the question.
    let constraints = json!([wanted.constraints, wanted.weights, limit, caller.scopes]);
    let key = format!("{}:{}:{constraints}", task.name(), asker.org);
    if let Some(found) = service.recommended.0.get(&key) {
        return Ok(Json(found));
    }
    let tried = service.tried(&asker, task).await?;
    let models = match wanted.constraints.required_capabilities.is_empty() {
        true => Vec::new(),
        false => service.models(&caller, &scope).await?,
    };
    let mut tx = service.platform.read(&asker.scope()).await?;
    let prices = model::prices(&mut tx).await?;
    let rows = model::model_scores(&mut tx, asker.org.as_str(), None, None, Some(task.name())).await?;
    drop(tx);
    let known = |row: &model::ModelScore| {
        let of = tried.get(&(row.provider.clone(), row.model_id.clone()));
        let latencies: Vec<f64> =
            of.into_iter().flatten().filter_map(|run| run.latency_p50_ms).map(|ms| ms as f64).collect();
        let listed = models.iter().find(|listed| listed.provider == row.provider && listed.id == row.model_id);
        Known {
            latency_ms: (!latencies.is_empty()).then(|| latencies.iter().sum::<f64>() / latencies.len() as f64),
            dollars_per_million: dollars_per_million(&prices, &row.provider, &row.model_id),
            capabilities: listed.map(|listed| listed.capabilities.clone()).unwrap_or_default(),
        }
    };
    let mut ranked: Vec<(f64, model::ModelScore, Known)> = rows
        .into_iter()
        .map(|row| (composite(&row, &weights), known(&row), row))
        .filter(|(_, known, row)| wanted.constraints.keeps(row, known))
        .map(|(score, known, row)| (score, row, known))
        .collect();
    ranked.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    let shown: Vec<Value> = ranked.iter().take(limit).enumerate().map(recommendation).collect();
    let now = OffsetDateTime::now_utc();
    let found = json!({
        "taskType": task, "recommendations": shown, "cacheKey": key, "cachedAt": iso(now), "expiresAt": iso(now + KEPT),
    });
    service.recommended.0.insert(key, found.clone());
    Ok(Json(found))
}

fn composite(row: &model::ModelScore, weights: &Weights) -> f64 {
    let (quality, speed) = (row.quality_score, row.speed_score);
    Marks { quality, speed, cost: row.cost_score, reliability: row.reliability_score }.composite(weights)
}

fn recommendation((index, (score, row, known)): (usize, &(f64, model::ModelScore, Known))) -> Value {
    json!({
        "rank": index + 1,
        "provider": row.provider,
        "modelId": row.model_id,
        "compositeScore": score,
        "qualityScore": row.quality_score,
        "speedScore": row.speed_score,
        "costScore": row.cost_score,
        "reliabilityScore": row.reliability_score,
        "latencyMs": known.latency_ms,
        "costPerMTokens": known.dollars_per_million,
        "evaluations": row.evaluation_ids.len(),
    })
}
