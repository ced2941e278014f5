//! Answers in the words of Ollama's API: one object, or a line of JSON for each piece and one for the end.

use std::{convert::Infallible, time::Instant};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use futures::stream;
use serde_json::{Value, json};
use symbia_nats::inference::{Completed, FinishReason, Frame, Frames, Piece, ToolCall};
use time::OffsetDateTime;

use super::super::{
    error::{failed, unanswered},
    stream::cancelled,
};
use crate::{http::ApiError, iso};

const NANOS: f64 = 1e6;

/// Which of the two kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The next turn of a conversation.
    Chat,
    /// A text.
    Text,
}

/// What all parts of an answer say about it.
pub(super) struct Heading {
    kind: Kind,
    /// As it was asked for.
    model: String,
    began: Instant,
}

#[derive(Default)]
struct Said<'a> {
    text: &'a str,
    thinking: &'a str,
    calls: &'a [ToolCall],
}

impl Heading {
    pub(super) fn new(kind: Kind, model: String) -> Self {
        Heading { kind, model, began: Instant::now() }
    }

    fn part(&self, said: &Said<'_>, done: bool) -> Value {
        let mut part = json!({ "model": self.model, "created_at": iso(OffsetDateTime::now_utc()), "done": done });
        let thinking = (!said.thinking.is_empty()).then_some(said.thinking);
        match self.kind {
            Kind::Text => {
                part["response"] = json!(said.text);
                if let Some(thinking) = thinking {
                    part["thinking"] = json!(thinking);
                }
            }
            Kind::Chat => {
                let mut message = json!({ "role": "assistant", "content": said.text });
                if let Some(thinking) = thinking {
                    message["thinking"] = json!(thinking);
                }
                if !said.calls.is_empty() {
                    message["tool_calls"] = said.calls.iter().map(call).collect();
                }
                part["message"] = message;
            }
        }
        part
    }

    /// The model was asked nothing: it is in memory now (`load`), or is no longer (`unload`).
    pub(super) fn unasked(&self, done: &str) -> Value {
        let mut part = self.part(&Said::default(), true);
        part["done_reason"] = json!(done);
        part
    }

    /// The whole answer.
    pub(super) fn whole(&self, completed: &Completed) -> Value {
        let choice = completed.choices.first();
        let said = choice.map_or_else(Said::default, |choice| Said {
            text: &choice.text,
            thinking: &choice.reasoning,
            calls: &choice.tool_calls,
        });
        self.ended(self.part(&said, true), completed)
    }

    fn ended(&self, mut part: Value, completed: &Completed) -> Value {
        let (usage, timings) = (&completed.usage, &completed.timings);
        let length = completed.choices.first().is_some_and(|choice| choice.finish_reason == FinishReason::Length);
        part["done_reason"] = json!(if length { "length" } else { "stop" });
        let nanos = |ms: f64| (ms * NANOS) as u64;
        for (name, value) in [
            ("total_duration", u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            ("load_duration", nanos(timings.queue_ms)),
            ("prompt_eval_count", usage.prompt_tokens.into()),
            ("prompt_eval_duration", nanos(timings.prompt_ms)),
            ("eval_count", usage.completion_tokens.into()),
            ("eval_duration", nanos(timings.predicted_ms)),
        ] {
            part[name] = json!(value);
        }
        part
    }

    fn piece(&self, piece: &Piece) -> Option<Value> {
        let said = match piece {
            Piece::Text(text) => Said { text, ..Said::default() },
            Piece::Reasoning(thinking) => Said { thinking, ..Said::default() },
            Piece::ToolCall(call) => Said { calls: std::slice::from_ref(call), ..Said::default() },
            Piece::Logprobs(_) => return None,
        };
        Some(self.part(&said, false))
    }
}

fn call(call: &ToolCall) -> Value {
    let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
    json!({ "function": { "name": call.name, "arguments": arguments } })
}

/// Answers with the frames of a request whose computation has begun. A connection that ends stops the model.
pub(super) fn stream(frames: Frames, heading: Heading) -> Response {
    let lines = stream::unfold(Some((frames, heading)), |telling| async {
        let (mut frames, heading) = telling?;
        let (line, more) = next(&mut frames, &heading).await;
        let line = Ok::<_, Infallible>(format!("{line}\n"));
        Some((line, more.then_some((frames, heading))))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// The next line, and whether another one follows.
async fn next(frames: &mut Frames, heading: &Heading) -> (Value, bool) {
    let fault = |error: ApiError| (json!({ "error": error.message() }), false);
    loop {
        match frames.next().await {
            Ok(Frame::Delta { choice: 0, piece }) => {
                if let Some(line) = heading.piece(&piece) {
                    return (line, true);
                }
            }
            Ok(Frame::Completed(completed)) => {
                return (heading.ended(heading.part(&Said::default(), true), &completed), false);
            }
            Ok(Frame::Failed(failure)) => return fault(failed(failure)),
            Ok(frame) if frame.is_terminal() => return fault(cancelled()),
            Ok(_) => {}
            Err(error) => return fault(unanswered(error)),
        }
    }
}
