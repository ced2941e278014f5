//! What OpenAI's clients send, and what that asks of a model (models.md §4, §14.5).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use symbia_events::models::ModelDefaults;
use symbia_nats::inference::{Format, Request, Sampling, Tool, ToolChoice};
use utoipa::ToSchema;

use super::{
    error::{error, invalid},
    turns::ChatMessage,
};
use crate::http::{ApiError, ApiResult};

/// Turns of a conversation at most.
const MOST_MESSAGES: usize = 4096;
/// Stop strings at most, and characters of each.
const MOST_STOPS: (usize, usize) = (16, 256);
/// Tools at most.
const MOST_TOOLS: usize = 128;
/// What clients send and what needs nothing of us.
const WITHOUT_EFFECT: [&str; 5] = ["user", "metadata", "store", "service_tier", "safety_identifier"];

/// A request for the next turn of a conversation (with `messages`), or to go on with a text (with `prompt`).
#[derive(Deserialize, ToSchema)]
pub(super) struct CompletionRequest {
    /// Id of the model, or the beginning of its file's name.
    pub(super) model: String,
    /// The conversation, oldest turn first.
    #[serde(default)]
    messages: Vec<ChatMessage>,
    /// The text.
    #[serde(default)]
    prompt: Option<OneOrMany>,
    #[serde(default)]
    tools: Vec<OfferedTool>,
    /// `auto`, `none`, `required`, or `{"type":"function","function":{"name":…}}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<Value>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,
    /// Tells how likely each token was; with a text, and so many of the likeliest in its place.
    #[serde(default)]
    logprobs: Option<Logprobs>,
    /// So many of the likeliest tokens in its place, 0 to 20.
    #[serde(default)]
    top_logprobs: Option<u32>,
    /// Tokens to generate at most.
    #[serde(default)]
    max_tokens: Option<u32>,
    /// The newer name of `max_tokens`.
    #[serde(default)]
    max_completion_tokens: Option<u32>,
    /// 0 to 2; 0.7 when it is not given.
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    top_p: Option<f32>,
    #[serde(default)]
    top_k: Option<u32>,
    #[serde(default)]
    min_p: Option<f32>,
    #[serde(default)]
    typical_p: Option<f32>,
    #[serde(default)]
    repeat_penalty: Option<f32>,
    #[serde(default)]
    repeat_last_n: Option<u32>,
    #[serde(default)]
    frequency_penalty: Option<f32>,
    #[serde(default)]
    presence_penalty: Option<f32>,
    /// Added to the odds of tokens, by id.
    #[serde(default)]
    logit_bias: BTreeMap<String, f32>,
    #[serde(default)]
    seed: Option<i64>,
    /// Up to 16 texts that end the answer.
    #[serde(default)]
    stop: Option<OneOrMany>,
    /// Answers, 1 to 8.
    #[serde(default)]
    n: Option<u32>,
    /// Sends the answer as it comes, as server-sent events.
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    /// GBNF with the rule `root`.
    #[serde(default)]
    grammar: Option<String>,
    /// Goes on when the model ends its turn: for load tests of a fixed length.
    #[serde(default)]
    ignore_eos: bool,
    /// `none`: a model that thinks before it answers does not. How much it thinks, it knows itself.
    #[serde(default)]
    reasoning_effort: Option<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    other: Map<String, Value>,
}

/// Whether, or how many.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(untagged)]
enum Logprobs {
    Whether(bool),
    HowMany(u32),
}

/// How an answer is streamed.
#[derive(Default, Deserialize, ToSchema)]
struct StreamOptions {
    /// Ends the stream with the tokens that it took.
    #[serde(default)]
    include_usage: bool,
}

/// A tool that the model may call.
#[derive(Deserialize, ToSchema)]
struct OfferedTool {
    r#type: String,
    function: OfferedFunction,
}

/// A function.
#[derive(Deserialize, ToSchema)]
struct OfferedFunction {
    name: String,
    #[serde(default)]
    description: Option<String>,
    /// JSON schema.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    parameters: Option<Box<RawValue>>,
}

/// The shape of an answer.
#[derive(Deserialize, ToSchema)]
struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    r#type: String,
    #[serde(default)]
    json_schema: Option<NamedSchema>,
}

/// A schema.
#[derive(Deserialize, ToSchema)]
struct NamedSchema {
    #[serde(default)]
    #[schema(value_type = Object)]
    schema: Value,
}

/// A text, or several.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// A request as the engine takes it.
pub(super) struct Asked {
    pub(super) request: Request,
    /// What has no effect.
    pub(super) dropped: Vec<String>,
    /// Whether the answer is streamed, and then whether it ends with its usage.
    pub(super) streaming: Option<bool>,
}

impl CompletionRequest {
    /// Whether a text is to go on, and there is no conversation.
    pub(super) fn goes_on(&self) -> bool {
        self.prompt.is_some()
    }

    /// Takes what holds for the model where the request says nothing.
    pub(super) fn fill(&mut self, defaults: &ModelDefaults) {
        let single = |value: Option<f64>| value.map(|value| value as f32);
        self.temperature = self.temperature.or(single(defaults.temperature));
        self.top_p = self.top_p.or(single(defaults.top_p));
        self.top_k = self.top_k.or(defaults.top_k);
        self.min_p = self.min_p.or(single(defaults.min_p));
        self.repeat_penalty = self.repeat_penalty.or(single(defaults.repeat_penalty));
        self.max_tokens = self.max_tokens.or(self.max_completion_tokens).or(defaults.max_tokens);
    }

    /// The next turn of a conversation.
    pub(super) fn into_chat(mut self) -> ApiResult<Asked> {
        let messages = std::mem::take(&mut self.messages);
        if messages.is_empty() || messages.len() > MOST_MESSAGES {
            return Err(invalid("messages", format!("must have 1 to {MOST_MESSAGES} turns")));
        }
        let messages = messages.into_iter().enumerate().map(|(index, turn)| turn.into_message(index));
        let messages = messages.collect::<ApiResult<Vec<_>>>()?;
        if self.tools.len() > MOST_TOOLS {
            return Err(invalid("tools", format!("must have at most {MOST_TOOLS}")));
        }
        let tools = std::mem::take(&mut self.tools).into_iter().enumerate();
        let tools = tools.map(|(index, tool)| tool.into_tool(index)).collect::<ApiResult<Vec<_>>>()?;
        let tool_choice = self.tool_choice.take().map_or(Ok(ToolChoice::Auto), tool_choice)?;
        if tools.is_empty() && !matches!(tool_choice, ToolChoice::Auto | ToolChoice::None) {
            return Err(invalid("tool_choice", "needs tools"));
        }
        let Asked { request, dropped, streaming } = self.into_asked()?;
        Ok(Asked { request: Request { messages, tools, tool_choice, ..request }, dropped, streaming })
    }

    /// A text that goes on.
    pub(super) fn into_text(mut self) -> ApiResult<Asked> {
        let mut prompts = self.prompt.take().map(OneOrMany::into_vec).unwrap_or_default();
        let prompt = prompts.pop().filter(|_| prompts.is_empty());
        let message = "must be one text: of several, send a request each, they are computed together";
        let prompt = Some(prompt.ok_or_else(|| invalid("prompt", message))?);
        let Asked { request, dropped, streaming } = self.into_asked()?;
        Ok(Asked { request: Request { prompt, ..request }, dropped, streaming })
    }

    fn into_asked(self) -> ApiResult<Asked> {
        let temperature = self.temperature.unwrap_or(0.7);
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        let logprobs = match self.logprobs {
            None | Some(Logprobs::Whether(false)) => None,
            Some(Logprobs::Whether(true)) => Some(self.top_logprobs.unwrap_or_default()),
            Some(Logprobs::HowMany(top)) => Some(top),
        };
        for (fits, path, message) in [
            ((0.0..=2.0).contains(&temperature), "temperature", "must be 0 to 2"),
            (self.n.is_none_or(|n| (1..=8).contains(&n)), "n", "must be 1 to 8"),
            (max_tokens != Some(0), "max_tokens", "must be more than 0"),
            (logprobs.is_none_or(|top| top <= 20), "top_logprobs", "must be at most 20"),
        ] {
            if !fits {
                return Err(invalid(path, message));
            }
        }
        let stop = self.stop.map(OneOrMany::into_vec).unwrap_or_default();
        if stop.len() > MOST_STOPS.0 || stop.iter().any(|stop| stop.chars().count() > MOST_STOPS.1) {
            let message = format!("must have at most {} texts of at most {} characters", MOST_STOPS.0, MOST_STOPS.1);
            return Err(invalid("stop", message));
        }
        let format = match (self.response_format.map(format).transpose()?, self.grammar) {
            (None | Some(Format::Text), Some(grammar)) => Format::Grammar(grammar),
            (Some(_), Some(_)) => return Err(invalid("grammar", "cannot be given together with response_format")),
            (format, None) => format.unwrap_or_default(),
        };
        let bias = |(token, bias): (String, f32)| {
            token.parse().map(|token| (token, bias)).map_err(|_| invalid("logit_bias", "must be by ids of tokens"))
        };
        let defaults = Sampling::default();
        let sampling = Sampling {
            temperature,
            top_p: self.top_p.unwrap_or(defaults.top_p),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            typical_p: self.typical_p.unwrap_or(defaults.typical_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(defaults.repeat_penalty),
            repeat_last_n: self.repeat_last_n.unwrap_or(defaults.repeat_last_n),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            logit_bias: self.logit_bias.into_iter().map(bias).collect::<ApiResult<_>>()?,
            seed: self.seed.map(|seed| seed as u32),
        };
        let thinking = self.reasoning_effort.as_deref().map(|effort| effort != "none");
        let request = Request {
            model: Some(self.model),
            max_tokens,
            sampling,
            stop,
            format,
            choices: self.n.unwrap_or(1),
            logprobs,
            ignore_eos: self.ignore_eos,
            thinking,
            ..Request::default()
        };
        let has_effect = |name: &String, value: &Value| !value.is_null() && !WITHOUT_EFFECT.contains(&name.as_str());
        let dropped = self.other.into_iter().filter(|(name, value)| has_effect(name, value)).map(|(name, _)| name);
        let dropped = dropped.chain(thinking.filter(|thinks| *thinks).map(|_| "reasoning_effort".to_owned()));
        let streaming = self.stream.then(|| self.stream_options.is_some_and(|options| options.include_usage));
        Ok(Asked { request, dropped: dropped.collect(), streaming })
    }
}

impl OfferedTool {
    fn into_tool(self, index: usize) -> ApiResult<Tool> {
        let OfferedFunction { name, description, parameters } = self.function;
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if self.r#type != "function" {
            return Err(invalid(&format!("tools[{index}].type"), "must be function"));
        }
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            let path = format!("tools[{index}].function.name");
            return Err(invalid(&path, "must be 1 to 64 letters, digits, underscores and dashes"));
        }
        let parameters = parameters.map(|raw| raw.get().to_owned()).unwrap_or_default();
        if !parameters.is_empty() && parameters != "null" && !parameters.starts_with('{') {
            return Err(invalid(&format!("tools[{index}].function.parameters"), "must be a JSON schema, an object"));
        }
        Ok(Tool { name, description, parameters: if parameters == "null" { String::new() } else { parameters } })
    }
}

fn format(format: ResponseFormat) -> ApiResult<Format> {
    match (format.r#type.as_str(), format.json_schema) {
        ("text", _) => Ok(Format::Text),
        ("json_object", _) => Ok(Format::Json),
        ("json_schema", Some(named)) if named.schema.is_object() => Ok(Format::Schema(named.schema)),
        ("json_schema", _) => Err(invalid("response_format.json_schema.schema", "must be a JSON schema, an object")),
        _ => Err(invalid("response_format.type", "must be text, json_object or json_schema")),
    }
}

fn tool_choice(choice: Value) -> ApiResult<ToolChoice> {
    let named = choice.pointer("/function/name").and_then(Value::as_str);
    match (choice.as_str(), named) {
        (Some("auto"), _) => Ok(ToolChoice::Auto),
        (Some("none"), _) => Ok(ToolChoice::None),
        (Some("required"), _) => Ok(ToolChoice::Required),
        (None, Some(name)) => Ok(ToolChoice::Function(name.to_owned())),
        (None, None) if choice.is_null() => Ok(ToolChoice::Auto),
        _ => Err(invalid("tool_choice", "must be auto, none, required or a function's name")),
    }
}

/// A model that somebody else serves: such ids are the gateway's.
pub(super) fn elsewhere(model: &str) -> Option<ApiError> {
    // The stub stands in for a model of ours.
    let (provider, _) = model.split_once('/').filter(|(provider, _)| *provider != "stub")?;
    let message =
        format!("model {model:?} is served by {provider}: ask the integrations service, which has the same routes");
    Some(error(axum::http::StatusCode::NOT_FOUND, "model_not_found", message))
}
