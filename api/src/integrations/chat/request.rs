//! Requests as OpenAI's clients write them.

use serde::Deserialize;
use serde_json::Value;
use symbia_commands::integrations::CHAT;
use symbia_events::integrations::{
    AnswerFormat, PromptMore, PromptOptions, PromptPart, PromptRole, Sampling, Target, Tool, ToolCall, ToolChoice,
};
use utoipa::ToSchema;

use super::unsupported;
use crate::{
    http::ApiResult,
    integrations::{
        ask::{Message, Question},
        errors::refused,
    },
};

/// One text or several.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(in crate::integrations) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// What is asked of a model.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::integrations) struct ChatRequest {
    /// `provider/model`, a model, or `auto`.
    #[serde(default)]
    model: Option<String>,
    /// Asked in turn when the first is at fault.
    #[serde(default)]
    models: Vec<String>,
    messages: Vec<ChatMessage>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    top_k: Option<u32>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    stop: Option<OneOrMany>,
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    frequency_penalty: Option<f64>,
    #[serde(default)]
    presence_penalty: Option<f64>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    tools: Option<Vec<ToolOf>>,
    /// `auto`, `none`, `required`, or a function by its name.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<Value>,
    #[serde(default)]
    parallel_tool_calls: Option<bool>,
    /// `text`, `json_object`, or `json_schema` with the schema.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    response_format: Option<Value>,
    #[serde(default)]
    reasoning_effort: Option<String>,
    /// Only 1.
    #[serde(default)]
    n: Option<u32>,
    #[serde(default)]
    logprobs: Option<bool>,
    /// A key of the vault to ask with.
    #[serde(default)]
    credential_id: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct StreamOptions {
    /// Whether a stream ends with what it took.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// A message.
#[derive(Debug, Deserialize, ToSchema)]
struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    role: String,
    /// A text, or parts.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    content: Option<Content>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<CallOf>>,
    #[serde(default)]
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Part {
    Bare(String),
    Typed(TypedPart),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum TypedPart {
    Text { text: String },
    Refusal { refusal: String },
    ImageUrl { image_url: ImageUrl },
}

#[derive(Debug, Deserialize)]
struct ImageUrl {
    url: String,
}

#[derive(Debug, Deserialize, ToSchema)]
struct CallOf {
    id: String,
    function: FunctionCall,
}

#[derive(Debug, Deserialize, ToSchema)]
struct FunctionCall {
    name: String,
    #[serde(default)]
    arguments: String,
}

/// A tool.
#[derive(Debug, Deserialize, ToSchema)]
struct ToolOf {
    /// `function`.
    #[serde(rename = "type", default)]
    kind: Option<String>,
    function: FunctionOf,
}

#[derive(Debug, Deserialize, ToSchema)]
struct FunctionOf {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    parameters: Option<Value>,
    #[serde(default)]
    strict: Option<bool>,
}

/// What a model's name means.
pub(super) fn target(model: Option<String>) -> Target {
    Target { provider: None, model: model.filter(|model| !model.is_empty() && model != "auto") }
}

impl ChatRequest {
    /// Whether a stream ends with what it took.
    pub fn counts(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// The question that it is.
    pub fn question(self) -> ApiResult<Question> {
        if self.n.is_some_and(|n| n != 1) {
            return Err(unsupported("n", "must be 1: one answer is given at a time"));
        }
        if self.logprobs == Some(true) {
            return Err(unsupported("logprobs", "must be false: probabilities are not passed on"));
        }
        let messages = self.messages.into_iter().enumerate().map(|(index, message)| message.read(index));
        let tools = self.tools.unwrap_or_default().into_iter().enumerate().map(|(index, tool)| tool.read(index));
        let options = PromptOptions {
            tools: tools.collect::<ApiResult<_>>()?,
            tool_choice: self.tool_choice.map(|choice| tool_choice(&choice)).transpose()?,
            parallel_tool_calls: self.parallel_tool_calls,
            format: self.response_format.map(|format| answer_format(&format)).transpose()?.flatten(),
            reasoning_effort: self.reasoning_effort,
            thinking_tokens: None,
        };
        Ok(Question {
            operation: CHAT,
            target: target(self.model),
            fallbacks: self.models.into_iter().map(|model| target(Some(model))).collect(),
            messages: messages.collect::<ApiResult<_>>()?,
            sampling: Sampling {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                max_tokens: self.max_completion_tokens.or(self.max_tokens),
                stop: self.stop.map(OneOrMany::into_vec).unwrap_or_default(),
                seed: self.seed,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
            },
            options,
            stream: self.stream.unwrap_or(false),
            credential_id: self.credential_id,
        })
    }
}

impl ChatMessage {
    fn read(self, index: usize) -> ApiResult<Message> {
        let at = |field: &str| format!("messages[{index}].{field}");
        let role = match self.role.as_str() {
            "system" | "developer" => PromptRole::System,
            "user" => PromptRole::User,
            "assistant" => PromptRole::Assistant,
            "tool" => PromptRole::Tool,
            _ => return Err(refused(&at("role"), "must be system, developer, user, assistant or tool")),
        };
        if role == PromptRole::Tool && self.tool_call_id.is_none() {
            return Err(refused(&at("tool_call_id"), "is required: which call it answers"));
        }
        let tool_calls: Vec<ToolCall> = self.tool_calls.unwrap_or_default().into_iter().map(CallOf::read).collect();
        let (text, parts) = match self.content {
            Some(Content::Text(text)) => (text, Vec::new()),
            Some(Content::Parts(parts)) => read_parts(parts),
            None if role == PromptRole::Assistant && !tool_calls.is_empty() => (String::new(), Vec::new()),
            None => return Err(refused(&at("content"), "is required")),
        };
        let more = PromptMore { parts, tool_calls, tool_call_id: self.tool_call_id };
        Ok(Message { role, text, name: self.name, more })
    }
}

// Parts of text alone are a text.
fn read_parts(parts: Vec<Part>) -> (String, Vec<PromptPart>) {
    let read = |part| match part {
        Part::Bare(text)
        | Part::Typed(TypedPart::Text { text })
        | Part::Typed(TypedPart::Refusal { refusal: text }) => PromptPart::Text { text },
        Part::Typed(TypedPart::ImageUrl { image_url }) => PromptPart::Image { url: image_url.url },
    };
    let parts: Vec<PromptPart> = parts.into_iter().map(read).collect();
    let texts = parts.iter().filter_map(|part| match part {
        PromptPart::Text { text } => Some(text.as_str()),
        PromptPart::Image { .. } => None,
    });
    let text = texts.collect::<Vec<_>>().join("\n");
    let plain = parts.iter().all(|part| matches!(part, PromptPart::Text { .. }));
    (text, if plain { Vec::new() } else { parts })
}

impl CallOf {
    fn read(self) -> ToolCall {
        ToolCall { id: self.id, name: self.function.name, arguments: self.function.arguments }
    }
}

impl ToolOf {
    fn read(self, index: usize) -> ApiResult<Tool> {
        if self.kind.is_some_and(|kind| kind != "function") {
            return Err(refused(&format!("tools[{index}].type"), "must be function"));
        }
        let FunctionOf { name, description, parameters, strict } = self.function;
        let parameters = parameters.unwrap_or_else(|| serde_json::json!({ "type": "object", "properties": {} }));
        checked_tool(&format!("tools[{index}].function"), Tool { name, description, parameters, strict })
    }
}

/// A tool that a provider can be given.
pub(in crate::integrations) fn checked_tool(at: &str, tool: Tool) -> ApiResult<Tool> {
    let named = (1..=64).contains(&tool.name.len());
    if !named || !tool.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)) {
        return Err(refused(&format!("{at}.name"), "must have 1 to 64 letters, digits, _ or -"));
    }
    if !tool.parameters.is_object() {
        return Err(refused(&format!("{at}.parameters"), "must be a JSON schema: an object"));
    }
    Ok(tool)
}

fn tool_choice(choice: &Value) -> ApiResult<ToolChoice> {
    match (choice.as_str(), choice["function"]["name"].as_str()) {
        (Some("auto"), _) => Ok(ToolChoice::Auto),
        (Some("none"), _) => Ok(ToolChoice::None),
        (Some("required"), _) => Ok(ToolChoice::Required),
        (None, Some(name)) => Ok(ToolChoice::Named(name.to_owned())),
        _ => Err(refused(
            "tool_choice",
            "must be auto, none, required, or {\"type\":\"function\",\"function\":{\"name\":…}}",
        )),
    }
}

fn answer_format(format: &Value) -> ApiResult<Option<AnswerFormat>> {
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(AnswerFormat::JsonObject)),
        Some("json_schema") => {
            let described = &format["json_schema"];
            let (Some(name), true) = (described["name"].as_str(), described["schema"].is_object()) else {
                return Err(refused("response_format.json_schema", "must have a name and a schema"));
            };
            let (name, schema) = (name.to_owned(), described["schema"].clone());
            Ok(Some(AnswerFormat::JsonSchema { name, schema, strict: described["strict"].as_bool() }))
        }
        _ => Err(refused("response_format.type", "must be text, json_object or json_schema")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(request: Value) -> ApiResult<Question> {
        serde_json::from_value::<ChatRequest>(request).unwrap().question()
    }

    #[test]
    fn a_request_of_a_stock_client_is_understood() {
        let question = read(json!({
            "model": "anthropic/claude-3-5-haiku-20241022", "models": ["gpt-4o"], "stream": true, "max_completion_tokens": 5,
            "messages": [
                { "role": "developer", "content": "be kind" },
                { "role": "user", "content": [{ "type": "text", "text": "what?" },
                    { "type": "image_url", "image_url": { "url": "https://x/y.png", "detail": "low" } }] },
                { "role": "assistant", "content": null,
                  "tool_calls": [{ "id": "c1", "type": "function", "function": { "name": "add", "arguments": "{}" } }] },
                { "role": "tool", "tool_call_id": "c1", "content": [{ "type": "text", "text": "2" }] },
            ],
            "tools": [{ "type": "function", "function": { "name": "add" } }], "tool_choice": "required",
            "response_format": { "type": "json_schema", "json_schema": { "name": "s", "schema": {}, "strict": true } },
        }))
        .unwrap();
        assert_eq!(question.target.model.as_deref(), Some("anthropic/claude-3-5-haiku-20241022"));
        assert_eq!(question.fallbacks.len(), 1);
        let roles: Vec<_> = question.messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [PromptRole::System, PromptRole::User, PromptRole::Assistant, PromptRole::Tool]);
        assert_eq!(question.messages[1].more.parts.len(), 2);
        assert_eq!((question.messages[3].text.as_str(), question.messages[3].more.parts.len()), ("2", 0));
        assert_eq!(question.options.tool_choice, Some(ToolChoice::Required));
        assert_eq!((question.sampling.max_tokens, question.stream), (Some(5), true));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_its_name() {
        let user = json!([{ "role": "user", "content": "hi" }]);
        for (request, field) in [
            (json!({ "messages": user, "n": 2 }), "n"),
            (json!({ "messages": user, "logprobs": true }), "logprobs"),
            (json!({ "messages": [{ "role": "robot", "content": "hi" }] }), "messages[0].role"),
            (json!({ "messages": [{ "role": "user" }] }), "messages[0].content"),
            (json!({ "messages": [{ "role": "tool", "content": "x" }] }), "messages[0].tool_call_id"),
            (json!({ "messages": user, "tools": [{ "function": { "name": "a b" } }] }), "tools[0].function.name"),
            (
                json!({ "messages": user, "tools": [{ "function": { "name": "a", "parameters": [] } }] }),
                "tools[0].function.parameters",
            ),
            (json!({ "messages": user, "tool_choice": "maybe" }), "tool_choice"),
            (json!({ "messages": user, "response_format": { "type": "xml" } }), "response_format.type"),
        ] {
            let error = read(request).unwrap_err();
            assert_eq!(error.details()[0].path, field);
        }
    }
}
