//! Events of a rule set (assistants.md §21.3).

use super::{LlmConfig, Rule};
use crate::domain_events;

domain_events! {
    /// What can have happened to a rule set. `version` counts its changes, `digest` is the SHA-256 of its rules.
    RuleSetEvent: Assistants / "rule-set" {
        /// It exists and is active.
        RuleSetCreated = "symbia.assistants.rule-set.rule-set-created.v1" {
            /// `<assistantKey>:default`, or `<assistantKey>:<orgId>` for an organization's own.
            rule_set_key: String,
            rule_set_id: String,
            name: String,
            description: Option<String>,
            rules: Vec<Rule>,
            llm_config: Option<LlmConfig>,
            version: u32,
            digest: String,
            by: String,
        }
        /// All its rules are others now.
        RuleSetReplaced = "symbia.assistants.rule-set.rule-set-replaced.v1" {
            rule_set_key: String,
            rule_set_id: String,
            name: String,
            description: Option<String>,
            rules: Vec<Rule>,
            llm_config: Option<LlmConfig>,
            version: u32,
            digest: String,
            by: String,
        }
        /// It has one more rule.
        RuleAdded = "symbia.assistants.rule-set.rule-added.v1" {
            rule_set_key: String,
            rule: Rule,
            version: u32,
            digest: String,
            by: String,
        }
        /// It has one rule less.
        RuleRemoved = "symbia.assistants.rule-set.rule-removed.v1" {
            rule_set_key: String,
            rule_id: String,
            version: u32,
            digest: String,
            by: String,
        }
        /// Its rules apply, or do not.
        RuleSetActivationChanged = "symbia.assistants.rule-set.rule-set-activation-changed.v1" {
            rule_set_key: String,
            is_active: bool,
            version: u32,
            by: String,
        }
    }
}
