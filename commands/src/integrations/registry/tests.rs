use std::collections::BTreeMap;

use symbia_events::{ActorType, integrations::CallRate};

use super::*;
use crate::{Membership, testing::given};

fn member(role: Role, entitlements: &[&str]) -> Actor {
    Actor {
        id: "ada".into(),
        kind: ActorType::User,
        orgs: vec![Membership { id: "o1".parse().unwrap(), role }],
        entitlements: entitlements.iter().map(|e| (*e).to_owned()).collect(),
        ..Actor::service("x")
    }
}

fn admin() -> Actor {
    member(Role::Admin, &[])
}

fn weather() -> RegisterIntegration {
    RegisterIntegration {
        key: "weather".into(),
        org_id: "o1".into(),
        name: "Weather".into(),
        description: None,
        kind: IntegrationKind::OpenApi,
        spec_url: Some("https://weather.example/openapi.json".into()),
        server_url: None,
        auth: IntegrationAuth::None,
        retry: None,
        rate_limit: None,
        operations: None,
        tags: Vec::new(),
        metadata: Map::new(),
    }
}

fn operation(id: &str) -> Operation {
    Operation { id: id.into(), method: Some("GET".into()), path: Some("/x".into()), ..Operation::default() }
}

fn registered() -> Vec<IntegrationEvent> {
    Integration::default().decide(weather().into(), &admin(), crate::testing::AT).unwrap().events
}

fn discovery(version: u64) -> RecordDiscovery {
    let operations = vec![operation("forecast.get")];
    let (key, server_url) = ("weather".into(), Some("https://weather.example".into()));
    RecordDiscovery { key, version, server_url, operations, spec_digest: "d".into() }
}

#[test]
fn who_registers_is_an_admin_or_has_the_capability_there() {
    given::<Integration>([]).when(weather(), &member(Role::Member, &[])).rejected("MISSING_CAPABILITY");
    given::<Integration>([]).when(weather(), &Actor { orgs: Vec::new(), ..admin() }).rejected("MISSING_CAPABILITY");
    let able = member(Role::Member, &[CONFIGURE_CAPABILITY]);
    assert!(Integration::default().decide(weather().into(), &able, crate::testing::AT).is_ok());
}

#[test]
fn the_platforms_keys_and_odd_ones_are_refused() {
    for (key, code) in [
        ("openai", "KEY_TAKEN"),
        ("identity", "KEY_TAKEN"),
        ("symbia-labs", "KEY_TAKEN"),
        ("", "VALIDATION_FAILED"),
        ("Weather", "VALIDATION_FAILED"),
        ("a.b", "VALIDATION_FAILED"),
        ("-a", "VALIDATION_FAILED"),
    ] {
        given::<Integration>([]).when(RegisterIntegration { key: key.into(), ..weather() }, &admin()).rejected(code);
    }
}

#[test]
fn urls_with_secrets_and_operations_that_cannot_be_called_are_refused() {
    let secret = RegisterIntegration { spec_url: Some("https://me:pw@weather.example/".into()), ..weather() };
    given::<Integration>([]).when(secret, &admin()).rejected("VALIDATION_FAILED");
    let odd = Operation { method: Some("CONNECT".into()), ..operation("x") };
    let custom = RegisterIntegration {
        kind: IntegrationKind::Custom,
        server_url: Some("https://weather.example".into()),
        operations: Some(vec![odd]),
        ..weather()
    };
    given::<Integration>([]).when(custom, &admin()).rejected("VALIDATION_FAILED");
    let many = RegisterIntegration { operations: Some(vec![operation("x"); MAX_OPERATIONS + 1]), ..weather() };
    given::<Integration>([]).when(many, &admin()).rejected("VALIDATION_FAILED");
    let own = RegisterIntegration { kind: IntegrationKind::Builtin, ..weather() };
    given::<Integration>([]).when(own, &admin()).rejected("FORBIDDEN");
}

#[test]
fn what_is_found_out_counts_for_the_version_that_was_asked_for() {
    let platform = Actor::service("integrations");
    given::<Integration>(registered()).when(discovery(1), &admin()).rejected("FORBIDDEN");
    given::<Integration>(registered()).when(discovery(2), &platform).then([]);
    let expected = IntegrationDiscovered {
        key: "weather".into(),
        version: 1,
        server_url: Some("https://weather.example".into()),
        operations: vec![operation("forecast.get")],
        spec_digest: "d".into(),
    };
    given::<Integration>(registered()).when(discovery(1), &platform).then([expected.clone().into()]);
    let known = registered().into_iter().chain([expected.into()]);
    given::<Integration>(known).when(discovery(1), &platform).then([]);
}

#[test]
fn removed_it_is_gone_and_a_new_one_has_another_version() {
    let removed = IntegrationRemoved { key: "weather".into(), by: "ada".into() };
    let remove = RemoveIntegration { key: "weather".into(), org_id: "o1".into() };
    given::<Integration>(registered()).when(remove.clone(), &admin()).then([removed.clone().into()]);
    given::<Integration>([]).when(remove, &admin()).rejected("NOT_FOUND");
    let history: Vec<IntegrationEvent> = registered().into_iter().chain([removed.into()]).collect();
    let refresh = RefreshIntegration { key: "weather".into(), org_id: "o1".into() };
    given::<Integration>(history.clone()).when(refresh, &admin()).rejected("NOT_FOUND");
    let mut state = Integration::default();
    history.iter().for_each(|event| state.apply(event));
    let again = state.decide(weather().into(), &admin(), crate::testing::AT).unwrap().events;
    assert!(matches!(&again[..], [IntegrationEvent::IntegrationRegistered(e)] if e.version == 2));
}

#[test]
fn limits_of_calls_are_kept_and_must_be_limits() {
    let rate = |most| CallRate { requests_per_minute: Some(most), ..CallRate::default() };
    let of = |all: Option<u32>, each: CallRate| {
        let operations = BTreeMap::from([("forecast.get".to_owned(), each)]);
        let limit = IntegrationRateLimit { requests_per_second: all, operations, ..IntegrationRateLimit::default() };
        RegisterIntegration { rate_limit: Some(limit), ..weather() }
    };
    let rate_of_all = CallRate { tokens_per_minute: Some(9000), concurrent_requests: Some(1000), ..rate(60) };
    let good = of(Some(5), rate_of_all);
    let made = Integration::default().decide(good.clone().into(), &admin(), crate::testing::AT).unwrap().events;
    assert!(matches!(&made[..], [IntegrationEvent::IntegrationRegistered(e)] if e.rate_limit == good.rate_limit));
    let at_once = |most| CallRate { concurrent_requests: Some(most), ..CallRate::default() };
    let tokens = CallRate { tokens_per_minute: Some(0), ..CallRate::default() };
    let rates = [rate(0), rate(2_000_000), tokens, at_once(0), at_once(1001)];
    for bad in rates.map(|rate| of(None, rate)).into_iter().chain([of(Some(0), rate(60))]) {
        given::<Integration>([]).when(bad, &admin()).rejected("VALIDATION_FAILED");
    }
}
