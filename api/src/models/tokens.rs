//! Counting and looking at tokens (models.md §15.1).

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_nats::inference::{Frame, Inspect, Inspected, Work};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Models, body::Body, error::unanswered, request::CompletionRequest, stream::cancelled};
use crate::http::{ApiResult, Caller, Json, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(tokenize)).routes(routes!(detokenize)).routes(routes!(apply_template))
}

/// A text for a model.
#[derive(Deserialize, ToSchema)]
struct Text {
    model: String,
    content: String,
}

/// Tokens of a model.
#[derive(Deserialize, ToSchema)]
struct Tokens {
    model: String,
    tokens: Vec<u32>,
}

impl Models {
    async fn inspect(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        model: &str,
        what: Inspected,
    ) -> ApiResult<Inspected> {
        let model = self.admit(caller, scope, model).await?.id;
        self.look(Inspect { model, what, chat_template: None }).await
    }

    /// What an inference process sees something as.
    pub(super) async fn look(&self, inspect: Inspect) -> ApiResult<Inspected> {
        match self.inference.once(Work::Inspect(inspect)).await.map_err(unanswered)? {
            Frame::Inspected(seen) => Ok(seen),
            _ => Err(cancelled()),
        }
    }
}

/// Turn a text into a model's tokens
#[utoipa::path(post, path = "/tokenize", tag = "Inference", request_body = Text,
    responses((status = 200, description = "Ids of the tokens", body = Object), (status = 404, description = "No such model")))]
async fn tokenize(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Body(body): Body<Text>,
) -> ApiResult<Json<Value>> {
    match models.inspect(&caller, &scope, &body.model, Inspected::Text(body.content)).await? {
        Inspected::Tokens(tokens) => Ok(Json(json!({ "count": tokens.len(), "tokens": tokens }))),
        _ => Err(cancelled()),
    }
}

/// Turn a model's tokens into text
#[utoipa::path(post, path = "/detokenize", tag = "Inference", request_body = Tokens,
    responses((status = 200, description = "The text", body = Object), (status = 404, description = "No such model")))]
async fn detokenize(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Body(body): Body<Tokens>,
) -> ApiResult<Json<Value>> {
    match models.inspect(&caller, &scope, &body.model, Inspected::Tokens(body.tokens)).await? {
        Inspected::Text(content) => Ok(Json(json!({ "content": content }))),
        _ => Err(cancelled()),
    }
}

/// Show a conversation as the model reads it
#[utoipa::path(post, path = "/apply-template", tag = "Inference", request_body = CompletionRequest,
    responses((status = 200, description = "The prompt", body = Object), (status = 404, description = "No such model")))]
async fn apply_template(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Body(body): Body<CompletionRequest>,
) -> ApiResult<Json<Value>> {
    let model = models.admit(&caller, &scope, &body.model).await?;
    let mut asked = body.into_chat()?.request;
    model.direct(&mut asked);
    let (what, chat_template) = (Inspected::Chat(asked.messages, asked.tools), asked.chat_template);
    match models.look(Inspect { model: model.id, what, chat_template }).await? {
        Inspected::Text(prompt) => Ok(Json(json!({ "prompt": prompt }))),
        _ => Err(cancelled()),
    }
}
