//! `POST /v1/moderations` as OpenAI has it.

use axum::{extract::State, middleware::map_response};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_events::integrations::{ModerationInput, ModerationOutput, PromptPart, TaskKind};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Integrations,
    ask::Tagged,
    chat::target,
    errors::{as_openai, refused},
    tasks::{Performed, Wanted},
};
use crate::http::{ApiResult, Caller, Json, RequestScope, routes};

/// Texts or parts of a request at most, and bytes of the texts.
const MOST: usize = 512;
const LONGEST: usize = 1024 * 1024;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(moderate)).layer(map_response(as_openai))
}

/// What is to be looked at.
#[derive(Debug, Deserialize, ToSchema)]
struct ModerationRequest {
    /// A text, 1 to 512 texts, or parts: `{"type": "text", "text"}` and `{"type": "image_url", "image_url": {"url"}}`.
    #[schema(value_type = Object)]
    input: Value,
    /// `provider/model`, a model, or the name of a route; absent: the provider's default.
    #[serde(default)]
    model: Option<String>,
    /// A key of the vault to ask with.
    #[serde(default)]
    credential_id: Option<String>,
}

fn read(input: Value) -> ApiResult<ModerationInput> {
    let input = match input {
        Value::String(text) => ModerationInput::One(text),
        Value::Array(items) if items.is_empty() || items.len() > MOST => {
            return Err(refused("input", format!("must be 1 to {MOST} texts or parts")));
        }
        Value::Array(items) if items.iter().all(Value::is_string) => {
            ModerationInput::Many(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        Value::Array(items) => {
            let parts = items.iter().enumerate().map(|(index, item)| part(index, item));
            ModerationInput::Parts(parts.collect::<ApiResult<_>>()?)
        }
        _ => return Err(refused("input", "must be a text, an array of texts, or an array of parts")),
    };
    let texts: Vec<&str> = input.texts().collect();
    if texts.iter().any(|text| text.is_empty()) {
        return Err(refused("input", "must not contain empty texts"));
    }
    if texts.iter().map(|text| text.len()).sum::<usize>() > LONGEST {
        return Err(refused("input", format!("must be at most {LONGEST} bytes of text")));
    }
    Ok(input)
}

fn part(index: usize, item: &Value) -> ApiResult<PromptPart> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let part = match item["type"].as_str() {
        Some("text") => text(&item["text"]).map(|text| PromptPart::Text { text }),
        Some("image_url") => text(&item["image_url"]["url"]).map(|url| PromptPart::Image { url }),
        _ => None,
    };
    let message = "must be {\"type\": \"text\", \"text\"} or {\"type\": \"image_url\", \"image_url\": {\"url\"}}";
    part.ok_or_else(|| refused(&format!("input[{index}]"), message))
}

/// Have it said whether texts and pictures are harmful, as OpenAI's API has it
#[utoipa::path(post, path = "/v1/moderations", tag = "OpenAI-compatible", params(Tagged), request_body = ModerationRequest,
    responses((status = 200, description = "A result for each text, or one for all parts", body = Object),
        (status = 400, description = "A field is not valid, or the provider does not moderate"),
        (status = 401, description = "There is no key for the provider"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider or model")))]
async fn moderate(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(request): Json<ModerationRequest>,
) -> ApiResult<axum::Json<Value>> {
    let mut input = read(request.input)?;
    let task = service.task(&caller, &scope, TaskKind::Moderation).await?;
    let mut keeps = false;
    if let ModerationInput::Parts(parts) = &mut input {
        for (index, part) in parts.iter_mut().enumerate() {
            let PromptPart::Image { url } = part else { continue };
            keeps |=
                service.keep_picture((&task.org, &task.request_id), &task.key, &format!("input[{index}]"), url).await?;
        }
    }
    let wanted = Wanted {
        kind: TaskKind::Moderation,
        target: target(request.model),
        input,
        credential_id: request.credential_id,
    };
    let performed = service.perform::<_, ModerationOutput>(&task, &scope, wanted).await;
    if keeps {
        service.forget_pictures(&task.org, &task.request_id).await;
    }
    let Performed { done, output, .. } = performed?;
    let id = output.id.unwrap_or_else(|| format!("modr-{}", task.request_id));
    Ok(axum::Json(json!({ "id": id, "model": done.model, "results": output.results })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_parts_are_read_and_what_is_neither_is_refused() {
        assert_eq!(read(json!("x")).unwrap(), ModerationInput::One("x".into()));
        assert_eq!(read(json!(["x", "y"])).unwrap(), ModerationInput::Many(vec!["x".into(), "y".into()]));
        let picture = json!({ "type": "image_url", "image_url": { "url": "https://example.test/1.png" } });
        let parts = read(json!([{ "type": "text", "text": "x" }, picture])).unwrap();
        assert!(matches!(parts, ModerationInput::Parts(parts) if parts.len() == 2));
        for wrong in [
            json!(null),
            json!(1),
            json!(""),
            json!([]),
            json!(["x", ""]),
            json!(vec!["x"; MOST + 1]),
            json!(["x", picture]),
            json!([{ "type": "text" }]),
            json!("x".repeat(LONGEST + 1)),
        ] {
            assert!(read(wrong.clone()).is_err(), "{}", wrong.to_string().get(..60).unwrap_or_default());
        }
    }
}
