//! Requests for responses as OpenAI's clients write them.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use symbia_events::integrations::{
    AnswerFormat, PromptMore, PromptOptions, PromptPart, PromptRole, Sampling, Tool, ToolCall, ToolChoice,
};
use utoipa::ToSchema;

use super::OPERATION;
use crate::{
    http::ApiResult,
    integrations::{
        ask::{Message, Question},
        chat::{checked_logprobs, checked_tool, plain, target},
        errors::refused,
    },
};

/// What asks for probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

/// What is asked of a model.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::integrations) struct ResponsesRequest {
    /// `provider/model`, a model, or `auto`.
    #[serde(default)]
    pub model: Option<String>,
    /// A text, or items.
    #[schema(value_type = Object)]
    input: Input,
    /// Said before everything else, in this response alone.
    #[serde(default)]
    pub instructions: Option<String>,
    /// The response that this one goes on with.
    #[serde(default)]
    pub previous_response_id: Option<String>,
    #[serde(default)]
    pub max_output_tokens: Option<u32>,
    #[serde(default)]
    pub temperature: Option<f64>,
    #[serde(default)]
    pub top_p: Option<f64>,
    #[serde(default)]
    stream: Option<bool>,
    /// Functions.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `auto`, `none`, `required`, or a function by its name.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// The answer's shape: `{"format": {"type": "json_schema", "name": …, "schema": …}}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub text: Option<Value>,
    /// `{"effort": …}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub reasoning: Option<Value>,
    /// Only `message.output_text.logprobs`.
    #[serde(default)]
    include: Option<Vec<String>>,
    #[serde(default)]
    pub top_logprobs: Option<u32>,
    /// Only false.
    #[serde(default)]
    background: Option<bool>,
    /// Not here: name `previous_response_id`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    conversation: Option<Value>,
    /// Not here.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    prompt: Option<Value>,
    /// Only `disabled`.
    #[serde(default)]
    truncation: Option<String>,
    /// Given back as it is.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
    /// Whether it can be read, and gone on with, later.
    #[serde(default)]
    pub store: Option<bool>,
    /// A key of the vault to ask with.
    #[serde(default)]
    credential_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Items(Vec<Value>),
}

#[derive(Deserialize)]
struct MessageItem {
    role: String,
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    #[serde(alias = "output_text", alias = "text")]
    InputText {
        text: String,
    },
    Refusal {
        refusal: String,
    },
    InputImage {
        image_url: String,
    },
}

#[derive(Deserialize)]
struct CallItem {
    call_id: String,
    name: String,
    #[serde(default)]
    arguments: String,
}

#[derive(Deserialize)]
struct OutputItem {
    call_id: String,
    output: Content,
}

#[derive(Deserialize)]
struct FunctionTool {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    parameters: Option<Value>,
    #[serde(default)]
    strict: Option<bool>,
}

impl ResponsesRequest {
    /// The question that it is, after what was said `earlier`.
    pub fn question(self, earlier: Vec<Message>) -> ApiResult<Question> {
        self.only_what_is_here()?;
        let logprobs = self.include.is_some_and(|include| !include.is_empty()) || self.top_logprobs.is_some();
        let logprobs = logprobs.then(|| self.top_logprobs.unwrap_or_default());
        let format = self.text.as_ref().map(|text| &text["format"]).filter(|format| !format.is_null());
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning["effort"].as_str());
        let tools = self.tools.unwrap_or_default().into_iter().enumerate().map(tool);
        let options = PromptOptions {
            tools: tools.collect::<ApiResult<_>>()?,
            tool_choice: self.tool_choice.as_ref().map(tool_choice).transpose()?,
            parallel_tool_calls: self.parallel_tool_calls,
            format: format.map(answer_format).transpose()?.flatten(),
            reasoning_effort: effort.map(str::to_owned),
            logprobs: checked_logprobs("top_logprobs", logprobs)?,
            instructed: self.instructions.is_some(),
            unstored: self.store == Some(false),
            ..PromptOptions::default()
        };
        let mut messages = Vec::from_iter(self.instructions.map(|said| Message::text(PromptRole::System, said)));
        messages.extend(earlier);
        match self.input {
            Input::Text(text) => messages.push(Message::text(PromptRole::User, text)),
            Input::Items(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    read(&format!("input[{index}]"), item, &mut messages)?;
                }
            }
        }
        Ok(Question {
            operation: OPERATION,
            target: target(self.model),
            fallbacks: Vec::new(),
            messages,
            sampling: Sampling {
                temperature: self.temperature,
                top_p: self.top_p,
                max_tokens: self.max_output_tokens,
                ..Sampling::default()
            },
            options,
            stream: self.stream.unwrap_or(false),
            credential_id: self.credential_id,
        })
    }

    fn only_what_is_here(&self) -> ApiResult<()> {
        let includes = self.include.iter().flatten().all(|what| what == LOGPROBS);
        let disabled = self.truncation.as_deref().is_none_or(|truncation| truncation == "disabled");
        for (fits, param, message) in [
            (self.background != Some(true), "background", "must be false: an answer is waited for, or streamed"),
            (self.conversation.is_none(), "conversation", "is not supported: name previous_response_id"),
            (self.prompt.is_none(), "prompt", "is not supported: send instructions and input"),
            (disabled, "truncation", "must be disabled: nothing is cut off"),
            (includes, "include", "must be message.output_text.logprobs alone"),
        ] {
            if !fits {
                return Err(refused(param, message));
            }
        }
        Ok(())
    }
}

fn parsed<T: DeserializeOwned>(at: &str, value: Value) -> ApiResult<T> {
    serde_json::from_value(value).map_err(|e| refused(at, format!("cannot be read: {e}")))
}

// One item of the input, as a turn or a part of the last one.
fn read(at: &str, item: Value, messages: &mut Vec<Message>) -> ApiResult<()> {
    match item["type"].as_str() {
        None | Some("message") => messages.push(message(at, parsed(at, item)?)?),
        Some("function_call") => {
            let CallItem { call_id, name, arguments } = parsed(at, item)?;
            let call = ToolCall { id: call_id, name, arguments };
            // Calls that follow one another, or a text, are of one turn.
            match messages.last_mut().filter(|last| last.role == PromptRole::Assistant) {
                Some(last) => last.more.tool_calls.push(call),
                None => {
                    let more = PromptMore { tool_calls: vec![call], ..PromptMore::default() };
                    messages.push(Message { more, ..Message::text(PromptRole::Assistant, "") });
                }
            }
        }
        Some("function_call_output") => {
            let OutputItem { call_id, output } = parsed(at, item)?;
            let (text, parts) = content(output);
            if !parts.is_empty() {
                return Err(refused(&format!("{at}.output"), "must be text"));
            }
            let more = PromptMore { tool_call_id: Some(call_id), ..PromptMore::default() };
            messages.push(Message { more, ..Message::text(PromptRole::Tool, text) });
        }
        // What a model thought is its provider's own, and means nothing to another.
        Some("reasoning") => {}
        Some(other) => {
            let message = format!("is {other}: must be message, function_call, function_call_output or reasoning");
            return Err(refused(&format!("{at}.type"), message));
        }
    }
    Ok(())
}

fn message(at: &str, MessageItem { role, content: said }: MessageItem) -> ApiResult<Message> {
    let role = match role.as_str() {
        "system" | "developer" => PromptRole::System,
        "user" => PromptRole::User,
        "assistant" => PromptRole::Assistant,
        _ => return Err(refused(&format!("{at}.role"), "must be system, developer, user or assistant")),
    };
    let (text, parts) = content(said);
    Ok(Message { role, text, name: None, more: PromptMore { parts, ..PromptMore::default() } })
}

fn content(content: Content) -> (String, Vec<PromptPart>) {
    let part = |part| match part {
        Part::InputText { text } | Part::Refusal { refusal: text } => PromptPart::Text { text },
        Part::InputImage { image_url } => PromptPart::Image { url: image_url },
    };
    match content {
        Content::Text(text) => (text, Vec::new()),
        Content::Parts(parts) => plain(parts.into_iter().map(part).collect()),
    }
}

fn tool((index, tool): (usize, Value)) -> ApiResult<Tool> {
    let at = format!("tools[{index}]");
    if tool["type"] != "function" {
        return Err(refused(&format!("{at}.type"), "must be function: there are no tools of the platform's own"));
    }
    let FunctionTool { name, description, parameters, strict } = parsed(&at, tool)?;
    let parameters = parameters.unwrap_or_else(|| json!({ "type": "object", "properties": {} }));
    checked_tool(&at, Tool { name, description, parameters, strict })
}

fn tool_choice(choice: &Value) -> ApiResult<ToolChoice> {
    match (choice.as_str(), choice["type"].as_str(), choice["name"].as_str()) {
        (Some("auto"), ..) => Ok(ToolChoice::Auto),
        (Some("none"), ..) => Ok(ToolChoice::None),
        (Some("required"), ..) => Ok(ToolChoice::Required),
        (None, Some("function"), Some(name)) => Ok(ToolChoice::Named(name.to_owned())),
        _ => Err(refused("tool_choice", "must be auto, none, required, or {\"type\":\"function\",\"name\":…}")),
    }
}

fn answer_format(format: &Value) -> ApiResult<Option<AnswerFormat>> {
    match (format["type"].as_str(), format["name"].as_str()) {
        (Some("text"), _) => Ok(None),
        (Some("json_object"), _) => Ok(Some(AnswerFormat::JsonObject)),
        (Some("json_schema"), Some(name)) if format["schema"].is_object() => {
            let (name, schema) = (name.to_owned(), format["schema"].clone());
            Ok(Some(AnswerFormat::JsonSchema { name, schema, strict: format["strict"].as_bool() }))
        }
        (Some("json_schema"), _) => Err(refused("text.format", "must have a name and a schema")),
        _ => Err(refused("text.format.type", "must be text, json_object or json_schema")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn asked(request: Value) -> ApiResult<Question> {
        let earlier = vec![Message::text(PromptRole::User, "before"), Message::text(PromptRole::Assistant, "yes?")];
        serde_json::from_value::<ResponsesRequest>(request).unwrap().question(earlier)
    }

    #[test]
    fn items_become_turns_behind_what_was_said_before() {
        let question = asked(json!({
            "model": "openai/gpt-5", "instructions": "be kind", "max_output_tokens": 7, "reasoning": { "effort": "low" },
            "input": [
                { "role": "user", "content": [{ "type": "input_text", "text": "what?" },
                    { "type": "input_image", "image_url": "https://x/y.png", "detail": "auto" }] },
                { "type": "reasoning", "id": "rs_1", "summary": [] },
                { "type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
                  "content": [{ "type": "output_text", "text": "let me see", "annotations": [] }] },
                { "type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}" },
                { "type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}" },
                { "type": "function_call_output", "call_id": "c1", "output": "2" },
                { "type": "function_call_output", "call_id": "c2", "output": [{ "type": "input_text", "text": "3" }] },
            ],
            "tools": [{ "type": "function", "name": "add", "strict": true }],
            "tool_choice": { "type": "function", "name": "add" },
            "text": { "format": { "type": "json_schema", "name": "s", "schema": {}, "strict": true } },
            "include": ["message.output_text.logprobs"], "top_logprobs": 2,
        }))
        .unwrap();
        use PromptRole::{Assistant, System, Tool, User};
        let said: Vec<_> = question.messages.iter().map(|m| (m.role, m.text.as_str())).collect();
        let expected = [(System, "be kind"), (User, "before"), (Assistant, "yes?"), (User, "what?")];
        assert_eq!(said[..4], expected);
        assert_eq!(said[4..], [(Assistant, "let me see"), (Tool, "2"), (Tool, "3")]);
        assert_eq!(question.messages[3].more.parts.len(), 2);
        let calls: Vec<_> = question.messages[4].more.tool_calls.iter().map(|call| call.id.as_str()).collect();
        assert_eq!(calls, ["c1", "c2"]);
        let options = question.options;
        assert!(options.instructed && options.tools[0].strict == Some(true));
        assert_eq!((options.tool_choice, options.logprobs), (Some(ToolChoice::Named("add".into())), Some(2)));
        assert_eq!((options.reasoning_effort.as_deref(), question.sampling.max_tokens), (Some("low"), Some(7)));
    }

    #[test]
    fn what_is_not_here_is_refused_by_its_name() {
        for (more, field) in [
            (json!({ "background": true }), "background"),
            (json!({ "conversation": "conv_1" }), "conversation"),
            (json!({ "truncation": "auto" }), "truncation"),
            (json!({ "include": ["file_search_call.results"] }), "include"),
            (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
            (json!({ "tool_choice": { "type": "web_search" } }), "tool_choice"),
            (json!({ "text": { "format": { "type": "grammar" } } }), "text.format.type"),
            (json!({ "input": [{ "type": "item_reference", "id": "x" }] }), "input[0].type"),
            (json!({ "input": [{ "role": "robot", "content": "x" }] }), "input[0].role"),
            (json!({ "input": [{ "role": "user", "content": [{ "type": "input_file" }] }] }), "input[0]"),
        ] {
            let mut request = json!({ "input": "hi" });
            request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(asked(request).unwrap_err().details()[0].path, field);
        }
    }
}
