//! `POST /v1/images/generations` as OpenAI has it.

use axum::{extract::State, middleware::map_response};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{ImageCommand, MAX_PICTURES, RequestImage},
};
use symbia_events::{
    AggregateRef, CommandId, Service, SubjectKey,
    integrations::{ErrorCategory, ImageCompleted, ImageEvent, ImageFailed, ImageShape, Picture},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Integrations,
    ask::{PATIENCE, Tagged, context, tenant},
    chat::target,
    errors::{as_openai, refused},
    hub::{Ear, Heard},
    said::Failure,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, RequestScope, routes},
    platform::Consistency,
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(draw)).layer(map_response(as_openai))
}

/// What is to be drawn.
#[derive(Debug, Deserialize, ToSchema)]
struct ImageRequest {
    prompt: String,
    /// `provider/model`, a model, or the name of a route; absent: the provider's default.
    #[serde(default)]
    model: Option<String>,
    /// Pictures, 1 to 10.
    #[serde(default)]
    n: Option<u32>,
    #[serde(default)]
    #[schema(example = "1024x1024")]
    size: Option<String>,
    #[serde(default)]
    quality: Option<String>,
    #[serde(default)]
    style: Option<String>,
    #[serde(default)]
    background: Option<String>,
    /// `png`, `jpeg` or `webp`.
    #[serde(default)]
    output_format: Option<String>,
    /// 0 to 100.
    #[serde(default)]
    output_compression: Option<u32>,
    /// `url` or `b64_json`, for models that can choose.
    #[serde(default)]
    response_format: Option<String>,
    /// Pictures are not given piece by piece.
    #[serde(default)]
    stream: Option<bool>,
    /// A key of the vault to ask with.
    #[serde(default)]
    credential_id: Option<String>,
}

impl ImageRequest {
    fn read(self, key: &SubjectKey, scope: &RequestScope, request_id: &str) -> ApiResult<RequestImage> {
        if self.prompt.trim().is_empty() {
            return Err(refused("prompt", "must not be empty"));
        }
        let count = self.n.unwrap_or(1);
        if !(1..=MAX_PICTURES).contains(&count) {
            return Err(refused("n", format!("must be 1 to {MAX_PICTURES}")));
        }
        if self.stream == Some(true) {
            return Err(refused("stream", "must be false: pictures are given whole"));
        }
        if self.response_format.as_deref().is_some_and(|format| !["url", "b64_json"].contains(&format)) {
            return Err(refused("response_format", "must be url or b64_json"));
        }
        let target = target(self.model);
        let deadline = (OffsetDateTime::now_utc() + PATIENCE).format(&Rfc3339).map_err(ApiError::internal)?;
        Ok(RequestImage {
            request_id: request_id.to_owned(),
            provider: target.provider,
            model: target.model,
            prompt: key.seal(&self.prompt),
            count,
            shape: ImageShape {
                size: self.size,
                quality: self.quality,
                style: self.style,
                background: self.background,
                output_format: self.output_format,
                output_compression: self.output_compression,
                response_format: self.response_format,
            },
            credential_id: self.credential_id,
            deadline: Some(deadline),
            context: context(scope),
        })
    }
}

/// Have pictures made of a text, as OpenAI's API has it
///
/// Pictures that come whole are together 24 MiB at most; larger ones are asked for by their addresses.
#[utoipa::path(post, path = "/v1/images/generations", tag = "OpenAI-compatible", params(Tagged), request_body = ImageRequest,
    responses((status = 200, description = "The pictures", body = Object), (status = 400, description = "A field is not valid"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider or model")))]
async fn draw(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(request): Json<ImageRequest>,
) -> ApiResult<axum::Json<Value>> {
    let (tenant, actor) = (tenant(&caller, &scope)?, Actor::from(&*caller));
    let org = tenant.to_string();
    let key = service.key_of(&actor).await?;
    let command_id = CommandId(scope.command_id(&actor.id));
    let request_id = Uuid::new_v5(&command_id.0, b"image").to_string();
    let command = ImageCommand::from(request.read(&key, &scope, &request_id)?);
    let address = AggregateRef::new(Service::Integrations, tenant, "image", &request_id).map_err(ApiError::internal)?;
    let mut ear = service.hub.listen_for(address.clone());
    let sent = service.platform.submit_as(command_id, &address, &command, &actor, &scope, Consistency::Eventual);
    if sent.await?.outcome.repeated {
        ear.look().await;
    }
    let ended = tokio::time::timeout(PATIENCE, ended(&mut ear, &key)).await;
    let late = |_| Err(Failure::new(ErrorCategory::Timeout, "deadline", "the pictures take too long"));
    let (done, pictures) = ended.unwrap_or_else(late).map_err(|failure| failure.error(&request_id))?;
    let pictures = service.whole_pictures(&org, &key, pictures).await.map_err(|failure| failure.error(&request_id))?;
    Ok(axum::Json(shown(&done, &pictures)))
}

async fn ended(ear: &mut Ear, key: &SubjectKey) -> Result<(ImageCompleted, Vec<Picture>), Failure> {
    loop {
        let Heard::Event(event) = ear.next().await else { continue };
        match event.decode() {
            Ok(ImageEvent::ImageCompleted(e)) => {
                let opened = key.open(&e.pictures).ok().and_then(|json| serde_json::from_str(&json).ok());
                let message = "the pictures cannot be read: their key was destroyed";
                let gone = || Failure::new(ErrorCategory::NotFound, "key_destroyed", message);
                return opened.ok_or_else(gone).map(|pictures| (e, pictures));
            }
            Ok(ImageEvent::ImageFailed(e)) => return Err(failure(e, key)),
            Ok(ImageEvent::ImageRequested(_)) | Err(_) => {}
        }
    }
}

fn failure(e: ImageFailed, key: &SubjectKey) -> Failure {
    let message = e.message.and_then(|message| key.open(&message).ok());
    Failure {
        category: e.category,
        code: e.code,
        message: message.unwrap_or_else(|| "there are no pictures".to_owned()),
        provider: None,
        upstream: e.upstream.map(Box::new),
        retry_after_ms: e.retry_after_ms,
    }
}

fn shown(done: &ImageCompleted, pictures: &[Picture]) -> Value {
    let mut shown = json!({ "created": OffsetDateTime::now_utc().unix_timestamp(), "data": pictures });
    if done.usage.total_tokens > 0 {
        shown["usage"] = json!({
            "input_tokens": done.usage.prompt_tokens, "output_tokens": done.usage.completion_tokens,
            "total_tokens": done.usage.total_tokens,
        });
    }
    shown
}
