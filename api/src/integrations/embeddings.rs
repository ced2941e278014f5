//! `POST /v1/embeddings` as OpenAI has it. Many texts are several requests, each with its own place in the log.

use axum::{extract::State, middleware::map_response};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{EmbeddingCommand, MAX_INPUTS, RequestEmbedding},
};
use symbia_events::{
    AggregateRef, CommandId, OrgId, Service, SubjectKey,
    integrations::{Cost, EmbeddingCompleted, EmbeddingEvent, ErrorCategory, Target, Usage},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Integrations,
    ask::{PATIENCE, Tagged, context, tenant},
    chat::OneOrMany,
    errors::{as_openai, refused},
    hub::Heard,
    said::Failure,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, RequestScope, routes},
    platform::Consistency,
};

pub(super) use symbia_commands::integrations::Texts;

/// Most texts of a request, and most bytes of one part of it.
const MOST: usize = 2048;
pub(super) const PART: usize = 256 * 1024;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(embed)).layer(map_response(as_openai))
}

/// Texts to turn into vectors.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmbeddingRequest {
    /// `provider/model`, or a model.
    #[serde(default)]
    model: Option<String>,
    /// One text or several, at most 2048.
    input: OneOrMany,
    /// Length of the vectors, for models that can choose.
    #[serde(default)]
    dimensions: Option<u32>,
    /// `float` (default) or `base64`.
    #[serde(default)]
    encoding_format: Option<String>,
    /// A key of the vault to ask with.
    #[serde(default)]
    credential_id: Option<String>,
}

/// The vectors, in the order of the texts.
pub(super) struct Embedded {
    pub request_id: String,
    pub provider: String,
    pub model: String,
    pub vectors: Vec<Vec<f32>>,
    pub usage: Usage,
    pub cost: Option<Cost>,
    pub took_ms: u64,
}

/// Turn texts into vectors, as OpenAI's API has it
#[utoipa::path(post, path = "/v1/embeddings", tag = "OpenAI-compatible", params(Tagged), request_body = EmbeddingRequest,
    responses((status = 200, description = "The vectors, in the order of the texts", body = Object),
        (status = 400, description = "A field is not valid"), (status = 404, description = "No such provider or model")))]
async fn embed(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(request): Json<EmbeddingRequest>,
) -> ApiResult<axum::Json<Value>> {
    let base64 = request.as_base64()?;
    let embedded = service.embed(&caller, &scope, request.texts()).await?;
    Ok(axum::Json(embedding_list(&embedded, base64)))
}

impl EmbeddingRequest {
    /// Whether the vectors are wanted as base64.
    pub fn as_base64(&self) -> ApiResult<bool> {
        match self.encoding_format.as_deref() {
            None | Some("float") => Ok(false),
            Some("base64") => Ok(true),
            Some(_) => Err(refused("encoding_format", "must be float or base64")),
        }
    }

    /// What is asked for.
    pub fn texts(self) -> Texts {
        Texts {
            target: Target { provider: None, model: self.model },
            texts: self.input.into_vec(),
            dimensions: self.dimensions,
            credential_id: self.credential_id,
        }
    }
}

/// Vectors as OpenAI's clients read them.
pub(super) fn embedding_list(embedded: &Embedded, base64: bool) -> Value {
    let vector = |vector: &Vec<f32>| {
        if base64 {
            return json!(BASE64.encode(vector.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()));
        }
        json!(vector)
    };
    let item =
        |(index, of): (usize, &Vec<f32>)| json!({ "object": "embedding", "index": index, "embedding": vector(of) });
    let data: Vec<Value> = embedded.vectors.iter().enumerate().map(item).collect();
    let (prompt_tokens, total_tokens) = (embedded.usage.prompt_tokens, embedded.usage.total_tokens);
    json!({
        "object": "list",
        "data": data,
        "model": embedded.model,
        "usage": { "prompt_tokens": prompt_tokens, "total_tokens": total_tokens },
    })
}

/// What is refused of texts.
pub(super) fn checked(texts: &[String], most: usize) -> ApiResult<()> {
    if texts.is_empty() || texts.len() > most {
        return Err(refused("input", format!("must be 1 to {most} texts")));
    }
    if texts.iter().any(String::is_empty) {
        return Err(refused("input", "must not contain empty texts"));
    }
    if texts.iter().any(|text| text.len() > PART) {
        return Err(refused("input", format!("must be texts of at most {PART} bytes")));
    }
    Ok(())
}

/// The end of a request, when an event is it.
pub(super) fn end(key: &SubjectKey, event: EmbeddingEvent) -> Option<Result<Embedded, Failure>> {
    match event {
        EmbeddingEvent::EmbeddingCompleted(e) => Some(opened(key, e)),
        EmbeddingEvent::EmbeddingFailed(e) => {
            let message = e.message.and_then(|message| key.open(&message).ok());
            Some(Err(Failure {
                category: e.category,
                code: e.code,
                message: message.unwrap_or_else(|| "there are no vectors".to_owned()),
                provider: None,
                upstream: e.upstream.map(Box::new),
                retry_after_ms: e.retry_after_ms,
            }))
        }
        EmbeddingEvent::EmbeddingRequested(_) => None,
    }
}

impl Integrations {
    /// Turns texts into vectors.
    pub(super) async fn embed(&self, caller: &Caller, scope: &RequestScope, asked: Texts) -> ApiResult<Embedded> {
        checked(&asked.texts, MOST)?;
        let tenant = tenant(caller, scope)?;
        let actor = Actor::from(&**caller);
        let key = self.key_of(&actor).await?;
        let base = scope.command_id(&actor.id);
        let parts = parts(asked.texts.clone());
        let asking = parts.into_iter().enumerate().map(|(index, texts)| {
            let id = CommandId(Uuid::new_v5(&base, format!("embedding {index}").as_bytes()));
            self.embed_part(&tenant, &actor, &key, scope, id, &asked, texts)
        });
        let made = try_join_all(asking).await?;
        let mut all = Embedded {
            request_id: made.first().map(|part| part.request_id.clone()).unwrap_or_default(),
            provider: made.first().map(|part| part.provider.clone()).unwrap_or_default(),
            model: made.first().map(|part| part.model.clone()).unwrap_or_default(),
            vectors: Vec::with_capacity(asked.texts.len()),
            usage: Usage::default(),
            cost: None,
            took_ms: 0,
        };
        for part in made {
            all.vectors.extend(part.vectors);
            all.usage.prompt_tokens += part.usage.prompt_tokens;
            all.usage.total_tokens += part.usage.total_tokens;
            all.usage.estimated |= part.usage.estimated;
            all.took_ms = all.took_ms.max(part.took_ms);
            all.cost = match (all.cost, part.cost) {
                (Some(all), Some(part)) => Some(Cost {
                    input_micros: all.input_micros + part.input_micros,
                    output_micros: all.output_micros + part.output_micros,
                    total_micros: all.total_micros + part.total_micros,
                    price_version: part.price_version,
                }),
                (all, part) => all.or(part),
            };
        }
        Ok(all)
    }

    #[allow(clippy::too_many_arguments, reason = "what one part has in common with the others, and what it has not")]
    async fn embed_part(
        &self,
        tenant: &OrgId,
        actor: &Actor,
        key: &SubjectKey,
        scope: &RequestScope,
        id: CommandId,
        asked: &Texts,
        texts: Vec<String>,
    ) -> ApiResult<Embedded> {
        let request_id = Uuid::new_v5(&id.0, b"request").to_string();
        let address = AggregateRef::new(Service::Integrations, tenant.clone(), "embedding", &request_id);
        let address = address.map_err(ApiError::internal)?;
        let deadline = (OffsetDateTime::now_utc() + PATIENCE).format(&Rfc3339).map_err(ApiError::internal)?;
        let command = RequestEmbedding {
            request_id: request_id.clone(),
            provider: asked.target.provider.clone(),
            model: asked.target.model.clone(),
            inputs: key.seal(&json!(texts).to_string()),
            count: u32::try_from(texts.len()).unwrap_or(u32::MAX),
            dimensions: asked.dimensions,
            credential_id: asked.credential_id.clone(),
            deadline: Some(deadline),
            context: context(scope),
        };
        let mut ear = self.hub.listen_for(address.clone());
        let command = EmbeddingCommand::from(command);
        let done = self.platform.submit_as(id, &address, &command, actor, scope, Consistency::Eventual).await?;
        if done.outcome.repeated {
            ear.look().await;
        }
        let ended = async {
            loop {
                let Heard::Event(event) = ear.next().await else { continue };
                if let Some(end) = event.decode().ok().and_then(|event| end(key, event)) {
                    return end;
                }
            }
        };
        let late = || Failure::new(ErrorCategory::Timeout, "deadline", "the vectors take too long");
        let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap_or_else(|_| Err(late()));
        ended.map_err(|failure| failure.error(&request_id))
    }
}

// As many texts in each as an embedding takes.
fn parts(texts: Vec<String>) -> Vec<Vec<String>> {
    let (mut parts, mut bytes) = (Vec::<Vec<String>>::new(), 0);
    for text in texts {
        let full = |part: &Vec<String>| part.len() >= MAX_INPUTS as usize || bytes + text.len() > PART;
        if parts.last().is_none_or(full) {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += text.len();
        if let Some(part) = parts.last_mut() {
            part.push(text);
        }
    }
    parts
}

fn opened(key: &SubjectKey, e: EmbeddingCompleted) -> Result<Embedded, Failure> {
    let unreadable = || {
        Failure::new(ErrorCategory::NotFound, "key_destroyed", "the vectors cannot be read: their key was destroyed")
    };
    let bytes = BASE64.decode(key.open(&e.vectors).map_err(|_| unreadable())?).map_err(|_| unreadable())?;
    let number = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    let numbers: Vec<f32> = bytes.chunks_exact(4).map(number).collect();
    let vectors: Vec<Vec<f32>> = numbers.chunks(e.dimensions.max(1) as usize).map(<[f32]>::to_vec).collect();
    Ok(Embedded {
        request_id: e.request_id,
        provider: e.provider,
        model: e.model,
        vectors,
        usage: e.usage,
        cost: e.cost,
        took_ms: e.total_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_asked_for_in_parts_that_an_embedding_takes() {
        let short = vec!["x".to_owned(); 150];
        assert_eq!(parts(short).iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 22]);
        let long = vec!["x".repeat(PART / 2), "x".repeat(PART / 2), "x".to_owned()];
        assert_eq!(parts(long).iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }
}
