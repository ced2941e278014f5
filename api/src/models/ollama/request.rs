//! What Ollama's clients send, as the requests of OpenAI's API that ask for the same: those are checked in one place.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    super::{error::invalid, request::OneOrMany},
    keep::KeepAlive,
};
use crate::http::ApiResult;

/// The options that have another name here, or the same.
const OPTIONS: [(&str, &str); 10] = [
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("typical_p", "typical_p"),
    ("repeat_penalty", "repeat_penalty"),
    ("presence_penalty", "presence_penalty"),
    ("frequency_penalty", "frequency_penalty"),
    ("seed", "seed"),
    ("stop", "stop"),
];

/// A model, and what it is asked; nothing loads it.
pub(super) struct Given {
    pub(super) model: String,
    pub(super) body: Option<Value>,
    pub(super) keep: Option<KeepAlive>,
    pub(super) thinks: Option<bool>,
}

impl Given {
    fn new(model: String, mut body: Option<Value>, keep: Option<KeepAlive>, think: Option<Value>) -> ApiResult<Given> {
        let thinks = match think {
            None | Some(Value::Null) => None,
            Some(Value::Bool(thinks)) => Some(thinks),
            Some(Value::String(level)) if ["low", "medium", "high"].contains(&level.as_str()) => Some(true),
            Some(_) => return Err(invalid("think", "must be true, false, low, medium or high")),
        };
        if let (Some(body), Some(thinks)) = (&mut body, thinks) {
            body["reasoning_effort"] = json!(if thinks { "medium" } else { "none" });
        }
        Ok(Given { model, body, keep, thinks })
    }
}

/// A conversation.
#[derive(Deserialize, ToSchema)]
pub(super) struct ChatRequest {
    model: String,
    #[serde(default)]
    messages: Vec<Turn>,
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    tools: Option<Vec<Value>>,
    /// `json`, or a JSON schema.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
    /// `temperature`, `top_p`, `top_k`, `min_p`, `typical_p`, `repeat_penalty`, `repeat_last_n`, `presence_penalty`,
    /// `frequency_penalty`, `seed`, `stop`, `num_predict`; others change nothing.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    options: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    /// How long the model stays in memory when nobody asks, in seconds or as `5m`; negative: for ever.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    keep_alive: Option<KeepAlive>,
    /// Whether the model thinks before it answers; `low`, `medium` and `high` are `true`.
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    think: Option<Value>,
}

/// A turn.
#[derive(Deserialize, ToSchema)]
struct Turn {
    role: String,
    #[serde(default)]
    content: String,
    #[serde(default)]
    images: Option<Vec<String>>,
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    tool_calls: Option<Vec<Call>>,
    #[serde(default)]
    tool_name: Option<String>,
}

/// A call that the model made before.
#[derive(Deserialize)]
struct Call {
    function: Called,
}

#[derive(Deserialize)]
struct Called {
    name: String,
    #[serde(default)]
    arguments: Value,
}

/// A text.
#[derive(Deserialize, ToSchema)]
pub(super) struct GenerateRequest {
    model: String,
    #[serde(default)]
    prompt: String,
    #[serde(default)]
    system: Option<String>,
    /// Goes on with the text as it stands, without the chat template.
    #[serde(default)]
    raw: bool,
    #[serde(default)]
    suffix: Option<String>,
    #[serde(default)]
    template: Option<String>,
    #[serde(default)]
    images: Option<Vec<String>>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    options: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    /// As with `/api/chat`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    keep_alive: Option<KeepAlive>,
    /// As with `/api/chat`.
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    think: Option<Value>,
}

/// Texts to make vectors of.
#[derive(Deserialize, ToSchema)]
pub(super) struct EmbedRequest {
    pub(super) model: String,
    /// A text, or up to 2 048.
    pub(super) input: OneOrMany,
    #[serde(default)]
    pub(super) truncate: Option<bool>,
    /// As with `/api/chat`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(super) keep_alive: Option<KeepAlive>,
}

/// The model's own name: these clients add a tag.
pub(super) fn named(model: &str) -> &str {
    model.strip_suffix(":latest").unwrap_or(model)
}

fn unable<T>(path: &str, given: bool, what: T) -> ApiResult<T> {
    if given { Err(invalid(path, "is nothing that the models here take: leave it out")) } else { Ok(what) }
}

fn has(images: Option<&Vec<String>>) -> bool {
    images.is_some_and(|images| !images.is_empty())
}

impl Turn {
    fn into_message(self, index: usize) -> ApiResult<Value> {
        unable(&format!("messages[{index}].images"), has(self.images.as_ref()), ())?;
        let call = |(at, Call { function: Called { name, arguments } }): (usize, Call)| {
            let function = json!({ "name": name, "arguments": arguments.to_string() });
            json!({ "id": format!("call_{index}_{at}"), "type": "function", "function": function })
        };
        let calls: Vec<Value> = self.tool_calls.unwrap_or_default().into_iter().enumerate().map(call).collect();
        Ok(json!({ "role": self.role, "content": self.content, "name": self.tool_name, "tool_calls": calls }))
    }
}

impl ChatRequest {
    pub(super) fn given(self) -> ApiResult<Given> {
        let messages = self.messages.into_iter().enumerate().map(|(index, turn)| turn.into_message(index));
        let messages = messages.collect::<ApiResult<Vec<Value>>>()?;
        let mut body = asked(&self.model, self.options, self.format)?;
        if let Some(tools) = self.tools.filter(|tools| !tools.is_empty()) {
            body.insert("tools".to_owned(), tools.into());
        }
        let body = (!messages.is_empty()).then(|| {
            body.insert("messages".to_owned(), messages.into());
            body.into()
        });
        Given::new(self.model, body, self.keep_alive, self.think)
    }
}

impl GenerateRequest {
    pub(super) fn given(self) -> ApiResult<Given> {
        unable("images", has(self.images.as_ref()), ())?;
        unable("suffix", self.suffix.is_some_and(|suffix| !suffix.is_empty()), ())?;
        unable("template", self.template.is_some_and(|template| !template.is_empty()), ())?;
        if self.prompt.is_empty() {
            return Given::new(self.model, None, self.keep_alive, self.think);
        }
        let mut body = asked(&self.model, self.options, self.format)?;
        if self.raw {
            body.insert("prompt".to_owned(), self.prompt.into());
        } else {
            let system = self.system.filter(|system| !system.is_empty());
            let system = system.map(|system| json!({ "role": "system", "content": system }));
            let user = json!({ "role": "user", "content": self.prompt });
            body.insert("messages".to_owned(), system.into_iter().chain([user]).collect());
        }
        Given::new(self.model, Some(body.into()), self.keep_alive, self.think)
    }
}

fn asked(model: &str, options: Option<Map<String, Value>>, format: Option<Value>) -> ApiResult<Map<String, Value>> {
    let mut body = Map::from_iter([("model".to_owned(), json!(named(model)))]);
    let mut options = options.unwrap_or_default();
    for (theirs, ours) in OPTIONS {
        if let Some(value) = options.remove(theirs).filter(|value| !value.is_null()) {
            body.insert(ours.to_owned(), value);
        }
    }
    // Negative numbers mean as many as there is room for, and all that came before.
    for (theirs, ours) in [("num_predict", "max_tokens"), ("repeat_last_n", "repeat_last_n")] {
        if let Some(count) = options.get(theirs).and_then(Value::as_i64).filter(|count| *count > 0) {
            body.insert(ours.to_owned(), json!(count));
        }
    }
    let shape = match format {
        None | Some(Value::Null) => None,
        Some(Value::String(format)) if format.is_empty() => None,
        Some(Value::String(format)) if format == "json" => Some(json!({ "type": "json_object" })),
        Some(schema @ Value::Object(_)) => {
            Some(json!({ "type": "json_schema", "json_schema": { "name": "format", "schema": schema } }))
        }
        Some(_) => return Err(invalid("format", "must be json, or a JSON schema")),
    };
    body.extend(shape.map(|shape| ("response_format".to_owned(), shape)));
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(body: Value) -> Option<Value> {
        serde_json::from_value::<ChatRequest>(body).ok()?.given().ok()?.body
    }

    #[test]
    fn what_is_asked_becomes_the_other_apis_words() {
        let call = json!({ "function": { "name": "add", "arguments": { "a": 1 } } });
        let body = json!({ "model": "pico:latest", "format": "json", "options": { "num_predict": 5, "stop": ["a"],
            "num_ctx": 99, "top_k": null }, "messages": [
                { "role": "assistant", "tool_calls": [call] }, { "role": "tool", "content": "1", "tool_name": "add" }] });
        let arguments = json!({ "name": "add", "arguments": "{\"a\":1}" });
        let called = json!([{ "id": "call_0_0", "type": "function", "function": arguments }]);
        let expected = json!({ "model": "pico", "max_tokens": 5, "stop": ["a"], "response_format": { "type": "json_object" },
            "messages": [{ "role": "assistant", "content": "", "name": null, "tool_calls": called },
                { "role": "tool", "content": "1", "name": "add", "tool_calls": [] }] });
        assert_eq!(chat(body), Some(expected));
        let unlimited =
            json!({ "model": "m", "options": { "num_predict": -1 }, "messages": [{ "role": "user", "content": "a" }] });
        assert!(chat(unlimited).is_some_and(|body| body["max_tokens"].is_null()));
        assert_eq!(chat(json!({ "model": "m" })), None, "it is loaded");
    }

    #[test]
    fn what_the_models_cannot_do_is_refused() {
        let picture = json!({ "model": "m", "messages": [{ "role": "user", "content": "a", "images": ["aGk="] }] });
        assert_eq!(chat(picture), None);
        for field in ["suffix", "template"] {
            let body = json!({ "model": "m", "prompt": "a", field: "b" });
            let request = serde_json::from_value::<GenerateRequest>(body).map(GenerateRequest::given);
            assert!(request.is_ok_and(|given| given.is_err_and(|error| error.details()[0].path == field)));
        }
        assert!(asked("m", None, Some(json!("xml"))).is_err());
    }
}
