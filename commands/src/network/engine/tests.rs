//! The compiled policies against a plain reading of them, and what each rule of the specification says.

use proptest::prelude::*;
use symbia_events::network::LogLevel;

use super::*;

fn when(field: Field, operator: Operator, value: &str) -> Condition {
    Condition { field, operator, value: value.into() }
}

fn policy(id: &str, priority: i64, conditions: Vec<Condition>, action: Action) -> PolicyRecord {
    let definition =
        PolicyDefinition { name: id.into(), priority, conditions, action, enabled: true, mode: PolicyMode::Enforce };
    PolicyRecord { id: id.into(), version: 1, order: 0, definition }
}

fn deny() -> Action {
    Action::Deny { reason: None }
}

fn log() -> Action {
    Action::Log { level: LogLevel::Info }
}

const CALL: Inputs<'static> = Inputs {
    source: "messaging",
    target: "assistants",
    event_type: "message.new",
    boundary: Boundary::Intra,
    run_id: "run_1",
};

fn asked(records: &[PolicyRecord]) -> (Vec<String>, Option<String>) {
    let set = PolicySet::compile(records);
    let evaluation = set.evaluate(&CALL);
    let ids = evaluation.matched.iter().map(|rule| rule.id.clone()).collect();
    (ids, evaluation.decisive.map(|rule| rule.id.clone()))
}

#[test]
fn a_log_and_an_observer_are_recorded_and_the_next_decides() {
    let mut observer = policy("observer", 20, vec![], deny());
    observer.definition.mode = PolicyMode::Observe;
    let records = [
        policy("allow", 0, vec![], Action::Allow),
        policy("deny", 10, vec![], deny()),
        observer,
        policy("log", 30, vec![], log()),
    ];
    assert_eq!(asked(&records), (vec!["log".into(), "observer".into(), "deny".into()], Some("deny".into())));
    assert_eq!(asked(&records[2..]), (vec!["log".into(), "observer".into()], None));
}

#[test]
fn the_order_is_priority_then_age_then_id_and_disabled_ones_do_not_count() {
    let mut young = policy("a", 5, vec![], deny());
    young.order = 7;
    let old = policy("b", 5, vec![], Action::Allow);
    assert_eq!(asked(&[young.clone(), old.clone()]).1, Some("b".into()));
    young.order = 0;
    assert_eq!(asked(&[old.clone(), young.clone()]).1, Some("a".into()));
    young.definition.enabled = false;
    assert_eq!(asked(&[old, young]).1, Some("b".into()));
}

#[test]
fn every_operator_compares_and_an_unusable_regex_never_matches() {
    use Operator::{Contains, Eq, Neq, Regex, StartsWith};
    for (field, operator, value, holds) in [
        (Field::Source, Eq, "messaging", true),
        (Field::Source, Eq, "Messaging", false),
        (Field::Target, Neq, "assistants", false),
        (Field::EventType, Contains, "age.n", true),
        (Field::EventType, StartsWith, "message.", true),
        (Field::RunId, Regex, "^run_[0-9]+$", true),
        (Field::RunId, Regex, "^run_[a-z]+$", false),
        (Field::RunId, Regex, "(", false),
        (Field::RunId, Regex, &"a?".repeat(200), false),
        (Field::RunId, Regex, "(\\w{1000}){10}", false),
        (Field::Boundary, Eq, "intra", true),
    ] {
        let matched = asked(&[policy("p", 0, vec![when(field, operator, value)], deny())]).1.is_some();
        assert_eq!(matched, holds, "{field:?} {operator:?} {value}");
    }
    let both = vec![when(Field::Source, Eq, "messaging"), when(Field::Target, Eq, "nobody")];
    assert_eq!(asked(&[policy("p", 0, both, deny())]).1, None);
}

#[test]
fn the_digest_tells_versions_and_orders_apart() {
    let first = policy("a", 1, vec![], deny());
    let digest = |records: &[PolicyRecord]| PolicySet::compile(records).digest().to_owned();
    let once = digest(std::slice::from_ref(&first));
    assert_eq!(once, digest(std::slice::from_ref(&first)));
    assert_ne!(once, digest(&[PolicyRecord { version: 2, ..first }]));
    assert_ne!(once, digest(&[]));
}

// What the specification says, read plainly.
fn plainly<'r>(records: &'r [PolicyRecord], inputs: &Inputs<'_>) -> (Vec<&'r str>, Option<&'r str>) {
    let mut sorted: Vec<&PolicyRecord> = records.iter().filter(|record| record.definition.enabled).collect();
    sorted.sort_by_key(|r| (-r.definition.priority, r.order, r.id.clone()));
    let mut matched = Vec::new();
    for record in sorted {
        let holds = |condition: &Condition| {
            let (actual, value) = (inputs.of(condition.field), condition.value.as_str());
            match condition.operator {
                Operator::Eq => actual == value,
                Operator::Neq => actual != value,
                Operator::Contains => actual.contains(value),
                Operator::StartsWith => actual.starts_with(value),
                Operator::Regex => Regex::new(value).is_ok_and(|regex| regex.is_match(actual)),
            }
        };
        if record.definition.conditions.iter().all(holds) {
            matched.push(record.id.as_str());
            if record.definition.mode == PolicyMode::Enforce && !matches!(record.definition.action, Action::Log { .. })
            {
                return (matched, Some(record.id.as_str()));
            }
        }
    }
    (matched, None)
}

fn conditions() -> impl Strategy<Value = Condition> {
    use Operator::{Contains, Eq, Neq, Regex, StartsWith};
    let operators = prop::sample::select(vec![Eq, Neq, Contains, StartsWith, Regex]);
    (prop::sample::select(FIELDS.to_vec()), operators, "(a|b|ab|intra|x\\.)?")
        .prop_map(|(field, operator, value)| Condition { field, operator, value })
}

fn records() -> impl Strategy<Value = Vec<PolicyRecord>> {
    let one = (
        0i64..4,
        0i64..3,
        prop::collection::vec(conditions(), 0..3),
        prop::sample::select(vec![Action::Allow, deny(), log()]),
        any::<bool>(),
        prop::sample::select(vec![PolicyMode::Enforce, PolicyMode::Observe]),
    );
    prop::collection::vec(one, 0..12).prop_map(|all| {
        let record = |(at, (priority, order, conditions, action, enabled, mode)): (usize, _)| {
            let definition = PolicyDefinition { name: "p".into(), priority, conditions, action, enabled, mode };
            PolicyRecord { id: format!("p{at:02}"), version: 1, order, definition }
        };
        all.into_iter().enumerate().map(record).collect()
    })
}

proptest! {
    #[test]
    fn compiled_policies_say_what_plain_ones_say(
        records in records(),
        source in "(a|b|ab)",
        target in "(a|b|)",
        event_type in "(x\\.a|x\\.b|ab)",
        run_id in "(a|run)",
    ) {
        let inputs = Inputs { source: &source, target: &target, event_type: &event_type, boundary: Boundary::Intra, run_id: &run_id };
        let set = PolicySet::compile(&records);
        let found = set.evaluate(&inputs);
        let matched: Vec<&str> = found.matched.iter().map(|rule| rule.id.as_str()).collect();
        let plain = plainly(&records, &inputs);
        prop_assert_eq!((matched, found.decisive.map(|rule| rule.id.as_str())), plain);
    }

    #[test]
    fn a_log_never_changes_what_is_decided(records in records(), at in 0i64..4) {
        let before = PolicySet::compile(&records).evaluate(&CALL).decisive.map(|rule| rule.id.clone());
        let mut more = records;
        more.push(policy("one-more", at, vec![], log()));
        let after = PolicySet::compile(&more).evaluate(&CALL).decisive.map(|rule| rule.id.clone());
        prop_assert_eq!(before, after);
    }
}
