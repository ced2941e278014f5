//! Requests that were made: what became of them, and their answers, for those who may read them.

use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};
use symbia_commands::Actor;
use symbia_events::{AggregateRef, OrgId, Service, commit};
use symbia_nats::read;
use symbia_projections::{Scope, integrations as model};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Integrations,
    execute::executed,
    said::{Said, ended},
    usage::{Asker, Since},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes},
    iso,
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read_one))
}

/// A request.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Execution {
    request_id: String,
    operation: String,
    /// `requested`, `running`, `completed`, `failed` or `cancelled`.
    status: String,
    success: bool,
    user_id: Option<String>,
    assistant_id: Option<String>,
    /// The API key that it was asked with.
    key_id: Option<String>,
    /// What its `X-Symbia-Tags` said.
    tags: Vec<String>,
    provider: Option<String>,
    model: Option<String>,
    credential_id: Option<String>,
    credential_source: Option<String>,
    attempts: i32,
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    total_tokens: Option<i64>,
    /// Millionths of a US dollar; null where no price is known.
    cost_micros: Option<i64>,
    finish_reason: Option<String>,
    duration_ms: Option<i64>,
    ttft_ms: Option<i64>,
    error_category: Option<String>,
    error_code: Option<String>,
    created_at: String,
    ended_at: Option<String>,
    /// The answer, for whose request it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
}

impl From<model::Completion> for Execution {
    fn from(row: model::Completion) -> Self {
        Execution {
            request_id: row.id,
            operation: row.operation,
            success: row.status == "completed",
            status: row.status,
            user_id: row.user_id,
            assistant_id: row.assistant_id,
            key_id: row.key_id,
            tags: row.tags.0,
            provider: row.provider,
            model: row.model,
            credential_id: row.credential_id,
            credential_source: row.credential_source,
            attempts: row.attempts,
            prompt_tokens: row.prompt_tokens,
            completion_tokens: row.completion_tokens,
            total_tokens: row.prompt_tokens.zip(row.completion_tokens).map(|(read, written)| read + written),
            cost_micros: row.cost_micros,
            finish_reason: row.finish_reason,
            duration_ms: row.total_ms,
            ttft_ms: row.ttft_ms,
            error_category: row.error_category,
            error_code: row.error_code,
            created_at: iso(row.requested_at),
            ended_at: row.ended_at.map(iso),
            result: None,
        }
    }
}

/// List requests to models, the newest first
///
/// Of the caller; of the whole organization for its admins.
#[utoipa::path(get, path = "/integrations/executions", tag = "Execution", params(Since),
    responses((status = 200, description = "The requests", body = Vec<Execution>)))]
async fn list(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(since): Query<Since>,
) -> ApiResult<Json<Vec<Execution>>> {
    let asker = Asker::new(&caller, &scope)?;
    let mut tx = service.platform.read(&asker.scope()).await?;
    let (limit, offset) = since.page()?;
    let found = model::executions(&mut tx, &asker.filter(&since, 7)?, limit, offset).await?;
    Ok(Json(found.into_iter().map(Execution::from).collect()))
}

/// Read a request, with its answer
///
/// The answer is for whose request it is. It is read from the log, where it is sealed with their key.
#[utoipa::path(get, path = "/integrations/executions/{id}", tag = "Execution",
    params(("id" = String, Path, description = "Id of the request")),
    responses((status = 200, description = "The request", body = Execution), (status = 404, description = "There is none")))]
async fn read_one(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Execution>> {
    let asker = Asker::new(&caller, &scope)?;
    let unknown = || ApiError::not_found("Request");
    let mut tx = service.platform.read(&asker.scope()).await?;
    let row = model::completion(&mut tx, asker.org.as_str(), &id).await?.ok_or_else(unknown)?;
    drop(tx);
    let own = row.user_id.as_deref() == Some(&caller.id);
    if !own && !asker.sees_all {
        return Err(unknown());
    }
    let mut execution = Execution::from(row);
    let told = match execution.operation.as_str() {
        "embeddings"
        | "images.generations"
        | "rerank"
        | "moderations"
        | "audio.speech"
        | "audio.transcriptions"
        | "audio.translations"
        | "passthrough" => false,
        "responses" => service.may_be_told(&Actor::from(&*caller), &asker.org, &id).await?,
        _ => true,
    };
    if own && execution.success && told {
        execution.result = service.result(&asker.org, &id, &caller.id).await?;
    }
    Ok(Json(execution))
}

impl Integrations {
    // The answer, if it is sealed with this key.
    async fn result(&self, org: &OrgId, id: &str, kid: &str) -> ApiResult<Option<Value>> {
        let address = AggregateRef::new(Service::Integrations, org.clone(), "completion", id);
        let address = address.map_err(|_| ApiError::not_found("Request"))?;
        let Some(key) = self.platform.secrets.subject_key(kid).await? else { return Ok(None) };
        let (stream, subject) = (address.service.event_stream(), address.event_subject());
        let stored = read::last(&self.platform.nats, &stream, &subject).await;
        let stored = stored.map_err(|_| ApiError::unavailable("The log", 2))?;
        let Some(stored) = stored else { return Ok(None) };
        let events = commit::decode(&self.platform.keys, &stored.payload).map_err(ApiError::internal)?;
        let said = events.iter().rev().find_map(|signed| ended(&key, signed.event.decode().ok()?));
        Ok(match said {
            Some(Said::Completed(answer)) => Some(executed(id, &answer)["data"].take()),
            Some(Said::Failed(failure)) => Some(json!({ "error": failure.message })),
            _ => None,
        })
    }
}

/// Days before now.
pub(super) fn days_ago(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() - time::Duration::days(days)
}

impl Asker {
    pub(super) fn scope(&self) -> Scope {
        Scope::member(self.org.clone(), &self.user)
    }
}
