//! Answers of a given shape: JSON schemas, grammars and calls of tools, enforced token by token.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;
use symbia_nats::inference::{Failure, FailureKind, Format, Request, Tool, ToolChoice};

use super::gbnf;
use super::speech::{CALL, CALL_END};

/// Longest schema in bytes.
const LONGEST: usize = 256 * 1024;

/// Compiles shapes for one model. Made when the first is asked for: it walks through the whole vocabulary.
pub(super) struct Shapes {
    factory: ParserFactory,
}

impl Shapes {
    pub(super) fn new(model: &LlamaModel) -> Result<Self, Failure> {
        let tokens = LlamaSampler::llguidance_tok_env(model);
        let mut factory = ParserFactory::new_simple(&tokens).map_err(|error| {
            tracing::error!(%error, "the vocabulary cannot be constrained");
            Failure::new(FailureKind::InvalidRequest, "answers of this model cannot be given a shape")
        })?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Shapes { factory })
    }

    /// What holds for a whole answer.
    pub(super) fn of_request(&self, request: &Request) -> Result<Option<Constraint>, Failure> {
        let grammar = match (&request.format, &request.tool_choice) {
            _ if forced(request) => {
                let tools: Vec<&Tool> = match &request.tool_choice {
                    ToolChoice::Function(name) => request.tools.iter().filter(|tool| tool.name == *name).collect(),
                    _ => request.tools.iter().collect(),
                };
                if tools.is_empty() {
                    return Err(Failure::new(FailureKind::InvalidRequest, "tool_choice names no tool of the request"));
                }
                TopLevelGrammar::from_lark(calls(&tools, &format!("{CALL}\n")))
            }
            (Format::Text, _) => return Ok(None),
            (Format::Json, _) => TopLevelGrammar::from_json_schema(dense(serde_json::json!({ "type": "object" }))),
            (Format::Schema(schema), _) => {
                check_size(schema)?;
                TopLevelGrammar::from_json_schema(dense(schema.clone()))
            }
            (Format::Grammar(text), _) => {
                let lark =
                    gbnf::to_lark(text).map_err(|error| unusable(format!("the grammar cannot be used: {error}")))?;
                TopLevelGrammar::from_lark(lark)
            }
        };
        self.compile(grammar).map(Some)
    }

    /// What holds for the rest of an answer in which the model has begun a call, and written `begun` of it.
    pub(super) fn of_call(&self, tools: &[Tool], begun: &[LlamaToken]) -> Option<Constraint> {
        let tools: Vec<&Tool> = tools.iter().collect();
        let mut constraint = self.compile(TopLevelGrammar::from_lark(calls(&tools, ""))).ok()?;
        begun.iter().all(|token| constraint.take(*token)).then_some(constraint)
    }

    fn compile(&self, grammar: TopLevelGrammar) -> Result<Constraint, Failure> {
        let parser = self.factory.create_parser(grammar);
        let parser = parser.map_err(|error| unusable(format!("the answer's shape cannot be used: {error}")))?;
        Ok(Constraint(Matcher::new(Ok(parser))))
    }
}

/// Whether an answer has to be a call.
pub(super) fn forced(request: &Request) -> bool {
    matches!(request.tool_choice, ToolChoice::Required | ToolChoice::Function(_))
}

fn unusable(message: String) -> Failure {
    Failure::new(FailureKind::InvalidFormat, message)
}

fn check_size(schema: &Value) -> Result<(), Failure> {
    if schema.to_string().len() > LONGEST {
        return Err(unusable("the schema is longer than 256 KiB".to_owned()));
    }
    Ok(())
}

/// One or more calls, after `opening`, in Lark.
fn calls(tools: &[&Tool], opening: &str) -> String {
    let text = |text: &str| Value::String(text.to_owned()).to_string();
    let opening = if opening.is_empty() { "SPACE?".to_owned() } else { text(opening) };
    let names: Vec<String> = (0..tools.len()).map(|index| format!("tool{index}")).collect();
    let mut lark = format!(
        "start: {opening} call (SPACE? {} SPACE? call)*\ncall: ({}) SPACE? {}\nSPACE: /\\s+/\n",
        text(CALL),
        names.join(" | "),
        text(CALL_END)
    );
    for (index, tool) in tools.iter().enumerate() {
        let schema: Value = serde_json::from_str(&tool.parameters).unwrap_or_default();
        let schema = if schema.is_object() { schema } else { serde_json::json!({ "type": "object" }) };
        let name = text(&format!("{{\"name\": {}, \"arguments\": ", text(&tool.name)));
        lark.push_str(&format!("tool{index}: {name} arguments{index} \"}}\"\narguments{index}: %json {schema}\n"));
    }
    lark
}

/// A shape, and how far the answer has come in it.
pub(super) struct Constraint(Matcher);

impl Constraint {
    /// Takes from the candidates what the shape does not allow here; false when nothing is left.
    pub(super) fn narrow(&mut self, candidates: &mut LlamaTokenDataArray) -> bool {
        let Ok(allowed) = self.0.compute_mask_or_eos() else { return false };
        candidates.data.retain(|candidate| u32::try_from(candidate.id().0).is_ok_and(|id| allowed.is_allowed(id)));
        !candidates.data.is_empty()
    }

    /// Goes on with a token; false when it does not fit.
    pub(super) fn take(&mut self, token: LlamaToken) -> bool {
        let Ok(id) = u32::try_from(token.0) else { return false };
        self.0.is_stopped() || self.0.consume_token(id).is_ok()
    }

    /// Whether the answer is complete and nothing may follow.
    pub(super) fn is_complete(&self) -> bool {
        self.0.is_stopped()
    }
}

/// A schema whose values are written on one line: where any white space may stand, a small model writes line breaks until it is
/// cut off.
fn dense(mut schema: Value) -> Value {
    if let Value::Object(schema) = &mut schema {
        let how = serde_json::json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
        schema.entry("x-guidance").or_insert(how);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grammar_of_calls_names_the_tools_and_their_arguments() {
        let tool = Tool { name: "add".into(), description: None, parameters: "{\"type\":\"object\"}".into() };
        let lark = calls(&[&tool, &Tool { name: "b\"c".into(), ..Tool::default() }], "<tool_call>\n");
        assert!(lark.starts_with("start: \"<tool_call>\\n\" call "), "{lark}");
        assert!(lark.contains(r#"tool0: "{\"name\": \"add\", \"arguments\": " arguments0 "}""#), "{lark}");
        assert!(lark.contains(r#"\"b\\\"c\""#), "{lark}");
        assert!(lark.contains("arguments1: %json {\"type\":\"object\"}"), "{lark}");
    }
}
