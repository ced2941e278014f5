//! Requests as OpenAI's clients write them.

use serde::Deserialize;
use serde_json::Value;
use symbia_commands::integrations::CHAT;
use symbia_events::integrations::{AnswerFormat, Hedge, PromptOptions, Sampling, Target, Tool, ToolChoice};
use utoipa::ToSchema;

use super::{
    message::ChatMessage,
    routing::{Caching, Hedging, Routing},
};
use crate::{
    http::ApiResult,
    integrations::{
        ask::Question,
        errors::refused,
        tooling::{ServerOf, Wanted, WantedServer, first_tool, most_rounds},
    },
};

/// Most answers to one request.
const MAX_CHOICES: u32 = 8;

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
    /// Functions, which the caller calls, and MCP servers of the organization's registry, whose tools are called here.
    #[serde(default)]
    tools: Option<Vec<ToolOf>>,
    /// How often the model may be asked again with what tools of servers gave, 1 to 16; 8 when it is not given.
    #[serde(default)]
    max_tool_rounds: Option<u32>,
    /// `auto`, `none`, `required`, a function by its name, or a server's tool: `{"type": "mcp", "server": …, "name": …}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<Value>,
    #[serde(default)]
    parallel_tool_calls: Option<bool>,
    /// `text`, `json_object`, or `json_schema` with the schema.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    response_format: Option<Value>,
    /// Instead of `response_format`: GBNF with the rule `root`, for local models and servers that know it.
    #[serde(default)]
    grammar: Option<String>,
    #[serde(default)]
    reasoning_effort: Option<String>,
    /// Answers, 1 to 8.
    #[serde(default)]
    n: Option<u32>,
    /// Tells how likely each token was.
    #[serde(default)]
    logprobs: Option<bool>,
    /// And so many of the likeliest in its place, 0 to 20.
    #[serde(default)]
    top_logprobs: Option<u32>,
    /// Which of `model` and `models` is asked first.
    #[serde(default)]
    routing: Option<Routing>,
    /// When the next of `models` is asked besides.
    #[serde(default)]
    hedge: Option<Hedging>,
    /// Whether an earlier answer to the same request will do.
    #[serde(default)]
    cache: Option<Caching>,
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

/// A tool.
#[derive(Debug, Deserialize, ToSchema)]
struct ToolOf {
    /// `function`, or `mcp`.
    #[serde(rename = "type", default)]
    kind: Option<String>,
    /// With `type` `function`.
    #[serde(default)]
    function: Option<FunctionOf>,
    #[serde(flatten)]
    server: ServerOf,
}

/// What a tool is.
enum Given {
    Function(Tool),
    Server(WantedServer),
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
pub(in crate::integrations) fn target(model: Option<String>) -> Target {
    Target { provider: None, model: model.filter(|model| !model.is_empty() && model != "auto") }
}

impl ChatRequest {
    /// Whether a stream ends with what it took.
    pub fn counts(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// The question that it is, where tools are functions.
    pub fn question(self) -> ApiResult<Question> {
        let (question, wanted) = self.read()?;
        wanted.functions_alone()?;
        Ok(question)
    }

    /// The question that it is, and what it wants of servers besides.
    pub fn read(self) -> ApiResult<(Question, Wanted)> {
        let shape = self.response_format.map(|format| answer_format(&format)).transpose()?.flatten();
        let format = match (shape, self.grammar) {
            (Some(_), Some(_)) => return Err(refused("grammar", "cannot be given together with response_format")),
            (shape, grammar) => shape.or(grammar.map(|grammar| AnswerFormat::Grammar { grammar })),
        };
        let logprobs = (self.logprobs == Some(true)).then(|| self.top_logprobs.unwrap_or_default());
        let messages = self.messages.into_iter().enumerate().map(|(index, message)| message.read(index));
        let (mut tools, mut servers) = (Vec::new(), Vec::new());
        for (index, tool) in self.tools.unwrap_or_default().into_iter().enumerate() {
            match tool.read(index)? {
                Given::Function(tool) => tools.push(tool),
                Given::Server(server) => servers.push(server),
            }
        }
        let first = self.tool_choice.as_ref().map(first_tool).transpose()?.flatten();
        let choice = self.tool_choice.filter(|_| first.is_none());
        let wanted = Wanted { servers, first, most: most_rounds(self.max_tool_rounds)? };
        let mut options = PromptOptions {
            tools,
            tool_choice: choice.map(|choice| tool_choice(&choice)).transpose()?,
            parallel_tool_calls: self.parallel_tool_calls,
            format,
            reasoning_effort: self.reasoning_effort,
            choices: choices(self.n)?,
            logprobs: checked_logprobs("top_logprobs", logprobs)?,
            balance: self.routing.map(Routing::read),
            hedge: self.hedge.map(Hedge::try_from).transpose()?,
            ..PromptOptions::default()
        };
        if let Some(cache) = self.cache {
            cache.set(&mut options)?;
        }
        // Which of several answers would go on?
        if options.choices.is_some() && !wanted.is_nothing() {
            return Err(refused("n", "must be 1 with tools of servers"));
        }
        let question = Question {
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
        };
        Ok((question, wanted))
    }
}

/// How many answers are asked for; none: one.
pub(super) fn choices(n: Option<u32>) -> ApiResult<Option<u32>> {
    if n.is_some_and(|n| !(1..=MAX_CHOICES).contains(&n)) {
        return Err(refused("n", format!("must be 1 to {MAX_CHOICES}")));
    }
    Ok(n.filter(|n| *n > 1))
}

/// How many of the likeliest tokens are told.
pub(in crate::integrations) fn checked_logprobs(at: &str, top: Option<u32>) -> ApiResult<Option<u32>> {
    match top {
        Some(21..) => Err(refused(at, "must be at most 20")),
        top => Ok(top),
    }
}

impl ToolOf {
    fn read(self, index: usize) -> ApiResult<Given> {
        let at = format!("tools[{index}]");
        match self.kind.as_deref() {
            None | Some("function") => {}
            Some("mcp") => return self.server.read(&at).map(Given::Server),
            Some(_) => return Err(refused(&format!("{at}.type"), "must be function or mcp")),
        }
        let function = self.function.ok_or_else(|| refused(&format!("{at}.function"), "is required"))?;
        let FunctionOf { name, description, parameters, strict } = function;
        let parameters = parameters.unwrap_or_else(|| serde_json::json!({ "type": "object", "properties": {} }));
        checked_tool(&format!("{at}.function"), Tool { name, description, parameters, strict }).map(Given::Function)
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
    use symbia_events::integrations::PromptRole;

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
            "n": 3, "logprobs": true, "top_logprobs": 2,
        }))
        .unwrap();
        assert_eq!(question.target.model.as_deref(), Some("anthropic/claude-3-5-haiku-20241022"));
        assert_eq!(question.fallbacks.len(), 1);
        let roles: Vec<_> = question.messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [PromptRole::System, PromptRole::User, PromptRole::Assistant, PromptRole::Tool]);
        assert_eq!(question.messages[1].more.parts.len(), 2);
        assert_eq!((question.messages[3].text.as_str(), question.messages[3].more.parts.len()), ("2", 0));
        assert_eq!(question.options.tool_choice, Some(ToolChoice::Required));
        assert_eq!((question.options.choices, question.options.logprobs), (Some(3), Some(2)));
        assert_eq!((question.sampling.max_tokens, question.stream), (Some(5), true));
    }

    #[test]
    fn servers_are_wanted_beside_functions_where_that_is_possible() {
        let request = json!({
            "messages": [{ "role": "user", "content": "hi" }], "max_tool_rounds": 3,
            "tools": [{ "type": "mcp", "server": "weather" }, { "type": "function", "function": { "name": "add" } }],
            "tool_choice": { "type": "mcp", "server_label": "weather", "name": "get" },
        });
        let (question, wanted) = serde_json::from_value::<ChatRequest>(request.clone()).unwrap().read().unwrap();
        assert_eq!((question.options.tools.len(), wanted.servers.len(), wanted.most), (1, 1, 3));
        assert_eq!(wanted.first, Some(("weather".to_owned(), "get".to_owned())));
        assert_eq!(question.options.tool_choice, None);
        // A batch asks each model once.
        assert_eq!(read(request).unwrap_err().details()[0].path, "tools[0].type");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_its_name() {
        let user = json!([{ "role": "user", "content": "hi" }]);
        for (request, field) in [
            (json!({ "messages": user, "n": 9 }), "n"),
            (json!({ "messages": user, "n": 0 }), "n"),
            (json!({ "messages": user, "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
            (
                json!({ "messages": user, "grammar": "root ::= x", "response_format": { "type": "json_object" } }),
                "grammar",
            ),
            (json!({ "messages": [{ "role": "robot", "content": "hi" }] }), "messages[0].role"),
            (json!({ "messages": [{ "role": "user" }] }), "messages[0].content"),
            (json!({ "messages": [{ "role": "tool", "content": "x" }] }), "messages[0].tool_call_id"),
            (json!({ "messages": user, "tools": [{ "function": { "name": "a b" } }] }), "tools[0].function.name"),
            (
                json!({ "messages": user, "tools": [{ "function": { "name": "a", "parameters": [] } }] }),
                "tools[0].function.parameters",
            ),
            (json!({ "messages": user, "tool_choice": "maybe" }), "tool_choice"),
            (json!({ "messages": user, "tools": [{ "type": "web_search" }] }), "tools[0].type"),
            (json!({ "messages": user, "tools": [{ "type": "function" }] }), "tools[0].function"),
            (
                json!({ "messages": user, "tools": [{ "type": "mcp", "server_url": "https://x" }] }),
                "tools[0].server_url",
            ),
            (json!({ "messages": user, "tools": [{ "type": "mcp", "server": "x" }], "n": 2 }), "n"),
            (json!({ "messages": user, "max_tool_rounds": 17 }), "max_tool_rounds"),
            (json!({ "messages": user, "response_format": { "type": "xml" } }), "response_format.type"),
        ] {
            let error = read(request).unwrap_err();
            assert_eq!(error.details()[0].path, field);
        }
    }
}
