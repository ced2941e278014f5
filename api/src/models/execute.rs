//! `POST /api/integrations/execute`: inference in the gateway's shape (models.md §6).

use std::time::Instant;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_nats::inference::{Embed, FinishReason, Message, Request, Sampling, Work};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Models, error::unanswered, request::OneOrMany, view::Admitted};
use crate::http::{ApiError, ApiResult, Caller, Json, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(execute))
}

/// What to do.
#[derive(Deserialize, ToSchema)]
struct Execute {
    /// `symbia-labs`, or `local`.
    provider: String,
    /// `chat.completions`, `messages`, `completions`, `text.generation` or `embeddings`.
    operation: String,
    params: Params,
}

/// With what.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Params {
    model: String,
    #[serde(default)]
    messages: Vec<Turn>,
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    input: Option<OneOrMany>,
}

/// A turn of a conversation.
#[derive(Deserialize, ToSchema)]
struct Turn {
    role: String,
    content: String,
}

/// Run an operation on a local model
#[utoipa::path(post, path = "/integrations/execute", tag = "Inference", request_body = Execute,
    responses((status = 200, description = "What came of it", body = Object), (status = 400, description = "Not valid"),
        (status = 404, description = "No such model")))]
async fn execute(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    body: ApiResult<Json<Execute>>,
) -> Response {
    let started = Instant::now();
    let done = match body {
        Ok(Json(body)) => models.execute(&caller, &scope, body).await,
        Err(error) => Err(error),
    };
    let duration = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match done {
        Ok(data) => {
            let body = json!({ "success": true, "data": data, "requestId": scope.request_id, "durationMs": duration });
            Json(body).into_response()
        }
        Err(error) => refused(error, duration).into_response(),
    }
}

fn refused(error: ApiError, duration: u64) -> ApiError {
    let status = error.status();
    let category = match status {
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit",
        status if status.is_client_error() => "validation",
        _ => "internal",
    };
    let retryable = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
    let message = error.message().to_owned();
    error
        .with_extra("error", message)
        .with_extra("success", false)
        .with_extra("errorCategory", category)
        .with_extra("retryable", retryable)
        .with_extra("durationMs", duration)
}

impl Models {
    async fn execute(&self, caller: &Caller, scope: &RequestScope, body: Execute) -> ApiResult<Value> {
        if !["symbia-labs", "local"].contains(&body.provider.as_str()) {
            return Err(ApiError::invalid(
                "provider",
                "value",
                "must be symbia-labs or local: others are the gateway's",
            ));
        }
        match body.operation.as_str() {
            "chat.completions" | "messages" | "completions" | "text.generation" => {
                let model = self.admit(caller, scope, &body.params.model).await?;
                self.generate(scope, &model, body).await
            }
            "embeddings" => {
                let model = self.admit(caller, scope, &body.params.model).await?;
                self.vectors(model, body.params).await
            }
            _ => {
                let message = "must be chat.completions, messages, completions, text.generation or embeddings";
                Err(ApiError::invalid("operation", "value", message))
            }
        }
    }

    async fn generate(
        &self,
        scope: &RequestScope,
        model: &Admitted,
        Execute { operation, params, .. }: Execute,
    ) -> ApiResult<Value> {
        let mut request = Request::new(params.messages.into_iter().map(|t| Message::new(t.role, t.content)).collect());
        let goes_on = matches!(operation.as_str(), "completions" | "text.generation");
        match params.prompt {
            Some(prompt) if goes_on && request.messages.is_empty() => request.prompt = Some(prompt),
            Some(prompt) => request.messages.push(Message::new("user", prompt)),
            None if request.messages.is_empty() => {
                return Err(ApiError::invalid("params.messages", "required", "or a prompt is needed"));
            }
            None => {}
        }
        let defaults = model.defaults();
        let temperature = params.temperature.or(defaults.temperature.map(|heat| heat as f32)).unwrap_or(0.7);
        request.max_tokens = params.max_tokens.or(defaults.max_tokens);
        request.sampling = Sampling { temperature, ..Sampling::default() };
        model.direct(&mut request);
        let mut frames = self.begin(scope, Work::Generate(Box::new(request))).await?;
        let completed = self.complete(&mut frames).await?;
        let usage = completed.usage;
        let choice = completed.choices.into_iter().next().unwrap_or_default();
        let finish = if choice.finish_reason == FinishReason::Length { "length" } else { "stop" };
        Ok(json!({
            "provider": "symbia-labs", "model": completed.model, "content": choice.text, "finishReason": finish,
            "usage": { "promptTokens": usage.prompt_tokens, "completionTokens": usage.completion_tokens,
                "totalTokens": usage.prompt_tokens + usage.completion_tokens, "cachedPromptTokens": usage.cached_tokens },
        }))
    }

    async fn vectors(&self, model: Admitted, params: Params) -> ApiResult<Value> {
        let inputs = params.input.map(OneOrMany::into_vec).unwrap_or_default();
        let embed = Embed { model: Some(model.id), org: model.org, inputs, ..Embed::default() };
        let (model, embeddings, tokens) = self.inference.embed(embed).await.map_err(unanswered)?;
        let usage = json!({ "promptTokens": tokens, "totalTokens": tokens });
        Ok(json!({ "provider": "symbia-labs", "model": model, "embeddings": embeddings, "usage": usage }))
    }
}
