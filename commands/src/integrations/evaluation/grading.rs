//! What an answer is worth: the rules of the evaluators (integrations.md §16).

use std::fmt;

use regex::RegexBuilder;
use serde_json::{Map, Value};
use symbia_events::integrations::ToolCall;

use super::benchmark::{Evaluator, Expected, ExpectedCall, TestCase};

/// Largest part that the length of an answer adds where its meaning is what counts.
const FOR_LENGTH: f64 = 0.1;
/// Characters from which on it adds all of that.
const LONG: f64 = 200.0;

/// What an answer is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Grade {
    /// 0 to 1.
    pub score: f64,
    /// Whether that is enough.
    pub passed: bool,
    /// What it stands on, for people.
    pub reason: String,
}

impl Grade {
    pub(super) fn new(score: f64, enough: f64, reason: impl Into<String>) -> Self {
        let score = score.clamp(0.0, 1.0);
        // Sums of tenths are not exact.
        Grade { score, passed: score + 1e-9 >= enough, reason: reason.into() }
    }

    fn all_or_nothing(fits: bool, reason: impl Into<String>) -> Self {
        Grade::new(if fits { 1.0 } else { 0.0 }, 1.0, reason)
    }
}

/// What a model answered.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// Its text.
    pub text: &'a str,
    /// The tools that it asks for.
    pub calls: &'a [ToolCall],
}

/// Grades an answer by the rule of its case.
#[must_use]
pub fn grade(case: &TestCase, output: Output<'_>) -> Grade {
    let expected = &case.expected;
    match case.evaluator {
        Evaluator::Exact => exact(expected, output.text),
        Evaluator::Contains => contains(expected, output.text),
        Evaluator::Regex => pattern(expected, output.text),
        Evaluator::JsonSchema => schema(expected, output.text),
        Evaluator::FunctionCall => calls(expected, output.calls),
        Evaluator::Semantic | Evaluator::Custom => meaning(expected, output.text),
    }
}

fn exact(expected: &Expected, text: &str) -> Grade {
    let wanted = expected.content.as_deref().unwrap_or_default();
    let same = text.trim().to_lowercase() == wanted.trim().to_lowercase();
    Grade::all_or_nothing(same, if same { "the same" } else { "not the same" })
}

fn contains(expected: &Expected, text: &str) -> Grade {
    let (score, reason) = found(&expected.contains, &expected.not_contains, text);
    Grade::new(score, 0.5, reason)
}

// The share of what must be there, less a quarter for each that must not.
fn found(required: &[String], forbidden: &[String], text: &str) -> (f64, String) {
    let text = text.to_lowercase();
    let there = |wanted: &&String| text.contains(&wanted.to_lowercase());
    let (hits, faults) = (required.iter().filter(there).count(), forbidden.iter().filter(there).count());
    let share = if required.is_empty() { 1.0 } else { hits as f64 / required.len() as f64 };
    let score = (share - 0.25 * faults as f64).max(0.0);
    (score, format!("{hits} of {} wanted, {faults} unwanted", required.len()))
}

fn pattern(expected: &Expected, text: &str) -> Grade {
    let wanted = expected.pattern.as_deref().unwrap_or_default();
    match RegexBuilder::new(wanted).case_insensitive(true).build() {
        Ok(regex) => {
            let fits = regex.is_match(text);
            Grade::all_or_nothing(fits, if fits { "it matches" } else { "it does not match" })
        }
        Err(error) => Grade::all_or_nothing(false, format!("the pattern cannot be read: {error}")),
    }
}

// As contains, where nobody looks at the meaning, and a little more for an answer that says more than a word.
fn meaning(expected: &Expected, text: &str) -> Grade {
    let whole: Vec<String>;
    let required = match (&expected.content, expected.contains.as_slice()) {
        (Some(content), []) => {
            whole = vec![content.clone()];
            &whole
        }
        (_, required) => required,
    };
    let (score, reason) = found(required, &expected.not_contains, text);
    let length = FOR_LENGTH * (text.trim().chars().count() as f64 / LONG).min(1.0);
    Grade::new(score + length, 0.5, reason)
}

fn schema(expected: &Expected, text: &str) -> Grade {
    let Some(value) = json_in(text) else { return Grade::new(0.0, 0.5, "there is no JSON in it") };
    let mut faults = Faults::default();
    let schema = expected.schema.as_ref().unwrap_or(&Value::Null);
    hold(schema, &value, &mut faults);
    let reason = faults.to_string();
    Grade::new(1.0 - faults.penalty, 0.5, reason)
}

/// The JSON of an answer: all of it, what stands in its first fence, or the first object or array that can be read.
#[must_use]
pub fn json_in(text: &str) -> Option<Value> {
    let fenced = || {
        let (_, behind) = text.split_once("```")?;
        let (inside, _) = behind.split_once("```")?;
        serde_json::from_str(inside.trim_start_matches(|c: char| c.is_ascii_alphanumeric()).trim()).ok()
    };
    let somewhere = || {
        let starts = text.char_indices().filter(|(_, c)| ['{', '['].contains(c));
        starts
            .map(|(at, _)| &text[at..])
            .find_map(|from| serde_json::Deserializer::from_str(from).into_iter::<Value>().next().and_then(Result::ok))
    };
    serde_json::from_str(text.trim()).ok().or_else(fenced).or_else(somewhere)
}

#[derive(Default)]
struct Faults {
    penalty: f64,
    named: Vec<String>,
}

impl Faults {
    fn add(&mut self, penalty: f64, what: impl Into<String>) {
        self.penalty += penalty;
        self.named.push(what.into());
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.named.is_empty() { f.write_str("it keeps to the schema") } else { f.write_str(&self.named.join("; ")) }
    }
}

fn hold(schema: &Value, value: &Value, faults: &mut Faults) {
    if let Some(kind) = schema["type"].as_str()
        && !is_of(kind, value)
    {
        match kind == "integer" && value.is_number() {
            true => faults.add(0.25, "a number that is not whole"),
            false => {
                faults.add(0.5, format!("not of type {kind}"));
                return;
            }
        }
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        faults.add(0.3, format!("{value} is none of those allowed"));
    }
    let beyond = |bound: &str, is: fn(f64, f64) -> bool| {
        schema[bound].as_f64().zip(value.as_f64()).is_some_and(|(bound, value)| is(value, bound))
    };
    if beyond("minimum", |value, least| value < least) || beyond("maximum", |value, most| value > most) {
        faults.add(0.2, format!("{value} is out of range"));
    }
    if let Value::Object(fields) = value {
        hold_fields(schema, fields, faults);
    }
    if let (Some(items), Value::Array(values)) = (schema.get("items"), value) {
        for (index, value) in values.iter().enumerate() {
            inside(items, value, &format!("item {index}"), faults);
        }
    }
}

fn hold_fields(schema: &Value, fields: &Map<String, Value>, faults: &mut Faults) {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in required.filter(|name| !fields.contains_key(*name)) {
        faults.add(0.2, format!("'{name}' is missing"));
    }
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = fields.get(name) {
            inside(of, value, &format!("'{name}'"), faults);
        }
    }
}

// Whatever is wrong in a part, it is one bad part.
fn inside(schema: &Value, value: &Value, name: &str, faults: &mut Faults) {
    let mut own = Faults::default();
    hold(schema, value, &mut own);
    if own.penalty > 0.0 {
        faults.add(0.1, format!("{name}: {own}"));
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => true,
    }
}

fn calls(expected: &Expected, made: &[ToolCall]) -> Grade {
    let wanted: Vec<&ExpectedCall> = expected.function_call.iter().chain(&expected.function_calls).collect();
    if wanted.is_empty() {
        return Grade::all_or_nothing(made.is_empty(), format!("{} calls, none wanted", made.len()));
    }
    // One call does not do for two that are wanted.
    let mut left: Vec<&ToolCall> = made.iter().collect();
    let mut best = |wanted: &ExpectedCall| {
        let scores = left.iter().map(|call| call_score(wanted, call)).enumerate();
        let (at, score) = scores.max_by(|(_, a), (_, b)| a.total_cmp(b)).filter(|(_, score)| *score > 0.0)?;
        left.remove(at);
        Some(score)
    };
    let score = wanted.iter().filter_map(|wanted| best(wanted)).sum::<f64>() / wanted.len() as f64;
    let names: Vec<&str> = made.iter().map(|call| call.name.as_str()).collect();
    let asked: Vec<&str> = wanted.iter().map(|call| call.name.as_str()).collect();
    let called = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    Grade::new(score, 0.75, format!("called {called}; wanted {}", asked.join(", ")))
}

// Half for the name, and half for the arguments that are wanted.
fn call_score(wanted: &ExpectedCall, made: &ToolCall) -> f64 {
    if wanted.name != made.name {
        return 0.0;
    }
    let made: Map<String, Value> = serde_json::from_str(&made.arguments).unwrap_or_default();
    let of = |(name, wanted): (&String, &Value)| made.get(name).map_or(0.0, |made| argument_score(wanted, made));
    match wanted.arguments.as_ref().filter(|wanted| !wanted.is_empty()) {
        Some(wanted) => 0.5 + 0.5 * wanted.iter().map(of).sum::<f64>() / wanted.len() as f64,
        None => 1.0,
    }
}

fn argument_score(wanted: &Value, made: &Value) -> f64 {
    match (wanted, made) {
        (wanted, made) if wanted == made => 1.0,
        (Value::Number(wanted), Value::Number(made)) if wanted.as_f64() == made.as_f64() => 1.0,
        (Value::String(wanted), Value::String(made)) => {
            let (wanted, made) = (wanted.trim().to_lowercase(), made.trim().to_lowercase());
            match wanted == made {
                true => 1.0,
                false if !made.is_empty() && (made.contains(&wanted) || wanted.contains(&made)) => 0.75,
                false => 0.0,
            }
        }
        (Value::Object(_), Value::Object(_)) => 0.5,
        _ => 0.0,
    }
}

#[cfg(test)]
#[path = "grading_tests.rs"]
mod tests;
