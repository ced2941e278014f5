//! Which models there are, in the words of Ollama's API.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_events::models::ModelSettings;
use symbia_nats::inference::{Details, ModelState, ModelStatus};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    super::{Models, body::Body},
    plain,
    request::named,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, RequestScope, routes},
    iso,
};

/// When a model expires that stays, and the same in seconds since 1970.
const NEVER: &str = "9999-12-31T23:59:59Z";
const LAST: u64 = 253_402_300_799;

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(tags)).routes(routes!(running)).routes(routes!(show)).routes(routes!(version))
}

/// A model.
#[derive(Deserialize, ToSchema)]
struct ShowRequest {
    #[serde(alias = "name")]
    model: String,
}

fn details(of: &Details) -> Value {
    json!({
        "parent_model": "", "format": "gguf", "family": of.architecture, "families": [of.architecture],
        "parameter_size": size(of.parameters), "quantization_level": of.quantization,
    })
}

/// A number of weights as people write it.
fn size(parameters: u64) -> String {
    let of = |unit: f64, name: &str| format!("{:.1}{name}", parameters as f64 / unit);
    match parameters {
        0..1_000_000 => of(1e3, "K"),
        1_000_000..1_000_000_000 => of(1e6, "M"),
        _ => of(1e9, "B"),
    }
}

fn at(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or_default();
    iso(OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH))
}

fn shown(model: &ModelStatus, of: &Details) -> Value {
    json!({
        "name": model.id, "model": model.id, "modified_at": at(model.modified), "size": model.bytes,
        "digest": model.digest.clone().unwrap_or_default(), "details": details(of),
    })
}

impl Models {
    /// The models that can be used and for which something holds.
    async fn tell(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        line: impl Fn(&ModelStatus, &Details) -> Option<Value>,
    ) -> ApiResult<Json<Value>> {
        let view = self.view(caller, scope).await.map_err(plain)?;
        let usable = view.models().filter(|model| view.settings(&model.id).enabled);
        let lines: Vec<Value> =
            usable.filter_map(|model| model.details.as_ref().and_then(|details| line(model, details))).collect();
        Ok(Json(json!({ "models": lines })))
    }
}

/// List the models
#[utoipa::path(get, path = "/tags", tag = "Models", responses((status = 200, description = "By id", body = Object)))]
async fn tags(State(models): State<Models>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    models.tell(&caller, &scope, |model, details| Some(shown(model, details))).await
}

/// List the models that are in memory
#[utoipa::path(get, path = "/ps", tag = "Models", responses((status = 200, description = "By id", body = Object)))]
async fn running(State(models): State<Models>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    let in_memory = |model: &ModelStatus, details: &Details| {
        let loaded = model.loaded.filter(|_| model.state == ModelState::Loaded)?;
        let mut line = shown(model, details);
        line["size"] = json!(loaded.bytes());
        line["size_vram"] = json!(0);
        line["context_length"] = json!(loaded.context_tokens);
        let until = |keep: u64| loaded.last_used.max(loaded.loaded_at).saturating_add(keep);
        let ends = loaded.keep_seconds.map(until).filter(|end| *end < LAST);
        line["expires_at"] = json!(ends.map_or_else(|| NEVER.to_owned(), at));
        Some(line)
    };
    models.tell(&caller, &scope, in_memory).await
}

/// Show a model
#[utoipa::path(post, path = "/show", tag = "Models", request_body = ShowRequest,
    responses((status = 200, description = "The model", body = Object), (status = 404, description = "No such model")))]
async fn show(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    body: Result<Body<ShowRequest>, ApiError>,
) -> ApiResult<Json<Value>> {
    let Body(ShowRequest { model }) = body.map_err(plain)?;
    let view = models.view(&caller, &scope).await.map_err(plain)?;
    let found = view.find(named(&model)).map_err(plain)?;
    let of = found.details.clone().unwrap_or_default();
    let capabilities = of.capabilities.iter().filter_map(|capability| match capability.as_str() {
        "function_calling" => Some("tools"),
        "reasoning" => Some("thinking"),
        capability @ ("completion" | "embedding") => Some(capability),
        _ => None,
    });
    let capabilities: Vec<&str> = capabilities.collect();
    let arch = &of.architecture;
    let mut info = json!({ "general.architecture": arch, "general.parameter_count": of.parameters });
    info[format!("{arch}.context_length")] = json!(of.context_length);
    info[format!("{arch}.embedding_length")] = json!(of.embedding_length);
    Ok(Json(json!({
        "license": of.license.clone().unwrap_or_default(), "modelfile": "", "template": "",
        "parameters": parameters(&view.settings(&found.id)), "details": details(&of), "model_info": info,
        "capabilities": capabilities, "modified_at": at(found.modified),
    })))
}

/// What holds where a request says nothing, a line each.
fn parameters(settings: &ModelSettings) -> String {
    let defaults = &settings.defaults;
    let lines = [
        ("temperature", defaults.temperature),
        ("top_p", defaults.top_p),
        ("top_k", defaults.top_k.map(f64::from)),
        ("min_p", defaults.min_p),
        ("repeat_penalty", defaults.repeat_penalty),
        ("num_predict", defaults.max_tokens.map(f64::from)),
    ];
    let lines = lines.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name} {value}")));
    lines.collect::<Vec<_>>().join("\n")
}

/// Tell the version
#[utoipa::path(get, path = "/version", tag = "Models", security(()),
    responses((status = 200, description = "Of the platform", body = Object)))]
async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}
