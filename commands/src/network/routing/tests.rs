//! What routing promises, rule by rule and over random meshes.

use proptest::prelude::*;
use symbia_events::network::{Condition, Field, LogLevel, Operator, PolicyDefinition, PolicyMode};
use time::Duration;

use super::*;
use crate::{network::PolicyRecord, testing::AT};

fn node(id: &str) -> (String, NodeView) {
    (
        id.into(),
        NodeView {
            node_type: NodeType::Service,
            endpoint: format!("https://{id}.test/"),
            entity_id: None,
            owner_id: "ada".into(),
        },
    )
}

fn contract(from: &str, to: &str, types: &str) -> ContractView {
    ContractView {
        id: format!("{from}>{to}:{types}"),
        from: from.into(),
        to: to.into(),
        allowed_event_types: vec![types.into()],
        boundaries: vec![Boundary::Intra, Boundary::Inter],
        expires_at: None,
        max_events_per_second: None,
        redact: vec![],
    }
}

fn policy(id: &str, priority: i64, conditions: &[(Field, &str)], action: Action) -> PolicyRecord {
    let when =
        |(field, value): &(Field, &str)| Condition { field: *field, operator: Operator::Eq, value: (*value).into() };
    let definition = PolicyDefinition {
        name: id.into(),
        priority,
        conditions: conditions.iter().map(when).collect(),
        action,
        enabled: true,
        mode: PolicyMode::Enforce,
    };
    PolicyRecord { id: id.into(), version: 1, order: 0, definition }
}

fn to(node: &str) -> Action {
    Action::Route { to: node.into() }
}

fn mesh(contracts: Vec<ContractView>, policies: &[PolicyRecord]) -> MeshView {
    MeshView::new(["a", "b", "c", "d"].map(node), contracts, vec![], PolicySet::compile(policies))
}

const EVENT: MeshEvent<'static> = MeshEvent {
    event_type: "message.new",
    source: "a",
    target: None,
    target_entity: None,
    run_id: "r",
    boundary: Boundary::Intra,
    reply_to: None,
};

fn decided(event: &MeshEvent<'_>, view: &MeshView) -> Vec<(String, Verdict, String)> {
    let decided = route(event, view, Options::default(), AT);
    decided.candidates.into_iter().map(|c| (c.target, c.verdict, c.final_target)).collect()
}

fn one(event: &MeshEvent<'_>, view: &MeshView) -> Candidate {
    let mut candidates = route(event, view, Options::default(), AT).candidates;
    assert_eq!(candidates.len(), 1, "{candidates:?}");
    candidates.remove(0)
}

const TO_B: MeshEvent<'static> = MeshEvent { target: Some("b"), ..EVENT };

#[test]
fn an_explicit_target_needs_a_contract_as_any_other() {
    assert_eq!(one(&TO_B, &mesh(vec![], &[])).verdict, Verdict::NoContract);
    assert_eq!(one(&TO_B, &mesh(vec![contract("a", "b", "other.*")], &[])).verdict, Verdict::NoContract);
    assert_eq!(one(&TO_B, &mesh(vec![contract("b", "a", "*")], &[])).verdict, Verdict::NoContract);
    let found = one(&TO_B, &mesh(vec![contract("a", "b", "message.*")], &[]));
    assert_eq!((found.verdict, found.contract_id.as_deref()), (Verdict::Deliver, Some("a>b:message.*")));
    let far = MeshEvent { boundary: Boundary::Extra, ..TO_B };
    assert_eq!(one(&far, &mesh(vec![contract("a", "b", "*")], &[])).verdict, Verdict::NoContract);
    let nobody = MeshEvent { target: Some("nobody"), ..EVENT };
    assert_eq!(one(&nobody, &mesh(vec![contract("a", "nobody", "*")], &[])).verdict, Verdict::UnknownNode);
}

#[test]
fn a_contract_that_has_ended_counts_no_longer_though_nobody_swept_it() {
    let ended = ContractView { expires_at: Some(AT), ..contract("a", "b", "*") };
    assert_eq!(one(&TO_B, &mesh(vec![ended.clone()], &[])).verdict, Verdict::ExpiredContract);
    assert_eq!(decided(&EVENT, &mesh(vec![ended.clone()], &[])), []);
    let lasting = ContractView { expires_at: Some(AT + Duration::SECOND), ..ended };
    assert_eq!(one(&TO_B, &mesh(vec![lasting], &[])).verdict, Verdict::Deliver);
}

#[test]
fn a_broadcast_reaches_each_that_a_contract_names_once_and_never_its_source() {
    let contracts = vec![contract("a", "*", "message.new"), contract("a", "b", "*"), contract("a", "c", "other")];
    let found = decided(&EVENT, &mesh(contracts, &[]));
    let deliver = |id: &str| (id.to_owned(), Verdict::Deliver, id.to_owned());
    assert_eq!(found, [deliver("b"), deliver("c"), deliver("d")]);
    assert_eq!(decided(&EVENT, &mesh(vec![contract("b", "*", "*")], &[])), []);
}

#[test]
fn an_answer_needs_no_contract_and_only_to_whom_it_answers() {
    let answer = MeshEvent { reply_to: Some("b"), ..TO_B };
    assert_eq!(one(&answer, &mesh(vec![], &[])).verdict, Verdict::Deliver);
    assert_eq!(one(&MeshEvent { target: Some("c"), ..answer }, &mesh(vec![], &[])).verdict, Verdict::NoContract);
    let strict = Options { replies: false, ..Options::default() };
    assert_eq!(route(&answer, &mesh(vec![], &[]), strict, AT).candidates[0].verdict, Verdict::NoContract);
}

#[test]
fn a_policy_is_asked_about_each_target() {
    let refuses = policy("p", 1, &[(Field::Target, "c")], Action::Deny { reason: Some("not c".into()) });
    let decided = route(&EVENT, &mesh(vec![contract("a", "*", "*")], &[refuses]), Options::default(), AT);
    let verdicts: Vec<_> = decided.candidates.iter().map(|c| (c.target.as_str(), c.verdict)).collect();
    assert_eq!(verdicts, [("b", Verdict::Deliver), ("c", Verdict::Deny), ("d", Verdict::Deliver)]);
    let denied = &decided.candidates[1];
    assert_eq!((denied.reason.as_deref(), denied.applied[0].policy_id.as_str()), (Some("not c"), "p"));
}

#[test]
fn a_route_needs_a_contract_of_its_own_and_the_policies_of_the_new_target() {
    let sends = policy("p", 1, &[(Field::Target, "b")], to("c"));
    let only_b = vec![contract("a", "b", "*")];
    let both = vec![contract("a", "b", "*"), contract("a", "c", "*")];
    let found = one(&TO_B, &mesh(only_b, std::slice::from_ref(&sends)));
    assert_eq!((found.verdict, found.final_target.as_str()), (Verdict::NoContract, "c"));
    let found = one(&TO_B, &mesh(both.clone(), std::slice::from_ref(&sends)));
    assert_eq!((found.verdict, found.final_target.as_str()), (Verdict::Redirect, "c"));
    assert_eq!(found.endpoint, "https://c.test/");
    let closed = policy("q", 1, &[(Field::Target, "c")], Action::Deny { reason: None });
    assert_eq!(one(&TO_B, &mesh(both, &[sends, closed])).verdict, Verdict::Deny);
}

#[test]
fn routes_in_a_circle_are_refused_and_one_that_leads_where_it_goes_is_none() {
    let all = vec![contract("a", "*", "*")];
    let circle = [policy("p", 1, &[(Field::Target, "b")], to("c")), policy("q", 1, &[(Field::Target, "c")], to("b"))];
    let found = one(&TO_B, &mesh(all.clone(), &circle));
    assert_eq!((found.verdict, found.reason.as_deref()), (Verdict::RouteCycle, Some("route_cycle")));
    let always = [policy("p", 1, &[], to("c"))];
    let found = one(&TO_B, &mesh(all.clone(), &always));
    assert_eq!((found.verdict, found.final_target.as_str()), (Verdict::Redirect, "c"));
    assert_eq!(one(&MeshEvent { target: Some("c"), ..EVENT }, &mesh(all, &always)).verdict, Verdict::Deliver);
    let ids: Vec<String> = (0..8).map(|i| format!("n{i}")).collect();
    let chain: Vec<_> =
        (0..7).map(|i| policy(&format!("p{i}"), 1, &[(Field::Target, &ids[i])], to(&ids[i + 1]))).collect();
    let nodes = ids.iter().map(|id| node(id)).chain([node("a")]);
    let long = MeshView::new(nodes, vec![contract("a", "*", "*")], vec![], PolicySet::compile(&chain));
    assert_eq!(one(&MeshEvent { target: Some("n0"), ..EVENT }, &long).verdict, Verdict::RouteCycle);
    assert_eq!(one(&MeshEvent { target: Some("n4"), ..EVENT }, &long).final_target, "n7");
}

#[test]
fn a_bridge_makes_the_boundary_extra_whatever_the_sender_says() {
    let outward = |boundaries| ContractView { boundaries, ..contract("a", "bridge:x", "*") };
    let bridge = |bridge_type, active| BridgeView {
        id: "x".into(),
        bridge_type,
        endpoint: "https://hook.test/".into(),
        event_types: vec!["message.*".into()],
        active,
    };
    let view =
        |contract, bridge| MeshView::new(["a", "b"].map(node), vec![contract], vec![bridge], PolicySet::default());
    let to_it = MeshEvent { target: Some("bridge:x"), ..EVENT };
    let near = view(outward(vec![Boundary::Intra]), bridge(BridgeType::Webhook, true));
    assert_eq!(one(&to_it, &near).verdict, Verdict::NoContract);
    let far = view(outward(vec![Boundary::Extra]), bridge(BridgeType::Webhook, true));
    let found = one(&to_it, &far);
    assert_eq!((found.verdict, found.boundary), (Verdict::Deliver, Boundary::Extra));
    let spread = MeshEvent { boundary: Boundary::Extra, ..EVENT };
    assert_eq!(one(&spread, &far).endpoint, "https://hook.test/");
    let off = view(outward(vec![Boundary::Extra]), bridge(BridgeType::Webhook, false));
    assert_eq!(one(&to_it, &off).verdict, Verdict::UnknownNode);
    let other = view(outward(vec![Boundary::Extra]), bridge(BridgeType::Grpc, true));
    assert_eq!(one(&to_it, &other).verdict, Verdict::UnsupportedBridge);
}

#[test]
fn a_call_to_the_outside_that_no_policy_lets_pass_is_refused() {
    let far = ContractView { boundaries: vec![Boundary::Extra], ..contract("a", "b", "*") };
    let event = MeshEvent { boundary: Boundary::Extra, ..TO_B };
    assert_eq!(one(&event, &mesh(vec![far.clone()], &[])).verdict, Verdict::Deny);
    let log = policy("log", 1, &[], Action::Log { level: LogLevel::Warn });
    assert_eq!(one(&event, &mesh(vec![far.clone()], &[log])).verdict, Verdict::Deny);
    let allowed = policy("p", 1, &[(Field::Boundary, "extra")], Action::Allow);
    assert_eq!(one(&event, &mesh(vec![far], &[allowed])).verdict, Verdict::Deliver);
}

#[test]
fn an_entity_is_reached_on_the_node_that_it_lives_on() {
    let (id, mut lives) = node("b");
    lives.entity_id = Some("ent_1".into());
    let view = MeshView::new([node("a"), (id, lives)], vec![contract("a", "b", "*")], vec![], PolicySet::default());
    let event = MeshEvent { target_entity: Some("ent_1"), ..EVENT };
    assert_eq!(one(&event, &view).final_target, "b");
    assert_eq!(decided(&MeshEvent { target_entity: Some("ent_2"), ..EVENT }, &view), []);
}

#[test]
fn a_past_call_is_asked_again_with_the_contract_that_it_had() {
    let view = mesh(vec![contract("a", "b", "*")], &[]);
    let recorded = one(&TO_B, &view);
    let now = mesh(vec![], &[]);
    let other = PolicySet::compile(&[policy("p", 1, &[(Field::Target, "b")], Action::Deny { reason: None })]);
    let again = |policies: &PolicySet| reconsider(&TO_B, &recorded, &now, policies, Options::default(), AT);
    assert_eq!(again(&PolicySet::default()).map(|c| c.verdict), Some(Verdict::Deliver));
    assert_eq!(again(&other).map(|c| c.verdict), Some(Verdict::Deny));
    let refused = one(&TO_B, &now);
    assert_eq!(reconsider(&TO_B, &refused, &now, &other, Options::default(), AT), None);
}

const NODES: [&str; 4] = ["a", "b", "c", "d"];

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(NODES.to_vec())
}

fn policies() -> impl Strategy<Value = Vec<PolicyRecord>> {
    let action = prop_oneof![
        Just(Action::Allow),
        Just(Action::Deny { reason: None }),
        Just(Action::Log { level: LogLevel::Info }),
        name().prop_map(to),
        Just(Action::Transform { mapping: [("x".to_owned(), "=1".to_owned())].into() }),
    ];
    let condition = prop::option::of((prop::sample::select(vec![Field::Source, Field::Target]), name()));
    prop::collection::vec((0i64..5, condition, action), 0..8).prop_map(|all| {
        let mut records = Vec::new();
        for (at, (priority, condition, action)) in all.into_iter().enumerate() {
            records.push(policy(&format!("p{at}"), priority, condition.as_slice(), action));
        }
        records
    })
}

fn contracts() -> impl Strategy<Value = Vec<ContractView>> {
    let one = (name(), prop_oneof![name(), Just("*")], prop::sample::select(vec!["*", "message.*", "other"]));
    prop::collection::vec(one, 0..6).prop_map(|all| all.into_iter().map(|(f, t, e)| contract(f, t, e)).collect())
}

proptest! {
    #[test]
    fn nobody_gets_what_no_contract_lets_them_get_and_nobody_whom_a_policy_refused(
        contracts in contracts(),
        policies in policies(),
        source in name(),
        target in prop::option::of(name()),
    ) {
        let view = mesh(contracts.clone(), &policies);
        let event = MeshEvent { source, target, ..EVENT };
        let decided = route(&event, &view, Options::default(), AT);
        prop_assert_eq!(&decided, &route(&event, &view, Options::default(), AT));
        let mut got = BTreeSet::new();
        for candidate in decided.candidates.iter().filter(|candidate| candidate.verdict.delivers()) {
            let by = candidate.contract_id.as_deref();
            let named = contracts.iter().find(|contract| Some(contract.id.as_str()) == by);
            let named = named.ok_or_else(|| TestCaseError::fail("delivered without a contract"))?;
            prop_assert!(named.from == source && reaches(named, &candidate.final_target) && covers_type(named, "message.new"));
            got.insert(candidate.final_target.clone());
        }
        for denied in decided.candidates.iter().filter(|candidate| candidate.verdict == Verdict::Deny) {
            prop_assert!(!got.contains(&denied.final_target), "{:?}", decided);
        }
    }

    #[test]
    fn a_log_policy_changes_no_verdict(
        contracts in contracts(),
        policies in policies(),
        source in name(),
        target in prop::option::of(name()),
        priority in 0i64..5,
    ) {
        let event = MeshEvent { source, target, ..EVENT };
        let before = decided(&event, &mesh(contracts.clone(), &policies));
        let mut more = policies;
        more.push(policy("log", priority, &[], Action::Log { level: LogLevel::Info }));
        prop_assert_eq!(before, decided(&event, &mesh(contracts, &more)));
    }
}
