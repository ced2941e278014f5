//! A prompt as a body of OpenAI's chat completions (integrations.md §8.1).

use serde_json::{Map, Value, json};
use symbia_events::integrations::{AnswerFormat, DroppedParam, PromptPart, PromptRole, ToolChoice};

use crate::integrations::provider::{Prompt, Turn};

/// Most stop texts that the API takes.
pub(super) const MAX_STOP: usize = 4;

/// The whole body. What is not asked for is not sent.
pub(super) fn body(prompt: &Prompt) -> Value {
    let reasoning = is_reasoning(&prompt.model);
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(prompt.model));
    body.insert("messages".to_owned(), prompt.turns.iter().map(|turn| message(turn, reasoning)).collect());
    body.insert("stream".to_owned(), json!(true));
    body.insert("stream_options".to_owned(), json!({ "include_usage": true }));
    let dropped = dropped(prompt);
    let mut give = |name: &str, wire: &str, value: Option<Value>| {
        if let Some(value) = value.filter(|_| dropped.iter().all(|d| d.param != name)) {
            body.insert(wire.to_owned(), value);
        }
    };
    let (s, o) = (&prompt.sampling, &prompt.options);
    let max_tokens = if reasoning { "max_completion_tokens" } else { "max_tokens" };
    give("temperature", "temperature", s.temperature.map(Value::from));
    give("topP", "top_p", s.top_p.map(Value::from));
    give("maxTokens", max_tokens, s.max_tokens.map(Value::from));
    let stop: Vec<_> = s.stop.iter().take(MAX_STOP).collect();
    give("stop", "stop", (!stop.is_empty()).then(|| json!(stop)));
    give("seed", "seed", s.seed.map(Value::from));
    give("frequencyPenalty", "frequency_penalty", s.frequency_penalty.map(Value::from));
    give("presencePenalty", "presence_penalty", s.presence_penalty.map(Value::from));
    let tools: Vec<Value> = o.tools.iter().map(tool).collect();
    give("tools", "tools", (!tools.is_empty()).then(|| json!(tools)));
    give("toolChoice", "tool_choice", o.tool_choice.as_ref().map(tool_choice));
    give("parallelToolCalls", "parallel_tool_calls", o.parallel_tool_calls.map(Value::from));
    match &o.format {
        Some(AnswerFormat::Grammar { grammar }) => give("grammar", "grammar", Some(json!(grammar))),
        shape => give("responseFormat", "response_format", shape.as_ref().and_then(format)),
    }
    give("n", "n", o.choices.filter(|n| *n > 1).map(Value::from));
    give("logprobs", "logprobs", o.logprobs.map(|_| json!(true)));
    give("logprobs", "top_logprobs", o.logprobs.filter(|top| *top > 0).map(Value::from));
    give("reasoningEffort", "reasoning_effort", o.reasoning_effort.clone().map(Value::from));
    Value::Object(body)
}

fn message(turn: &Turn, reasoning: bool) -> Value {
    let role = match turn.role {
        PromptRole::System if reasoning => "developer",
        PromptRole::System => "system",
        PromptRole::User => "user",
        PromptRole::Assistant => "assistant",
        PromptRole::Tool => "tool",
    };
    let content = if turn.parts.is_empty() { json!(turn.content) } else { turn.parts.iter().map(part).collect() };
    let mut message = json!({ "role": role, "content": content });
    if let Some(name) = &turn.name {
        message["name"] = json!(name);
    }
    if let Some(id) = &turn.tool_call_id {
        message["tool_call_id"] = json!(id);
    }
    if !turn.tool_calls.is_empty() {
        let call = |call: &symbia_events::integrations::ToolCall| {
            let function = json!({ "name": call.name, "arguments": call.arguments });
            json!({ "id": call.id, "type": "function", "function": function })
        };
        message["tool_calls"] = turn.tool_calls.iter().map(call).collect();
        if turn.content.is_empty() && turn.parts.is_empty() {
            message["content"] = Value::Null;
        }
    }
    message
}

fn part(part: &PromptPart) -> Value {
    match part {
        PromptPart::Text { text } => json!({ "type": "text", "text": text }),
        PromptPart::Image { url } => json!({ "type": "image_url", "image_url": { "url": url } }),
    }
}

fn tool(tool: &symbia_events::integrations::Tool) -> Value {
    let mut function = json!({ "name": tool.name, "parameters": tool.parameters });
    if let Some(description) = &tool.description {
        function["description"] = json!(description);
    }
    if let Some(strict) = tool.strict {
        function["strict"] = json!(strict);
    }
    json!({ "type": "function", "function": function })
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::None => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({ "type": "function", "function": { "name": name } }),
    }
}

fn format(format: &AnswerFormat) -> Option<Value> {
    Some(match format {
        AnswerFormat::Grammar { .. } => return None,
        AnswerFormat::JsonObject => json!({ "type": "json_object" }),
        AnswerFormat::JsonSchema { name, schema, strict } => {
            let mut described = json!({ "name": name, "schema": schema });
            if let Some(strict) = strict {
                described["strict"] = json!(strict);
            }
            json!({ "type": "json_schema", "json_schema": described })
        }
    })
}

/// What is not sent, and why.
pub(super) fn dropped(prompt: &Prompt) -> Vec<DroppedParam> {
    let (s, o) = (&prompt.sampling, &prompt.options);
    let none = "the API has no such parameter";
    let reasoning = "reasoning models do not take it";
    let is_reasoning = is_reasoning(&prompt.model);
    let given = [
        ("topK", s.top_k.is_some(), none),
        ("thinkingTokens", o.thinking_tokens.is_some(), none),
        ("temperature", is_reasoning && s.temperature.is_some(), reasoning),
        ("topP", is_reasoning && s.top_p.is_some(), reasoning),
        ("frequencyPenalty", is_reasoning && s.frequency_penalty.is_some(), reasoning),
        ("presencePenalty", is_reasoning && s.presence_penalty.is_some(), reasoning),
        ("stop", is_reasoning && !s.stop.is_empty(), reasoning),
        ("logprobs", is_reasoning && o.logprobs.is_some(), reasoning),
    ];
    let dropped =
        |(param, _, reason): (&str, bool, &str)| DroppedParam { param: param.to_owned(), reason: reason.to_owned() };
    given.into_iter().filter(|(_, given, _)| *given).map(dropped).collect()
}

// o1, o3-mini, gpt-5 and the like.
fn is_reasoning(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let o_series = name.strip_prefix('o').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let generation = name.strip_prefix("gpt-").and_then(|rest| rest.split(['.', '-']).next()?.parse::<u32>().ok());
    o_series || generation.is_some_and(|generation| generation >= 5)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use symbia_events::integrations::{PromptOptions, Sampling, Tool, ToolCall};

    use super::*;

    fn prompt(model: &str) -> Prompt {
        Prompt {
            org: "acme".to_owned(),
            request_id: "r".to_owned(),
            attempt: 1,
            model: model.to_owned(),
            turns: vec![Turn::text(PromptRole::System, "be kind"), Turn::text(PromptRole::User, "hi")],
            sampling: Sampling {
                temperature: Some(0.5),
                top_p: Some(0.9),
                top_k: Some(40),
                max_tokens: Some(100),
                stop: vec!["END".to_owned()],
                seed: Some(7),
                frequency_penalty: Some(0.1),
                presence_penalty: Some(0.2),
            },
            options: PromptOptions::default(),
        }
    }

    #[test]
    fn each_parameter_goes_under_its_name_to_the_models_that_take_it_and_what_is_dropped_is_told() {
        let (plain, reasoning) = (prompt("gpt-4o"), prompt("o3-mini"));
        let expected = json!({
            "model": "gpt-4o",
            "messages": [{ "role": "system", "content": "be kind" }, { "role": "user", "content": "hi" }],
            "stream": true, "stream_options": { "include_usage": true },
            "temperature": 0.5, "top_p": 0.9, "max_tokens": 100, "stop": ["END"], "seed": 7,
            "frequency_penalty": 0.1, "presence_penalty": 0.2,
        });
        assert_eq!(body(&plain), expected);
        let expected = json!({
            "model": "o3-mini",
            "messages": [{ "role": "developer", "content": "be kind" }, { "role": "user", "content": "hi" }],
            "stream": true, "stream_options": { "include_usage": true },
            "max_completion_tokens": 100, "seed": 7,
        });
        assert_eq!(body(&reasoning), expected);
        let names = |p: &Prompt| -> Vec<String> { dropped(p).into_iter().map(|d| d.param).collect() };
        assert_eq!(names(&plain), ["topK"]);
        assert_eq!(names(&reasoning).len(), 6);
        let models = ["o1", "o4-mini", "gpt-5", "gpt-5.2-pro", "openai/o3", "gpt-4o", "gpt-4.1", "omni", "llama-3"];
        assert_eq!(models.map(is_reasoning), [true, true, true, true, true, false, false, false, false]);
    }

    #[test]
    fn tools_images_and_the_shape_of_the_answer_are_written_as_the_api_has_them() {
        let call = ToolCall { id: "c1".into(), name: "add".into(), arguments: "{\"a\":1}".into() };
        let image = PromptPart::Image { url: "data:image/png;base64,AA".into() };
        let prompt = Prompt {
            turns: vec![
                Turn {
                    parts: vec![PromptPart::Text { text: "what?".into() }, image],
                    ..Turn::text(PromptRole::User, "what?")
                },
                Turn { tool_calls: vec![call], ..Turn::text(PromptRole::Assistant, "") },
                Turn { tool_call_id: Some("c1".into()), ..Turn::text(PromptRole::Tool, "2") },
            ],
            sampling: Sampling::default(),
            options: PromptOptions {
                tools: vec![Tool {
                    name: "add".into(),
                    description: Some("adds".into()),
                    parameters: json!({ "type": "object" }),
                    strict: Some(true),
                }],
                tool_choice: Some(ToolChoice::Named("add".into())),
                parallel_tool_calls: Some(false),
                format: Some(AnswerFormat::JsonSchema {
                    name: "sum".into(),
                    schema: json!({ "type": "object" }),
                    strict: None,
                }),
                reasoning_effort: Some("low".into()),
                ..PromptOptions::default()
            },
            ..prompt("gpt-4o")
        };
        let expected = json!({
            "model": "gpt-4o",
            "messages": [
                { "role": "user", "content": [
                    { "type": "text", "text": "what?" },
                    { "type": "image_url", "image_url": { "url": "data:image/png;base64,AA" } },
                ] },
                { "role": "assistant", "content": null, "tool_calls": [
                    { "id": "c1", "type": "function", "function": { "name": "add", "arguments": "{\"a\":1}" } },
                ] },
                { "role": "tool", "content": "2", "tool_call_id": "c1" },
            ],
            "stream": true, "stream_options": { "include_usage": true },
            "tools": [{ "type": "function", "function": {
                "name": "add", "description": "adds", "parameters": { "type": "object" }, "strict": true } }],
            "tool_choice": { "type": "function", "function": { "name": "add" } },
            "parallel_tool_calls": false,
            "response_format": { "type": "json_schema", "json_schema": { "name": "sum", "schema": { "type": "object" } } },
            "reasoning_effort": "low",
        });
        assert_eq!(body(&prompt), expected);
        let format = Some(AnswerFormat::Grammar { grammar: "root ::= \"a\"".into() });
        let options = PromptOptions { format, choices: Some(2), logprobs: Some(3), ..PromptOptions::default() };
        let written = body(&Prompt { options, ..prompt });
        assert_eq!((&written["grammar"], &written["response_format"]), (&json!("root ::= \"a\""), &Value::Null));
        assert_eq!(
            (&written["n"], &written["logprobs"], &written["top_logprobs"]),
            (&json!(2), &json!(true), &json!(3))
        );
    }
}
