//! Answers in the shape of OpenAI's API (models.md §3, 15.2, 15.3).

use serde_json::{Value, json};
use symbia_nats::inference::{Choice, Completed, Piece, Timings, TokenLogprob, ToolCall, Usage};
use time::OffsetDateTime;

use crate::http::RequestScope;

/// Which of the two kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The next turn of a conversation.
    Chat,
    /// A text that goes on.
    Text,
}

/// What all parts of an answer say about it.
pub(super) struct Heading {
    pub(super) kind: Kind,
    id: String,
    created: i64,
    model: String,
    dropped: Vec<String>,
}

impl Heading {
    pub(super) fn new(kind: Kind, scope: &RequestScope, model: &str, dropped: Vec<String>) -> Self {
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let id = format!("{prefix}-{}", scope.request_id);
        Heading { kind, id, created: OffsetDateTime::now_utc().unix_timestamp(), model: model.to_owned(), dropped }
    }

    fn body(&self, object: &str, choices: Value) -> Value {
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices })
    }

    /// The whole answer.
    pub(super) fn whole(&self, completed: &Completed) -> Value {
        let choices: Vec<Value> =
            completed.choices.iter().enumerate().map(|(index, choice)| self.choice(index, choice)).collect();
        let object = if self.kind == Kind::Chat { "chat.completion" } else { "text_completion" };
        let mut body = self.body(object, json!(choices));
        body["model"] = json!(completed.model);
        body["usage"] = usage(&completed.usage);
        body["timings"] = timings(&completed.usage, &completed.timings);
        body["symbia"] = self.extras();
        body
    }

    fn extras(&self) -> Value {
        let dropped = |param: &String| json!({ "param": param, "reason": "the local models do not take it" });
        json!({ "source": "local", "droppedParams": self.dropped.iter().map(dropped).collect::<Vec<_>>() })
    }

    fn choice(&self, index: usize, choice: &Choice) -> Value {
        let finish = choice.finish_reason.name();
        let logprobs = (!choice.logprobs.is_empty()).then(|| self.logprobs(&choice.logprobs));
        if self.kind == Kind::Text {
            return json!({ "index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": finish });
        }
        let content =
            if choice.text.is_empty() && !choice.tool_calls.is_empty() { Value::Null } else { json!(choice.text) };
        let mut message = json!({ "role": "assistant", "content": content });
        if !choice.reasoning.is_empty() {
            message["reasoning_content"] = json!(choice.reasoning);
        }
        if !choice.tool_calls.is_empty() {
            message["tool_calls"] = choice.tool_calls.iter().map(tool_call).collect();
        }
        json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": finish })
    }

    /// The first part of a choice.
    pub(super) fn opening(&self, choice: u32) -> Option<Value> {
        (self.kind == Kind::Chat).then(|| self.chunk(choice, json!({ "role": "assistant", "content": "" }), None))
    }

    /// A piece of a choice; `calls` counts its calls of tools.
    pub(super) fn piece(&self, choice: u32, piece: &Piece, calls: &mut usize) -> Value {
        let (delta, logprobs) = match piece {
            Piece::Text(text) => (json!({ "content": text }), None),
            Piece::Reasoning(text) => (json!({ "reasoning_content": text }), None),
            Piece::ToolCall(call) => {
                let mut call = tool_call(call);
                call["index"] = json!(*calls);
                *calls += 1;
                (json!({ "tool_calls": [call] }), None)
            }
            Piece::Logprobs(tokens) => (json!({}), Some(self.logprobs(tokens))),
        };
        let mut chunk = self.chunk(choice, delta, None);
        if let Some(logprobs) = logprobs {
            chunk["choices"][0]["logprobs"] = logprobs;
        }
        chunk
    }

    /// The last part of a choice.
    pub(super) fn closing(&self, choice: u32, finish: &str) -> Value {
        self.chunk(choice, json!({}), Some(finish))
    }

    /// What a stream took.
    pub(super) fn usage(&self, completed: &Completed) -> Value {
        let mut body = self.body(self.part(), json!([]));
        body["usage"] = usage(&completed.usage);
        body["timings"] = timings(&completed.usage, &completed.timings);
        body["symbia"] = self.extras();
        body
    }

    fn part(&self) -> &'static str {
        if self.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" }
    }

    fn chunk(&self, choice: u32, delta: Value, finish: Option<&str>) -> Value {
        let choice = match self.kind {
            Kind::Chat => json!({ "index": choice, "delta": delta, "finish_reason": finish }),
            Kind::Text => {
                let text = delta["content"].as_str().unwrap_or_default();
                json!({ "index": choice, "text": text, "finish_reason": finish })
            }
        };
        self.body(self.part(), json!([choice]))
    }

    fn logprobs(&self, tokens: &[TokenLogprob]) -> Value {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if self.kind == Kind::Text {
            let top = |token: &TokenLogprob| {
                token
                    .top
                    .iter()
                    .map(|(bytes, logprob)| (text(bytes), json!(logprob)))
                    .collect::<serde_json::Map<_, _>>()
            };
            return json!({
                "tokens": tokens.iter().map(|token| text(&token.bytes)).collect::<Vec<_>>(),
                "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
                "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
            });
        }
        let one = |bytes: &[u8], logprob: f32| json!({ "token": text(bytes), "logprob": logprob, "bytes": bytes });
        let token = |token: &TokenLogprob| {
            let mut entry = one(&token.bytes, token.logprob);
            entry["top_logprobs"] = token.top.iter().map(|(bytes, logprob)| one(bytes, *logprob)).collect();
            entry
        };
        json!({ "content": tokens.iter().map(token).collect::<Vec<_>>(), "refusal": null })
    }
}

fn tool_call(call: &ToolCall) -> Value {
    json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } })
}

pub(super) fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": { "cached_tokens": usage.cached_tokens },
    })
}

fn timings(usage: &Usage, timings: &Timings) -> Value {
    let rate = |tokens: u32, ms: f64| if ms > 0.0 { f64::from(tokens) / ms * 1e3 } else { 0.0 };
    json!({
        "queue_ms": timings.queue_ms,
        "prompt_ms": timings.prompt_ms,
        "predicted_ms": timings.predicted_ms,
        "prompt_per_second": rate(usage.prompt_tokens - usage.cached_tokens.min(usage.prompt_tokens), timings.prompt_ms),
        "predicted_per_second": rate(usage.completion_tokens, timings.predicted_ms),
    })
}
