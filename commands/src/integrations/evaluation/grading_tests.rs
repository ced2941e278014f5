//! Every rule of every evaluator.

use serde_json::json;

use super::*;

fn case(evaluator: &str, expected: Value) -> TestCase {
    let case =
        json!({ "id": "c", "name": "c", "input": { "prompt": "?" }, "evaluator": evaluator, "expected": expected });
    serde_json::from_value(case).unwrap()
}

fn said(evaluator: &str, expected: Value, text: &str) -> (f64, bool) {
    graded(evaluator, expected, text, &[])
}

fn graded(evaluator: &str, expected: Value, text: &str, calls: &[(&str, Value)]) -> (f64, bool) {
    let call = |(name, arguments): &(&str, Value)| ToolCall {
        id: "1".into(),
        name: (*name).to_owned(),
        arguments: arguments.to_string(),
    };
    let calls: Vec<ToolCall> = calls.iter().map(call).collect();
    let grade = grade(&case(evaluator, expected), Output { text, calls: &calls });
    ((grade.score * 1000.0).round() / 1000.0, grade.passed)
}

#[test]
fn exact_is_the_same_but_for_case_and_margins() {
    let expected = json!({ "content": " Billing " });
    assert_eq!(said("exact", expected.clone(), "billing\n"), (1.0, true));
    assert_eq!(said("exact", expected, "billing."), (0.0, false));
}

#[test]
fn contains_counts_what_is_there_and_what_must_not_be() {
    let expected = json!({ "contains": ["SQL", "injection"], "notContains": ["safe", "fine"] });
    assert_eq!(said("contains", expected.clone(), "an sql INJECTION"), (1.0, true));
    assert_eq!(said("contains", expected.clone(), "sql only"), (0.5, true));
    assert_eq!(said("contains", expected.clone(), "sql, but safe"), (0.25, false));
    assert_eq!(said("contains", expected.clone(), "sql injection, safe and fine"), (0.5, true));
    assert_eq!(said("contains", expected, "safe and fine"), (0.0, false));
    assert_eq!(said("contains", json!({ "notContains": ["no"] }), "yes"), (1.0, true));
}

#[test]
fn a_pattern_matches_whatever_the_case() {
    assert_eq!(said("regex", json!({ "pattern": "^answer: \\d+$" }), "ANSWER: 42"), (1.0, true));
    assert_eq!(said("regex", json!({ "pattern": "^answer: \\d+$" }), "answer: none"), (0.0, false));
    assert_eq!(said("regex", json!({ "pattern": "(" }), "("), (0.0, false));
}

#[test]
fn json_is_found_and_each_fault_in_it_has_its_price() {
    let schema = json!({ "schema": {
        "type": "object", "required": ["intent", "confidence"],
        "properties": { "intent": { "type": "string", "enum": ["a", "b"] }, "confidence": { "type": "number", "maximum": 1 } },
    } });
    let of = |text: &str| said("json_schema", schema.clone(), text);
    assert_eq!(of(r#"{"intent":"a","confidence":0.5}"#), (1.0, true));
    assert_eq!(of("Here:\n```json\n{\"intent\":\"a\",\"confidence\":1}\n```\nDone."), (1.0, true));
    assert_eq!(of(r#"I say {not json} but {"intent":"b","confidence":0} it is"#), (1.0, true));
    assert_eq!(of("nothing"), (0.0, false));
    assert_eq!(of("[1]"), (0.5, true), "another type");
    assert_eq!(of("{}"), (0.6, true), "two are missing");
    assert_eq!(of(r#"{"intent":"c","confidence":0}"#), (0.9, true), "a bad property");
    assert_eq!(of(r#"{"intent":"c","confidence":2}"#), (0.8, true), "two bad properties");
    let plain = |schema: Value, text: &str| said("json_schema", json!({ "schema": schema }), text);
    assert_eq!(plain(json!({ "type": "array", "items": { "type": "string" } }), "[1, \"a\", 2]"), (0.8, true));
    assert_eq!(plain(json!({ "type": "integer" }), "1.5"), (0.75, true), "a float for an integer");
    assert_eq!(plain(json!({ "type": "integer" }), "2.0"), (1.0, true));
    assert_eq!(plain(json!({ "enum": [1, 2] }), "3"), (0.7, true));
    assert_eq!(plain(json!({ "type": "number", "minimum": 5 }), "3"), (0.8, true));
    assert_eq!(plain(json!({ "type": "integer", "enum": [1], "maximum": 2 }), "3.5"), (0.25, false));
}

#[test]
fn a_call_is_half_its_name_and_half_its_arguments() {
    let expected = json!({ "functionCall": { "name": "weather", "arguments": { "city": "Paris", "days": 2 } } });
    let of = |calls: &[(&str, Value)]| graded("function_call", expected.clone(), "", calls);
    assert_eq!(of(&[("weather", json!({ "city": "paris", "days": 2.0 }))]), (1.0, true));
    assert_eq!(of(&[("weather", json!({ "city": "Paris, France", "days": 2 }))]), (0.938, true), "contained");
    assert_eq!(of(&[("weather", json!({ "city": "Paris" }))]), (0.75, true));
    assert_eq!(of(&[("weather", json!({ "city": "Rome", "days": 3 }))]), (0.5, false));
    assert_eq!(of(&[("news", json!({ "city": "Paris", "days": 2 }))]), (0.0, false));
    assert_eq!(of(&[("news", json!({})), ("weather", json!({ "city": "Paris", "days": 2 }))]), (1.0, true));
    assert_eq!(of(&[]), (0.0, false));
    let object = json!({ "functionCall": { "name": "f", "arguments": { "at": { "x": 1 } } } });
    assert_eq!(graded("function_call", object, "", &[("f", json!({ "at": { "x": 2 } }))]), (0.75, true));
    let named = json!({ "functionCall": { "name": "f" } });
    assert_eq!(graded("function_call", named, "", &[("f", json!({ "any": 1 }))]), (1.0, true));
    let none = json!({});
    assert_eq!(graded("function_call", none.clone(), "no tool is needed", &[]), (1.0, true));
    assert_eq!(graded("function_call", none, "", &[("f", json!({}))]), (0.0, false));
    let both = json!({ "functionCalls": [{ "name": "f" }, { "name": "g" }] });
    assert_eq!(graded("function_call", both.clone(), "", &[("g", json!({})), ("f", json!({}))]), (1.0, true));
    assert_eq!(graded("function_call", both, "", &[("f", json!({}))]), (0.5, false));
    let twice = json!({ "functionCalls": [{ "name": "f", "arguments": { "x": 1 } }, { "name": "f" }] });
    assert_eq!(graded("function_call", twice.clone(), "", &[("f", json!({ "x": 1 }))]), (0.5, false));
    let calls = [("f", json!({ "x": 1 })), ("f", json!({ "x": 2 }))];
    assert_eq!(graded("function_call", twice, "", &calls), (1.0, true));
}

#[test]
fn meaning_is_what_is_contained_and_a_little_for_length() {
    let expected = json!({ "contains": ["cache", "index"] });
    assert_eq!(said("semantic", expected.clone(), "the cache!"), (0.505, true));
    assert_eq!(said("custom", expected.clone(), &format!("cache {}", "x".repeat(300))), (0.6, true));
    assert_eq!(said("semantic", expected.clone(), &format!("cache and index {}", "x".repeat(300))), (1.0, true));
    assert_eq!(said("semantic", expected, ""), (0.0, false));
    assert_eq!(said("semantic", json!({ "content": "Yes" }), "yes, it is"), (1.0, true));
}
