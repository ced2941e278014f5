//! The guardrails of an organization, with their expressions compiled.

use std::sync::Arc;

use regex::{RegexSet, RegexSetBuilder};
use symbia_events::integrations::{
    AllowRule, GuardrailAction, GuardrailRules, GuardrailSet, LengthRule, PersonalData, PersonalDataRule,
};

use super::finder::Finder;

/// Most memory of the expressions of one rule, bytes.
const EXPRESSIONS: usize = 4 << 20;

/// An expression that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: '{pattern}' cannot be used: {why}")]
pub struct Wrong {
    rule: String,
    pattern: String,
    why: String,
}

/// How much of an answer is held back until it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    Nothing,
    /// What may be the beginning of something that is replaced.
    Window,
    /// All of it: it may be blocked, or an expression needs the whole.
    Whole,
}

/// The guardrails.
#[derive(Debug, Default)]
pub struct Guards {
    pub(super) prompt: Hook,
    pub(super) answer: Hook,
    stamp: Vec<(String, u64)>,
}

/// What is looked for at one place.
#[derive(Debug, Default)]
pub(super) struct Hook {
    pub rules: Vec<Rule>,
    pub injection: Vec<(Source, GuardrailAction)>,
    pub allow: Vec<Allow>,
    pub lengths: Vec<(Source, LengthRule)>,
}

/// Which guardrail says so.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub guardrail: Arc<str>,
    pub version: u64,
}

/// Something that is looked for.
#[derive(Debug)]
pub(super) struct Rule {
    pub source: Source,
    pub name: String,
    pub action: GuardrailAction,
    pub finder: Finder,
    /// What takes its place.
    pub mark: &'static str,
}

/// Something that must be there.
#[derive(Debug)]
pub(super) struct Allow {
    pub source: Source,
    pub any: RegexSet,
    pub action: GuardrailAction,
}

impl Guards {
    /// The guardrails as they were set.
    pub fn compile<'s>(all: impl IntoIterator<Item = &'s GuardrailSet>) -> Result<Self, Wrong> {
        let mut guards = Guards::default();
        for set in all {
            let source = Source { guardrail: set.name.as_str().into(), version: set.version };
            guards.prompt.add("prompt", &source, &set.prompt)?;
            guards.answer.add("answer", &source, &set.answer)?;
            guards.stamp.push((set.guardrail_id.clone(), set.version));
        }
        Ok(guards)
    }

    /// How many expressions they have.
    #[must_use]
    pub fn expressions(&self) -> usize {
        [&self.prompt, &self.answer].iter().map(|hook| hook.rules.len() + hook.allow.len()).sum()
    }

    /// Ids and versions of the guardrails.
    #[must_use]
    pub fn stamp(&self) -> &[(String, u64)] {
        &self.stamp
    }

    /// What is held back of an answer.
    #[must_use]
    pub fn hold(&self) -> Hold {
        let blocks = |action: GuardrailAction| action == GuardrailAction::Block;
        let Hook { rules, allow, lengths, injection: _ } = &self.answer;
        let mut redacting = self.answer.redacting();
        if rules.iter().any(|rule| blocks(rule.action))
            || allow.iter().any(|rule| blocks(rule.action))
            || lengths.iter().any(|(_, rule)| blocks(rule.action))
            || self.answer.redacting().any(|rule| rule.finder.needs_all())
        {
            return Hold::Whole;
        }
        if redacting.next().is_some() { Hold::Window } else { Hold::Nothing }
    }
}

impl Hook {
    fn add(&mut self, hook: &str, source: &Source, rules: &GuardrailRules) -> Result<(), Wrong> {
        let source = || source.clone();
        for PersonalDataRule { kind, action } in &rules.pii {
            let (name, mark) = named(*kind);
            let (name, finder) = (format!("pii.{name}"), Finder::of(*kind));
            self.rules.push(Rule { source: source(), name, action: *action, finder, mark });
        }
        for rule in &rules.deny {
            let name = format!("deny.{}", rule.name);
            let wrong = |why| Wrong { rule: format!("{hook}.{name}"), pattern: rule.pattern.clone(), why };
            let finder = Finder::matching(&rule.pattern).map_err(wrong)?;
            self.rules.push(Rule { source: source(), name, action: rule.action, finder, mark: "[REDACTED]" });
        }
        if let Some(AllowRule { patterns, action }) = &rules.allow {
            let any = RegexSetBuilder::new(patterns).size_limit(EXPRESSIONS).dfa_size_limit(EXPRESSIONS).build();
            let any = any.map_err(|error| Wrong {
                rule: format!("{hook}.allow"),
                pattern: patterns.join("', '"),
                why: error.to_string(),
            })?;
            self.allow.push(Allow { source: source(), any, action: *action });
        }
        self.injection.extend(rules.injection.map(|action| (source(), action)));
        self.lengths.extend(rules.max_length.map(|rule| (source(), rule)));
        Ok(())
    }

    /// The rules that replace what they find.
    pub fn redacting(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.action == GuardrailAction::Redact)
    }

    /// Appends to `out` what may be shown of a text from `from` on, with marks for what is not; gives where that ends. `whole`:
    /// there is no more to come. Whatever begins first counts, of several the longest.
    pub fn redact<'r>(
        &'r self,
        raw: &str,
        from: usize,
        whole: bool,
        out: &mut String,
        fired: &mut dyn FnMut(&'r Rule),
    ) -> usize {
        let undecided = || self.redacting().map(|rule| rule.finder.undecided(raw, from)).min();
        let decided = if whole { raw.len() } else { undecided().unwrap_or(raw.len()) };
        // What each finds next: it looks again when that is past, or the text would be read for each that is found.
        let mut next: Vec<_> = self.redacting().map(|rule| (rule, rule.finder.find(raw, from))).collect();
        let mut at = from;
        loop {
            let found = next.iter().filter_map(|(rule, found)| Some((*rule, found.clone()?)));
            let first = found.min_by(|(_, a), (_, b)| a.start.cmp(&b.start).then(b.end.cmp(&a.end)));
            let Some((rule, found)) = first.filter(|(_, found)| found.start < decided) else {
                out.push_str(raw.get(at..decided).unwrap_or_default());
                return decided.max(at);
            };
            out.push_str(raw.get(at..found.start).unwrap_or_default());
            out.push_str(rule.mark);
            fired(rule);
            at = found.end;
            for (rule, found) in &mut next {
                if found.as_ref().is_some_and(|found| found.start < at) {
                    *found = rule.finder.find(raw, at);
                }
            }
        }
    }
}

fn named(kind: PersonalData) -> (&'static str, &'static str) {
    match kind {
        PersonalData::Email => ("email", "[EMAIL]"),
        PersonalData::Phone => ("phone", "[PHONE]"),
        PersonalData::Ssn => ("ssn", "[SSN]"),
        PersonalData::CreditCard => ("credit_card", "[CREDIT_CARD]"),
        PersonalData::IpAddress => ("ip_address", "[IP_ADDRESS]"),
    }
}
