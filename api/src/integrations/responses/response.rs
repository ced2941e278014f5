//! Responses as OpenAI's clients read them.

use serde_json::{Map, Value, json};
use symbia_events::integrations::{AnswerChoice, FinishReason, LikelyToken, TokenLogprob, Tool, ToolCall, Usage};
use time::OffsetDateTime;

use super::{PREFIX, request::ResponsesRequest, served::echoed};
use crate::integrations::{
    ask::Asked,
    said::{Answer, Failure},
    tooling::ToolNames,
};

/// The member of what is kept that says which tools are of servers.
pub(super) const SERVED: &str = "served_tools";

/// What a response repeats of its request.
#[derive(Clone, Debug)]
pub(in crate::integrations) struct Echo(Map<String, Value>);

impl Echo {
    pub fn of(request: &ResponsesRequest) -> Self {
        let effort = request.reasoning.as_ref().map(|reasoning| reasoning["effort"].clone());
        let plain = json!({ "format": { "type": "text" } });
        let echo = [
            ("model", json!(request.model)),
            ("instructions", json!(request.instructions)),
            ("previous_response_id", json!(request.previous_response_id)),
            ("max_output_tokens", json!(request.max_output_tokens)),
            ("temperature", json!(request.temperature)),
            ("top_p", json!(request.top_p)),
            ("top_logprobs", json!(request.top_logprobs)),
            ("tools", json!(request.tools.as_deref().unwrap_or_default())),
            ("tool_choice", request.tool_choice.clone().unwrap_or_else(|| json!("auto"))),
            ("parallel_tool_calls", json!(request.parallel_tool_calls.unwrap_or(true))),
            ("text", request.text.clone().unwrap_or(plain)),
            ("reasoning", json!({ "effort": effort, "summary": null })),
            ("metadata", request.metadata.clone().unwrap_or_else(|| json!({}))),
            ("truncation", json!("disabled")),
            ("background", json!(false)),
            ("store", json!(request.store.unwrap_or(true))),
        ];
        Echo(echo.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// What is kept of it for who reads the response later: all but what is kept besides, and which tools are of servers.
    pub fn kept(&self, names: Option<&ToolNames>) -> Value {
        let besides = |name: &str| ["instructions", "tools"].contains(&name);
        let kept = self.0.clone().into_iter().filter(|(name, _)| !besides(name));
        Value::Object(kept.chain(names.map(|names| (SERVED.to_owned(), json!(names)))).collect())
    }

    /// The same again, from what was kept.
    pub fn again(kept: Option<&Value>, instructions: Option<&str>, tools: &[Tool], names: &ToolNames) -> Self {
        let tool = |tool: &Tool| {
            json!({
                "type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters,
                "strict": tool.strict,
            })
        };
        let mut echo = kept.and_then(Value::as_object).cloned().unwrap_or_default();
        echo.remove(SERVED);
        echo.insert("instructions".to_owned(), json!(instructions));
        let own = tools.iter().filter(|tool| names.find(&tool.name).is_none());
        echo.insert("tools".to_owned(), own.map(tool).chain(echoed(names)).collect());
        Echo(echo)
    }

    /// A response with this output, under way.
    pub fn response(&self, head: &Head, model: Option<&str>, output: Vec<Value>) -> Value {
        let mut body = self.0.clone();
        if let Some(model) = model {
            body.insert("model".to_owned(), json!(model));
        }
        let more = json!({
            "id": head.id, "object": "response", "created_at": head.created, "status": "in_progress", "error": null,
            "incomplete_details": null, "output": output, "usage": null,
        });
        if let Value::Object(more) = more {
            body.extend(more);
        }
        Value::Object(body)
    }
}

/// What names a response and its parts.
#[derive(Clone, Debug)]
pub(in crate::integrations) struct Head {
    id: String,
    request_id: String,
    created: i64,
}

impl Head {
    pub fn of(asked: &Asked) -> Self {
        Head::new(&asked.request_id, asked.asked_at)
    }

    pub fn new(request_id: &str, asked_at: OffsetDateTime) -> Self {
        let (id, created) = (format!("{PREFIX}{request_id}"), asked_at.unix_timestamp());
        Head { id, request_id: request_id.to_owned(), created }
    }

    /// What names the parts that are of another request.
    pub fn of_turn(&self, request_id: &str) -> Self {
        Head { request_id: request_id.to_owned(), ..self.clone() }
    }

    /// Id of the request.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// What a model thought.
    pub fn reasoning(&self, text: &str) -> Value {
        let summary: Vec<Value> = (!text.is_empty()).then(|| summary(text)).into_iter().collect();
        json!({ "type": "reasoning", "id": format!("rs_{}", self.request_id), "summary": summary })
    }

    /// What it says.
    pub fn message(&self, status: &str, content: Vec<Value>) -> Value {
        let id = format!("msg_{}", self.request_id);
        json!({ "type": "message", "id": id, "status": status, "role": "assistant", "content": content })
    }

    /// A call that it asks for.
    pub fn call(&self, index: usize, status: &str, call: &ToolCall) -> Value {
        json!({
            "type": "function_call", "id": format!("fc_{}_{index}", self.request_id), "status": status,
            "call_id": call.id, "name": call.name, "arguments": call.arguments,
        })
    }
}

/// A part of what a model thought.
pub(super) fn summary(text: &str) -> Value {
    json!({ "type": "summary_text", "text": text })
}

/// A part of what it says.
pub(super) fn output_text(text: &str, likely: &[TokenLogprob]) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs(likely) })
}

/// How likely tokens were.
pub(super) fn logprobs(tokens: &[TokenLogprob]) -> Value {
    let one = |of: &LikelyToken| json!({ "token": of.token, "logprob": of.logprob, "bytes": of.bytes() });
    let token = |token: &TokenLogprob| {
        let mut entry = one(&token.chosen);
        entry["top_logprobs"] = token.top.iter().map(one).collect();
        entry
    };
    tokens.iter().map(token).collect()
}

fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": { "cached_tokens": usage.cached_prompt_tokens.unwrap_or(0), "cache_write_tokens": 0 },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": usage.total_tokens,
    })
}

/// A response with its end: how it came to it, and what it took.
pub(super) fn finished(mut response: Value, answer: &Answer) -> Value {
    let reason = match answer.first.finish_reason {
        FinishReason::Length | FinishReason::Incomplete => Some("max_output_tokens"),
        FinishReason::ContentFilter => Some("content_filter"),
        FinishReason::Stop | FinishReason::ToolCalls | FinishReason::Error => None,
    };
    response["status"] = json!(if reason.is_some() { "incomplete" } else { "completed" });
    response["incomplete_details"] = reason.map_or(Value::Null, |reason| json!({ "reason": reason }));
    response["usage"] = usage(&answer.usage);
    response
}

/// A response without an answer.
pub(super) fn failed(mut response: Value, failure: &Failure) -> Value {
    let code = failure.code.clone().map_or_else(|| json!(failure.category), Value::from);
    response["status"] = json!("failed");
    response["error"] = json!({ "code": code, "message": failure.message });
    response
}

/// A response that was stopped.
pub(super) fn cancelled(mut response: Value) -> Value {
    response["status"] = json!("cancelled");
    response
}

/// A whole response.
pub(in crate::integrations) fn response(head: &Head, echo: &Echo, answer: &Answer) -> Value {
    finished(echo.response(head, Some(&answer.model), said(head, &answer.first, true)), answer)
}

/// The items of a turn. A last one says something, and be it nothing.
pub(super) fn said(head: &Head, turn: &AnswerChoice, last: bool) -> Vec<Value> {
    let mut items = Vec::new();
    if !turn.reasoning.is_empty() {
        items.push(head.reasoning(&turn.reasoning));
    }
    if !turn.text.is_empty() || (last && turn.tool_calls.is_empty()) {
        items.push(head.message("completed", vec![output_text(&turn.text, &turn.logprobs)]));
    }
    items.extend(turn.tool_calls.iter().enumerate().map(|(index, call)| head.call(index, "completed", call)));
    items
}
