//! What a response has of tools of servers: which there were, and what was called.

use serde_json::{Value, json};
use symbia_events::integrations::{AnswerChoice, Tool};

use super::response::{Echo, Head, finished, said};
use crate::integrations::tooling::{Fault, Made, NamedServer, NamedTool, Outcome, Planned, ToolNames};

/// The tools of each server; `functions` are those of the prompt.
pub(in crate::integrations) fn lists(request_id: &str, names: &ToolNames, functions: &[Tool]) -> Vec<Value> {
    let list = |(place, NamedServer { key, tools }): (usize, &NamedServer)| {
        let tool = |named: &NamedTool| {
            let function = functions.iter().find(|function| function.name == named.function);
            json!({
                "name": named.tool,
                "description": function.and_then(|function| function.description.as_deref()),
                "input_schema": function.map(|function| &function.parameters),
                "annotations": { "read_only": named.read_only },
            })
        };
        json!({
            "type": "mcp_list_tools", "id": format!("mcpl_{request_id}_{place}"), "server_label": key,
            "tools": tools.iter().map(tool).collect::<Vec<_>>(), "error": null,
        })
    };
    names.servers.iter().enumerate().map(list).collect()
}

fn call(id: &str, server: &str, tool: &str, arguments: &str) -> Value {
    json!({
        "type": "mcp_call", "id": format!("mcp_{id}"), "status": "in_progress", "server_label": server, "name": tool,
        "arguments": arguments, "approval_request_id": null, "output": null, "error": null,
    })
}

/// A call under way.
pub(super) fn planned(planned: &Planned) -> Value {
    call(&planned.id, &planned.server, &planned.tool, &planned.call.arguments)
}

/// A call that has its end.
pub(super) fn made(made: &Made) -> Value {
    let mut item = call(&made.id, &made.server, &made.tool, &made.arguments);
    item["status"] = json!(if made.fault.is_none() { "completed" } else { "failed" });
    match made.fault {
        None => item["output"] = json!(made.text),
        Some(Fault::Tool) => {
            let content = json!([{ "type": "text", "text": made.text }]);
            item["error"] = json!({ "type": "mcp_tool_execution_error", "content": content });
        }
        Some(Fault::Call(status)) => {
            item["error"] = json!({ "type": "http_error", "code": status, "message": made.text });
        }
    }
    item
}

/// What a tool of the request is repeated as, for each server.
pub(super) fn echoed(names: &ToolNames) -> impl Iterator<Item = Value> {
    names.servers.iter().map(|server| {
        let tools: Vec<&str> = server.tools.iter().map(|named| named.tool.as_str()).collect();
        json!({ "type": "mcp", "server_label": server.key, "allowed_tools": tools, "require_approval": "never" })
    })
}

/// An answer that would go on is cut off, and says why.
pub(super) fn cut_off(mut response: Value, used_up: Option<u32>) -> Value {
    if used_up.is_some() {
        response["incomplete_details"] = json!({ "reason": "max_tool_rounds" });
    }
    response
}

/// A whole response, for which tools were called.
pub(in crate::integrations) fn response_with_tools(
    head: &Head,
    echo: &Echo,
    lists: Vec<Value>,
    outcome: &Outcome,
) -> Value {
    let mut output = lists;
    let last = outcome.rounds.len().saturating_sub(1);
    for (place, round) in outcome.rounds.iter().enumerate() {
        let calls = if place == last { outcome.answer.first.tool_calls.clone() } else { Vec::new() };
        let turn = AnswerChoice { tool_calls: calls, ..round.answer.first.clone() };
        output.extend(said(&head.of_turn(&round.request_id), &turn, place == last));
        output.extend(round.calls.iter().map(made));
    }
    let response = echo.response(head, Some(&outcome.answer.model), output);
    cut_off(finished(response, &outcome.answer), outcome.used_up)
}
