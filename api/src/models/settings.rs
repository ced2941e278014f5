//! How models are set, and their files as a whole (models.md §15.1).

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use symbia_commands::models::{ADMIN, ConfigureModel, DeleteModel, MANAGE};
use symbia_events::models::ModelSettings;
use symbia_nats::inference::{Done, Inspect, Inspected, Message, Order, Status, Unload};
use time::OffsetDateTime;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Models,
    body::Body,
    error::{error, invalid, shaped},
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes};

/// What a chat template is tried with.
const TRIED: &str = "Which way is it to the station?";
/// How long the inference processes may take to look through their directories, or to delete a file.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(configure, delete)).routes(routes!(rescan))
}

/// How a model is deleted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// Even when it is in memory: what it is computing fails.
    #[serde(default)]
    force: bool,
}

/// Set a model's aliases, defaults, prompts, visibility, and whether it stays in memory
///
/// A merge patch (RFC 7396) of `aliases`, `enabled`, `visibleTo`, `hiddenFrom` (ids of organizations), `defaults` (`temperature`,
/// `topP`, `topK`, `minP`, `repeatPenalty`, `maxTokens`), `systemPrompt`, `pinned` (never unloaded for being idle, nor for another
/// model) and `chatTemplate` (a Jinja template instead of the one in the file, which is tried with the model before it is
/// accepted): what is not named stays, and `null` sets back.
#[utoipa::path(patch, path = "/models/{id}", tag = "Models",
    request_body(content = Object, description = "What is to change",
        example = json!({ "aliases": ["small"], "defaults": { "temperature": 0.2 } })),
    params(("id" = String, Path, description = "Id of the model")),
    responses((status = 200, description = "What is set now", body = Object), (status = 400, description = "Not valid"),
        (status = 403, description = "Not allowed"), (status = 404, description = "No such model"),
        (status = 409, description = "Another model has the alias")))]
async fn configure(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Body(patch): Body<Map<String, Value>>,
) -> ApiResult<Json<Value>> {
    caller.require_capability(&MANAGE).map_err(shaped)?;
    let id = models.view(&caller, &scope).await?.find(&id)?.id.clone();
    if let Some(template) = patch.get("chatTemplate").and_then(Value::as_str) {
        models.try_template(&id, template).await?;
    }
    models.submit(&id, ConfigureModel { model_id: id.clone(), patch }.into(), &caller, &scope).await?;
    let settings = models.view(&caller, &scope).await?.settings(&id);
    Ok(Json(json!({ "success": true, "id": id, "settings": whole(&settings) })))
}

/// Delete a model's file
#[utoipa::path(delete, path = "/models/{id}", tag = "Models",
    params(("id" = String, Path, description = "Id of the model"), DeleteQuery),
    responses((status = 200, description = "It is gone", body = Object), (status = 403, description = "Not allowed"),
        (status = 404, description = "No such model"), (status = 409, description = "It is in memory, or cannot be deleted")))]
async fn delete(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    query: ApiResult<Query<DeleteQuery>>,
) -> ApiResult<Json<Value>> {
    caller.require_capability(&ADMIN).map_err(shaped)?;
    let Query(DeleteQuery { force }) = query.map_err(shaped)?;
    let view = models.view(&caller, &scope).await?;
    let model = view.find(&id)?;
    let id = model.id.clone();
    let command = DeleteModel { model_id: id.clone(), force };
    let before = OffsetDateTime::now_utc().unix_timestamp().unsigned_abs();
    models.submit(&id, command.into(), &caller, &scope).await?;
    // The model keeper does the same; here we hear how that ended.
    if force {
        let _ = models.census.unload(&Unload { model: id.clone(), drain: false }, PATIENCE).await.map_err(away)?;
    }
    let digest = model.digest.clone().unwrap_or_default();
    models.order(Order::Remove { model: id.clone(), digest, before }).await?;
    let gone = |workers: &[Status]| workers.iter().flat_map(|worker| &worker.models).all(|model| model.id != id);
    if !models.census.wait_until(PATIENCE, gone).await {
        let message = format!("{id} is still there: its file is another one than it was");
        return Err(error(StatusCode::CONFLICT, "model_busy", message));
    }
    Ok(Json(json!({ "success": true, "message": format!("{id} is deleted") })))
}

/// Look through the model directories, and give files another try that could not be used
#[utoipa::path(post, path = "/models/rescan", tag = "Models",
    responses((status = 200, description = "How many models there are, by process", body = Object),
        (status = 403, description = "Not allowed"), (status = 503, description = "No inference process")))]
async fn rescan(State(models): State<Models>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.require_capability(&MANAGE).map_err(shaped)?;
    let done = models.order(Order::Rescan).await?;
    let workers: Vec<Value> = done.iter().map(|d| json!({ "worker": d.worker, "models": d.models })).collect();
    Ok(Json(json!({ "success": true, "workers": workers })))
}

/// How a model is set, with what events leave out where it is as by default.
pub(super) fn whole(settings: &ModelSettings) -> Value {
    let mut whole = json!(settings);
    (whole["pinned"], whole["chatTemplate"]) = (json!(settings.pinned), json!(settings.chat_template));
    whole
}

impl Models {
    /// Has an inference process make a prompt with a chat template: what the person says must be in it.
    async fn try_template(&self, id: &str, template: &str) -> ApiResult<()> {
        let conversation = [("user", "Good morning."), ("assistant", "Good morning!"), ("user", TRIED)]
            .map(|(r, t)| Message::new(r, t));
        let what = Inspected::Chat(conversation.to_vec(), Vec::new());
        let inspect = Inspect { model: id.to_owned(), what, chat_template: Some(template.to_owned()) };
        match self.look(inspect).await? {
            Inspected::Text(prompt) if prompt.contains(TRIED) => Ok(()),
            _ => Err(invalid(
                "chatTemplate",
                "leaves out what the person says: use `messages`, the turns of a conversation",
            )),
        }
    }

    /// Has every inference process do something with its directory; the first that cannot is the error.
    async fn order(&self, order: Order) -> ApiResult<Vec<Done>> {
        self.census.settle().await;
        let done = self.census.order(&order, PATIENCE).await.map_err(away)?;
        if done.is_empty() {
            let message = "no inference process answers; start one with `symbia work --roles inference`";
            return Err(error(StatusCode::SERVICE_UNAVAILABLE, "engine_unavailable", message));
        }
        match done.iter().find_map(|done| done.error.as_ref()) {
            None => Ok(done),
            Some(reason) => {
                let message = format!("the model directory cannot be changed: {reason}");
                Err(error(StatusCode::CONFLICT, "directory_unusable", message))
            }
        }
    }
}

fn away(reason: impl std::fmt::Display) -> ApiError {
    tracing::warn!(%reason, "the inference processes cannot be reached");
    shaped(ApiError::unavailable("The log", 2))
}
