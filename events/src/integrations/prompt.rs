//! What a model can be given and give back besides plain text. These travel sealed, as JSON: they are content.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::FinishReason;

/// A part of a message that is more than text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PromptPart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// An image.
    Image {
        /// `https:`, `data:<mime>;base64,<data>`, or the address of a [`KeptPicture`](super::KeptPicture).
        url: String,
    },
}

/// A call of a tool that a model asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCall {
    /// Names it in the answer to it.
    pub id: String,
    /// The tool.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// What a message is besides its text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PromptMore {
    /// All of the message when it is not text alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PromptPart>,
    /// The calls that an assistant's turn asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's turn answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl PromptMore {
    /// Whether there is anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == PromptMore::default()
    }
}

/// A tool that a model may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON schema of its arguments.
    pub parameters: Value,
    /// Whether the arguments must keep to the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// Whether a model must ask for a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// As it likes.
    Auto,
    /// None.
    None,
    /// Any.
    Required,
    /// This one.
    Named(String),
}

/// The shape of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AnswerFormat {
    /// Any JSON object.
    JsonObject,
    /// JSON of a schema.
    JsonSchema {
        /// Name of the schema.
        name: String,
        /// The schema.
        schema: Value,
        /// Whether the answer must keep to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        strict: Option<bool>,
    },
    /// Text of a grammar.
    Grammar {
        /// GBNF with the rule `root`.
        grammar: String,
    },
}

/// What is asked for besides a text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PromptOptions {
    /// Tools at the model's disposal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Whether it must use one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may ask for several at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Shape of the answer; absent: text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<AnswerFormat>,
    /// `none`, `minimal`, `low`, `medium`, `high` or `xhigh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// Tokens that it may think for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_tokens: Option<u32>,
    /// Answers to give; absent: one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<u32>,
    /// How likely each token was is told, and so many of the likeliest in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u32>,
    /// Which of several models is asked first; absent: the first that is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// When another model is asked besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// An answer to the same request that is so many seconds old is as good as a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_seconds: Option<u32>,
    /// Also one to a last message of the same meaning: the least cosine of the angle between their vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_similarity: Option<f64>,
    /// The first message is of this request alone: one that goes on with it leaves it away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub instructed: bool,
    /// What its answer repeats of the request, as the API that it came by has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<Value>,
    /// The answer is given once, and to be read nowhere later.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unstored: bool,
}

impl PromptOptions {
    /// Whether there is anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == PromptOptions::default()
    }
}

/// Which of several models is asked first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Balance {
    /// By what.
    pub strategy: Strategy,
    /// One for each model, in the order in which they are named; 1 where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<u32>,
}

/// When the next model is asked besides the first, which does not begin to answer: whichever does first goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hedge {
    /// After so many milliseconds; absent: after as long as the first lately took at most in 19 of 20 cases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u32>,
}

/// By what a model is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The one that is named first.
    Priority,
    /// By chance, as often as its weight says.
    SimpleShuffle,
    /// The one with the fewest requests under way for its weight.
    LeastBusy,
    /// The one that lately began its answers soonest; one of which that is not known is tried.
    LowestLatency,
    /// The one with the lowest price; one without a price comes last.
    LowestCost,
    /// The one that has most left of what its provider, or its limit of requests per minute, grants; where none is known, the
    /// one that lately took the fewest tokens for its weight.
    UsageBased,
    /// The same for all that is said in a conversation, so that its provider finds what it has read before.
    Sticky,
}

/// A token, and how likely it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LikelyToken {
    /// Its text; what is no text in it is replaced.
    pub token: String,
    /// Its bytes, where they are not the text's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Vec<u8>>,
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

impl LikelyToken {
    /// A token of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8], logprob: f64) -> Self {
        let token = String::from_utf8_lossy(bytes).into_owned();
        let bytes = (token.as_bytes() != bytes).then(|| bytes.to_vec());
        LikelyToken { token, bytes, logprob }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(self.token.as_bytes())
    }
}

/// A token of an answer, and what could have stood in its place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenLogprob {
    /// The token.
    #[serde(flatten)]
    pub chosen: LikelyToken,
    /// The likeliest in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<LikelyToken>,
}

/// One of several answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnswerChoice {
    /// Its text.
    pub text: String,
    /// What the model thought, where it tells.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// The tools that it asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// How likely its tokens were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
}

/// What an answer is besides its text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AnswerMore {
    /// How likely its tokens were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
    /// The answers beside it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<AnswerChoice>,
}

impl AnswerMore {
    /// Whether there is anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logprobs.is_empty() && self.others.is_empty()
    }
}

/// A provider and one of its models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// Absent: told from the model's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Absent: the provider's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// What an answer cost, in millionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// For reading, cached tokens included.
    pub input_micros: u64,
    /// For writing.
    pub output_micros: u64,
    /// Their sum.
    pub total_micros: u64,
    /// Version of the price that it was computed with; 0 for a model of one's own, which costs nothing.
    pub price_version: u64,
}
