//! Requests for responses as OpenAI's clients write them.

use serde::Deserialize;
use serde_json::{Value, json};
use symbia_events::integrations::{AnswerFormat, PromptOptions, PromptRole, Sampling, Tool, ToolChoice};
use utoipa::ToSchema;

use super::{
    OPERATION,
    input::{Input, parsed},
};
use crate::{
    http::ApiResult,
    integrations::{
        ask::{Message, Question},
        chat::{checked_logprobs, checked_tool, target},
        errors::refused,
        tooling::{ServerOf, Wanted, WantedServer, first_tool, most_rounds},
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
    /// Functions, which the caller calls, and MCP servers of the organization's registry, whose tools are called here:
    /// `{"type": "mcp", "server_label": <key>, "allowed_tools": […]}`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// How often the model may be asked again with what tools of servers gave, 1 to 16; 8 when it is not given.
    #[serde(default)]
    max_tool_rounds: Option<u32>,
    /// `auto`, `none`, `required`, a function by its name, or a server's tool by both names.
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
    /// The question that it is, after what was said `earlier`, where tools are functions.
    pub fn question(self, earlier: Vec<Message>) -> ApiResult<Question> {
        let (question, wanted) = self.read(earlier)?;
        wanted.functions_alone()?;
        Ok(question)
    }

    /// The question that it is, after what was said `earlier`, and what it wants of servers besides.
    pub fn read(self, earlier: Vec<Message>) -> ApiResult<(Question, Wanted)> {
        self.only_what_is_here()?;
        let logprobs = self.include.is_some_and(|include| !include.is_empty()) || self.top_logprobs.is_some();
        let logprobs = logprobs.then(|| self.top_logprobs.unwrap_or_default());
        let format = self.text.as_ref().map(|text| &text["format"]).filter(|format| !format.is_null());
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning["effort"].as_str());
        let (mut tools, mut servers) = (Vec::new(), Vec::new());
        for (index, given) in self.tools.unwrap_or_default().into_iter().enumerate() {
            let at = format!("tools[{index}]");
            match given["type"].as_str() {
                Some("mcp") => servers.push(server(&at, given)?),
                _ => tools.push(tool(&at, given)?),
            }
        }
        let first = self.tool_choice.as_ref().map(first_tool).transpose()?.flatten();
        let choice = self.tool_choice.filter(|_| first.is_none());
        let wanted = Wanted { servers, first, most: most_rounds(self.max_tool_rounds)? };
        let options = PromptOptions {
            tools,
            tool_choice: choice.as_ref().map(tool_choice).transpose()?,
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
        self.input.read(&mut messages)?;
        let question = Question {
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
        };
        Ok((question, wanted))
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

fn server(at: &str, given: Value) -> ApiResult<WantedServer> {
    parsed::<ServerOf>(at, given)?.read(at)
}

fn tool(at: &str, tool: Value) -> ApiResult<Tool> {
    if tool["type"] != "function" {
        return Err(refused(
            &format!("{at}.type"),
            "must be function or mcp: there are no tools of the platform's own",
        ));
    }
    let FunctionTool { name, description, parameters, strict } = parsed(at, tool)?;
    let parameters = parameters.unwrap_or_else(|| json!({ "type": "object", "properties": {} }));
    checked_tool(at, Tool { name, description, parameters, strict })
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
    fn calls_that_were_made_here_come_back_as_the_turns_that_they_were() {
        let request = json!({
            "tools": [{ "type": "mcp", "server_label": "weather" }, { "type": "function", "name": "add" }],
            "input": [
                { "role": "user", "content": "rain?" },
                { "type": "mcp_list_tools", "id": "mcpl_1", "server_label": "weather", "tools": [] },
                { "type": "mcp_call", "id": "mcp_1", "server_label": "weather", "name": "get", "arguments": "{}", "output": "yes" },
                { "type": "mcp_call", "id": "mcp_2", "server_label": "weather", "name": "get", "arguments": "{}",
                  "output": null, "error": { "type": "http_error", "code": 504, "message": "late" } },
            ],
        });
        let request = serde_json::from_value::<ResponsesRequest>(request).unwrap();
        let (question, wanted) = request.read(Vec::new()).unwrap();
        assert_eq!((wanted.servers.len(), question.options.tools.len(), question.messages.len()), (1, 1, 5));
        let call = &question.messages[1].more.tool_calls[0];
        assert_eq!((call.id.as_str(), call.name.as_str()), ("mcp_1", "weather_get"));
        let result = &question.messages[2];
        assert_eq!((result.text.as_str(), result.more.tool_call_id.as_deref()), ("yes", Some("mcp_1")));
        assert!(question.messages[4].text.starts_with("Error: ") && question.messages[4].text.contains("late"));
    }

    #[test]
    fn what_is_not_here_is_refused_by_its_name() {
        for (more, field) in [
            (json!({ "background": true }), "background"),
            (json!({ "conversation": "conv_1" }), "conversation"),
            (json!({ "truncation": "auto" }), "truncation"),
            (json!({ "include": ["file_search_call.results"] }), "include"),
            (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
            (json!({ "tools": [{ "type": "mcp", "server_label": "x" }] }), "tools[0].type"),
            (
                json!({ "tools": [{ "type": "mcp", "server_label": "x", "server_url": "https://x" }] }),
                "tools[0].server_url",
            ),
            (json!({ "max_tool_rounds": 0 }), "max_tool_rounds"),
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
