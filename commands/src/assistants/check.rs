//! What a rule must be before it is kept: an author learns at once what would never work.

use std::collections::HashSet;

use symbia_events::assistants::{ActionConfig, ConditionGroup, ConditionNode, Rule};

use super::{
    rules::{LLM_INVOKE, MESSAGE_SEND, compile, each_condition, has_pattern},
    template::{MAX_REFERENCES, MAX_TEMPLATE},
};
use crate::Rejection;

/// Most rules of a set.
pub const MAX_RULES: usize = 500;
/// Most actions of a rule.
const MAX_ACTIONS: usize = 32;
/// Deepest nesting and most conditions of a rule (assistants.md §8.5).
const MAX_DEPTH: usize = 16;
const MAX_CONDITIONS: usize = 256;

/// assistants.md §8.2.
const TRIGGERS: [&str; 9] = [
    "message.received",
    "conversation.created",
    "conversation.updated",
    "handoff.requested",
    "handoff.completed",
    "context.updated",
    "timer.elapsed",
    "timer.fired",
    "custom",
];

/// assistants.md §8.5.
const OPERATORS: [&str; 20] = [
    "eq",
    "equals",
    "neq",
    "gt",
    "gte",
    "lt",
    "lte",
    "contains",
    "not_contains",
    "starts_with",
    "ends_with",
    "matches",
    "not_matches",
    "in",
    "not_in",
    "exists",
    "not_exists",
    "length_gte",
    "length_lte",
    "length_eq",
];

/// Checks the rules of a set.
pub(super) fn check(rules: &[Rule]) -> Result<(), Rejection> {
    if rules.len() > MAX_RULES {
        return Err(Rejection::invalid(format!("rules: {} of them, the limit is {MAX_RULES}", rules.len())));
    }
    let mut ids = HashSet::new();
    for (index, rule) in rules.iter().enumerate() {
        let problem = if ids.insert(&rule.id) { check_rule(rule) } else { Err("its id is used twice".to_owned()) };
        problem.map_err(|problem| Rejection::invalid(format!("rules[{index}] '{}': {problem}", rule.id)))?;
    }
    Ok(())
}

fn check_rule(rule: &Rule) -> Result<(), String> {
    if rule.id.is_empty() || rule.name.is_empty() {
        return Err("id and name must not be empty".to_owned());
    }
    if !TRIGGERS.contains(&rule.trigger.as_str()) {
        return Err(format!("trigger '{}' is none of {}", rule.trigger, TRIGGERS.join(", ")));
    }
    if depth(&rule.conditions) > MAX_DEPTH {
        return Err(format!("conditions are nested deeper than {MAX_DEPTH}"));
    }
    let (mut count, mut problem) = (0, None);
    each_condition(&rule.conditions, &mut |condition| {
        count += 1;
        if !OPERATORS.contains(&condition.operator.as_str()) {
            problem.get_or_insert(format!("operator '{}' is none of {}", condition.operator, OPERATORS.join(", ")));
        }
        let pattern = condition.value.as_str().filter(|_| has_pattern(&condition.operator));
        if let Some(Err(reason)) = pattern.map(compile) {
            problem.get_or_insert(format!("condition on '{}': {reason}", condition.field));
        }
    });
    if count > MAX_CONDITIONS {
        return Err(format!("{count} conditions, the limit is {MAX_CONDITIONS}"));
    }
    if let Some(problem) = problem {
        return Err(problem);
    }
    if rule.actions.is_empty() || rule.actions.len() > MAX_ACTIONS {
        return Err(format!("a rule has 1 to {MAX_ACTIONS} actions"));
    }
    rule.actions
        .iter()
        .enumerate()
        .try_for_each(|(index, action)| check_action(action).map_err(|reason| format!("actions[{index}]: {reason}")))
}

fn check_action(action: &ActionConfig) -> Result<(), String> {
    if ![LLM_INVOKE, MESSAGE_SEND].contains(&action.action_type.as_str()) {
        return Err(format!("type '{}' is none of {LLM_INVOKE}, {MESSAGE_SEND}", action.action_type));
    }
    for (name, value) in &action.params {
        let text = value.as_str().unwrap_or_default();
        if text.len() > MAX_TEMPLATE || text.matches("{{").count() > MAX_REFERENCES {
            return Err(format!("{name}: at most {MAX_TEMPLATE} bytes and {MAX_REFERENCES} references"));
        }
    }
    Ok(())
}

fn depth(group: &ConditionGroup) -> usize {
    let inner = group.conditions.iter().map(|node| match node {
        ConditionNode::Group(group) => depth(group),
        ConditionNode::Condition(_) => 0,
    });
    1 + inner.max().unwrap_or(0)
}
