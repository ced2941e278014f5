//! Answers as OpenAI's clients read them.

use axum::response::sse::Event;
use serde_json::{Value, json};
use symbia_events::integrations::{FinishReason, ToolCall, Usage};

use crate::integrations::{
    ask::Asked,
    errors::openai_error,
    said::{Answer, Failure, Piece},
    stream::Dialect,
};

fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length | FinishReason::Incomplete => "length",
        FinishReason::ContentFilter => "content_filter",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Stop | FinishReason::Error => "stop",
    }
}

fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": { "cached_tokens": usage.cached_prompt_tokens.unwrap_or(0) },
    })
}

fn call(call: &ToolCall) -> Value {
    json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } })
}

/// A chat completion.
pub(super) fn completion(asked: &Asked, answer: &Answer) -> Value {
    let mut message = json!({ "role": "assistant", "content": answer.text, "refusal": null });
    if !answer.tool_calls.is_empty() {
        message["tool_calls"] = answer.tool_calls.iter().map(call).collect();
        if answer.text.is_empty() {
            message["content"] = Value::Null;
        }
    }
    if let Some(reasoning) = &answer.reasoning {
        message["reasoning_content"] = json!(reasoning);
    }
    json!({
        "id": format!("chatcmpl-{}", asked.request_id),
        "object": "chat.completion",
        "created": asked.asked_at.unix_timestamp(),
        "model": answer.model,
        "choices": [{
            "index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason(answer.finish_reason),
        }],
        "usage": usage(&answer.usage),
        "system_fingerprint": null,
    })
}

/// A completion of a text.
pub(super) fn text_completion(asked: &Asked, answer: &Answer) -> Value {
    json!({
        "id": format!("cmpl-{}", asked.request_id),
        "object": "text_completion",
        "created": asked.asked_at.unix_timestamp(),
        "model": answer.model,
        "choices": [{
            "index": 0, "text": answer.text, "logprobs": null, "finish_reason": finish_reason(answer.finish_reason),
        }],
        "usage": usage(&answer.usage),
    })
}

fn event(data: &Value) -> Event {
    Event::default().data(data.to_string())
}

fn done() -> Event {
    Event::default().data("[DONE]")
}

/// The chunks of a chat completion.
pub(super) struct Chunks {
    frame: Value,
    counted: bool,
    begun: bool,
}

impl Chunks {
    pub fn new(asked: &Asked, counted: bool) -> Self {
        let frame = json!({
            "id": format!("chatcmpl-{}", asked.request_id),
            "object": "chat.completion.chunk",
            "created": asked.asked_at.unix_timestamp(),
            "model": "",
            "system_fingerprint": null,
        });
        Chunks { frame, counted, begun: false }
    }

    // Who speaks is told once.
    fn opened(&mut self) -> Vec<Event> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        vec![self.chunk(json!({ "role": "assistant", "content": "", "refusal": null }), None)]
    }

    fn chunk(&self, delta: Value, finish: Option<&str>) -> Event {
        let mut chunk = self.frame.clone();
        chunk["choices"] = json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]);
        if self.counted {
            chunk["usage"] = Value::Null;
        }
        event(&chunk)
    }
}

impl Dialect for Chunks {
    fn started(&mut self, _attempt: u32, _provider: &str, model: &str) -> Vec<Event> {
        self.frame["model"] = json!(model);
        Vec::new()
    }

    fn piece(&mut self, _attempt: u32, piece: &Piece) -> Vec<Event> {
        let delta = match piece {
            Piece::Text(text) => json!({ "content": text }),
            Piece::Reasoning(text) => json!({ "reasoning_content": text }),
            Piece::Tool { index, id, name, arguments } => {
                let mut call = json!({ "index": index, "function": { "arguments": arguments } });
                if let Some(name) = name {
                    (call["id"], call["type"], call["function"]["name"]) = (json!(id), json!("function"), json!(name));
                }
                json!({ "tool_calls": [call] })
            }
        };
        let mut events = self.opened();
        events.push(self.chunk(delta, None));
        events
    }

    fn completed(&mut self, answer: &Answer) -> Vec<Event> {
        self.frame["model"] = json!(answer.model);
        let mut events = self.opened();
        events.push(self.chunk(json!({}), Some(finish_reason(answer.finish_reason))));
        events.extend(closing(&self.frame, self.counted.then_some(&answer.usage)));
        events
    }

    fn failed(&mut self, failure: &Failure) -> Vec<Event> {
        // Without [DONE]: it is no clean end.
        vec![event(&openai_error(failure))]
    }
}

// What ends a stream: what it took, for who asked for that, and the word that it is over.
fn closing(frame: &Value, counted: Option<&Usage>) -> impl Iterator<Item = Event> {
    let last = counted.map(|used| {
        let mut last = frame.clone();
        (last["choices"], last["usage"]) = (json!([]), usage(used));
        event(&last)
    });
    last.into_iter().chain([done()])
}

/// The chunks of a completion of a text.
pub(super) struct TextChunks {
    frame: Value,
    counted: bool,
}

impl TextChunks {
    pub fn new(asked: &Asked, counted: bool) -> Self {
        let frame = json!({
            "id": format!("cmpl-{}", asked.request_id),
            "object": "text_completion",
            "created": asked.asked_at.unix_timestamp(),
            "model": "",
        });
        TextChunks { frame, counted }
    }

    fn chunk(&self, text: &str, finish: Option<&str>) -> Event {
        let mut chunk = self.frame.clone();
        chunk["choices"] = json!([{ "index": 0, "text": text, "logprobs": null, "finish_reason": finish }]);
        event(&chunk)
    }
}

impl Dialect for TextChunks {
    fn started(&mut self, _attempt: u32, _provider: &str, model: &str) -> Vec<Event> {
        self.frame["model"] = json!(model);
        Vec::new()
    }

    fn piece(&mut self, _attempt: u32, piece: &Piece) -> Vec<Event> {
        match piece {
            Piece::Text(text) => vec![self.chunk(text, None)],
            Piece::Reasoning(_) | Piece::Tool { .. } => Vec::new(),
        }
    }

    fn completed(&mut self, answer: &Answer) -> Vec<Event> {
        self.frame["model"] = json!(answer.model);
        let mut events = vec![self.chunk("", Some(finish_reason(answer.finish_reason)))];
        events.extend(closing(&self.frame, self.counted.then_some(&answer.usage)));
        events
    }

    fn failed(&mut self, failure: &Failure) -> Vec<Event> {
        vec![event(&openai_error(failure))]
    }
}
