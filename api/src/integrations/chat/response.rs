//! Answers as OpenAI's clients read them.

use axum::response::sse::Event;
use serde_json::{Map, Value, json};
use symbia_events::integrations::{AnswerChoice, FinishReason, LikelyToken, TokenLogprob, ToolCall, Usage};
use time::OffsetDateTime;

use crate::integrations::{
    ask::Asked,
    errors::openai_error,
    said::{Answer, Failure, Piece},
    stream::Dialect,
    tooling::{Outcome, PARAGRAPH, ToolDialect},
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

// As the older API has it when `text`: by lists.
fn logprobs(tokens: &[TokenLogprob], text: bool) -> Value {
    if tokens.is_empty() {
        return Value::Null;
    }
    if text {
        let top = |token: &TokenLogprob| -> Map<String, Value> {
            token.top.iter().map(|likely| (likely.token.clone(), json!(likely.logprob))).collect()
        };
        return json!({
            "tokens": tokens.iter().map(|token| &token.chosen.token).collect::<Vec<_>>(),
            "token_logprobs": tokens.iter().map(|token| token.chosen.logprob).collect::<Vec<_>>(),
            "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        });
    }
    let one = |of: &LikelyToken| json!({ "token": of.token, "logprob": of.logprob, "bytes": of.bytes() });
    let token = |token: &TokenLogprob| {
        let mut entry = one(&token.chosen);
        entry["top_logprobs"] = token.top.iter().map(one).collect();
        entry
    };
    json!({ "content": tokens.iter().map(token).collect::<Vec<_>>(), "refusal": null })
}

fn choice((index, said): (usize, &AnswerChoice)) -> Value {
    let mut message = json!({ "role": "assistant", "content": said.text, "refusal": null });
    if !said.tool_calls.is_empty() {
        message["tool_calls"] = said.tool_calls.iter().map(call).collect();
        if said.text.is_empty() {
            message["content"] = Value::Null;
        }
    }
    if !said.reasoning.is_empty() {
        message["reasoning_content"] = json!(said.reasoning);
    }
    let (logprobs, finish) = (logprobs(&said.logprobs, false), finish_reason(said.finish_reason));
    json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": finish })
}

/// A chat completion.
pub(in crate::integrations) fn completion(request_id: &str, asked_at: OffsetDateTime, answer: &Answer) -> Value {
    json!({
        "id": format!("chatcmpl-{request_id}"),
        "object": "chat.completion",
        "created": asked_at.unix_timestamp(),
        "model": answer.model,
        "choices": answer.choices().enumerate().map(choice).collect::<Vec<_>>(),
        "usage": usage(&answer.usage),
        "system_fingerprint": null,
    })
}

// Why an answer that would go on does not.
fn used_up(most: u32) -> Value {
    json!({ "type": "max_tool_rounds", "max_tool_rounds": most })
}

/// A chat completion for which tools were called.
pub(super) fn completion_with_tools(request_id: &str, asked_at: OffsetDateTime, outcome: &Outcome) -> Value {
    let mut body = completion(request_id, asked_at, &outcome.answer);
    if let Some(most) = outcome.used_up {
        body["choices"][0]["finish_details"] = used_up(most);
    }
    body
}

fn text_choice((index, said): (usize, &AnswerChoice)) -> Value {
    let (logprobs, finish) = (logprobs(&said.logprobs, true), finish_reason(said.finish_reason));
    json!({ "index": index, "text": said.text, "logprobs": logprobs, "finish_reason": finish })
}

/// A completion of a text.
pub(in crate::integrations) fn text_completion(request_id: &str, asked_at: OffsetDateTime, answer: &Answer) -> Value {
    json!({
        "id": format!("cmpl-{request_id}"),
        "object": "text_completion",
        "created": asked_at.unix_timestamp(),
        "model": answer.model,
        "choices": answer.choices().enumerate().map(text_choice).collect::<Vec<_>>(),
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
    // Which answers were begun.
    begun: Vec<bool>,
    // What was said in earlier turns, and in this one.
    earlier: Spoken,
    spoken: Spoken,
    // The end of an answer that would go on.
    details: Option<Value>,
}

/// Whether there was text, and whether thoughts were told.
#[derive(Clone, Copy, Debug, Default)]
struct Spoken {
    text: bool,
    reasoning: bool,
}

impl Chunks {
    pub fn new(request_id: &str, asked_at: OffsetDateTime, counted: bool) -> Self {
        let frame = json!({
            "id": format!("chatcmpl-{request_id}"),
            "object": "chat.completion.chunk",
            "created": asked_at.unix_timestamp(),
            "model": "",
            "system_fingerprint": null,
        });
        let (earlier, spoken) = (Spoken::default(), Spoken::default());
        Chunks { frame, counted, begun: Vec::new(), earlier, spoken, details: None }
    }

    // What stands before a piece of text: a paragraph, where it is the first of a turn and not of all.
    fn apart(&mut self, piece: &Piece) -> &'static str {
        let (earlier, spoken) = match piece {
            Piece::Text(_) => (self.earlier.text, &mut self.spoken.text),
            Piece::Reasoning(_) => (self.earlier.reasoning, &mut self.spoken.reasoning),
            Piece::Tool { .. } | Piece::Logprobs(_) => return "",
        };
        if std::mem::replace(spoken, true) || !earlier { "" } else { PARAGRAPH }
    }

    // Who speaks is told once.
    fn opened(&mut self, choice: u32) -> Vec<Event> {
        let place = choice as usize;
        if self.begun.len() <= place {
            self.begun.resize(place + 1, false);
        }
        if std::mem::replace(&mut self.begun[place], true) {
            return Vec::new();
        }
        let delta = json!({ "role": "assistant", "content": "", "refusal": null });
        vec![self.chunk(json!({ "index": choice, "delta": delta, "logprobs": null, "finish_reason": null }))]
    }

    fn chunk(&self, choice: Value) -> Event {
        let mut chunk = self.frame.clone();
        chunk["choices"] = json!([choice]);
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

    fn piece(&mut self, _attempt: u32, choice: u32, piece: &Piece) -> Vec<Event> {
        let mut likely = Value::Null;
        let apart = self.apart(piece);
        let delta = match piece {
            Piece::Text(text) => json!({ "content": format!("{apart}{text}") }),
            Piece::Reasoning(text) => json!({ "reasoning_content": format!("{apart}{text}") }),
            Piece::Logprobs(tokens) => {
                likely = logprobs(tokens, false);
                json!({})
            }
            Piece::Tool { index, id, name, arguments } => {
                let mut call = json!({ "index": index, "function": { "arguments": arguments } });
                if let Some(name) = name {
                    (call["id"], call["type"], call["function"]["name"]) = (json!(id), json!("function"), json!(name));
                }
                json!({ "tool_calls": [call] })
            }
        };
        let mut events = self.opened(choice);
        let choice = json!({ "index": choice, "delta": delta, "logprobs": likely, "finish_reason": null });
        events.push(self.chunk(choice));
        events
    }

    fn completed(&mut self, answer: &Answer) -> Vec<Event> {
        self.frame["model"] = json!(answer.model);
        let mut events = Vec::new();
        for (choice, said) in (0u32..).zip(answer.choices()) {
            events.extend(self.opened(choice));
            let finish = finish_reason(said.finish_reason);
            let mut choice = json!({ "index": choice, "delta": {}, "logprobs": null, "finish_reason": finish });
            if let Some(details) = &self.details {
                choice["finish_details"] = details.clone();
            }
            events.push(self.chunk(choice));
        }
        events.extend(closing(&self.frame, self.counted.then_some(&answer.usage)));
        events
    }

    fn failed(&mut self, failure: &Failure) -> Vec<Event> {
        // Without [DONE]: it is no clean end.
        vec![event(&openai_error(failure))]
    }
}

impl ToolDialect for Chunks {
    fn asked(&mut self, _request_id: &str) -> Vec<Event> {
        self.earlier.text |= self.spoken.text;
        self.earlier.reasoning |= self.spoken.reasoning;
        self.spoken = Spoken::default();
        Vec::new()
    }

    fn over(&mut self, outcome: &Outcome) -> Vec<Event> {
        self.details = outcome.used_up.map(used_up);
        self.completed(&outcome.answer)
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

    fn chunk(&self, choice: u32, text: &str, likely: Value, finish: Option<&str>) -> Event {
        let mut chunk = self.frame.clone();
        chunk["choices"] = json!([{ "index": choice, "text": text, "logprobs": likely, "finish_reason": finish }]);
        event(&chunk)
    }
}

impl Dialect for TextChunks {
    fn started(&mut self, _attempt: u32, _provider: &str, model: &str) -> Vec<Event> {
        self.frame["model"] = json!(model);
        Vec::new()
    }

    fn piece(&mut self, _attempt: u32, choice: u32, piece: &Piece) -> Vec<Event> {
        match piece {
            Piece::Text(text) => vec![self.chunk(choice, text, Value::Null, None)],
            Piece::Logprobs(tokens) => vec![self.chunk(choice, "", logprobs(tokens, true), None)],
            Piece::Reasoning(_) | Piece::Tool { .. } => Vec::new(),
        }
    }

    fn completed(&mut self, answer: &Answer) -> Vec<Event> {
        self.frame["model"] = json!(answer.model);
        let end = |(choice, said): (u32, &AnswerChoice)| {
            self.chunk(choice, "", Value::Null, Some(finish_reason(said.finish_reason)))
        };
        let mut events: Vec<Event> = (0u32..).zip(answer.choices()).map(end).collect();
        events.extend(closing(&self.frame, self.counted.then_some(&answer.usage)));
        events
    }

    fn failed(&mut self, failure: &Failure) -> Vec<Event> {
        vec![event(&openai_error(failure))]
    }
}
