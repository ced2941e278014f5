//! Rules as they are written: the shape that events, REST and seeds share (assistants.md §8.1).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// When to do what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Id within the rule set.
    pub id: String,
    /// For people.
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Higher is tried first; equal ones in the order of the list.
    pub priority: i64,
    /// Disabled rules are not tried.
    pub enabled: bool,
    /// The event that it answers, e.g. `message.received`.
    pub trigger: String,
    /// When it matches.
    pub conditions: ConditionGroup,
    /// What is done then, in order.
    pub actions: Vec<ActionConfig>,
    /// Whatever the author keeps with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
}

/// Conditions joined by `and` or `or`; an empty group holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConditionGroup {
    /// How they are joined.
    pub logic: Logic,
    /// The members.
    pub conditions: Vec<ConditionNode>,
}

/// How conditions are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Logic {
    /// All hold.
    And,
    /// At least one holds.
    Or,
}

/// A condition or a group of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ConditionNode {
    /// A condition.
    Condition(Condition),
    /// A group.
    Group(ConditionGroup),
}

/// A comparison of a field with a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Condition {
    /// Dotted path into the execution context (assistants.md §8.4).
    pub field: String,
    /// Name of the comparison (assistants.md §8.5).
    pub operator: String,
    /// What it is compared with.
    #[serde(default)]
    pub value: Value,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActionConfig {
    /// Name under which templates of later actions find its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What to do, e.g. `llm.invoke`.
    #[serde(rename = "type")]
    pub action_type: String,
    /// With which parameters (assistants.md §9).
    #[serde(default)]
    pub params: Map<String, Value>,
}

/// Model settings of an assistant or rule set: what it wishes; the router drops what a model does not take
/// (assistants.md §14).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "named as in assistants.md §14.1")]
pub struct LlmConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Vec<String>>,
    /// Milliseconds that an answer may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}
