//! Chat templates: the Jinja program in a model's file that turns a conversation into the text that it was trained on.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;
use symbia_nats::inference::{Message, Tool};

/// Steps that a template may take: one from a hostile file must not hang the engine.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat";
/// What a model writes before its thoughts, and the whole of none.
const THINK: &str = "<think>";
const NOTHING: &str = "<think>\n\n</think>\n\n";
/// For models without a template; llama.cpp takes it, too.
const CHATML: &str = "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\
                      {%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}";

/// A template, compiled.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    /// The source speaks of tools in the form that calls are read in.
    pub(super) knows_tools: bool,
    /// The model thinks before it answers.
    pub(super) thinks: bool,
    /// The source asks whether it is to.
    asks: bool,
}

impl Template {
    /// Compiles a source, or ChatML without one.
    pub(super) fn new(source: Option<String>, bos: String, eos: String) -> Result<Self, Error> {
        let source = source.unwrap_or_else(|| CHATML.to_owned());
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_function("strftime_now", |format: String| -> String { strftime_now(&format) });
        environment.add_filter("tojson", tojson);
        let knows_tools = source.contains("<tool_call>");
        let thinks = source.contains(THINK);
        let asks = source.contains("enable_thinking");
        environment.add_template_owned(NAME, source)?;
        Ok(Template { environment, bos, eos, knows_tools, thinks, asks })
    }

    /// The text of a conversation, up to where the assistant is to speak, and whether it is to think before.
    pub(super) fn render(&self, messages: &[Message], tools: &[Tool], thinking: Option<bool>) -> Result<String, Error> {
        let tools: Option<Vec<Value>> = (!tools.is_empty()).then(|| tools.iter().map(tool).collect());
        let mut prompt = self.environment.get_template(NAME)?.render(context! {
            messages => messages.iter().map(turn).collect::<Vec<_>>(),
            tools,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            add_generation_prompt => true,
            // Templates ask whether it is defined.
            enable_thinking => thinking.map_or(Value::UNDEFINED, Value::from),
        })?;
        if thinking == Some(false) && self.thinks && !self.asks {
            // It has thought already, and nothing.
            if let Some(before) = prompt.trim_end().strip_suffix(THINK).map(str::len) {
                prompt.truncate(before);
            }
            prompt.push_str(NOTHING);
        }
        Ok(prompt)
    }
}

// Members in the order in which models have seen them.
#[derive(Serialize)]
struct Turn<'m> {
    role: &'m str,
    content: &'m str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'m str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'m>>,
}

#[derive(Serialize)]
struct Call<'m> {
    id: &'m str,
    r#type: &'static str,
    function: CalledFunction<'m>,
}

#[derive(Serialize)]
struct CalledFunction<'m> {
    name: &'m str,
    arguments: Value,
}

#[derive(Serialize)]
struct Offered<'t> {
    r#type: &'static str,
    function: OfferedFunction<'t>,
}

#[derive(Serialize)]
struct OfferedFunction<'t> {
    name: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'t str>,
    parameters: Value,
}

// Read without a map of ours in between: the order of keys stays.
fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

fn turn(message: &Message) -> Value {
    let calls = message.tool_calls.iter().map(|call| {
        let arguments = json(&call.arguments).unwrap_or_else(|| Value::from(call.arguments.as_str()));
        Call { id: &call.id, r#type: "function", function: CalledFunction { name: &call.name, arguments } }
    });
    Value::from(Serde(Turn {
        role: &message.role,
        content: &message.content,
        name: message.name.as_deref(),
        tool_call_id: message.tool_call_id.as_deref(),
        tool_calls: calls.collect(),
    }))
}

fn tool(tool: &Tool) -> Value {
    let parameters = json(&tool.parameters).unwrap_or_else(|| Value::from_pairs::<_, String, Value>([]));
    let function = OfferedFunction { name: &tool.name, description: tool.description.as_deref(), parameters };
    Value::from(Serde(Offered { r#type: "function", function }))
}

// As Python writes it, with a space after commas and colons: that is what models have seen.
fn tojson(value: &Value, options: minijinja::value::Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Others, like `ensure_ascii`, change nothing here.
    let _ = options.assert_all_used();
    let failed = |error: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut bytes = Vec::new();
    match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(16));
            let format = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            let mut to = serde_json::Serializer::with_formatter(&mut bytes, format);
            value.serialize(&mut to).map_err(|e| failed(&e))?;
        }
        None => {
            let mut to = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
            value.serialize(&mut to).map_err(|e| failed(&e))?;
        }
    }
    let text = String::from_utf8(bytes).map_err(|e| failed(&e))?;
    Ok(Value::from_safe_string(text))
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

// The directives that templates use: the date, in words or numbers.
fn strftime_now(format: &str) -> String {
    let now = time::OffsetDateTime::now_utc();
    let (month, weekday) = (now.month().to_string(), now.weekday().to_string());
    [
        ("%Y", now.year().to_string()),
        ("%m", format!("{:02}", u8::from(now.month()))),
        ("%d", format!("{:02}", now.day())),
        ("%B", month.clone()),
        ("%b", month.chars().take(3).collect()),
        ("%A", weekday.clone()),
        ("%a", weekday.chars().take(3).collect()),
        ("%H", format!("{:02}", now.hour())),
        ("%M", format!("{:02}", now.minute())),
        ("%S", format!("{:02}", now.second())),
    ]
    .into_iter()
    .fold(format.to_owned(), |text, (directive, value)| text.replace(directive, &value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use symbia_nats::inference::ToolCall;

    fn rendered(source: &str, messages: &[Message], tools: &[Tool]) -> String {
        let template = Template::new(Some(source.to_owned()), "<s>".into(), "</s>".into());
        template.and_then(|template| template.render(messages, tools, None)).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn who_is_not_to_think_has_thought_nothing() {
        let asking =
            "{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% else %}?{% endif -%}";
        let (silent, begun) = ("{{ messages[0].content }}{# <think> #}", "{{ messages[0].content }}<think>\n");
        let rendered = |source: &str, thinking| {
            let template = Template::new(Some(source.to_owned()), String::new(), String::new());
            let rendered = template.and_then(|t| t.render(&[Message::new("user", "hi")], &[], thinking));
            rendered.unwrap_or_else(|error| error.to_string())
        };
        for (source, thinking, prompt) in [
            (asking, None, "?"),
            (asking, Some(true), "?"),
            (asking, Some(false), "<think></think>"),
            (silent, Some(true), "hi"),
            (silent, Some(false), "hi<think>\n\n</think>\n\n"),
            (begun, Some(false), "hi<think>\n\n</think>\n\n"),
            ("{{ messages[0].content }}", Some(false), "hi"),
        ] {
            assert_eq!(rendered(source, thinking), prompt, "{source} {thinking:?}");
        }
    }

    #[test]
    fn tools_and_calls_are_written_as_models_have_seen_them() {
        let tool = Tool {
            name: "add".into(),
            description: Some("Adds.".into()),
            parameters: r#"{"type":"object","properties":{"b":{"type":"number"},"a":{}},"required":["b"]}"#.into(),
        };
        let text = rendered("{%- for t in tools %}{{ t | tojson }}\n{%- endfor %}", &[], &[tool]);
        let expected = r#"{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"b": {"type": "number"}, "a": {}}, "required": ["b"]}}}"#;
        assert_eq!(text.trim(), expected);
        let call = ToolCall { id: "c1".into(), name: "add".into(), arguments: "{\"b\":1,\"a\":\"<ü>\"}".into() };
        let turn = Message { tool_calls: vec![call], ..Message::new("assistant", "") };
        let source = "{{ messages[0].tool_calls[0].function.arguments | tojson }}";
        assert_eq!(rendered(source, &[turn], &[]), "{\"b\": 1, \"a\": \"<ü>\"}");
    }

    #[test]
    fn a_template_can_refuse_and_cannot_hang() {
        let user = [Message::new("user", " hi ")];
        assert_eq!(rendered("{{ bos_token + messages[-1].content.strip() }}", &user, &[]), "<s>hi");
        assert!(rendered("{{ raise_exception('roles must alternate') }}", &user, &[]).contains("roles must alternate"));
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}";
        assert!(rendered(endless, &user, &[]).contains("fuel"), "it ends");
        assert_eq!(rendered(CHATML, &user, &[]), "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\n");
    }
}
