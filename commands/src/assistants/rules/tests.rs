//! The truth table of assistants.md §8.5, and the order of rules.

use proptest::prelude::*;
use serde_json::json;
use symbia_events::assistants::{RuleSetCreated, RuleSetEvent};

use super::*;
use crate::Aggregate;

fn rules(list: Value) -> Rules {
    let mut set = RuleSet::default();
    let created = RuleSetCreated {
        rule_set_key: "k".into(),
        rule_set_id: "id".into(),
        name: "n".into(),
        description: None,
        rules: serde_json::from_value(list).unwrap(),
        llm_config: None,
        version: 1,
        digest: "d".into(),
        by: "x".into(),
    };
    set.apply(&RuleSetEvent::from(created));
    Rules::new(&set)
}

fn rule(id: &str, priority: i64, conditions: Value) -> Value {
    json!({ "id": id, "name": id, "priority": priority, "enabled": true, "trigger": MESSAGE_RECEIVED,
            "conditions": conditions, "actions": [] })
}

fn context() -> Value {
    json!({
        "message": { "content": "Héllo World", "metadata": { "originalContent": "@Calc Héllo World" } },
        "n": 5, "flag": true, "none": null, "list": ["a", 1], "object": { "a": 1 },
    })
}

fn holds(field: &str, operator: &str, value: Value) -> bool {
    let group = json!({ "logic": "and", "conditions": [{ "field": field, "operator": operator, "value": value }] });
    rules(json!([rule("r", 1, group)])).evaluate(MESSAGE_RECEIVED, &context()).matched.is_some()
}

#[test]
fn operators_follow_their_truth_table() {
    let table = [
        ("n", "eq", json!(5), true),
        ("n", "equals", json!(5.0), true),
        ("n", "eq", json!("5"), false),
        ("list", "eq", json!(["a", 1]), false),
        ("missing", "eq", json!(null), false),
        ("missing", "neq", json!(1), true),
        ("flag", "neq", json!(true), false),
        ("n", "gt", json!(4), true),
        ("n", "gte", json!(5), true),
        ("n", "lt", json!(5), false),
        ("n", "lte", json!(5), true),
        ("n", "lt", json!("6"), false),
        ("message.content", "contains", json!("WORLD"), true),
        ("list", "contains", json!(1), true),
        ("list", "contains", json!("A"), false),
        ("n", "contains", json!(5), false),
        ("message.content", "not_contains", json!("world"), false),
        ("n", "not_contains", json!("x"), true),
        ("missing", "not_contains", json!("x"), true),
        ("message.content", "starts_with", json!("hé"), true),
        ("message.content", "ends_with", json!("WORLD"), true),
        ("n", "starts_with", json!("5"), false),
        ("message.content", "matches", json!("^h.llo\\b"), true),
        ("message.content", "matches", json!("(?i)WORLD$"), true),
        ("message.content", "matches", json!("("), false),
        ("n", "matches", json!("5"), false),
        ("message.content", "not_matches", json!("xyz"), true),
        ("message.content", "not_matches", json!("("), true),
        ("n", "not_matches", json!("5"), true),
        ("n", "in", json!([4, 5]), true),
        ("n", "in", json!(5), false),
        ("n", "not_in", json!([4]), true),
        ("n", "not_in", json!(5), true),
        ("n", "not_in", json!([5]), false),
        ("none", "exists", json!(null), false),
        ("flag", "exists", json!(null), true),
        ("none", "not_exists", json!(null), true),
        ("missing.deep", "not_exists", json!(null), true),
        ("message.content", "length_eq", json!(11), true),
        ("list", "length_gte", json!(2), true),
        ("list", "length_lte", json!(1), false),
        ("n", "length_eq", json!(1), false),
        ("list.0", "eq", json!("a"), true),
        ("n", "resembles", json!(5), false),
        ("message.content", "starts_with", json!("@calc"), true),
        ("message.content", "not_contains", json!("@nobody"), true),
    ];
    for (field, operator, value, expected) in table {
        assert_eq!(holds(field, operator, value.clone()), expected, "{field} {operator} {value}");
    }
}

#[test]
fn groups_nest_and_an_empty_one_holds() {
    let yes = json!({ "field": "n", "operator": "eq", "value": 5 });
    let no = json!({ "field": "n", "operator": "eq", "value": 6 });
    let matches =
        |group: Value| rules(json!([rule("r", 1, group)])).evaluate(MESSAGE_RECEIVED, &context()).matched.is_some();
    assert!(matches(json!({ "logic": "and", "conditions": [] })));
    assert!(matches(json!({ "logic": "or", "conditions": [] })));
    assert!(matches(json!({ "logic": "or", "conditions": [no, { "logic": "and", "conditions": [yes] }] })));
    assert!(!matches(json!({ "logic": "and", "conditions": [yes, { "logic": "or", "conditions": [no] }] })));
}

#[test]
fn the_highest_priority_wins_ties_keep_their_order_and_the_record_says_why() {
    let always = || json!({ "logic": "and", "conditions": [] });
    let never =
        json!({ "logic": "and", "conditions": [{ "field": "message.content", "operator": "matches", "value": "(" }] });
    let mut disabled = rule("disabled", 99, always());
    disabled["enabled"] = json!(false);
    let mut other = rule("other", 98, always());
    other["trigger"] = json!("custom");
    let list = json!([
        rule("low", 1, always()),
        rule("a", 5, always()),
        rule("b", 5, always()),
        rule("never", 9, never),
        disabled,
        other
    ]);
    let rules = rules(list);
    let evaluation = rules.evaluate(MESSAGE_RECEIVED, &context());
    assert_eq!(evaluation.matched, Some(1));
    let tried: Vec<_> = evaluation.tried.iter().map(|t| (t.rule_id.as_str(), t.matched)).collect();
    assert_eq!(tried, [("never", false), ("a", true)]);
    let error = evaluation.tried[0].conditions[0].error.as_deref().unwrap();
    assert!(error.contains("unclosed group"), "{error}");
    assert_eq!(rules.evaluate(MESSAGE_RECEIVED, &context()), evaluation);
}

#[test]
fn a_models_answer_is_sent_when_the_rule_sends_nothing_itself() {
    let asking = json!({ "id": "r", "name": "r", "priority": 1, "enabled": true, "trigger": MESSAGE_RECEIVED,
        "conditions": { "logic": "and", "conditions": [] }, "actions": [{ "type": "llm.invoke" }] });
    let steps = script(&serde_json::from_value(asking).unwrap());
    assert_eq!(steps[0].id.as_deref(), Some("answer"));
    assert_eq!(steps[1].params["template"], "{{steps.answer.response}}");
}

proptest! {
    #[test]
    fn no_condition_makes_it_panic(field in "[a-z.0]{0,12}", operator in 0usize..20, value in ".{0,8}") {
        let operators = ["eq", "neq", "gt", "gte", "lt", "lte", "contains", "not_contains", "starts_with", "ends_with",
            "matches", "not_matches", "in", "not_in", "exists", "not_exists", "length_gte", "length_lte", "length_eq", "x"];
        holds(&field, operators[operator], json!(value));
        holds("message.content", operators[operator], json!(value));
    }
}
