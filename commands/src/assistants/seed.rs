//! The assistant that a new platform starts with: one rule that answers by template, one that asks the model. Loaded
//! through commands like any other.

use serde_json::json;
use symbia_events::assistants::{AssistantDefinition, Rule};

use super::CreateRuleSet;

/// Key of the first assistant; its principal is `assistant:coordinator`.
pub const ASSISTANT_KEY: &str = "coordinator";

/// The first assistant (assistants.md §15.2).
#[must_use]
pub fn assistant() -> AssistantDefinition {
    AssistantDefinition {
        key: ASSISTANT_KEY.to_owned(),
        catalog_id: Some("ast-coordinator".to_owned()),
        alias: Some("symbia".to_owned()),
        name: "Symbia".to_owned(),
        description: "Answers questions with the model at hand.".to_owned(),
        capabilities: vec!["messaging".to_owned(), "llm.chat".to_owned()],
        llm_config: None,
    }
}

/// Its rule set.
#[must_use]
pub fn create_rule_set() -> CreateRuleSet {
    CreateRuleSet {
        rule_set_key: format!("{ASSISTANT_KEY}:default"),
        rule_set_id: format!("ruleset-{ASSISTANT_KEY}"),
        name: "Symbia".to_owned(),
        description: Some("Help by template, everything else by the model.".to_owned()),
        rules: rules(),
        llm_config: None,
    }
}

fn rules() -> Vec<Rule> {
    let help = "I am {{assistant.name}}. Ask me anything; a language model answers.\n\n\
        - This help comes from a rule with a template, without a model.\n\
        - Everything else goes to the model that the platform has at hand.\n\
        - Why I answered as I did: `symbia log show --conversation {{conversationId}}`.";
    let rules = json!([
        {
            "id": "coord-help", "name": "Help", "priority": 200, "enabled": true, "trigger": "message.received",
            "conditions": { "logic": "and", "conditions": [
                { "field": "message.content", "operator": "matches", "value": "^\\s*/?help\\s*$" } ] },
            "actions": [{ "id": "step-help", "type": "message.send", "params": { "template": help } }]
        },
        {
            "id": "coord-orchestrate", "name": "Ask the model", "priority": 100, "enabled": true,
            "trigger": "message.received",
            "conditions": { "logic": "and", "conditions": [
                { "field": "message.content", "operator": "exists" } ] },
            "actions": [
                { "id": "step-respond", "type": "llm.invoke", "params": {
                    "promptTemplate": "{{message.content}}", "history": { "limit": 6 } } },
                { "type": "message.send", "params": { "template": "{{steps.step-respond.response}}" } }
            ]
        }
    ]);
    // Checked by a test; without rules the assistant would be silent, not wrong.
    serde_json::from_value(rules).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_rules_are_rules() {
        let ids: Vec<_> = rules().into_iter().map(|r| r.id).collect();
        assert_eq!(ids, ["coord-help", "coord-orchestrate"]);
    }
}
