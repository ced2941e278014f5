//! The rule engine: which rule answers, and why (assistants.md §8). Pure and deterministic: a run is evaluated again from
//! the log with the same result, as long as [`ENGINE_VERSION`] is the same.

use std::{cmp::Reverse, collections::HashMap};

use regex::{Regex, RegexBuilder};
use serde_json::Value;
use symbia_events::assistants::{
    ActionConfig, Condition, ConditionGroup, ConditionNode, ConditionResult, LlmConfig, Logic, Rule, RuleEvaluated,
};

use super::{RuleSet, lookup::walk};

/// Version of the meaning of conditions and templates; recorded with each run.
pub const ENGINE_VERSION: u32 = 1;
/// The trigger of rules that answer messages.
pub const MESSAGE_RECEIVED: &str = "message.received";
/// Asks a language model.
pub const LLM_INVOKE: &str = "llm.invoke";
/// Says something in the conversation.
pub const MESSAGE_SEND: &str = "message.send";

/// A rule set made ready: rules in the order in which they are tried, patterns compiled. Made once per version.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Key of the rule set.
    pub key: String,
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: u32,
    /// Digest of its rules.
    pub digest: String,
    /// Its model settings.
    pub llm_config: Option<LlmConfig>,
    rules: Vec<Rule>,
    order: Vec<usize>,
    patterns: HashMap<String, Result<Regex, String>>,
}

/// What came of trying the rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The rules tried, in order, with the outcome of each condition.
    pub tried: Vec<RuleEvaluated>,
    /// Place of the rule that matched, in the rule set.
    pub matched: Option<usize>,
}

impl Rules {
    /// Makes a rule set ready; one that is not active has no rules.
    #[must_use]
    pub fn new(set: &RuleSet) -> Self {
        let rules = if set.is_active() { set.rules().to_vec() } else { Vec::new() };
        let mut order: Vec<usize> = (0..rules.len()).filter(|index| rules[*index].enabled).collect();
        order.sort_by_key(|index| Reverse(rules[*index].priority));
        let mut patterns = HashMap::new();
        for rule in &rules {
            each_condition(&rule.conditions, &mut |condition| {
                if let (true, Some(pattern)) = (has_pattern(&condition.operator), condition.value.as_str()) {
                    patterns.entry(pattern.to_owned()).or_insert_with(|| compile(pattern));
                }
            });
        }
        Rules {
            key: set.key().to_owned(),
            id: set.id().to_owned(),
            version: set.version(),
            digest: set.digest().to_owned(),
            llm_config: set.llm_config().cloned(),
            rules,
            order,
            patterns,
        }
    }

    /// The rule at a place.
    #[must_use]
    pub fn rule(&self, index: usize) -> Option<&Rule> {
        self.rules.get(index)
    }

    /// Tries the rules of a trigger by descending priority against a context; the first that matches wins.
    #[must_use]
    pub fn evaluate(&self, trigger: &str, context: &Value) -> Evaluation {
        let mut evaluation = Evaluation::default();
        for index in self.order.iter().copied().filter(|index| self.rules[*index].trigger == trigger) {
            let rule = &self.rules[index];
            let mut conditions = Vec::new();
            let matched = self.group(&rule.conditions, context, &mut conditions);
            let (rule_id, rule_name) = (rule.id.clone(), rule.name.clone());
            evaluation.tried.push(RuleEvaluated { rule_id, rule_name, matched, conditions });
            if matched {
                evaluation.matched = Some(index);
                break;
            }
        }
        evaluation
    }

    // No short circuit: the record tells how every condition came out.
    fn group(&self, group: &ConditionGroup, context: &Value, results: &mut Vec<ConditionResult>) -> bool {
        let (mut all, mut any) = (true, group.conditions.is_empty());
        for node in &group.conditions {
            let holds = match node {
                ConditionNode::Group(inner) => self.group(inner, context, results),
                ConditionNode::Condition(condition) => self.condition(condition, context, results),
            };
            all &= holds;
            any |= holds;
        }
        if group.logic == Logic::And { all } else { any }
    }

    fn condition(&self, c: &Condition, context: &Value, results: &mut Vec<ConditionResult>) -> bool {
        let field = walk(context, c.field.split('.'));
        let mut outcome = self.holds(field, c);
        // A rule that looks for a mention looks at the text before the mention was taken off (assistants.md §8.5).
        if c.field == "message.content" && c.value.as_str().is_some_and(|v| v.contains('@')) {
            let original = walk(context, ["message", "metadata", "originalContent"]);
            if self.holds(original, c) == Ok(true) {
                outcome = Ok(true);
            }
        }
        let (result, error) = match outcome {
            Ok(result) => (result, None),
            Err(error) => (c.operator == "not_matches", Some(error)),
        };
        results.push(ConditionResult { path: c.field.clone(), operator: c.operator.clone(), result, error });
        result
    }

    fn holds(&self, field: Option<&Value>, c: &Condition) -> Result<bool, String> {
        let value = &c.value;
        let texts = || Some((field?.as_str()?, value.as_str()?));
        let folded = || texts().map(|(f, v)| (f.to_lowercase(), v.to_lowercase()));
        let ordered = || field?.as_f64()?.partial_cmp(&value.as_f64()?);
        let lengths = || Some((length(field?)? as f64, value.as_f64()?));
        Ok(match c.operator.as_str() {
            "eq" | "equals" => field.is_some_and(|f| same(f, value)),
            "neq" => !field.is_some_and(|f| same(f, value)),
            "gt" => ordered().is_some_and(|o| o.is_gt()),
            "gte" => ordered().is_some_and(|o| o.is_ge()),
            "lt" => ordered().is_some_and(|o| o.is_lt()),
            "lte" => ordered().is_some_and(|o| o.is_le()),
            "contains" => contains(field, value) == Some(true),
            "not_contains" => contains(field, value) != Some(true),
            "starts_with" => folded().is_some_and(|(f, v)| f.starts_with(&v)),
            "ends_with" => folded().is_some_and(|(f, v)| f.ends_with(&v)),
            "matches" => match texts() {
                Some((text, pattern)) => self.pattern(pattern)?.is_match(text),
                None => false,
            },
            "not_matches" => match texts() {
                Some((text, pattern)) => !self.pattern(pattern)?.is_match(text),
                None => true,
            },
            "in" => value.as_array().is_some_and(|v| field.is_some_and(|f| v.iter().any(|v| same(f, v)))),
            "not_in" => !value.as_array().is_some_and(|v| field.is_some_and(|f| v.iter().any(|v| same(f, v)))),
            "exists" => field.is_some_and(|f| !f.is_null()),
            "not_exists" => field.is_none_or(Value::is_null),
            "length_gte" => lengths().is_some_and(|(f, v)| f >= v),
            "length_lte" => lengths().is_some_and(|(f, v)| f <= v),
            "length_eq" => lengths().is_some_and(|(f, v)| f == v),
            unknown => return Err(format!("unknown operator '{unknown}'")),
        })
    }

    fn pattern(&self, pattern: &str) -> Result<&Regex, String> {
        let missing = || Err("the pattern was not compiled".to_owned());
        self.patterns.get(pattern).map_or_else(missing, |compiled| compiled.as_ref().map_err(Clone::clone))
    }
}

/// The steps of a rule: its actions, and the reply that follows a model's answer when the author wrote none
/// (assistants.md §8.8).
#[must_use]
pub fn script(rule: &Rule) -> Vec<ActionConfig> {
    let mut script = rule.actions.clone();
    if script.iter().any(|action| action.action_type == MESSAGE_SEND) {
        return script;
    }
    if let Some(asked) = script.iter_mut().rev().find(|action| action.action_type == LLM_INVOKE) {
        let id = asked.id.get_or_insert_with(|| "answer".to_owned());
        let params = [("template".to_owned(), format!("{{{{steps.{id}.response}}}}").into())];
        let action_type = MESSAGE_SEND.to_owned();
        script.push(ActionConfig { id: None, action_type, params: params.into_iter().collect() });
    }
    script
}

pub(super) fn has_pattern(operator: &str) -> bool {
    matches!(operator, "matches" | "not_matches")
}

/// Visits every condition of a group and its groups.
pub(super) fn each_condition(group: &ConditionGroup, visit: &mut dyn FnMut(&Condition)) {
    for node in &group.conditions {
        match node {
            ConditionNode::Group(inner) => each_condition(inner, visit),
            ConditionNode::Condition(condition) => visit(condition),
        }
    }
}

/// Compiles a pattern. Matching takes time linear in the text; look-around and back-references are therefore refused.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    const MAX_COMPILED: usize = 1024 * 1024;
    let pattern = pattern.strip_prefix("(?i)").unwrap_or(pattern);
    RegexBuilder::new(pattern)
        .case_insensitive(true)
        .size_limit(MAX_COMPILED)
        .build()
        .map_err(|e| format!("the pattern cannot be used: {}", e.to_string().lines().last().unwrap_or_default().trim()))
}

// Equal primitives of the same type; 1 and 1.0 are the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(_) | Value::Object(_), _) => false,
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

// None when the two cannot be compared.
fn contains(field: Option<&Value>, value: &Value) -> Option<bool> {
    match (field?, value) {
        (Value::String(text), Value::String(part)) => Some(text.to_lowercase().contains(&part.to_lowercase())),
        (Value::Array(items), value) => Some(items.iter().any(|item| same(item, value))),
        _ => None,
    }
}

// UTF-16 code units, as ECMAScript counts.
fn length(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => Some(text.encode_utf16().count()),
        Value::Array(items) => Some(items.len()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
