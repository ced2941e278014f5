//! The rule-set aggregate: rules, loaded as events, with a version and a digest (assistants.md §21.2).

use serde::{Deserialize, Serialize};
use symbia_events::{
    assistants::{
        LlmConfig, Rule, RuleAdded, RuleRemoved, RuleSetActivationChanged, RuleSetCreated, RuleSetEvent,
        RuleSetReplaced,
    },
    canonical, hash,
};
use time::OffsetDateTime;

use super::check::check;
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

domain_commands! {
    /// What a rule set can be asked to do.
    RuleSetCommand: Assistants / "rule-set" {
        /// Loads it the first time.
        CreateRuleSet = "symbia.cmd.assistants.create-rule-set.v1" {
            rule_set_key: String,
            rule_set_id: String,
            name: String,
            #[serde(default)]
            description: Option<String>,
            rules: Vec<Rule>,
            #[serde(default)]
            llm_config: Option<LlmConfig>,
        }
        /// Replaces all its rules; the same rules again change nothing.
        ReplaceRuleSet = "symbia.cmd.assistants.replace-rule-set.v1" {
            name: String,
            #[serde(default)]
            description: Option<String>,
            rules: Vec<Rule>,
            #[serde(default)]
            llm_config: Option<LlmConfig>,
        }
        /// Adds a rule at the end.
        AddRule = "symbia.cmd.assistants.add-rule.v1" { rule: Rule }
        /// Takes a rule out.
        RemoveRule = "symbia.cmd.assistants.remove-rule.v1" { rule_id: String }
        /// Lets its rules apply, or not.
        ActivateRuleSet = "symbia.cmd.assistants.activate-rule-set.v1" { is_active: bool }
    }
}

/// A rule set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleSet {
    key: String,
    id: String,
    name: String,
    description: Option<String>,
    rules: Vec<Rule>,
    llm_config: Option<LlmConfig>,
    version: u32,
    digest: String,
    is_active: bool,
}

/// SHA-256 of rules in canonical form.
#[must_use]
pub fn rules_digest(rules: &[Rule]) -> String {
    canonical::to_vec(&rules).map(|bytes| hash(&bytes)).unwrap_or_default()
}

impl RuleSet {
    /// Its key; empty when it does not exist.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its rules, in the author's order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Its model settings.
    #[must_use]
    pub fn llm_config(&self) -> Option<&LlmConfig> {
        self.llm_config.as_ref()
    }

    /// Counts its changes, from 1.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Digest of its rules.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether its rules apply.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.is_active
    }

    fn exists(&self) -> Result<(), Rejection> {
        if self.key.is_empty() { Err(Rejection::not_found("rule set")) } else { Ok(()) }
    }

    fn change(&mut self, rules: Vec<Rule>, version: u32, digest: &str) {
        self.rules = rules;
        self.version = version;
        digest.clone_into(&mut self.digest);
    }

    fn create(&self, c: CreateRuleSet, by: &Actor) -> Result<Decision<RuleSetEvent>, Rejection> {
        if !self.key.is_empty() {
            return Err(Rejection::new("CONFLICT", "this rule set exists: replace its rules instead"));
        }
        if c.rule_set_key.is_empty() || c.rule_set_id.is_empty() || c.name.is_empty() {
            return Err(Rejection::invalid("ruleSetKey, ruleSetId and name must not be empty"));
        }
        check(&c.rules)?;
        Ok(Decision::one(RuleSetCreated {
            rule_set_key: c.rule_set_key,
            rule_set_id: c.rule_set_id,
            name: c.name,
            description: c.description,
            digest: rules_digest(&c.rules),
            rules: c.rules,
            llm_config: c.llm_config,
            version: 1,
            by: by.id.clone(),
        }))
    }

    fn replace(&self, c: ReplaceRuleSet, by: &Actor) -> Result<Decision<RuleSetEvent>, Rejection> {
        self.exists()?;
        check(&c.rules)?;
        let digest = rules_digest(&c.rules);
        let same = digest == self.digest && c.llm_config == self.llm_config;
        if same && c.name == self.name && c.description == self.description {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(RuleSetReplaced {
            rule_set_key: self.key.clone(),
            rule_set_id: self.id.clone(),
            name: c.name,
            description: c.description,
            digest,
            rules: c.rules,
            llm_config: c.llm_config,
            version: self.version + 1,
            by: by.id.clone(),
        }))
    }

    fn add(&self, c: AddRule, by: &Actor) -> Result<Decision<RuleSetEvent>, Rejection> {
        self.exists()?;
        let mut rules = self.rules.clone();
        rules.push(c.rule.clone());
        check(&rules)?;
        Ok(Decision::one(RuleAdded {
            rule_set_key: self.key.clone(),
            rule: c.rule,
            version: self.version + 1,
            digest: rules_digest(&rules),
            by: by.id.clone(),
        }))
    }

    fn remove(&self, c: RemoveRule, by: &Actor) -> Result<Decision<RuleSetEvent>, Rejection> {
        self.exists()?;
        let rest: Vec<Rule> = self.rules.iter().filter(|r| r.id != c.rule_id).cloned().collect();
        if rest.len() == self.rules.len() {
            return Err(Rejection::not_found("rule"));
        }
        Ok(Decision::one(RuleRemoved {
            rule_set_key: self.key.clone(),
            rule_id: c.rule_id,
            version: self.version + 1,
            digest: rules_digest(&rest),
            by: by.id.clone(),
        }))
    }

    fn activate(&self, c: ActivateRuleSet, by: &Actor) -> Result<Decision<RuleSetEvent>, Rejection> {
        self.exists()?;
        if c.is_active == self.is_active {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(RuleSetActivationChanged {
            rule_set_key: self.key.clone(),
            is_active: c.is_active,
            version: self.version + 1,
            by: by.id.clone(),
        }))
    }
}

impl Aggregate for RuleSet {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("ruleSetKey");
    type Command = RuleSetCommand;
    type Event = RuleSetEvent;

    fn apply(&mut self, event: &RuleSetEvent) {
        match event {
            RuleSetEvent::RuleSetCreated(e) => {
                self.key.clone_from(&e.rule_set_key);
                self.id.clone_from(&e.rule_set_id);
                self.name.clone_from(&e.name);
                self.description.clone_from(&e.description);
                self.llm_config.clone_from(&e.llm_config);
                self.is_active = true;
                self.change(e.rules.clone(), e.version, &e.digest);
            }
            RuleSetEvent::RuleSetReplaced(e) => {
                self.name.clone_from(&e.name);
                self.description.clone_from(&e.description);
                self.llm_config.clone_from(&e.llm_config);
                self.change(e.rules.clone(), e.version, &e.digest);
            }
            RuleSetEvent::RuleAdded(e) => {
                let rules = self.rules.iter().cloned().chain([e.rule.clone()]).collect();
                self.change(rules, e.version, &e.digest);
            }
            RuleSetEvent::RuleRemoved(e) => {
                let rules = self.rules.iter().filter(|r| r.id != e.rule_id).cloned().collect();
                self.change(rules, e.version, &e.digest);
            }
            RuleSetEvent::RuleSetActivationChanged(e) => {
                self.is_active = e.is_active;
                self.version = e.version;
            }
        }
    }

    fn decide(
        &self,
        command: RuleSetCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<RuleSetEvent>, Rejection> {
        if !by.is_platform() && !by.super_admin {
            return Err(Rejection::forbidden("rule sets are loaded by the platform or a super admin"));
        }
        match command {
            RuleSetCommand::CreateRuleSet(c) => self.create(c, by),
            RuleSetCommand::ReplaceRuleSet(c) => self.replace(c, by),
            RuleSetCommand::AddRule(c) => self.add(c, by),
            RuleSetCommand::RemoveRule(c) => self.remove(c, by),
            RuleSetCommand::ActivateRuleSet(c) => self.activate(c, by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        assistants::seed,
        testing::{AT, given},
    };
    use serde_json::json;

    fn platform() -> Actor {
        Actor::service("assistants")
    }

    fn history(commands: impl IntoIterator<Item = RuleSetCommand>) -> Vec<RuleSetEvent> {
        let (mut state, mut events) = (RuleSet::default(), Vec::new());
        for command in commands {
            let decision = state.decide(command, &platform(), AT).unwrap();
            decision.events.iter().for_each(|e| state.apply(e));
            events.extend(decision.events);
        }
        events
    }

    fn rule(id: &str, changes: serde_json::Value) -> Rule {
        let mut rule = json!({
            "id": id, "name": id, "priority": 1, "enabled": true, "trigger": "message.received",
            "conditions": { "logic": "and", "conditions": [] },
            "actions": [{ "type": "message.send", "params": { "content": "x" } }],
        });
        rule.as_object_mut().unwrap().extend(changes.as_object().cloned().unwrap_or_default());
        serde_json::from_value(rule).unwrap()
    }

    #[test]
    fn every_change_counts_and_the_same_rules_again_are_none() {
        let events = history([
            seed::create_rule_set().into(),
            AddRule { rule: rule("r", json!({})) }.into(),
            ActivateRuleSet { is_active: false }.into(),
            RemoveRule { rule_id: "r".into() }.into(),
        ]);
        let mut state = RuleSet::default();
        events.iter().for_each(|e| state.apply(e));
        assert_eq!((state.version(), state.is_active(), state.rules().len()), (4, false, 2));
        assert_eq!(state.digest(), rules_digest(&seed::create_rule_set().rules));
        let seeded = seed::create_rule_set();
        let (name, description) = (seeded.name, seeded.description);
        let same = ReplaceRuleSet { name, description, rules: seeded.rules, llm_config: seeded.llm_config };
        given::<RuleSet>(events).when(same, &platform()).then([]);
    }

    #[test]
    fn rules_that_could_never_work_are_refused_with_the_reason() {
        let condition = |operator: &str, value: &str| json!({ "conditions": { "logic": "and", "conditions": [{ "field": "x", "operator": operator, "value": value }] } });
        let refused = [
            (json!({ "trigger": "moon.rises" }), "rules[0] 'r': trigger 'moon.rises'"),
            (json!({ "actions": [] }), "1 to 32 actions"),
            (json!({ "actions": [{ "type": "sing" }] }), "actions[0]: type 'sing'"),
            (condition("resembles", "x"), "operator 'resembles'"),
            (condition("matches", "("), "unclosed group"),
            (condition("matches", "(?=x)"), "look-around"),
        ];
        for (changes, reason) in refused {
            let error = check(&[rule("r", changes)]).unwrap_err();
            assert!(error.message.contains(reason), "{} lacks {reason}", error.message);
        }
        let twice = AddRule { rule: rule(&seed::create_rule_set().rules[0].id, json!({})) };
        given::<RuleSet>(history([seed::create_rule_set().into()]))
            .when(twice, &platform())
            .rejected("VALIDATION_FAILED");
    }

    #[test]
    fn only_the_platform_and_super_admins_load_rules() {
        let person = Actor { id: "ada".into(), kind: symbia_events::ActorType::User, ..platform() };
        given::<RuleSet>([]).when(seed::create_rule_set(), &person).rejected("FORBIDDEN");
        let operator = Actor { super_admin: true, ..person };
        assert!(RuleSet::default().decide(seed::create_rule_set().into(), &operator, AT).is_ok());
        given::<RuleSet>(history([seed::create_rule_set().into()]))
            .when(seed::create_rule_set(), &platform())
            .rejected("CONFLICT");
        given::<RuleSet>([]).when(RemoveRule { rule_id: "r".into() }, &platform()).rejected("NOT_FOUND");
    }
}
