//! Models into memory and out of it (models.md §7, 15.1): what is asked for is an event first, so that it is done even when
//! this process ends.

use std::time::Duration;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    models::{LoadModel, MANAGE, ModelCommand, UnloadModel},
};
use symbia_events::{AggregateRef, OrgId, Service};
use symbia_nats::inference::{Frame, Load, ModelState, ModelStatus, Status, Work};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Models,
    body::Body,
    error::{error, shaped, unanswered},
    listing::shown,
    stream::cancelled,
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes};

/// How long unloading waits for what is under way, when the caller does not say.
const DRAIN: Duration = Duration::from_secs(60);
const LONGEST_DRAIN: Duration = Duration::from_secs(600);

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(load)).routes(routes!(unload))
}

/// How a model is loaded.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct LoadRequest {
    /// Tokens that a sequence may hold.
    n_ctx: Option<u32>,
    /// Requests that are computed at a time.
    slots: Option<u32>,
    /// Seconds without requests after which it is unloaded; negative: never.
    keep_alive: Option<i64>,
    /// `false` answers at once.
    wait: Option<bool>,
}

/// How a model is unloaded.
#[derive(Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct UnloadRequest {
    /// Lets what is under way end first.
    drain: bool,
    /// Milliseconds to wait for that.
    timeout_ms: Option<u64>,
}

impl Default for UnloadRequest {
    fn default() -> Self {
        UnloadRequest { drain: true, timeout_ms: None }
    }
}

/// Load a model, and wait until it is in memory
#[utoipa::path(post, path = "/models/{id}/load", tag = "Models", request_body = LoadRequest,
    params(("id" = String, Path, description = "Id of the model")),
    responses((status = 200, description = "It is loaded", body = Object),
        (status = 202, description = "It will be", body = Object), (status = 403, description = "Not allowed"),
        (status = 404, description = "No such model"), (status = 503, description = "No memory for it, or no process")))]
async fn load(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Body(body): Body<LoadRequest>,
) -> ApiResult<Response> {
    caller.require_capability(&MANAGE).map_err(shaped)?;
    let view = models.view(&caller, &scope).await?;
    let model = view.find(&id)?;
    let LoadRequest { n_ctx, slots, keep_alive, wait } = body;
    let command = LoadModel { model_id: model.id.clone(), context_tokens: n_ctx, slots, keep_alive };
    let command_id = models.submit(&model.id, command.into(), &caller, &scope).await?;
    if wait == Some(false) {
        let body = json!({ "success": true, "status": "pending", "commandId": command_id });
        return Ok((StatusCode::ACCEPTED, Json(body)).into_response());
    }
    // The model keeper asks for the same; a model is loaded once, and here we hear how that ended.
    let load = Load { model: model.id.clone(), context_tokens: n_ctx, parallel: slots, keep_alive };
    match models.inference.once(Work::Load(load)).await.map_err(unanswered)? {
        Frame::Loaded(model) => {
            let shown = shown(&model, &view.settings(&model.id));
            Ok(Json(json!({ "success": true, "model": shown })).into_response())
        }
        _ => Err(cancelled()),
    }
}

/// Unload a model everywhere
#[utoipa::path(post, path = "/models/{id}/unload", tag = "Models", request_body = UnloadRequest,
    params(("id" = String, Path, description = "Id of the model")),
    responses((status = 200, description = "It is not in memory any more", body = Object),
        (status = 403, description = "Not allowed"), (status = 404, description = "No such model"),
        (status = 409, description = "What is under way has not ended in time; it is unloaded when it has")))]
async fn unload(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Body(body): Body<UnloadRequest>,
) -> ApiResult<Json<Value>> {
    caller.require_capability(&MANAGE).map_err(shaped)?;
    let id = models.view(&caller, &scope).await?.find(&id)?.id.clone();
    let done = if models.unloaded(&id, body, &caller, &scope).await? { "unloaded" } else { "not loaded" };
    Ok(Json(json!({ "success": true, "message": format!("{id} is {done}") })))
}

impl Models {
    /// Has every process unload a model, and waits for that; false when none has it.
    pub(super) async fn unloaded(
        &self,
        id: &str,
        how: UnloadRequest,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<bool> {
        let in_memory =
            |model: &ModelStatus| model.id == id && matches!(model.state, ModelState::Loaded | ModelState::Loading);
        let gone = |workers: &[Status]| !workers.iter().flat_map(|worker| &worker.models).any(in_memory);
        if gone(&self.census.workers()) {
            return Ok(false);
        }
        let within = how.timeout_ms.map_or(DRAIN, Duration::from_millis).min(LONGEST_DRAIN);
        let command = UnloadModel { model_id: id.to_owned(), drain: how.drain };
        self.submit(id, command.into(), caller, scope).await?;
        // The model keeper does it.
        if !self.census.wait_until(within, gone).await {
            let message = format!("{id} is still at work; it is unloaded when that has ended");
            return Err(error(StatusCode::CONFLICT, "model_busy", message));
        }
        Ok(true)
    }

    pub(super) async fn submit(
        &self,
        id: &str,
        command: ModelCommand,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<String> {
        let to = AggregateRef::new(Service::Models, OrgId::global(), "model", id).map_err(ApiError::internal)?;
        let done = self.platform.submit(&to, &command, &Actor::from(&**caller), scope).await.map_err(shaped)?;
        Ok(done.outcome.command_id.to_string())
    }
}
