//! Completions of conversations and texts (models.md §4, 15.1).

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use serde_json::Value;
use symbia_nats::inference::{Completed, Frame, Frames, Work};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Models,
    answer::{Heading, Kind},
    body::Body,
    error::{failed, unanswered},
    request::{Asked, CompletionRequest, elsewhere},
    stream::{self, cancelled},
    view::Admitted,
};
use crate::http::{ApiResult, Caller, Json, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(chat_completions)).routes(routes!(completions))
}

/// Complete a conversation with a local model
///
/// Takes what OpenAI's API takes, and `top_k`, `min_p`, `typical_p`, `repeat_penalty`, `repeat_last_n`, `grammar` and
/// `ignore_eos`. What has no effect is listed in `symbia.droppedParams`.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "Inference", request_body = CompletionRequest,
    responses((status = 200, description = "The answer, or a stream of its parts", body = Object),
        (status = 400, description = "Not valid, or longer than the model's context"),
        (status = 404, description = "No such model"),
        (status = 429, description = "Too many requests wait"),
        (status = 503, description = "No inference process, or no memory for the model")))]
async fn chat_completions(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Body(body): Body<CompletionRequest>,
) -> ApiResult<Response> {
    let (model, body) = models.prepare(&caller, &scope, body).await?;
    answer(&models, &scope, Kind::Chat, &model, body.into_chat()?).await
}

/// Go on with a text with a local model
#[utoipa::path(post, path = "/v1/completions", tag = "Inference", request_body = CompletionRequest,
    responses((status = 200, description = "The text, or a stream of its parts", body = Object),
        (status = 400, description = "Not valid, or longer than the model's context"),
        (status = 404, description = "No such model"),
        (status = 429, description = "Too many requests wait")))]
async fn completions(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Body(body): Body<CompletionRequest>,
) -> ApiResult<Response> {
    let (model, body) = models.prepare(&caller, &scope, body).await?;
    answer(&models, &scope, Kind::Text, &model, body.into_text()?).await
}

async fn answer(
    models: &Models,
    scope: &RequestScope,
    kind: Kind,
    model: &Admitted,
    Asked { mut request, dropped, streaming }: Asked,
) -> ApiResult<Response> {
    let choices = request.choices;
    model.direct(&mut request);
    let heading = Heading::new(kind, scope, &model.id, dropped);
    let mut frames = models.begin(scope, Work::Generate(Box::new(request))).await?;
    match streaming {
        Some(include_usage) => Ok(stream::answer(frames, heading, choices, include_usage)),
        None => Ok(Json::<Value>(heading.whole(&models.complete(&mut frames).await?)).into_response()),
    }
}

impl Models {
    /// The model that a request is for, and the request with what holds there.
    async fn prepare(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        mut body: CompletionRequest,
    ) -> ApiResult<(Admitted, CompletionRequest)> {
        if let Some(error) = elsewhere(&body.model) {
            return Err(error);
        }
        let model = self.admit(caller, scope, &body.model).await?;
        body.fill(model.defaults());
        Ok((model, body))
    }

    /// Asks, and waits until the work has begun: what is refused is refused with a status.
    pub(super) async fn begin(&self, scope: &RequestScope, work: Work) -> ApiResult<Frames> {
        let job = self.inference.job(work, Some(scope.traceparent()));
        let mut frames = self.inference.ask(&job).await.map_err(unanswered)?;
        match frames.next().await.map_err(unanswered)? {
            Frame::Failed(failure) => Err(failed(failure)),
            Frame::Cancelled => Err(cancelled()),
            _ => Ok(frames),
        }
    }

    /// The whole answer.
    pub(super) async fn complete(&self, frames: &mut Frames) -> ApiResult<Completed> {
        loop {
            match frames.next().await.map_err(unanswered)? {
                Frame::Completed(completed) => return Ok(*completed),
                Frame::Failed(failure) => return Err(failed(failure)),
                frame if frame.is_terminal() => return Err(cancelled()),
                _ => {}
            }
        }
    }
}
