//! Requests as Anthropic's clients write them.

use serde::Deserialize;
use serde_json::Value;
use symbia_events::integrations::{
    PromptMore, PromptOptions, PromptPart, PromptRole, Sampling, Target, Tool, ToolCall, ToolChoice,
};
use utoipa::ToSchema;

use crate::{
    http::ApiResult,
    integrations::{
        ask::{Message, Question},
        chat::{checked_tool, plain},
        errors::refused,
    },
};

/// What is asked of a model.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct MessagesRequest {
    /// `provider/model`, a model, or `auto`.
    #[serde(default)]
    model: Option<String>,
    /// Required, but where tokens are counted.
    #[serde(default)]
    max_tokens: Option<u32>,
    messages: Vec<Turn>,
    /// A text, or blocks of text.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    system: Option<Content>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    top_k: Option<u32>,
    #[serde(default)]
    stop_sequences: Vec<String>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    tools: Vec<ToolOf>,
    #[serde(default)]
    tool_choice: Option<ChoiceOf>,
    #[serde(default)]
    thinking: Option<Thinking>,
    /// A key of the vault to ask with.
    #[serde(default)]
    credential_id: Option<String>,
}

/// A message.
#[derive(Debug, Deserialize, ToSchema)]
struct Turn {
    /// `user` or `assistant`.
    role: String,
    /// A text, or blocks.
    #[schema(value_type = Object)]
    content: Content,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        text: String,
    },
    Image {
        source: Source,
    },
    ToolUse {
        id: String,
        name: String,
        input: Value,
    },
    ToolResult {
        tool_use_id: String,
        #[serde(default)]
        content: Option<Content>,
    },
    // What a model thought is its provider's own, and means nothing to another.
    Thinking {},
    RedactedThinking {},
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Source {
    Base64 { media_type: String, data: String },
    Url { url: String },
}

/// A tool.
#[derive(Debug, Deserialize, ToSchema)]
struct ToolOf {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[schema(value_type = Object)]
    input_schema: Value,
}

#[derive(Debug, Deserialize, ToSchema)]
struct ChoiceOf {
    /// `auto`, `any`, `tool` or `none`.
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct Thinking {
    /// `enabled` or `disabled`.
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    budget_tokens: Option<u32>,
}

impl MessagesRequest {
    /// The question whose tokens are counted.
    pub fn counted(mut self) -> ApiResult<Question> {
        self.max_tokens.get_or_insert(1);
        self.question()
    }

    /// The question that it is.
    pub fn question(self) -> ApiResult<Question> {
        if self.max_tokens.is_none() {
            return Err(refused("max_tokens", "is required"));
        }
        let mut messages = Vec::with_capacity(self.messages.len() + 1);
        if let Some(system) = self.system {
            messages.push(Message::text(PromptRole::System, system.text("system")?));
        }
        for (index, turn) in self.messages.into_iter().enumerate() {
            turn.read(index, &mut messages)?;
        }
        let tool = |(index, tool): (usize, ToolOf)| {
            let ToolOf { name, description, input_schema } = tool;
            let tool = Tool { name, description, parameters: input_schema, strict: None };
            checked_tool(&format!("tools[{index}]"), tool)
        };
        let alone = self.tool_choice.as_ref().and_then(|choice| choice.disable_parallel_tool_use);
        let thinking = self.thinking.filter(|thinking| thinking.kind == "enabled");
        let options = PromptOptions {
            tools: self.tools.into_iter().enumerate().map(tool).collect::<ApiResult<_>>()?,
            tool_choice: self.tool_choice.map(ChoiceOf::read).transpose()?,
            parallel_tool_calls: alone.map(|alone| !alone),
            reasoning_effort: thinking.as_ref().map(|_| "medium".to_owned()),
            thinking_tokens: thinking.and_then(|thinking| thinking.budget_tokens),
            ..PromptOptions::default()
        };
        Ok(Question {
            operation: "messages",
            target: Target { provider: None, model: self.model.filter(|model| model != "auto") },
            fallbacks: Vec::new(),
            messages,
            sampling: Sampling {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                max_tokens: self.max_tokens,
                stop: self.stop_sequences,
                ..Sampling::default()
            },
            options,
            stream: self.stream.unwrap_or(false),
            credential_id: self.credential_id,
        })
    }
}

impl Content {
    // Only text is text.
    fn text(self, at: &str) -> ApiResult<String> {
        match self {
            Content::Text(text) => Ok(text),
            Content::Blocks(blocks) => {
                let text = |block| match block {
                    Block::Text { text } => Ok(text),
                    _ => Err(refused(at, "must be a text, or blocks of text")),
                };
                Ok(blocks.into_iter().map(text).collect::<ApiResult<Vec<_>>>()?.join("\n"))
            }
        }
    }
}

impl Turn {
    // Results of tools are turns of their own, before what else the person says.
    fn read(self, index: usize, messages: &mut Vec<Message>) -> ApiResult<()> {
        let role = match self.role.as_str() {
            "user" => PromptRole::User,
            "assistant" => PromptRole::Assistant,
            _ => return Err(refused(&format!("messages[{index}].role"), "must be user or assistant")),
        };
        let blocks = match self.content {
            Content::Text(text) => {
                messages.push(Message::text(role, text));
                return Ok(());
            }
            Content::Blocks(blocks) => blocks,
        };
        let (mut parts, mut tool_calls) = (Vec::new(), Vec::new());
        for (place, block) in blocks.into_iter().enumerate() {
            match block {
                Block::Text { text } => parts.push(PromptPart::Text { text }),
                Block::Image { source } => parts.push(PromptPart::Image { url: source.url() }),
                Block::ToolUse { id, name, input } => {
                    tool_calls.push(ToolCall { id, name, arguments: input.to_string() });
                }
                Block::ToolResult { tool_use_id, content } => {
                    let at = format!("messages[{index}].content[{place}].content");
                    let text = content.map(|content| content.text(&at)).transpose()?.unwrap_or_default();
                    let more = PromptMore { tool_call_id: Some(tool_use_id), ..PromptMore::default() };
                    messages.push(Message { more, ..Message::text(PromptRole::Tool, text) });
                }
                Block::Thinking {} | Block::RedactedThinking {} => {}
            }
        }
        if parts.is_empty() && tool_calls.is_empty() {
            return Ok(());
        }
        let (text, parts) = plain(parts);
        messages.push(Message { role, text, name: None, more: PromptMore { parts, tool_calls, tool_call_id: None } });
        Ok(())
    }
}

impl Source {
    fn url(self) -> String {
        match self {
            Source::Url { url } => url,
            Source::Base64 { media_type, data } => format!("data:{media_type};base64,{data}"),
        }
    }
}

impl ChoiceOf {
    fn read(self) -> ApiResult<ToolChoice> {
        match (self.kind.as_str(), self.name) {
            ("auto", _) => Ok(ToolChoice::Auto),
            ("any", _) => Ok(ToolChoice::Required),
            ("none", _) => Ok(ToolChoice::None),
            ("tool", Some(name)) => Ok(ToolChoice::Named(name)),
            _ => Err(refused("tool_choice", "must be auto, any, none, or tool with a name")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tool_rounds_images_and_thinking_are_understood() {
        let request: MessagesRequest = serde_json::from_value(json!({
            "model": "openai/gpt-4o", "max_tokens": 9, "system": [{ "type": "text", "text": "be kind" }],
            "messages": [
                { "role": "user", "content": [{ "type": "text", "text": "add" },
                    { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AA" } }] },
                { "role": "assistant", "content": [{ "type": "thinking", "thinking": "hm", "signature": "s" },
                    { "type": "text", "text": "ok" }, { "type": "tool_use", "id": "t1", "name": "add", "input": { "a": 1 } }] },
                { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t1", "content": "2" },
                    { "type": "text", "text": "so?" }] },
            ],
            "tools": [{ "name": "add", "input_schema": { "type": "object" } }],
            "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
            "thinking": { "type": "enabled", "budget_tokens": 2000 },
        }))
        .unwrap();
        let question = request.question().unwrap();
        let said: Vec<_> = question.messages.iter().map(|m| (m.role, m.text.as_str())).collect();
        let expected = [
            (PromptRole::System, "be kind"),
            (PromptRole::User, "add"),
            (PromptRole::Assistant, "ok"),
            (PromptRole::Tool, "2"),
            (PromptRole::User, "so?"),
        ];
        assert_eq!(said, expected);
        assert_eq!(question.messages[1].more.parts[1], PromptPart::Image { url: "data:image/png;base64,AA".into() });
        assert_eq!(question.messages[2].more.tool_calls[0].arguments, "{\"a\":1}");
        assert_eq!(question.messages[3].more.tool_call_id.as_deref(), Some("t1"));
        let options = question.options;
        assert_eq!((options.tool_choice, options.parallel_tool_calls), (Some(ToolChoice::Required), Some(false)));
        assert_eq!(options.thinking_tokens, Some(2000));
    }
}
