//! `/v1/batches` as OpenAI has it: the lines of a file, asked a few at a time, behind what people wait for.

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode, middleware::map_response};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::integrations::{BatchCommand, CancelBatch, CreateBatch, MAX_BATCHES, WINDOW};
use symbia_events::{
    AggregateRef, CommandId, Service, SubjectKey,
    integrations::{BatchEndpoint, FilePurpose},
};
use symbia_projections::integrations as model;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Integrations,
    errors::{as_openai, refused},
    files::{Owner, page, page_size},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes},
    platform::Consistency,
};

const PAGE: i64 = 20;
const LARGEST_PAGE: i64 = 100;
/// What may be said of a batch: so many texts, with keys and values of so many characters.
const METADATA: (usize, usize, usize) = (16, 64, 512);

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(read))
        .routes(routes!(cancel))
        .layer(map_response(as_openai))
}

/// Which requests are to be made.
#[derive(Debug, Deserialize, ToSchema)]
struct NewBatch {
    /// A file with `purpose` `batch`: on each line `{"custom_id", "method": "POST", "url": <endpoint>, "body"}`.
    input_file_id: String,
    /// `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings` or `/v1/responses`.
    #[schema(example = "/v1/chat/completions")]
    endpoint: String,
    /// `24h`.
    #[schema(example = "24h")]
    completion_window: String,
    /// At most 16 texts, by keys of at most 64 characters, each of at most 512.
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    /// Only absent: files are kept until they are deleted.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    output_expires_after: Option<Value>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// At most so many, 1 to 100; 20 when it is not given.
    limit: Option<i64>,
    /// Id of a batch: those behind it.
    after: Option<String>,
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found("Batch").with_extra("id", id)
}

fn as_batch(key: &SubjectKey, row: &model::Batch) -> Value {
    let at = |time: Option<OffsetDateTime>| time.map(OffsetDateTime::unix_timestamp);
    let ended = |status: &str| at(row.ended_at).filter(|_| row.status == status);
    let metadata = row.metadata.as_ref().and_then(|sealed| key.open(sealed).ok());
    let metadata: Option<Value> = metadata.and_then(|json| serde_json::from_str(&json).ok());
    json!({
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "errors": row.errors.as_ref().map(|errors| json!({ "object": "list", "data": errors.0 })),
        "input_file_id": row.input_file_id,
        "completion_window": row.completion_window,
        "status": row.status,
        "output_file_id": row.output_file_id,
        "error_file_id": row.error_file_id,
        "created_at": row.created_at.unix_timestamp(),
        "in_progress_at": at(row.in_progress_at),
        "expires_at": at(row.expires_at),
        "finalizing_at": at(row.finalizing_at),
        "completed_at": ended("completed"),
        "failed_at": ended("failed"),
        "expired_at": ended("expired"),
        "cancelling_at": at(row.cancelling_at),
        "cancelled_at": ended("cancelled"),
        "request_counts": { "total": row.lines, "completed": row.succeeded, "failed": row.failed },
        "metadata": metadata,
    })
}

fn checked(metadata: &BTreeMap<String, String>) -> ApiResult<()> {
    let (most, longest_key, longest) = METADATA;
    let fits = |(key, value): (&String, &String)| {
        (1..=longest_key).contains(&key.chars().count()) && value.chars().count() <= longest
    };
    if metadata.len() > most || !metadata.iter().all(fits) {
        let message =
            format!("must be at most {most} texts of at most {longest} characters, by keys of 1 to {longest_key}");
        return Err(refused("metadata", message));
    }
    Ok(())
}

impl Integrations {
    // Who asks again for what was made has it. What comes at the same time meets the same limit once more before its file is looked
    // through, where none is passed over.
    async fn has_room(&self, owner: &Owner, id: &str) -> ApiResult<()> {
        let mut tx = self.platform.read(&owner.scope()).await?;
        let under_way = model::batches_under_way(&mut tx, owner.org.as_str()).await?;
        if under_way < i64::from(MAX_BATCHES) || model::batch(&mut tx, owner.named(), id).await?.is_some() {
            return Ok(());
        }
        let message = format!(
            "The organization has {under_way} batches under way, and may have {MAX_BATCHES}: wait for one of them, or cancel one"
        );
        Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_BATCHES", message))
    }

    async fn batch(&self, owner: &Owner, id: &str) -> ApiResult<Value> {
        let mut tx = self.platform.read(&owner.scope()).await?;
        let row = model::batch(&mut tx, owner.named(), id).await?.ok_or_else(|| unknown(id))?;
        Ok(as_batch(&owner.key, &row))
    }
}

/// Have many requests made, as OpenAI's API has it
///
/// Each line of the file is a request of the caller's, with their keys and budgets, and the models and limits of the API key that
/// they use. A few are made at a time, behind those that somebody waits for. What came of them is in an output file and an error file.
/// A line that meets a limit (a budget per minute or of requests at once, the limits of a route or a provider, a provider that is left
/// alone) waits, and is asked again. A line of `/v1/embeddings` has at most 64 texts. An organization has at most 20 batches under way.
#[utoipa::path(post, path = "/v1/batches", tag = "OpenAI-compatible", request_body = NewBatch,
    responses((status = 200, description = "The batch; its file is looked through next", body = Object),
        (status = 400, description = "A field is not valid"),
        (status = 429, description = "The organization has as many batches under way as it may have")))]
async fn create(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewBatch>,
) -> ApiResult<Json<Value>> {
    let owner = service.owner(&caller, &scope).await?;
    let Some(endpoint) = BatchEndpoint::of_path(&new.endpoint) else {
        let paths: Vec<&str> = BatchEndpoint::ALL.iter().map(|endpoint| endpoint.path()).collect();
        return Err(refused("endpoint", format!("must be one of {}", paths.join(", "))));
    };
    if new.completion_window != WINDOW.0 {
        return Err(refused("completion_window", format!("must be {}", WINDOW.0)));
    }
    if new.output_expires_after.is_some() {
        return Err(refused("output_expires_after", "is not supported: files are kept until they are deleted"));
    }
    new.metadata.as_ref().map(checked).transpose()?;
    let file = service.stored_file(&owner, &new.input_file_id).await?;
    let file =
        file.ok_or_else(|| refused("input_file_id", format!("there is no file '{}' of yours", new.input_file_id)))?;
    if file.purpose != FilePurpose::Batch.name() {
        return Err(refused("input_file_id", format!("must be a file with purpose batch, not {}", file.purpose)));
    }
    let command_id = CommandId(scope.command_id(&owner.actor.id));
    let id = format!("batch_{}", Uuid::new_v5(&command_id.0, b"batch").simple());
    service.has_room(&owner, &id).await?;
    let metadata = new.metadata.as_ref().map(serde_json::to_string).transpose().map_err(ApiError::internal)?;
    let address = AggregateRef::new(Service::Integrations, owner.org.clone(), "batch", &id);
    let command = BatchCommand::from(CreateBatch {
        batch_id: id.clone(),
        input_file_id: new.input_file_id,
        endpoint,
        completion_window: new.completion_window,
        metadata: metadata.map(|json| owner.key.seal(&json)),
    });
    let address = address.map_err(ApiError::internal)?;
    service.platform.submit_as(command_id, &address, &command, &owner.actor, &scope, Consistency::Visible).await?;
    Ok(Json(service.batch(&owner, &id).await?))
}

/// List one's batches, the latest first, as OpenAI's API has it
#[utoipa::path(get, path = "/v1/batches", tag = "OpenAI-compatible", params(Wanted),
    responses((status = 200, description = "Those of the caller", body = Object)))]
async fn list(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> ApiResult<Json<Value>> {
    let owner = service.owner(&caller, &scope).await?;
    let limit = page_size(wanted.limit, (PAGE, LARGEST_PAGE))?;
    let mut tx = service.platform.read(&owner.scope()).await?;
    let after = match &wanted.after {
        Some(id) => {
            let batch = model::batch(&mut tx, owner.named(), id).await?;
            Some(batch.ok_or_else(|| refused("after", format!("there is no batch '{id}' of yours")))?)
        }
        None => None,
    };
    let rows = model::batches(&mut tx, owner.named(), after.as_ref(), limit + 1).await?;
    Ok(Json(page(rows.iter().map(|row| as_batch(&owner.key, row)).collect(), limit)))
}

/// Read a batch, as OpenAI's API has it
#[utoipa::path(get, path = "/v1/batches/{id}", tag = "OpenAI-compatible",
    params(("id" = String, Path, description = "Its id, `batch_…`")),
    responses((status = 200, description = "The batch", body = Object), (status = 404, description = "There is none of the caller's")))]
async fn read(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let owner = service.owner(&caller, &scope).await?;
    Ok(Json(service.batch(&owner, &id).await?))
}

/// Stop a batch, as OpenAI's API has it
///
/// No further line is asked, and those under way are stopped. What was answered until then is in its output file.
#[utoipa::path(post, path = "/v1/batches/{id}/cancel", tag = "OpenAI-compatible",
    params(("id" = String, Path, description = "Its id, `batch_…`")),
    responses((status = 200, description = "The batch", body = Object), (status = 404, description = "There is none of the caller's"),
        (status = 409, description = "It has all its results")))]
async fn cancel(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let owner = service.owner(&caller, &scope).await?;
    service.batch(&owner, &id).await?;
    let address = AggregateRef::new(Service::Integrations, owner.org.clone(), "batch", &id);
    let command = BatchCommand::from(CancelBatch { batch_id: id.clone() });
    let sent = service.platform.submit(&address.map_err(|_| unknown(&id))?, &command, &owner.actor, &scope).await;
    sent.map_err(|error| match error.code() {
        "CONFLICT" => error.with_status(StatusCode::CONFLICT),
        _ => error,
    })?;
    Ok(Json(service.batch(&owner, &id).await?))
}
