//! Turns of a conversation as OpenAI's clients write them.

use serde::Deserialize;
use symbia_nats::inference::{Message, ToolCall};
use utoipa::ToSchema;

use super::error::invalid;
use crate::http::ApiResult;

/// A turn.
#[derive(Deserialize, ToSchema)]
pub(super) struct ChatMessage {
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    tool_calls: Vec<MadeCall>,
    #[serde(default)]
    tool_call_id: Option<String>,
}

/// A text, or parts of one.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a text.
#[derive(Deserialize, ToSchema)]
struct Part {
    r#type: String,
    #[serde(default)]
    text: Option<String>,
}

/// A call that the model made before.
#[derive(Deserialize, ToSchema)]
struct MadeCall {
    id: String,
    function: MadeFunction,
}

/// What was called.
#[derive(Deserialize, ToSchema)]
struct MadeFunction {
    name: String,
    arguments: String,
}

impl ChatMessage {
    /// The turn as templates take it; `index` names it in errors.
    pub(super) fn into_message(self, index: usize) -> ApiResult<Message> {
        let role = match self.role.as_str() {
            // A newer name of the same thing.
            "developer" => "system",
            role @ ("system" | "user" | "assistant" | "tool") => role,
            _ => return Err(invalid(&format!("messages[{index}].role"), "must be system, user, assistant or tool")),
        };
        let content = match self.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => text_of(parts, index)?,
        };
        let call =
            |call: MadeCall| ToolCall { id: call.id, name: call.function.name, arguments: call.function.arguments };
        Ok(Message {
            role: role.to_owned(),
            content,
            tool_calls: self.tool_calls.into_iter().map(call).collect(),
            tool_call_id: self.tool_call_id,
            name: self.name,
        })
    }
}

fn text_of(parts: Vec<Part>, index: usize) -> ApiResult<String> {
    let mut text = String::new();
    for (at, part) in parts.into_iter().enumerate() {
        match part.text {
            Some(part_text) if part.r#type == "text" => text.push_str(&part_text),
            _ => {
                let path = format!("messages[{index}].content[{at}]");
                let message = format!("is {}: the models here read text only", part.r#type);
                return Err(invalid(&path, message));
            }
        }
    }
    Ok(text)
}
