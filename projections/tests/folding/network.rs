//! What happens on two organizations' meshes: also what no aggregate would decide.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use symbia_events::{
    KeyRing, Position, Service, SubjectKey,
    network::{
        Action, Boundary, BridgeDeactivated, BridgeDeleted, BridgeEvent, BridgeRegistered, BridgeType, Candidate,
        ContractCreated, ContractDeleted, ContractEvent, EntityBound, EventDeadLettered, EventDelivered,
        EventDeliveryFailed, EventRedriven, EventRouted, NodeEvent, NodeExpired, NodeRegistered, NodeReregistered,
        NodeType, NodeUnregistered, PolicyCreated, PolicyDefinition, PolicyDeleted, PolicyEvent, PolicyMode,
        PolicyUpdated, RoutingEvent, Transport, Verdict, mesh_key_id,
    },
};
use symbia_projections::{FoldEvent, migrate, network::Network, schema};

use super::{
    folded, sign,
    support::{AT, database, pool},
};

#[derive(Clone, Copy, Debug)]
enum Step {
    Register(u8),
    Again(u8),
    Expire(u8),
    Bind(u8),
    Leave(u8),
    Contract(u8),
    End(u8),
    Policy(u8),
    Change(u8),
    Remove(u8),
    Bridge(u8),
    Off(u8),
    Down(u8),
    Route(u8, u8),
    Deliver(u8),
    Fail(u8),
    Bury(u8),
    Redrive(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (one, two) = (0..4u8, (0..4u8, 0..4u8));
    prop_oneof![
        4 => one.clone().prop_map(Step::Register),
        2 => one.clone().prop_map(Step::Again),
        2 => one.clone().prop_map(Step::Expire),
        1 => one.clone().prop_map(Step::Bind),
        1 => one.clone().prop_map(Step::Leave),
        2 => one.clone().prop_map(Step::Contract),
        1 => one.clone().prop_map(Step::End),
        3 => one.clone().prop_map(Step::Policy),
        2 => one.clone().prop_map(Step::Change),
        1 => one.clone().prop_map(Step::Remove),
        2 => one.clone().prop_map(Step::Bridge),
        1 => one.clone().prop_map(Step::Off),
        1 => one.clone().prop_map(Step::Down),
        6 => two.prop_map(|(e, verdict)| Step::Route(e, verdict)),
        5 => one.clone().prop_map(Step::Deliver),
        3 => one.clone().prop_map(Step::Fail),
        2 => one.clone().prop_map(Step::Bury),
        2 => one.prop_map(Step::Redrive),
    ]
}

fn policy(number: u32) -> PolicyDefinition {
    PolicyDefinition {
        name: format!("policy {number}"),
        priority: number.into(),
        conditions: vec![],
        action: Action::Deny { reason: Some("\0".into()) },
        enabled: number.is_multiple_of(2),
        mode: PolicyMode::Enforce,
    }
}

fn routed(org: &str, id: &str, verdict: u8, key: &SubjectKey) -> EventRouted {
    let candidate = |verdict| Candidate {
        target: "n1".into(),
        boundary: Boundary::Inter,
        verdict,
        contract_id: None,
        applied: vec![],
        final_target: "n1".into(),
        endpoint: String::new(),
        mapping: None,
        redact: vec!["a.b".into()],
        reason: None,
    };
    EventRouted {
        event_id: id.into(),
        org_id: org.into(),
        run_id: "r".into(),
        payload_type: "x".into(),
        data: key.seal("{}"),
        source: "n0".into(),
        target: None,
        caused_by: None,
        source_entity_id: None,
        target_entity_id: None,
        boundary: Boundary::Intra,
        timestamp: "2026-01-01T00:00:00.000Z".into(),
        hash: "h".into(),
        key_id: "k".into(),
        signed: false,
        sender_id: "t".into(),
        policy_set: "p".into(),
        candidates: match verdict {
            0 => vec![],
            1 => vec![candidate(Verdict::Deny)],
            _ => vec![candidate(Verdict::Deliver)],
        },
    }
}

fn events(ring: &KeyRing, keys: &[SubjectKey], steps: &[Step]) -> Vec<FoldEvent> {
    let mut log = Vec::new();
    for (number, step) in (1u32..).zip(steps) {
        let (by, target, duration_ms) = (|| "t".to_owned(), || "n1".to_owned(), 1);
        let event_id = |e: u8| format!("e{e}");
        // The same ids in both organizations.
        let of = |thing: u8| if thing.is_multiple_of(2) { "o0" } else { "o1" };
        let node = |n: u8, e: NodeEvent| sign(ring, of(n), &format!("n{n}"), number, &[e]);
        let contract = |c: u8, e: ContractEvent| sign(ring, of(c), &format!("c{}", c / 2), number, &[e]);
        let of_policy = |p: u8, e: PolicyEvent| sign(ring, of(p), &format!("p{}", p / 2), number, &[e]);
        let bridge = |b: u8, e: BridgeEvent| sign(ring, of(b), &format!("b{}", b / 2), number, &[e]);
        let routing = |e: u8, event: RoutingEvent| sign(ring, of(e), &format!("e{e}"), number, &[event]);
        let half = |kind: &str, thing: u8| format!("{kind}{}", thing / 2);
        log.extend(match *step {
            Step::Register(n) => node(
                n,
                NodeRegistered {
                    node_id: format!("n{n}"),
                    org_id: of(n).into(),
                    name: "N".into(),
                    node_type: NodeType::Service,
                    capabilities: vec!["a".into()],
                    endpoint: String::new(),
                    owner_id: by(),
                    metadata: [("n".to_owned(), number.into())].into_iter().collect(),
                }
                .into(),
            ),
            Step::Again(n) => node(
                n,
                NodeReregistered {
                    node_id: format!("n{n}"),
                    name: format!("N{number}"),
                    node_type: NodeType::Bridge,
                    capabilities: vec![],
                    endpoint: "https://n.example/".into(),
                    metadata: serde_json::Map::new(),
                }
                .into(),
            ),
            Step::Expire(n) => {
                node(n, NodeExpired { node_id: format!("n{n}"), last_seen: "2026-01-01T00:00:00Z".into() }.into())
            }
            Step::Bind(n) => {
                node(n, EntityBound { node_id: format!("n{n}"), entity_id: "ent_1".into(), by: by() }.into())
            }
            Step::Leave(n) => node(n, NodeUnregistered { node_id: format!("n{n}"), by: by() }.into()),
            Step::Contract(c) => contract(
                c,
                ContractCreated {
                    contract_id: half("c", c),
                    org_id: of(c).into(),
                    from: "n0".into(),
                    to: "*".into(),
                    allowed_event_types: vec!["*".into()],
                    boundaries: vec![Boundary::Intra],
                    expires_at: (number.is_multiple_of(2)).then(|| "2026-02-01T00:00:00Z".to_owned()),
                    by: by(),
                    max_events_per_second: (number.is_multiple_of(3)).then_some(5),
                    redact: vec!["a".into()],
                }
                .into(),
            ),
            Step::End(c) => contract(c, ContractDeleted { contract_id: half("c", c), by: by() }.into()),
            Step::Policy(p) => {
                let (policy_id, org_id) = (half("p", p), of(p).to_owned());
                of_policy(p, PolicyCreated { policy_id, org_id, version: 1, policy: policy(number), by: by() }.into())
            }
            Step::Change(p) => {
                let (policy_id, policy) = (half("p", p), policy(number));
                of_policy(p, PolicyUpdated { policy_id, version: number, policy, by: by() }.into())
            }
            Step::Remove(p) => {
                of_policy(p, PolicyDeleted { policy_id: half("p", p), version: number, by: by() }.into())
            }
            Step::Bridge(b) => bridge(
                b,
                BridgeRegistered {
                    bridge_id: half("b", b),
                    org_id: of(b).into(),
                    name: "B".into(),
                    bridge_type: BridgeType::Webhook,
                    endpoint: "https://b.example/".into(),
                    event_types: vec!["*".into()],
                    credential_ref: None,
                    by: by(),
                }
                .into(),
            ),
            Step::Off(b) => bridge(b, BridgeDeactivated { bridge_id: half("b", b), by: by() }.into()),
            Step::Down(b) => bridge(b, BridgeDeleted { bridge_id: half("b", b), by: by() }.into()),
            Step::Route(e, verdict) => {
                routing(e, routed(of(e), &event_id(e), verdict, &keys[usize::from(e % 2)]).into())
            }
            Step::Deliver(e) => routing(
                e,
                EventDelivered {
                    event_id: event_id(e),
                    target: target(),
                    attempt: 1,
                    duration_ms,
                    transport: Some(Transport::Socket),
                }
                .into(),
            ),
            Step::Fail(e) => {
                let (event_id, error_code) = (event_id(e), "timeout".to_owned());
                routing(
                    e,
                    EventDeliveryFailed { event_id, target: target(), attempt: 1, duration_ms, error_code }.into(),
                )
            }
            Step::Bury(e) => {
                let (event_id, error_code) = (event_id(e), "timeout".to_owned());
                routing(e, EventDeadLettered { event_id, target: target(), attempt: 5, error_code }.into())
            }
            Step::Redrive(e) => {
                routing(e, EventRedriven { event_id: event_id(e), target: target(), attempt: 2, by: by() }.into())
            }
        });
    }
    for (sequence, event) in (1u64..).zip(&mut log) {
        event.position = Position { service: Service::Network, sequence };
    }
    log
}

#[test]
fn meshes_and_their_calls_are_alike_in_batches_of_any_size() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (pool, _server) = runtime.block_on(async {
        let server = database().await;
        let pool = pool(&server.0).await;
        migrate(&pool, &[]).await.unwrap();
        schema::create_shadow(&mut pool.acquire().await.unwrap(), &Network::default(), "scratch").await.unwrap();
        (pool, server)
    });
    let (ring, keys) = (KeyRing::generate(AT), ["o0", "o1"].map(|org| SubjectKey::generate(mesh_key_id(org))));
    let cases = (prop::collection::vec(step(), 1..80), prop::collection::vec(1..20usize, 1..6));
    let mut runner = TestRunner::new(Config { cases: 32, failure_persistence: None, ..Config::default() });
    let result = runner.run(&cases, |(steps, sizes)| {
        let events = events(&ring, &keys, &steps);
        let (one, all, some, counted) = runtime.block_on(async {
            let one = folded(&pool, &Network::default(), &events, &[1]).await;
            let all = folded(&pool, &Network::default(), &events, &[events.len()]).await;
            let some = folded(&pool, &Network::default(), &events, &sizes).await;
            let counts = "SELECT count(*) = 0 FROM (SELECT org_id, status, count(*) AS value FROM scratch.events
                              GROUP BY org_id, status) e
                          FULL JOIN (SELECT * FROM scratch.totals WHERE id NOT IN ('events', 'latency_ms')
                              AND value <> 0) t ON t.org_id = e.org_id AND t.id = e.status
                          WHERE e.value IS DISTINCT FROM t.value";
            let counted: bool = sqlx::query_scalar(counts).fetch_one(&pool).await.unwrap();
            (one, all, some, counted)
        });
        prop_assert_eq!(&one, &all);
        prop_assert_eq!(&one, &some);
        prop_assert!(counted, "the counters are those of the calls");
        Ok(())
    });
    result.unwrap();
}

#[tokio::test]
async fn a_call_goes_after_its_time_and_what_comes_later_for_it_counts_nothing() {
    let server = database().await;
    let pool = pool(&server.0).await;
    migrate(&pool, &[]).await.unwrap();
    schema::create_shadow(&mut pool.acquire().await.unwrap(), &Network::default(), "scratch").await.unwrap();
    let (ring, keys) = (KeyRing::generate(AT), ["o0", "o1"].map(|org| SubjectKey::generate(mesh_key_id(org))));
    let days = time::Duration::days;
    for (network, kept) in [(Network::default(), 30), (Network::showing(days(7)), 7), (Network::showing(days(90)), 90)]
    {
        for (age, expected, counted) in [(kept - 1, vec!["e0", "e2"], 1), (kept + 1, vec!["e2"], 0)] {
            let mut events = events(&ring, &keys, &[Step::Route(0, 2), Step::Route(2, 2), Step::Deliver(0)]);
            for later in &mut events[1..] {
                std::sync::Arc::make_mut(&mut later.event).time += days(age);
            }
            for sizes in [[1], [3]] {
                folded(&pool, &network, &events, &sizes).await;
                let shown = sqlx::query_scalar("SELECT id FROM scratch.events ORDER BY id").fetch_all(&pool);
                let shown: Vec<String> = shown.await.unwrap();
                assert_eq!(shown, expected, "{age} of {kept} days");
                let delivered = "SELECT coalesce(sum(value), 0)::bigint FROM scratch.totals WHERE id = 'delivered'";
                let delivered: i64 = sqlx::query_scalar(delivered).fetch_one(&pool).await.unwrap();
                assert_eq!(delivered, counted, "{age} of {kept} days");
            }
        }
    }
}
