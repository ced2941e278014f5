//! Policies, compiled once and asked for every call (network.md §8.7): the highest priority first, then the oldest, then by
//! id; `log` and whatever only observes is recorded and lets the next one decide.
//!
//! A policy with an equality is looked up by its value, so that most policies cost an event nothing. Regular expressions run
//! in linear time, all those of a field in one pass.

use std::{cell::OnceCell, collections::HashMap};

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder, SetMatches};
use sha2::{Digest, Sha256};
use symbia_events::network::{Action, Boundary, Condition, Field, Operator, PolicyDefinition, PolicyMode};

/// Longest regular expression.
pub(super) const REGEX_MAX: usize = 256;
/// Largest compiled regular expression, in bytes.
const REGEX_SIZE: usize = 1 << 18;

/// What a policy is asked about.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Inputs<'i> {
    pub source: &'i str,
    /// Empty when there is none.
    pub target: &'i str,
    pub event_type: &'i str,
    pub boundary: Boundary,
    pub run_id: &'i str,
}

impl<'i> Inputs<'i> {
    fn of(&self, field: Field) -> &'i str {
        match field {
            Field::Source => self.source,
            Field::Target => self.target,
            Field::EventType => self.event_type,
            Field::Boundary => self.boundary.name(),
            Field::RunId => self.run_id,
        }
    }
}

/// A policy as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct PolicyRecord {
    pub id: String,
    pub version: u32,
    /// Place among those of the same priority.
    pub order: i64,
    pub definition: PolicyDefinition,
}

enum Test {
    Eq(Field, String),
    Neq(Field, String),
    Contains(Field, String),
    StartsWith(Field, String),
    /// With its place in the field's set.
    Matches(Field, Regex, usize),
    Never,
}

/// Regular expressions by field.
type Patterns = [Vec<String>; 5];

/// What is asked about, with what is known of it so far.
struct Call<'s, 'i> {
    inputs: &'s Inputs<'i>,
    sets: &'s [Option<RegexSet>; 5],
    hits: [OnceCell<SetMatches>; 5],
}

impl Call<'_, '_> {
    fn matches(&self, field: Field, regex: &Regex, at: usize) -> bool {
        let (slot, text) = (slot(field), self.inputs.of(field));
        match &self.sets[slot] {
            Some(set) => self.hits[slot].get_or_init(|| set.matches(text)).matched(at),
            None => regex.is_match(text),
        }
    }
}

pub(super) fn regex(pattern: &str) -> Option<Regex> {
    if pattern.len() > REGEX_MAX {
        return None;
    }
    RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build().ok()
}

impl Test {
    fn of(condition: &Condition, patterns: &mut Patterns) -> Self {
        let (field, value) = (condition.field, condition.value.clone());
        match condition.operator {
            Operator::Eq => Test::Eq(field, value),
            Operator::Neq => Test::Neq(field, value),
            Operator::Contains => Test::Contains(field, value),
            Operator::StartsWith => Test::StartsWith(field, value),
            Operator::Regex => regex(&value).map_or(Test::Never, |regex| {
                let of_field = &mut patterns[slot(field)];
                of_field.push(value);
                Test::Matches(field, regex, of_field.len() - 1)
            }),
        }
    }

    // What is cheap to tell comes first.
    fn cost(&self) -> u8 {
        match self {
            Test::Never | Test::Eq(..) | Test::Neq(..) | Test::StartsWith(..) => 0,
            Test::Contains(..) => 1,
            Test::Matches(..) => 2,
        }
    }

    fn holds(&self, call: &Call<'_, '_>) -> bool {
        let of = |field: &Field| call.inputs.of(*field);
        match self {
            Test::Eq(field, value) => of(field) == value,
            Test::Neq(field, value) => of(field) != value,
            Test::Contains(field, value) => of(field).contains(value.as_str()),
            Test::StartsWith(field, value) => of(field).starts_with(value.as_str()),
            Test::Matches(field, regex, at) => call.matches(*field, regex, *at),
            Test::Never => false,
        }
    }
}

/// A compiled policy.
pub struct Rule {
    /// Id.
    pub id: String,
    /// Version.
    pub version: u32,
    /// What it does.
    pub action: Action,
    /// Whether it acts.
    pub mode: PolicyMode,
    tests: Vec<Test>,
}

impl Rule {
    fn decides(&self) -> bool {
        self.mode == PolicyMode::Enforce && !matches!(self.action, Action::Log { .. })
    }
}

/// What the policies say about a call.
pub struct Evaluation<'p> {
    /// Those that matched, in the order they were asked; none was asked after the one that decides.
    pub matched: Vec<&'p Rule>,
    /// The one that decides, the last of those; without one, the default does.
    pub decisive: Option<&'p Rule>,
}

const FIELDS: [Field; 5] = [Field::Source, Field::Target, Field::EventType, Field::Boundary, Field::RunId];

fn slot(field: Field) -> usize {
    FIELDS.iter().position(|f| *f == field).unwrap_or_default()
}

/// The enabled policies of an organization, compiled.
#[derive(Default)]
pub struct PolicySet {
    rules: Vec<Rule>,
    /// Ranks of the rules that hold only for one value of a field, by field and value.
    by_value: [HashMap<String, Vec<usize>>; 5],
    /// Ranks of the others.
    others: Vec<usize>,
    /// By field; none where together they are too large.
    regexes: [Option<RegexSet>; 5],
    digest: String,
}

impl PolicySet {
    /// Compiles policies. A regular expression that cannot be compiled never matches.
    #[must_use]
    pub fn compile(records: &[PolicyRecord]) -> Self {
        let mut enabled: Vec<&PolicyRecord> = records.iter().filter(|record| record.definition.enabled).collect();
        enabled.sort_by(|a, b| {
            let priority = b.definition.priority.cmp(&a.definition.priority);
            priority.then(a.order.cmp(&b.order)).then_with(|| a.id.cmp(&b.id))
        });
        let (mut set, mut patterns, mut digest) = (PolicySet::default(), Patterns::default(), Sha256::new());
        for (rank, record) in enabled.into_iter().enumerate() {
            digest.update(format!("{}\0{}\0", record.id, record.version));
            let definition = &record.definition;
            let mut tests: Vec<Test> = definition.conditions.iter().map(|one| Test::of(one, &mut patterns)).collect();
            tests.sort_by_key(Test::cost);
            let equality = tests.iter().position(|test| matches!(test, Test::Eq(..)));
            match equality.map(|at| tests.remove(at)) {
                Some(Test::Eq(field, value)) => {
                    set.by_value[slot(field)].entry(value).or_default().push(rank);
                }
                _ => set.others.push(rank),
            }
            set.rules.push(Rule {
                id: record.id.clone(),
                version: record.version,
                action: definition.action.clone(),
                mode: definition.mode,
                tests,
            });
        }
        set.regexes =
            patterns.map(|of| RegexSetBuilder::new(&of).size_limit(REGEX_SIZE * of.len().max(1)).build().ok());
        set.digest = digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        set
    }

    /// Tells sets of policies apart: equal for the same ids and versions in the same order.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Number of enabled policies.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether none is enabled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Asks the policies about a call.
    #[must_use]
    pub fn evaluate(&self, inputs: &Inputs<'_>) -> Evaluation<'_> {
        let mut lists: [&[usize]; 6] = [&self.others, &[], &[], &[], &[], &[]];
        for (slot, field) in FIELDS.into_iter().enumerate() {
            if let Some(ranks) = self.by_value[slot].get(inputs.of(field)) {
                lists[slot + 1] = ranks;
            }
        }
        let call = Call { inputs, sets: &self.regexes, hits: Default::default() };
        let mut matched = Vec::new();
        // Each list is in order; the lowest rank of all is next.
        while let Some((list, rank)) = lists
            .iter()
            .enumerate()
            .filter_map(|(list, ranks)| Some((list, *ranks.first()?)))
            .min_by_key(|(_, rank)| *rank)
        {
            lists[list] = &lists[list][1..];
            let rule = &self.rules[rank];
            if rule.tests.iter().all(|test| test.holds(&call)) {
                matched.push(rule);
                if rule.decides() {
                    return Evaluation { matched, decisive: Some(rule) };
                }
            }
        }
        Evaluation { matched, decisive: None }
    }
}

#[cfg(test)]
mod tests;
