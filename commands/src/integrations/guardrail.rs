//! The guardrail aggregate: what an organization lets into prompts and out of answers (integrations.md §28). Applying it is
//! pure, too: [`Guards`] are the guardrails of an organization, ready to be applied.

mod finder;
mod guards;
mod injection;
mod screening;

pub use guards::{Guards, Hold, Wrong};
pub use screening::{Redactor, Screening, blocking};

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{
    AllowRule, GuardrailAction, GuardrailEvent, GuardrailRemoved, GuardrailRules, GuardrailSet, LengthRule, PatternRule,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::administration::administers;
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Longest name of a guardrail, and of a rule.
const LONGEST_NAME: usize = 64;
/// Most expressions of a rule, and longest.
const MOST_PATTERNS: usize = 50;
const LONGEST_PATTERN: usize = 1000;
const OTHERS: &str = "sets what its models are not to see and say";

domain_commands! {
    /// What can be done about a guardrail.
    GuardrailCommand: Integrations / "guardrail" {
        /// Has it look for this.
        SetGuardrail = "symbia.cmd.integrations.set-guardrail.v1" {
            guardrail_id: String,
            org_id: String,
            name: String,
            #[serde(default)]
            prompt: GuardrailRules,
            #[serde(default)]
            answer: GuardrailRules,
        }
        /// Has it look for nothing.
        RemoveGuardrail = "symbia.cmd.integrations.remove-guardrail.v1" { guardrail_id: String, org_id: String }
    }
}

/// The id of an organization's guardrail of a name.
#[must_use]
pub fn guardrail_id(org: &str, name: &str) -> String {
    let named = serde_json::json!(["guardrail", org, name]).to_string();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, named.as_bytes()).to_string()
}

/// Whether a text can be the name of a guardrail, or of a rule.
#[must_use]
pub fn may_be_guardrail(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(plain)
}

/// Most guardrails of an organization.
pub const MAX_GUARDRAILS: usize = 20;

/// A guardrail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guardrail {
    version: u64,
    is_set: bool,
}

impl Guardrail {
    fn set(&self, c: SetGuardrail, by: &Actor) -> Result<Decision<GuardrailEvent>, Rejection> {
        if !may_be_guardrail(&c.name) || c.guardrail_id != guardrail_id(&c.org_id, &c.name) {
            return Err(Rejection::invalid("name: 1 to 64 letters, digits, dots, dashes and underscores"));
        }
        if c.prompt.is_empty() && c.answer.is_empty() {
            return Err(Rejection::invalid("prompt, answer: one rule at least"));
        }
        check("prompt", &c.prompt)?;
        check("answer", &c.answer)?;
        if c.answer.injection.is_some() {
            return Err(Rejection::invalid("answer.injection: instructions are looked for in prompts alone"));
        }
        let set = GuardrailSet {
            guardrail_id: c.guardrail_id,
            name: c.name,
            version: self.version + 1,
            prompt: c.prompt,
            answer: c.answer,
            by: by.id.clone(),
        };
        Guards::compile([&set]).map_err(|wrong| Rejection::invalid(wrong.to_string()))?;
        Ok(Decision::one(set))
    }
}

fn check(hook: &str, rules: &GuardrailRules) -> Result<(), Rejection> {
    let wrong = |what: &str| Err(Rejection::invalid(format!("{hook}.{what}")));
    let mut kinds: Vec<_> = rules.pii.iter().map(|rule| rule.kind).collect();
    kinds.sort_unstable();
    if kinds.windows(2).any(|pair| pair[0] == pair[1]) {
        return wrong("pii: one rule for each kind");
    }
    let is_pattern = |pattern: &String| (1..=LONGEST_PATTERN).contains(&pattern.len());
    let mut names: Vec<&str> = rules.deny.iter().map(|rule| rule.name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) || names.iter().any(|name| !may_be_guardrail(name)) {
        return wrong("deny: names are 1 to 64 letters, digits, dots, dashes and underscores, and each is used once");
    }
    if rules.deny.len() > MOST_PATTERNS || rules.deny.iter().any(|PatternRule { pattern, .. }| !is_pattern(pattern)) {
        return wrong("deny: at most 50, each pattern 1 to 1000 bytes");
    }
    let redacts = |action: GuardrailAction| action == GuardrailAction::Redact;
    if let Some(AllowRule { patterns, action }) = &rules.allow {
        if !(1..=MOST_PATTERNS).contains(&patterns.len()) || !patterns.iter().all(is_pattern) {
            return wrong("allow.patterns: 1 to 50, each 1 to 1000 bytes");
        }
        if redacts(*action) {
            return wrong("allow.action: flag or block");
        }
    }
    if rules.injection.is_some_and(redacts) {
        return wrong("injection: flag or block");
    }
    match rules.max_length {
        Some(LengthRule { most: 0, .. }) => wrong("maxLength.most: at least 1"),
        Some(LengthRule { action, .. }) if redacts(action) => wrong("maxLength.action: flag or block"),
        _ => Ok(()),
    }
}

impl Aggregate for Guardrail {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("guardrailId");
    type Command = GuardrailCommand;
    type Event = GuardrailEvent;

    fn apply(&mut self, event: &GuardrailEvent) {
        match event {
            GuardrailEvent::GuardrailSet(e) => (self.version, self.is_set) = (e.version, true),
            GuardrailEvent::GuardrailRemoved(_) => self.is_set = false,
        }
    }

    fn decide(
        &self,
        command: GuardrailCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<GuardrailEvent>, Rejection> {
        match command {
            GuardrailCommand::SetGuardrail(c) => {
                administers(by, &c.org_id, OTHERS)?;
                self.set(c, by)
            }
            GuardrailCommand::RemoveGuardrail(c) => {
                administers(by, &c.org_id, OTHERS)?;
                if !self.is_set {
                    return Err(Rejection::not_found("guardrail"));
                }
                Ok(Decision::one(GuardrailRemoved { guardrail_id: c.guardrail_id, by: by.id.clone() }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
