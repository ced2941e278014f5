//! `/v1/files` as OpenAI has it: files that are given to the gateway, and those that batches make. Their bytes are kept beside the
//! log, sealed under the key of whose they are; nobody else sees them.

use std::time::Duration;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use multer::{Constraints, Field, Multipart, SizeLimit};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{DeleteFile, MAX_FILE, StoreFile, StoredFileCommand},
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service, SubjectKey, integrations::FilePurpose};
use symbia_nats::files::{About, Files, FilesError, KeepError, Place};
use symbia_projections::{Scope, integrations as model};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Integrations,
    ask::tenant,
    errors::{as_openai, refused},
    leftover::Leftover,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes},
    platform::Consistency,
};

/// Where files are given, and how long that may take: the largest one at half a megabit a second.
pub(super) const UPLOAD: (&str, Duration) = ("/v1/files", Duration::from_secs(3600));
/// How long nothing more of a file may come.
const STALLS: Duration = Duration::from_secs(60);
/// Most bytes of a field that is no file, and most characters of a name.
const FIELD: u64 = 1024;
const LONGEST_NAME: usize = 255;
const PAGE: i64 = 100;
const LARGEST_PAGE: i64 = 10_000;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new()
        .routes(routes!(upload, list))
        .routes(routes!(read, delete))
        .routes(routes!(content))
        .layer(map_response(as_openai))
}

/// A file, with what it is for.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only described: it is read piece by piece")]
struct NewFile {
    /// `batch`, `user_data`, `vision` or `evals`.
    purpose: String,
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Only files for this.
    purpose: Option<String>,
    /// At most so many, 1 to 10000; 100 when it is not given.
    limit: Option<i64>,
    /// `desc` (default: the latest first) or `asc`.
    order: Option<String>,
    /// Id of a file: those behind it.
    after: Option<String>,
}

/// Whose files they are.
pub(super) struct Owner {
    pub actor: Actor,
    pub org: OrgId,
    pub key: SubjectKey,
    user: String,
}

impl Owner {
    pub fn place<'p>(&'p self, file: &'p str) -> Place<'p> {
        Place::stored(self.org.as_str(), file)
    }

    pub fn scope(&self) -> Scope {
        Scope::member(self.org.clone(), &self.user)
    }

    pub fn named(&self) -> (&str, &str) {
        (self.org.as_str(), self.actor.subject())
    }
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found("File").with_extra("id", id)
}

fn unavailable(error: FilesError) -> ApiError {
    tracing::warn!(%error, "a file cannot be kept or given");
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "FILES_UNAVAILABLE",
        "Files cannot be kept or given just now: ask again",
    )
}

fn broken(error: multer::Error) -> ApiError {
    use multer::Error::{FieldSizeExceeded, StreamReadFailed};
    match error {
        FieldSizeExceeded { field_name, .. } => {
            refused(&field_name.unwrap_or_default(), format!("must have at most {FIELD} bytes"))
        }
        StreamReadFailed(_) => refused("file", "did not come whole"),
        error => refused("body", format!("must be multipart/form-data with purpose and file: {error}")),
    }
}

impl Integrations {
    pub(super) fn files(&self) -> Files {
        Files::new(self.platform.nats.clone())
    }

    pub(super) async fn owner(&self, caller: &Caller, scope: &RequestScope) -> ApiResult<Owner> {
        let (org, actor) = (tenant(caller, scope)?, Actor::from(&**caller));
        let key = self.key_of(&actor).await?;
        Ok(Owner { actor, org, key, user: caller.id.clone() })
    }

    /// A file of an owner's.
    pub(super) async fn stored_file(&self, owner: &Owner, id: &str) -> ApiResult<Option<model::StoredFile>> {
        let mut tx = self.platform.read(&owner.scope()).await?;
        Ok(model::stored_file(&mut tx, owner.named(), id).await?)
    }

    // Keeps what comes, and gives its name and size.
    async fn keep_file(&self, owner: &Owner, id: &str, field: Field<'_>) -> ApiResult<(String, u64)> {
        let name: String = field.file_name().unwrap_or("file").chars().take(LONGEST_NAME).collect();
        let kind = field.content_type().map(ToString::to_string);
        let about = About { message: id.to_owned(), name: Some(name.clone()), mime_type: kind };
        let kept = self.files().keep_from(&owner.place(id), &owner.key, about, MAX_FILE, field).await;
        let size = kept.map_err(|error| match error {
            KeepError::Source(error) => broken(error),
            KeepError::TooLong => {
                let message = format!("The file is too large: at most {MAX_FILE} bytes");
                let error = ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "FILE_TOO_LARGE", message.clone());
                error.with_detail("file", "size", message)
            }
            KeepError::Files(error) => unavailable(error),
        })?;
        Ok((name, size))
    }
}

// A body of which nothing comes any more breaks off.
fn steady(body: Body) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send {
    stream::unfold(body.into_data_stream(), |mut body| async move {
        let next = match tokio::time::timeout(STALLS, body.next()).await {
            Ok(next) => next?,
            Err(stalled) => Err(axum::Error::new(stalled)),
        };
        Some((next, body))
    })
}

fn purpose(named: &str) -> ApiResult<FilePurpose> {
    let known = FilePurpose::GIVEN.into_iter().find(|purpose| purpose.name() == named);
    known.ok_or_else(|| refused("purpose", "must be batch, user_data, vision or evals"))
}

fn as_file(key: &SubjectKey, row: &model::StoredFile) -> Value {
    json!({
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": row.created_at.unix_timestamp(),
        "expires_at": null,
        "filename": key.open(&row.filename).unwrap_or_else(|_| "file".to_owned()),
        "purpose": row.purpose,
        "status": "processed",
        "status_details": null,
    })
}

/// How many a page has: as it is asked for, or as usual.
pub(super) fn page_size(wanted: Option<i64>, (usual, most): (i64, i64)) -> ApiResult<i64> {
    let limit = wanted.unwrap_or(usual);
    if !(1..=most).contains(&limit) {
        return Err(refused("limit", format!("must be 1 to {most}")));
    }
    Ok(limit)
}

/// A page as OpenAI's clients read it; there is one row more than `limit` when more follow.
pub(super) fn page(mut shown: Vec<Value>, limit: i64) -> Value {
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = shown.len() > most;
    shown.truncate(most);
    let id = |row: Option<&Value>| row.map(|row| row["id"].clone());
    let (first, last) = (id(shown.first()), id(shown.last()));
    json!({ "object": "list", "data": shown, "first_id": first, "last_id": last, "has_more": more })
}

/// Give a file, as OpenAI's API has it
///
/// At most 200 MiB. What is in it is sealed with the caller's key, and seen by nobody else.
#[utoipa::path(post, path = "/v1/files", tag = "OpenAI-compatible",
    request_body(content = NewFile, content_type = "multipart/form-data"),
    responses((status = 200, description = "The file", body = Object), (status = 400, description = "A field is not valid"),
        (status = 413, description = "It is too large")))]
async fn upload(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<Value>> {
    let owner = service.owner(&caller, &scope).await?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind).map_err(broken)?;
    let command_id = CommandId(scope.command_id(&owner.actor.id));
    let id = format!("file-{}", Uuid::new_v5(&command_id.0, b"file").simple());
    // Given before, with the same key.
    if let Some(row) = service.stored_file(&owner, &id).await? {
        return Ok(Json(as_file(&owner.key, &row)));
    }
    // Who asks again with the same key writes to the same place.
    let mut leftover = Leftover::new(&service.files(), &owner.place(&id));
    leftover.kept = scope.idempotency_key.is_some();
    let fields = SizeLimit::new().per_field(FIELD).for_field("file", u64::MAX);
    let mut form = Multipart::with_constraints(steady(body), boundary, Constraints::new().size_limit(fields));
    let (mut named, mut kept) = (None, None);
    while let Some(field) = form.next_field().await.map_err(broken)? {
        match field.name() {
            Some("purpose") => named = Some(purpose(field.text().await.map_err(broken)?.trim())?),
            Some("file") if kept.is_some() => return Err(refused("file", "must be one file")),
            Some("file") => kept = Some(service.keep_file(&owner, &id, field).await?),
            Some(name) if name.starts_with("expires_after") => {
                return Err(refused("expires_after", "is not supported: files are kept until they are deleted"));
            }
            name => return Err(refused(name.unwrap_or("body"), "is no field of a file: purpose and file are")),
        }
    }
    let purpose = named.ok_or_else(|| refused("purpose", "is missing"))?;
    let (name, bytes) = kept.ok_or_else(|| refused("file", "is missing"))?;
    let address = AggregateRef::new(Service::Integrations, owner.org.clone(), "stored-file", &id);
    let filename = owner.key.seal(&name);
    let store = StoreFile { file_id: id.clone(), purpose, filename, bytes, owner: None, batch_id: None };
    let (address, command) = (address.map_err(ApiError::internal)?, StoredFileCommand::from(store));
    // What nobody answered may have been stored, also where its sender goes away now.
    leftover.kept = true;
    let sent =
        service.platform.submit_as(command_id, &address, &command, &owner.actor, &scope, Consistency::Visible).await;
    leftover.kept = sent.as_ref().err().is_none_or(|error| !error.status().is_client_error());
    sent?;
    let row = service.stored_file(&owner, &id).await?.ok_or_else(|| unknown(&id))?;
    Ok(Json(as_file(&owner.key, &row)))
}

/// List one's files, as OpenAI's API has it
#[utoipa::path(get, path = "/v1/files", tag = "OpenAI-compatible", params(Wanted),
    responses((status = 200, description = "Those of the caller", body = Object)))]
async fn list(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> ApiResult<Json<Value>> {
    let owner = service.owner(&caller, &scope).await?;
    let limit = page_size(wanted.limit, (PAGE, LARGEST_PAGE))?;
    let ascending = match wanted.order.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => return Err(refused("order", "must be asc or desc")),
    };
    let mut tx = service.platform.read(&owner.scope()).await?;
    let after = match &wanted.after {
        Some(id) => {
            let file = model::stored_file(&mut tx, owner.named(), id).await?;
            Some(file.ok_or_else(|| refused("after", format!("there is no file '{id}' of yours")))?)
        }
        None => None,
    };
    let purpose = wanted.purpose.as_deref();
    let rows = model::stored_files(&mut tx, owner.named(), purpose, after.as_ref(), ascending, limit + 1).await?;
    Ok(Json(page(rows.iter().map(|row| as_file(&owner.key, row)).collect(), limit)))
}

/// Read what is known of a file, as OpenAI's API has it
#[utoipa::path(get, path = "/v1/files/{id}", tag = "OpenAI-compatible",
    params(("id" = String, Path, description = "Its id, `file-…`")),
    responses((status = 200, description = "The file", body = Object), (status = 404, description = "There is none of the caller's")))]
async fn read(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let owner = service.owner(&caller, &scope).await?;
    let row = service.stored_file(&owner, &id).await?.ok_or_else(|| unknown(&id))?;
    Ok(Json(as_file(&owner.key, &row)))
}

/// Get what is in a file, as OpenAI's API has it
#[utoipa::path(get, path = "/v1/files/{id}/content", tag = "OpenAI-compatible",
    params(("id" = String, Path, description = "Its id, `file-…`")),
    responses((status = 200, description = "Its bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "There is none of the caller's")))]
async fn content(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let owner = service.owner(&caller, &scope).await?;
    let row = service.stored_file(&owner, &id).await?.ok_or_else(|| unknown(&id))?;
    let file = service.files().find(&owner.place(&id), &owner.key).await.map_err(unavailable)?;
    let file = file.ok_or_else(|| unknown(&id))?;
    // A browser is to save it, and to run nothing.
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-store")),
        (header::CONTENT_LENGTH, HeaderValue::from(row.bytes)),
    ];
    Ok((headers, Body::from_stream(file.bytes())).into_response())
}

/// Delete a file, as OpenAI's API has it
///
/// Its bytes are gone. One that a batch under way still reads is not deleted.
#[utoipa::path(delete, path = "/v1/files/{id}", tag = "OpenAI-compatible",
    params(("id" = String, Path, description = "Its id, `file-…`")),
    responses((status = 200, description = "Deleted", body = Object), (status = 404, description = "There is none of the caller's"),
        (status = 409, description = "A batch under way reads it")))]
async fn delete(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let owner = service.owner(&caller, &scope).await?;
    service.stored_file(&owner, &id).await?.ok_or_else(|| unknown(&id))?;
    let reading = {
        let mut tx = service.platform.read(&owner.scope()).await?;
        model::batch_reading(&mut tx, owner.named(), &id).await?
    };
    if let Some(batch) = reading {
        let message = format!("The batch {batch} reads this file: cancel it first, or wait for its end");
        return Err(ApiError::new(StatusCode::CONFLICT, "FILE_IN_USE", message));
    }
    let address = AggregateRef::new(Service::Integrations, owner.org.clone(), "stored-file", &id);
    let command = StoredFileCommand::from(DeleteFile { file_id: id.clone() });
    service.platform.submit(&address.map_err(|_| unknown(&id))?, &command, &owner.actor, &scope).await?;
    // The worker does it as well, should this process end here.
    service.files().remove(&owner.place(&id)).await.map_err(unavailable)?;
    Ok(Json(json!({ "id": id, "object": "file", "deleted": true })))
}
