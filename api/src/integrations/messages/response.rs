//! Answers as Anthropic's clients read them.

use axum::response::sse::Event;
use serde_json::{Value, json};
use symbia_events::integrations::{FinishReason, Usage};

use crate::integrations::{
    ask::Asked,
    errors::anthropic_error,
    said::{Answer, Failure, Piece},
    stream::Dialect,
};

fn stop_reason(answer: &Answer) -> &'static str {
    match (answer.first.finish_reason, answer.raw_finish_reason.as_deref()) {
        (FinishReason::Length, _) => "max_tokens",
        (FinishReason::ToolCalls, _) => "tool_use",
        (FinishReason::ContentFilter, _) => "refusal",
        (FinishReason::Incomplete, _) => "pause_turn",
        (_, Some("stop_sequence")) => "stop_sequence",
        (FinishReason::Stop | FinishReason::Error, _) => "end_turn",
    }
}

fn usage(usage: &Usage) -> Value {
    let cached = usage.cached_prompt_tokens.unwrap_or(0);
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    })
}

/// A message.
pub(super) fn message(asked: &Asked, answer: &Answer) -> Value {
    let (mut content, said) = (Vec::new(), &answer.first);
    // Without its provider's signature it could not be sent back; clients need not.
    if !said.reasoning.is_empty() {
        content.push(json!({ "type": "thinking", "thinking": said.reasoning, "signature": "" }));
    }
    if !said.text.is_empty() {
        content.push(json!({ "type": "text", "text": said.text }));
    }
    for call in &said.tool_calls {
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        content.push(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input }));
    }
    json!({
        "id": format!("msg_{}", asked.request_id),
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": stop_reason(answer),
        "stop_sequence": null,
        "usage": usage(&answer.usage),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Text,
    Thinking,
    Tool(usize),
}

/// The events of a message.
pub(super) struct Blocks {
    id: String,
    model: String,
    begun: bool,
    open: Open,
    index: usize,
}

fn event(data: &Value) -> Event {
    let event = Event::default().data(data.to_string());
    match data["type"].as_str() {
        Some(name) => event.event(name),
        None => event,
    }
}

impl Blocks {
    pub fn new(asked: &Asked) -> Self {
        let id = format!("msg_{}", asked.request_id);
        Blocks { id, model: String::new(), begun: false, open: Open::Nothing, index: 0 }
    }

    fn opened(&mut self) -> Vec<Event> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        let message = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": { "input_tokens": 0, "output_tokens": 0 },
        });
        vec![event(&json!({ "type": "message_start", "message": message }))]
    }

    fn closed(&mut self) -> Vec<Event> {
        if std::mem::replace(&mut self.open, Open::Nothing) == Open::Nothing {
            return Vec::new();
        }
        self.index += 1;
        vec![event(&json!({ "type": "content_block_stop", "index": self.index - 1 }))]
    }

    // The block that a piece belongs to, opened if it is another one than the last.
    fn block(&mut self, kind: Open, block: &Value) -> Vec<Event> {
        let mut events = self.opened();
        if self.open == kind {
            return events;
        }
        events.extend(self.closed());
        self.open = kind;
        events.push(event(&json!({ "type": "content_block_start", "index": self.index, "content_block": block })));
        events
    }
}

impl Dialect for Blocks {
    fn started(&mut self, _attempt: u32, _provider: &str, model: &str) -> Vec<Event> {
        model.clone_into(&mut self.model);
        Vec::new()
    }

    fn piece(&mut self, _attempt: u32, _choice: u32, piece: &Piece) -> Vec<Event> {
        let (kind, block, delta) = match piece {
            Piece::Text(text) => {
                (Open::Text, json!({ "type": "text", "text": "" }), json!({ "type": "text_delta", "text": text }))
            }
            Piece::Reasoning(text) => (
                Open::Thinking,
                json!({ "type": "thinking", "thinking": "", "signature": "" }),
                json!({ "type": "thinking_delta", "thinking": text }),
            ),
            Piece::Tool { index, id, name, arguments } => (
                Open::Tool(*index),
                json!({ "type": "tool_use", "id": id, "name": name, "input": {} }),
                json!({ "type": "input_json_delta", "partial_json": arguments }),
            ),
            // The API has none, and nobody asks for them by it.
            Piece::Logprobs(_) => return Vec::new(),
        };
        let mut events = self.block(kind, &block);
        events.push(event(&json!({ "type": "content_block_delta", "index": self.index, "delta": delta })));
        events
    }

    fn completed(&mut self, answer: &Answer) -> Vec<Event> {
        let mut events = self.opened();
        events.extend(self.closed());
        let delta = json!({ "stop_reason": stop_reason(answer), "stop_sequence": null });
        events.push(event(&json!({ "type": "message_delta", "delta": delta, "usage": usage(&answer.usage) })));
        events.push(event(&json!({ "type": "message_stop" })));
        events
    }

    fn failed(&mut self, failure: &Failure) -> Vec<Event> {
        vec![event(&anthropic_error(failure))]
    }
}
