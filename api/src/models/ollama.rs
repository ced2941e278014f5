//! The local models for programs that speak Ollama's API, on a port of its own (models.md §15.1): the same models, rights and
//! settings as on the service's own port, in other words. Whoever asks signs in as there, with a bearer token or an API key.

mod answer;
mod keep;
mod listing;
mod pull;
mod request;

use std::time::Instant;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use symbia_commands::models::MANAGE;
use symbia_nats::inference::{Embed, Load, Work};
use utoipa_axum::router::OpenApiRouter;

use self::{
    answer::{Heading, Kind, stream},
    keep::KeepAlive,
    request::{ChatRequest, EmbedRequest, GenerateRequest, Given, named},
};
use super::{
    Models, app,
    body::Body,
    error::{invalid, shaped, unanswered},
    lifecycle::UnloadRequest,
    request::{Asked, CompletionRequest},
};
use crate::{
    http::{
        ApiError, ApiResult, Caller, Health, Json, RequestScope, ServiceApp, discovery::ServiceInfo, routes,
        server::ServerConfig,
    },
    platform::Platform,
};
use symbia_events::Service;

/// Texts of a request at most.
const MOST: usize = 2048;

/// The listener, to be built and served.
#[must_use]
pub fn service(platform: Platform, health: Health, config: ServerConfig) -> ServiceApp {
    let models = Models::new(platform);
    let api = OpenApiRouter::new()
        .merge(listing::routes())
        .merge(pull::routes())
        .routes(routes!(chat))
        .routes(routes!(generate))
        .routes(routes!(embed))
        .with_state(models.clone());
    let description = "The models of this installation's own machines, in the words of Ollama's API.";
    let info = ServiceInfo {
        endpoints: vec![("chat", "/api/chat"), ("models", "/api/tags")],
        ..ServiceInfo::new(Service::Models, "Symbia Models for Ollama's clients", description)
    };
    app(info, &models, health, config).api(api)
}

/// An error as those clients read it: `error` is its text.
fn plain(error: ApiError) -> ApiError {
    let message = error.message().to_owned();
    error.with_extra("error", message)
}

/// Answer a conversation
///
/// Streams lines of JSON unless `stream` is false. Without messages the model is loaded, or unloaded with a `keep_alive` of 0.
/// A `keep_alive` that is shorter than usual, or longer than a day, counts from who manages models only.
#[utoipa::path(post, path = "/chat", tag = "Inference", request_body = ChatRequest,
    responses((status = 200, description = "The answer, or a stream of its parts", body = Object),
        (status = 400, description = "Not valid, or longer than the model's context"),
        (status = 404, description = "No such model")))]
async fn chat(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    body: Result<Body<ChatRequest>, ApiError>,
) -> ApiResult<Response> {
    let answered = async {
        let Body(body) = body?;
        let (stream, given) = (body.stream.unwrap_or(true), body.given()?);
        models.say(&caller, &scope, Kind::Chat, given, stream).await
    };
    answered.await.map_err(plain)
}

/// Answer a text
///
/// Like `/api/chat` with one turn; with `raw` the text goes on as it stands.
#[utoipa::path(post, path = "/generate", tag = "Inference", request_body = GenerateRequest,
    responses((status = 200, description = "The answer, or a stream of its parts", body = Object),
        (status = 400, description = "Not valid, or longer than the model's context"),
        (status = 404, description = "No such model")))]
async fn generate(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    body: Result<Body<GenerateRequest>, ApiError>,
) -> ApiResult<Response> {
    let answered = async {
        let Body(body) = body?;
        let (stream, given) = (body.stream.unwrap_or(true), body.given()?);
        models.say(&caller, &scope, Kind::Text, given, stream).await
    };
    answered.await.map_err(plain)
}

/// Make vectors of texts
///
/// What is longer than the model takes is cut off, unless `truncate` is false.
#[utoipa::path(post, path = "/embed", tag = "Inference", request_body = EmbedRequest,
    responses((status = 200, description = "A vector of length 1 for each text", body = Object),
        (status = 400, description = "Not valid, or longer than the model takes"),
        (status = 404, description = "No such model")))]
async fn embed(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    body: Result<Body<EmbedRequest>, ApiError>,
) -> ApiResult<Json<Value>> {
    let answered = async {
        let Body(EmbedRequest { model, input, truncate, keep_alive }) = body?;
        let (began, inputs) = (Instant::now(), input.into_vec());
        if inputs.is_empty() || inputs.len() > MOST {
            return Err(invalid("input", format!("must have 1 to {MOST} texts")));
        }
        let admitted = models.admit(&caller, &scope, named(&model)).await?;
        let (truncate, org) = (truncate.unwrap_or(true), admitted.org);
        let embed = Embed { model: Some(admitted.id), inputs, truncate, raw: false, org };
        let inference = models.inference.keeping(keep_alive.map(|keep| keep.of(&caller)));
        let (_, embeddings, tokens) = inference.embed(embed).await.map_err(unanswered)?;
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(Json(json!({ "model": model, "embeddings": embeddings, "total_duration": took, "load_duration": 0,
            "prompt_eval_count": tokens })))
    };
    answered.await.map_err(plain)
}

impl Models {
    /// Loads a model, or unloads it when it is to be kept no time; says which.
    async fn place(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        model: String,
        keep: Option<KeepAlive>,
    ) -> ApiResult<&'static str> {
        if keep.is_some_and(KeepAlive::is_over) {
            caller.require_capability(&MANAGE).map_err(shaped)?;
            self.unloaded(&model, UnloadRequest::default(), caller, scope).await?;
            return Ok("unload");
        }
        let load = Work::Load(Load { model, ..Load::default() });
        self.inference.keeping(keep.map(|keep| keep.of(caller))).once(load).await.map_err(unanswered)?;
        Ok("load")
    }

    async fn say(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        kind: Kind,
        given: Given,
        streamed: bool,
    ) -> ApiResult<Response> {
        let Given { model: name, body, keep, thinks } = given;
        let model = self.admit(caller, scope, named(&name)).await?;
        if thinks == Some(true) && !model.thinks {
            return Err(invalid("think", format!("model {name:?} does not think before it answers: leave it out")));
        }
        let heading = Heading::new(kind, name);
        let Some(body) = body else {
            return self
                .place(caller, scope, model.id, keep)
                .await
                .map(|done| Json(heading.unasked(done)).into_response());
        };
        let mut body: CompletionRequest = serde_path_to_error::deserialize(body)
            .map_err(|e| invalid(&e.path().to_string(), e.inner().to_string()))?;
        body.fill(model.defaults());
        let is_text = body.goes_on();
        let Asked { mut request, .. } = if is_text { body.into_text()? } else { body.into_chat()? };
        model.direct(&mut request);
        let inference = self.inference.keeping(keep.map(|keep| keep.of(caller)));
        let asking = Models { inference, ..self.clone() };
        let mut frames = asking.begin(scope, Work::Generate(Box::new(request))).await?;
        if streamed {
            return Ok(stream(frames, heading));
        }
        Ok(Json(heading.whole(&self.complete(&mut frames).await?)).into_response())
    }
}
