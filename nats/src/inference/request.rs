//! What an inference process can be asked to do.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Unique; an attempt of its own for each attempt.
    pub id: String,
    /// What.
    pub work: Work,
    /// W3C trace context of who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// How long the model stays after it, unless that is to stay as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
}

/// How long a model stays in memory when nobody asks, in seconds; negative: for ever. It goes all the same when another needs the
/// room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// So long.
    For(i64),
    /// So long at least.
    AtLeast(i64),
}

impl Keep {
    /// What becomes of a time until now; none: for ever.
    #[must_use]
    pub fn instead_of(self, kept: Option<Duration>) -> Option<Duration> {
        let asked = |seconds: i64| u64::try_from(seconds).ok().map(Duration::from_secs);
        match self {
            Keep::For(seconds) => asked(seconds),
            Keep::AtLeast(seconds) => kept.zip(asked(seconds)).map(|(kept, asked)| kept.max(asked)),
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Generate text; answered by deltas and [`Frame::Completed`](super::Frame::Completed).
    Generate(Box<Request>),
    /// Make vectors; answered by [`Frame::Vectors`](super::Frame::Vectors) and [`Frame::Embedded`](super::Frame::Embedded).
    Embed(Embed),
    /// Load a model and keep it; answered by [`Frame::Loaded`](super::Frame::Loaded).
    Load(Load),
    /// Look at tokens; answered by [`Frame::Inspected`](super::Frame::Inspected).
    Inspect(Inspect),
}

/// One turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the model's chat template knows.
    pub role: String,
    /// The text. Control tokens written in it lose their meaning, so it cannot open a turn of another role.
    #[serde(default)]
    pub content: String,
    /// Tools that the assistant called in this turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a `tool` turn answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Which of several speakers, or the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// A turn that is nothing but text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), ..Message::default() }
    }
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, a JSON object as text.
    pub arguments: String,
}

/// A tool that the model may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON schema of its arguments, as text: the model reads the keys in their order. Empty: any object.
    #[serde(default)]
    pub parameters: String,
}

/// Whether tools are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// As the model sees fit.
    #[default]
    Auto,
    /// Never.
    None,
    /// At least one.
    Required,
    /// This one.
    Function(String),
}

/// What shape the answer has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Any.
    #[default]
    Text,
    /// A JSON object.
    Json,
    /// JSON of this schema.
    Schema(Value),
    /// Text of this grammar, in GBNF with the rule `root`.
    Grammar(String),
}

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Sampling {
    /// 0 takes the likeliest token each time and is deterministic; 1 samples as the model says.
    pub temperature: f32,
    /// Sample only among the likeliest tokens that together have this probability; more than 0, at most 1.
    pub top_p: f32,
    /// Sample only among so many of the likeliest; 0 among all.
    pub top_k: u32,
    /// Sample only among tokens at least so likely, relative to the likeliest.
    pub min_p: f32,
    /// Locally typical sampling; 1 is off.
    pub typical_p: f32,
    /// Divides the odds of tokens that occurred; 1 is off.
    pub repeat_penalty: f32,
    /// How far back the penalties look.
    pub repeat_last_n: u32,
    /// Lowers the odds of a token with each occurrence.
    pub frequency_penalty: f32,
    /// Lowers the odds of a token that occurred.
    pub presence_penalty: f32,
    /// Added to the odds of tokens, by id.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed; none takes a random one.
    pub seed: Option<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_p: 1.0,
            // What llama.cpp's server does.
            top_k: 40,
            min_p: 0.0,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// An answer to generate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Request {
    /// The model: its id, its file's name without `.gguf`, or the part of that before the first dot. None: the default.
    pub model: Option<String>,
    /// The conversation, oldest turn first; at least one, unless there is a `prompt`.
    pub messages: Vec<Message>,
    /// Text to be continued as it stands, instead of a conversation.
    pub prompt: Option<String>,
    /// Tools that may be called.
    pub tools: Vec<Tool>,
    /// Whether they are.
    pub tool_choice: ToolChoice,
    /// Tokens to generate at most; none means as many as the context holds.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// What shape the answer has.
    pub format: Format,
    /// Answers to generate; 0 counts as 1. Each has its own seed.
    pub choices: u32,
    /// Tells the probability of every token, and of so many alternatives.
    pub logprobs: Option<u32>,
    /// Generate on when the model ends its turn, up to `max_tokens`: for load tests of a fixed length.
    pub ignore_eos: bool,
    /// The organization that it is for: counted there, and computed in turn with the others'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// The chat template, instead of the one in the model's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Whether a model that can think does so before it answers; none: as its template has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<bool>,
}

impl Request {
    /// The default model's likeliest answer to `messages`, of any length.
    #[must_use]
    pub fn new(messages: Vec<Message>) -> Self {
        Request { messages, ..Request::default() }
    }
}

/// Texts to make vectors of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Embed {
    /// The model; none means the default one for this.
    pub model: Option<String>,
    /// The texts.
    pub inputs: Vec<String>,
    /// Cuts off what is longer than the model takes, instead of refusing it.
    pub truncate: bool,
    /// Leaves the vectors as long as the model makes them; else their length is 1.
    pub raw: bool,
    /// The organization that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
}

/// A model to be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Load {
    /// The model.
    pub model: String,
    /// Tokens that one sequence may hold; none takes the process's setting.
    pub context_tokens: Option<u32>,
    /// Sequences at a time; none takes the process's setting.
    pub parallel: Option<u32>,
    /// Unloaded after so many seconds without requests; negative never, none takes the process's setting.
    pub keep_alive: Option<i64>,
}

/// A model to be unloaded, by every process that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unload {
    /// The model's id.
    pub model: String,
    /// Lets what is under way end first; else it fails.
    pub drain: bool,
}

/// What to look at, with a model's vocabulary and template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspect {
    /// The model.
    pub model: String,
    /// What.
    pub what: Inspected,
    /// The chat template, instead of the one in the model's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
}

/// What is looked at, and what it is seen as.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inspected {
    /// Text, to be tokens.
    Text(String),
    /// Tokens, to be text.
    Tokens(Vec<u32>),
    /// A conversation with tools, to be the text that the model reads.
    Chat(Vec<Message>, Vec<Tool>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_set_or_only_prolonged() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (keep, kept, becomes) in [
            (Keep::For(5), seconds(300), seconds(5)),
            (Keep::For(-1), seconds(300), None),
            (Keep::For(0), None, seconds(0)),
            (Keep::AtLeast(5), seconds(300), seconds(300)),
            (Keep::AtLeast(600), seconds(300), seconds(600)),
            (Keep::AtLeast(-1), seconds(300), None),
            (Keep::AtLeast(5), None, None),
        ] {
            assert_eq!(keep.instead_of(kept), becomes, "{keep:?} {kept:?}");
        }
    }
}
