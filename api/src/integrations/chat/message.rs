//! Messages as OpenAI's clients write them.

use serde::Deserialize;
use symbia_events::integrations::{PromptMore, PromptPart, PromptRole, ToolCall};
use utoipa::ToSchema;

use crate::{
    http::ApiResult,
    integrations::{ask::Message, errors::refused},
};

/// A message.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ChatMessage {
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

impl ChatMessage {
    /// The message as it is asked; `index` names it in errors.
    pub fn read(self, index: usize) -> ApiResult<Message> {
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

fn read_parts(parts: Vec<Part>) -> (String, Vec<PromptPart>) {
    let read = |part| match part {
        Part::Bare(text)
        | Part::Typed(TypedPart::Text { text })
        | Part::Typed(TypedPart::Refusal { refusal: text }) => PromptPart::Text { text },
        Part::Typed(TypedPart::ImageUrl { image_url }) => PromptPart::Image { url: image_url.url },
    };
    plain(parts.into_iter().map(read).collect())
}

/// The text of parts, and the parts where they are not text alone.
pub(in crate::integrations) fn plain(parts: Vec<PromptPart>) -> (String, Vec<PromptPart>) {
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
