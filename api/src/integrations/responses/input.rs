//! What a response is to go on from, as OpenAI's clients write it: a text, or items, which become the turns of a prompt.

use std::collections::HashMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use symbia_events::integrations::{PromptMore, PromptPart, PromptRole, ToolCall};

use crate::{
    http::ApiResult,
    integrations::{ask::Message, chat::plain, errors::refused, mcp::name},
};

/// A text, or items.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Input {
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

/// A call that was made here, and what came of it.
#[derive(Deserialize)]
struct McpCallItem {
    id: String,
    server_label: String,
    name: String,
    #[serde(default)]
    arguments: String,
    #[serde(default)]
    output: Option<String>,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct OutputItem {
    call_id: String,
    output: Content,
}

impl Input {
    /// Puts it behind the turns that there are.
    pub fn read(self, messages: &mut Vec<Message>) -> ApiResult<()> {
        let items = match self {
            Input::Text(text) => {
                messages.push(Message::text(PromptRole::User, text));
                return Ok(());
            }
            Input::Items(items) => items,
        };
        items.into_iter().enumerate().try_for_each(|(index, item)| read(&format!("input[{index}]"), item, messages))
    }
}

/// A value of a request, whose place is `at`.
pub(super) fn parsed<T: DeserializeOwned>(at: &str, value: Value) -> ApiResult<T> {
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
        Some("mcp_call") => call_of_server(parsed(at, item)?, messages),
        // What a model thought is its provider's own, and means nothing to another; what a server has is asked anew.
        Some("reasoning" | "mcp_list_tools") => {}
        Some(other) => {
            let message = format!(
                "is {other}: must be message, function_call, function_call_output, mcp_call, mcp_list_tools or reasoning"
            );
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

// A call and its end, as the turns that the model had of them.
fn call_of_server(item: McpCallItem, messages: &mut Vec<Message>) {
    let McpCallItem { id, server_label, name: tool, arguments, output, error } = item;
    let text = output.unwrap_or_else(|| format!("Error: {error}"));
    let call = ToolCall { id: id.clone(), name: name(&server_label, &tool, &mut HashMap::new()), arguments };
    let more = PromptMore { tool_calls: vec![call], ..PromptMore::default() };
    messages.push(Message { more, ..Message::text(PromptRole::Assistant, "") });
    let more = PromptMore { tool_call_id: Some(id), ..PromptMore::default() };
    messages.push(Message { more, ..Message::text(PromptRole::Tool, text) });
}
