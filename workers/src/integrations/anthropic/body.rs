//! A prompt as a body of Anthropic's messages (integrations.md §8.2).

use serde_json::{Map, Value, json};
use symbia_events::integrations::{AnswerFormat, DroppedParam, ErrorCategory, PromptPart, PromptRole, ToolChoice};

use crate::integrations::provider::{Fault, Prompt, Turn};

/// Tokens of an answer when nobody says: the API wants a number, and every model takes this one.
const MAX_TOKENS: u32 = 4096;
/// The tool that a model is made to use when its answer is to be JSON.
pub(super) const ANSWER: &str = "answer";

/// The whole body. What is not asked for is not sent.
pub(super) fn body(prompt: &Prompt) -> Result<Value, Fault> {
    refuse(prompt)?;
    let (s, o) = (&prompt.sampling, &prompt.options);
    let mut body = Map::new();
    let mut max_tokens = s.max_tokens.unwrap_or(MAX_TOKENS);
    if let Some(thinking) = thinking(prompt) {
        body.insert("thinking".to_owned(), json!({ "type": "enabled", "budget_tokens": thinking }));
        // What it thinks counts.
        if max_tokens <= thinking {
            max_tokens += thinking;
        }
    }
    body.insert("model".to_owned(), json!(prompt.model));
    body.insert("max_tokens".to_owned(), json!(max_tokens));
    body.insert("messages".to_owned(), json!(messages(&prompt.turns)?));
    body.insert("stream".to_owned(), json!(true));
    let system: Vec<&str> =
        prompt.turns.iter().filter(|turn| turn.role == PromptRole::System).map(|turn| turn.content.as_str()).collect();
    if !system.is_empty() {
        body.insert("system".to_owned(), json!(system.join("\n\n")));
    }
    let dropped = dropped(prompt);
    let mut give = |name: &str, wire: &str, value: Option<Value>| {
        if let Some(value) = value.filter(|_| dropped.iter().all(|d| d.param != name)) {
            body.insert(wire.to_owned(), value);
        }
    };
    give("temperature", "temperature", s.temperature.map(Value::from));
    give("topP", "top_p", s.top_p.map(Value::from));
    give("topK", "top_k", s.top_k.map(Value::from));
    give("stop", "stop_sequences", (!s.stop.is_empty()).then(|| json!(s.stop)));
    let mut tools: Vec<Value> = o.tools.iter().map(tool).collect();
    let mut choice = o.tool_choice.as_ref().map(tool_choice);
    if let Some(format) = o.format.as_ref().filter(|_| forces_a_tool(prompt)) {
        tools.push(answer_tool(format));
        choice = Some(json!({ "type": "tool", "name": ANSWER }));
    }
    if o.parallel_tool_calls == Some(false) && !o.tools.is_empty() {
        choice.get_or_insert_with(|| json!({ "type": "auto" }))["disable_parallel_tool_use"] = json!(true);
    }
    give("tools", "tools", (!tools.is_empty()).then(|| json!(tools)));
    give("toolChoice", "tool_choice", choice.filter(|_| !tools.is_empty()));
    Ok(Value::Object(body))
}

// What would change the answer if it were left away.
fn refuse(prompt: &Prompt) -> Result<(), Fault> {
    let what = match &prompt.options.format {
        Some(AnswerFormat::Grammar { .. }) => "grammars",
        _ if prompt.choices() > 1 => "several answers at once",
        _ => return Ok(()),
    };
    let message = format!("Anthropic's API has no {what}: ask another provider, or without");
    Err(Fault::new(ErrorCategory::Validation, "unsupported_parameter", message))
}

/// Whether the answer is made JSON by a tool that must be used: the API has no other way that every model knows.
pub(super) fn forces_a_tool(prompt: &Prompt) -> bool {
    prompt.options.format.is_some() && prompt.options.tools.is_empty()
}

fn answer_tool(format: &AnswerFormat) -> Value {
    let schema = match format {
        AnswerFormat::JsonObject => json!({ "type": "object" }),
        AnswerFormat::JsonSchema { schema, .. } => schema.clone(),
        // Refused before.
        AnswerFormat::Grammar { .. } => Value::Null,
    };
    json!({ "name": ANSWER, "description": "Gives the answer.", "input_schema": schema })
}

// The API's least is 1024.
fn thinking(prompt: &Prompt) -> Option<u32> {
    let effort = match prompt.options.reasoning_effort.as_deref()? {
        "low" | "minimal" => 1024,
        "medium" => 4096,
        "high" => 16_384,
        "xhigh" => 32_768,
        _ => 0,
    };
    let asked = prompt.options.thinking_tokens.unwrap_or(effort);
    (asked > 0).then_some(asked.max(1024))
}

// The first turn is a person's, and turns alternate: what follows one another in one role is one turn.
fn messages(turns: &[Turn]) -> Result<Vec<Value>, Fault> {
    let mut messages: Vec<(&str, Vec<Value>)> = Vec::new();
    for turn in turns.iter().filter(|turn| turn.role != PromptRole::System) {
        let role = if turn.role == PromptRole::Assistant { "assistant" } else { "user" };
        let blocks = blocks(turn)?;
        match messages.last_mut() {
            Some((last, said)) if *last == role => said.extend(blocks),
            _ => messages.push((role, blocks)),
        }
    }
    if messages.first().is_none_or(|(role, _)| *role != "user") {
        let message = "the first message that is no system message must be a user's";
        return Err(Fault::new(ErrorCategory::Validation, "request_refused", message));
    }
    Ok(messages.into_iter().map(|(role, content)| json!({ "role": role, "content": content })).collect())
}

fn blocks(turn: &Turn) -> Result<Vec<Value>, Fault> {
    if turn.role == PromptRole::Tool {
        let id = turn.tool_call_id.clone().unwrap_or_default();
        return Ok(vec![json!({ "type": "tool_result", "tool_use_id": id, "content": turn.content })]);
    }
    let text = |text: &str| json!({ "type": "text", "text": text });
    let mut blocks = Vec::new();
    for part in &turn.parts {
        blocks.push(match part {
            PromptPart::Text { text: said } => text(said),
            PromptPart::Image { url } => json!({ "type": "image", "source": image(url)? }),
        });
    }
    // The API takes no empty text.
    if turn.parts.is_empty() && !turn.content.is_empty() {
        blocks.push(text(&turn.content));
    }
    for call in &turn.tool_calls {
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        blocks.push(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input }));
    }
    Ok(blocks)
}

fn image(url: &str) -> Result<Value, Fault> {
    let Some(data) = url.strip_prefix("data:") else { return Ok(json!({ "type": "url", "url": url })) };
    let parts = data.split_once(',').and_then(|(kind, data)| Some((kind.strip_suffix(";base64")?, data)));
    let wrong = "an image is an https URL, or data:<mime>;base64,<data>";
    let (kind, data) = parts.ok_or_else(|| Fault::new(ErrorCategory::Validation, "request_refused", wrong))?;
    let kind = if kind.is_empty() { "image/jpeg" } else { kind };
    Ok(json!({ "type": "base64", "media_type": kind, "data": data }))
}

fn tool(tool: &symbia_events::integrations::Tool) -> Value {
    let mut described = json!({ "name": tool.name, "input_schema": tool.parameters });
    if let Some(description) = &tool.description {
        described["description"] = json!(description);
    }
    described
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!({ "type": "auto" }),
        ToolChoice::None => json!({ "type": "none" }),
        ToolChoice::Required => json!({ "type": "any" }),
        ToolChoice::Named(name) => json!({ "type": "tool", "name": name }),
    }
}

/// What is not sent, and why.
pub(super) fn dropped(prompt: &Prompt) -> Vec<DroppedParam> {
    let (s, o) = (&prompt.sampling, &prompt.options);
    let none = "the API has no such parameter";
    let thinks = thinking(prompt).is_some();
    let family = ["claude-sonnet-5", "claude-opus-5"].iter().any(|prefix| prompt.model.starts_with(prefix));
    let given = [
        ("seed", s.seed.is_some(), none),
        ("frequencyPenalty", s.frequency_penalty.is_some(), none),
        ("presencePenalty", s.presence_penalty.is_some(), none),
        (
            "temperature",
            s.temperature.is_some() && (thinks || family),
            "this model does not take it, or not when it thinks",
        ),
        ("topK", s.top_k.is_some() && thinks, "not taken by a model that thinks"),
        ("logprobs", o.logprobs.is_some(), none),
        ("responseFormat", o.format.is_some() && !o.tools.is_empty(), "not together with tools of one's own"),
    ];
    let dropped =
        |(param, _, reason): (&str, bool, &str)| DroppedParam { param: param.to_owned(), reason: reason.to_owned() };
    given.into_iter().filter(|(_, given, _)| *given).map(dropped).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use symbia_events::integrations::{PromptOptions, Sampling, Tool, ToolCall};

    use super::*;

    fn prompt(turns: Vec<Turn>) -> Prompt {
        Prompt {
            org: "acme".to_owned(),
            request_id: "r".to_owned(),
            attempt: 1,
            model: "claude-3-5-haiku-20241022".to_owned(),
            turns,
            sampling: Sampling::default(),
            options: PromptOptions::default(),
        }
    }

    #[test]
    fn system_messages_tool_rounds_and_images_are_written_as_the_api_has_them() {
        let call = ToolCall { id: "t1".into(), name: "add".into(), arguments: "{\"a\":1}".into() };
        let image = PromptPart::Image { url: "data:image/png;base64,AA".into() };
        let turns = vec![
            Turn::text(PromptRole::System, "be kind"),
            Turn {
                parts: vec![PromptPart::Text { text: "what?".into() }, image],
                ..Turn::text(PromptRole::User, "what?")
            },
            Turn { tool_calls: vec![call], ..Turn::text(PromptRole::Assistant, "let me see") },
            Turn { tool_call_id: Some("t1".into()), ..Turn::text(PromptRole::Tool, "2") },
            Turn::text(PromptRole::User, "so?"),
            Turn::text(PromptRole::System, "be brief"),
        ];
        let prompt = Prompt {
            sampling: Sampling { top_k: Some(5), stop: vec!["END".into()], seed: Some(1), ..Sampling::default() },
            options: PromptOptions {
                tools: vec![Tool {
                    name: "add".into(),
                    description: None,
                    parameters: json!({ "type": "object" }),
                    strict: None,
                }],
                tool_choice: Some(ToolChoice::Required),
                parallel_tool_calls: Some(false),
                ..PromptOptions::default()
            },
            ..prompt(turns)
        };
        let expected = json!({
            "model": "claude-3-5-haiku-20241022", "max_tokens": 4096, "stream": true,
            "system": "be kind\n\nbe brief",
            "messages": [
                { "role": "user", "content": [
                    { "type": "text", "text": "what?" },
                    { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AA" } },
                ] },
                { "role": "assistant", "content": [
                    { "type": "text", "text": "let me see" },
                    { "type": "tool_use", "id": "t1", "name": "add", "input": { "a": 1 } },
                ] },
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "t1", "content": "2" },
                    { "type": "text", "text": "so?" },
                ] },
            ],
            "top_k": 5, "stop_sequences": ["END"],
            "tools": [{ "name": "add", "input_schema": { "type": "object" } }],
            "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
        });
        assert_eq!(body(&prompt).unwrap(), expected);
        assert_eq!(dropped(&prompt).into_iter().map(|d| d.param).collect::<Vec<_>>(), ["seed"]);
    }

    #[test]
    fn a_schema_becomes_a_tool_that_must_be_used_and_thinking_leaves_room_for_the_answer() {
        let asked = vec![Turn::text(PromptRole::User, "hi")];
        let format =
            Some(AnswerFormat::JsonSchema { name: "s".into(), schema: json!({ "type": "object" }), strict: None });
        let written =
            body(&Prompt { options: PromptOptions { format, ..PromptOptions::default() }, ..prompt(asked.clone()) });
        let written = written.unwrap();
        assert_eq!(written["tool_choice"], json!({ "type": "tool", "name": "answer" }));
        assert_eq!(written["tools"][0]["input_schema"], json!({ "type": "object" }));
        let options = PromptOptions { reasoning_effort: Some("high".into()), ..PromptOptions::default() };
        let sampling = Sampling { temperature: Some(0.1), ..Sampling::default() };
        let thinking = body(&Prompt { options, sampling, ..prompt(asked) }).unwrap();
        assert_eq!(thinking["thinking"], json!({ "type": "enabled", "budget_tokens": 16_384 }));
        assert_eq!((&thinking["max_tokens"], &thinking["temperature"]), (&json!(20_480), &Value::Null));
        let first = vec![Turn::text(PromptRole::Assistant, "hello")];
        assert!(body(&prompt(first)).is_err());
    }
}
