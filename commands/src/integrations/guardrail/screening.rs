//! Looking at the texts of a prompt or an answer, and at those of an answer as it comes.

use std::sync::Arc;

use serde_json::{Map, Value};
use symbia_events::integrations::{GuardrailAction, GuardrailFinding};

use super::{
    guards::{Guards, Hook, Source},
    injection::injections,
};

/// Most places that a finding names.
const MOST_PLACES: usize = 8;

/// A look at all texts of a prompt, or of an answer. What is to be replaced is.
#[derive(Debug)]
pub struct Screening<'g> {
    hook: &'g Hook,
    findings: Vec<GuardrailFinding>,
    length: usize,
}

impl Guards {
    /// A look at a prompt.
    #[must_use]
    pub fn of_prompt(&self) -> Screening<'_> {
        Screening { hook: &self.prompt, findings: Vec::new(), length: 0 }
    }

    /// A look at an answer.
    #[must_use]
    pub fn of_answer(&self) -> Screening<'_> {
        Screening { hook: &self.answer, findings: Vec::new(), length: 0 }
    }
}

impl Screening<'_> {
    /// A text; whether something of it was replaced.
    pub fn text(&mut self, text: &mut String, place: &str) -> bool {
        self.length += text.chars().count();
        let hook = self.hook;
        for rule in hook.rules.iter().filter(|rule| rule.action != GuardrailAction::Redact) {
            self.note(&rule.source, &rule.name, rule.action, rule.finder.count(text), place);
        }
        let (mut shown, mut fired) = (String::new(), Vec::new());
        hook.redact(text, 0, true, &mut shown, &mut |rule| fired.push(rule));
        if fired.is_empty() {
            return false;
        }
        for rule in fired {
            self.note(&rule.source, &rule.name, rule.action, 1, place);
        }
        *text = shown;
        true
    }

    /// A text by which something is named: it cannot be replaced, so that what would be blocks.
    pub fn name(&mut self, text: &str, place: &str) {
        let hook = self.hook;
        for rule in &hook.rules {
            let redacts = rule.action == GuardrailAction::Redact;
            let action = if redacts { GuardrailAction::Block } else { rule.action };
            self.note(&rule.source, &rule.name, action, rule.finder.count(text), place);
        }
    }

    /// Whether a text of somebody who is not to instruct the model tries to.
    pub fn instructions(&mut self, text: &str, place: &str) {
        let hook = self.hook;
        for (source, action) in &hook.injection {
            for (name, count) in injections(text) {
                self.note(source, &format!("injection.{name}"), *action, count, place);
            }
        }
    }

    /// The text in which one of the allowed things must be.
    pub fn allowed(&mut self, text: &str, place: &str) {
        let hook = self.hook;
        for rule in hook.allow.iter().filter(|rule| !rule.any.is_match(text)) {
            self.note(&rule.source, "allow", rule.action, 1, place);
        }
    }

    /// JSON, as text: what stands in it is looked at, and it stays JSON. A text that is none is a text.
    pub fn json(&mut self, json: &mut String, place: &str) -> bool {
        let Ok(mut value) = serde_json::from_str::<Value>(json) else { return self.text(json, place) };
        let changed = self.value(&mut value, place);
        if changed {
            *json = value.to_string();
        }
        changed
    }

    /// A schema: what stands in it is looked at, and its names as such.
    pub fn schema(&mut self, schema: &mut Value, place: &str) {
        match schema {
            Value::String(text) => _ = self.text(text, place),
            Value::Array(items) => items.iter_mut().for_each(|item| self.schema(item, place)),
            Value::Object(members) => members.iter_mut().for_each(|(name, member)| {
                self.name(name, place);
                self.schema(member, place);
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn value(&mut self, value: &mut Value, place: &str) -> bool {
        match value {
            Value::String(text) => self.text(text, place),
            // A number of a card may stand there as such.
            Value::Number(number) => {
                let mut text = number.to_string();
                let changed = self.text(&mut text, place);
                if changed {
                    *value = Value::String(text);
                }
                changed
            }
            Value::Array(items) => items.iter_mut().fold(false, |changed, item| self.value(item, place) | changed),
            Value::Object(members) => {
                let (mut looked_at, mut changed) = (Map::new(), false);
                for (mut name, mut member) in std::mem::take(members) {
                    changed |= self.text(&mut name, place) | self.value(&mut member, place);
                    looked_at.insert(name, member);
                }
                *members = looked_at;
                changed
            }
            Value::Null | Value::Bool(_) => false,
        }
    }

    fn note(&mut self, source: &Source, rule: &str, action: GuardrailAction, count: u32, place: &str) {
        if count == 0 {
            return;
        }
        let same = |known: &&mut GuardrailFinding| {
            known.guardrail == *source.guardrail && known.rule == rule && known.action == action
        };
        let known = self.findings.iter_mut().find(same);
        if let Some(known) = known {
            known.count = known.count.saturating_add(count);
            if known.places.len() < MOST_PLACES && known.places.iter().all(|other| other != place) {
                known.places.push(place.to_owned());
            }
            return;
        }
        self.findings.push(GuardrailFinding {
            guardrail: source.guardrail.to_string(),
            version: source.version,
            rule: rule.to_owned(),
            action,
            count,
            places: vec![place.to_owned()],
        });
    }

    /// What was found in all of it.
    #[must_use]
    pub fn findings(mut self, place: &str) -> Vec<GuardrailFinding> {
        let (hook, length) = (self.hook, self.length);
        let over = |most: u32| usize::try_from(most).is_ok_and(|most| length > most);
        for (source, rule) in hook.lengths.iter().filter(|(_, rule)| over(rule.most)) {
            self.note(source, "maxLength", rule.action, 1, place);
        }
        self.findings
    }
}

/// The finding for which a request fails.
#[must_use]
pub fn blocking(findings: &[GuardrailFinding]) -> Option<&GuardrailFinding> {
    findings.iter().find(|finding| finding.action == GuardrailAction::Block)
}

/// Replaces what is to be replaced in a text that comes in pieces, and shows of it what the whole text would show.
#[derive(Clone, Debug)]
pub struct Redactor {
    guards: Arc<Guards>,
    raw: String,
    shown: usize,
}

impl Redactor {
    /// One for a text of an answer.
    #[must_use]
    pub fn new(guards: Arc<Guards>) -> Self {
        Redactor { guards, raw: String::new(), shown: 0 }
    }

    /// What may be shown after the next piece.
    pub fn push(&mut self, piece: &str) -> String {
        self.raw.push_str(piece);
        self.show(false)
    }

    /// What is left when nothing more comes.
    pub fn finish(&mut self) -> String {
        self.show(true)
    }

    fn show(&mut self, whole: bool) -> String {
        let mut out = String::new();
        self.shown = self.guards.answer.redact(&self.raw, self.shown, whole, &mut out, &mut |_| {});
        out
    }
}
