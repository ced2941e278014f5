//! The vendor's model `scripted`: its last user says what it does, a list of turns, of which it takes the next one each time that
//! it is asked. A turn is `{"say", "tell", "call": [[name, arguments], …], "wait"}`: with `tell` it repeats what tools gave last,
//! with `wait` it answers when it is let.

use serde_json::{Value, json};

/// What it answers, as events, and whether it waits to be let.
pub fn turn(body: &Value) -> (String, bool) {
    let messages = body["messages"].as_array().cloned().unwrap_or_default();
    let asked = messages.iter().rposition(|message| message["role"] == "user").unwrap_or(0);
    let since = messages.get(asked + 1..).unwrap_or_default();
    let number = since.iter().filter(|message| message["role"] == "assistant").count();
    let script: Value =
        messages.get(asked).and_then(|m| serde_json::from_str(m["content"].as_str()?).ok()).unwrap_or_default();
    let turn = &script[number];
    let results = since.iter().rev().take_while(|message| message["role"] == "tool").map(|message| &message["content"]);
    let mut told: Vec<&str> = results.filter_map(Value::as_str).collect();
    told.reverse();
    let text =
        if turn["tell"] == true { told.join(" & ") } else { turn["say"].as_str().unwrap_or_default().to_owned() };

    let chunk = |delta: Value, finish: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        let chunk = json!({ "id": "chatcmpl-9", "object": "chat.completion.chunk", "model": "scripted-1", "choices": [choice] });
        format!("data: {chunk}\n\n")
    };
    // In two pieces.
    let (first, second) = text.split_at(text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at));
    let mut said: String =
        [first, second].iter().filter(|s| !s.is_empty()).map(|s| chunk(json!({ "content": s }), Value::Null)).collect();
    let calls = turn["call"].as_array().cloned().unwrap_or_default();
    for (place, call) in calls.iter().enumerate() {
        let (id, arguments) = (format!("call_{number}_{place}"), call[1].to_string());
        let function = json!({ "name": call[0], "arguments": "" });
        let begun = json!({ "index": place, "id": id, "type": "function", "function": function });
        said += &chunk(json!({ "tool_calls": [begun] }), Value::Null);
        let rest = json!({ "index": place, "function": { "arguments": arguments } });
        said += &chunk(json!({ "tool_calls": [rest] }), Value::Null);
    }
    said += &chunk(json!({}), json!(if calls.is_empty() { "stop" } else { "tool_calls" }));
    let usage = json!({ "prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18 });
    let usage = json!({ "id": "chatcmpl-9", "choices": [], "usage": usage });
    (format!("{said}data: {usage}\n\ndata: [DONE]\n\n"), turn["wait"] == true)
}
