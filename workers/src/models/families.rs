//! Chat templates in the manner of eight families of models, held against what Python's Jinja makes of them.
//! `scripts/render-templates.py` writes what is expected.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test may panic")]

use std::collections::BTreeMap;

use serde_json::Value;
use symbia_nats::inference::{Message, Tool, ToolCall};

use super::template::Template;

const FAMILIES: [(&str, &str); 8] = [
    ("deepseek_r1", include_str!("../../fixtures/templates/deepseek_r1.jinja")),
    ("gemma", include_str!("../../fixtures/templates/gemma.jinja")),
    ("granite", include_str!("../../fixtures/templates/granite.jinja")),
    ("llama3", include_str!("../../fixtures/templates/llama3.jinja")),
    ("mistral", include_str!("../../fixtures/templates/mistral.jinja")),
    ("phi", include_str!("../../fixtures/templates/phi.jinja")),
    ("qwen", include_str!("../../fixtures/templates/qwen.jinja")),
    ("zephyr", include_str!("../../fixtures/templates/zephyr.jinja")),
];

/// The order of keys matters to models, so texts are kept as they are written.
#[derive(serde::Deserialize)]
struct Case {
    messages: Vec<Turn>,
    #[serde(default)]
    tools: Vec<Offered>,
}

#[derive(serde::Deserialize)]
struct Turn {
    role: String,
    content: String,
    #[serde(default)]
    tool_calls: Vec<Call>,
    #[serde(default)]
    tool_call_id: Option<String>,
}

#[derive(serde::Deserialize)]
struct Call {
    id: String,
    function: Function,
}

#[derive(serde::Deserialize)]
struct Function {
    name: String,
    arguments: Box<serde_json::value::RawValue>,
}

#[derive(serde::Deserialize)]
struct Offered {
    name: String,
    description: String,
    parameters: Box<serde_json::value::RawValue>,
}

impl Turn {
    fn message(&self) -> Message {
        let call = |call: &Call| ToolCall {
            id: call.id.clone(),
            name: call.function.name.clone(),
            arguments: call.function.arguments.get().to_owned(),
        };
        Message {
            tool_calls: self.tool_calls.iter().map(call).collect(),
            tool_call_id: self.tool_call_id.clone(),
            ..Message::new(&self.role, &self.content)
        }
    }
}

#[test]
fn eight_families_of_templates_say_what_pythons_jinja_makes_of_them() {
    let cases: BTreeMap<String, Case> =
        serde_json::from_str(include_str!("../../fixtures/templates/cases.json")).unwrap();
    let expected: Value = serde_json::from_str(include_str!("../../fixtures/templates/expected.json")).unwrap();
    let mut compared = 0;
    for (family, source) in FAMILIES {
        let template = Template::new(Some(source.to_owned()), "<s>".into(), "</s>".into()).unwrap();
        for (name, case) in &cases {
            let messages: Vec<Message> = case.messages.iter().map(Turn::message).collect();
            let tool = |tool: &Offered| Tool {
                name: tool.name.clone(),
                description: Some(tool.description.clone()),
                parameters: tool.parameters.get().to_owned(),
            };
            let tools: Vec<Tool> = case.tools.iter().map(tool).collect();
            let rendered = template.render(&messages, &tools, None);
            match (&expected[family][name]["text"], &expected[family][name]["refused"], rendered) {
                (Value::String(text), _, Ok(rendered)) => assert_eq!(&rendered, text, "{family} {name}"),
                (_, Value::String(why), Err(error)) => assert!(error.to_string().contains(why), "{family} {error}"),
                (text, why, rendered) => panic!("{family} {name}: {rendered:?}, expected {text} {why}"),
            }
            compared += 1;
        }
    }
    assert_eq!(compared, FAMILIES.len() * cases.len());
}
