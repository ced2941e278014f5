//! Simulation says what sending does, and a change of a policy is held against what was sent.

use futures::{StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::stage::{Mesh, event};

fn verdicts(list: &Value, id: &str) -> Vec<(Value, Value)> {
    list.as_array().unwrap().iter().map(|hop| (hop[id].clone(), hop["verdict"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_event_fares_as_a_sent_one() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b", "c"]).await;
    mesh.contract(&ada, "a", "*").await;
    let target = json!([{ "field": "target", "operator": "eq", "value": "c" }]);
    mesh.policy(&ada, 10, target, json!({ "type": "deny" })).await;
    let head = mesh.head().await;
    let mut simulated = Vec::new();
    let calls = [("a", None), ("a", Some("b")), ("a", Some("c")), ("b", Some("a")), ("b", None), ("a", Some("nobody"))];
    for (source, target) in calls {
        let answer = mesh.post("/api/sdn/simulate", &ada, event(source, target)).await.ok();
        assert_eq!(answer["event"]["hash"], "0".repeat(64));
        simulated.push(answer);
    }
    assert_eq!(mesh.head().await, head);
    for ((source, target), simulated) in calls.into_iter().zip(simulated) {
        let (_, trace) = mesh.send(&ada, event(source, target)).await;
        let reached = matches!(trace["status"].as_str(), Some("pending" | "delivered"));
        assert_eq!(simulated["wouldSucceed"], reached, "{source} {target:?}");
        assert_eq!(verdicts(&simulated["targets"], "id"), verdicts(&trace["path"], "node"));
    }
    let unknown = mesh.post("/api/sdn/simulate", &ada, event("nobody", None)).await.ok();
    assert_eq!((&unknown["wouldSucceed"], &unknown["reason"]), (&json!(false), &json!("source_not_found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn simulation_is_right_about_a_thousand_random_events() {
    const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];
    const TYPES: [&str; 4] = ["message.new", "message.old", "order.paid", "typing.start"];
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &NODES).await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for (from, to) in [("a", "*"), ("b", "c"), ("b", "d"), ("c", "a"), ("d", "*"), ("e", "b")] {
        let types = ["*", "message.*", "order.paid"].choose(&mut random).unwrap();
        let boundaries = [json!(["intra"]), json!(["intra", "inter"]), json!(["extra"])];
        let boundaries = boundaries.choose(&mut random).unwrap();
        let body = json!({ "from": from, "to": to, "allowedEventTypes": [types], "boundaries": boundaries });
        mesh.made("/api/registry/contracts", &ada, body).await;
    }
    for number in 0..12 {
        let field = ["source", "target", "eventType", "boundary", "runId"].choose(&mut random).unwrap();
        let operator = ["eq", "neq", "contains", "startsWith", "regex"].choose(&mut random).unwrap();
        let value = ["a", "c", "message.new", "inter", "run-1", "^[bd]"].choose(&mut random).unwrap();
        let actions = [
            json!({ "type": "allow" }),
            json!({ "type": "deny" }),
            json!({ "type": "log", "level": "info" }),
            json!({ "type": "route", "to": "c" }),
            json!({ "type": "transform", "mapping": { "m": "n" } }),
        ];
        let action = actions.choose(&mut random).unwrap().clone();
        mesh.policy(&ada, number, json!([{ "field": field, "operator": operator, "value": value }]), action).await;
    }
    let events: Vec<Value> = (0..1000)
        .map(|_| {
            let target = [None, None, Some("a"), Some("c"), Some("e"), Some("nobody")].choose(&mut random).unwrap();
            let mut event = event(NODES.choose(&mut random).unwrap(), *target);
            event["payload"]["type"] = json!(TYPES.choose(&mut random).unwrap());
            event["boundary"] = json!(["intra", "inter", "extra"].choose(&mut random).unwrap());
            event["runId"] = json!(format!("run-{}", random.random_range(0..500)));
            event
        })
        .collect();
    let compared = stream::iter(events).map(async |event| {
        let simulated = mesh.post("/api/sdn/simulate", &ada, event.clone()).await.ok();
        let (_, trace) = mesh.send(&ada, event.clone()).await;
        assert_eq!(verdicts(&simulated["targets"], "id"), verdicts(&trace["path"], "node"), "{event}");
        usize::from(simulated["wouldSucceed"] == true)
    });
    let succeed: Vec<usize> = compared.buffer_unordered(8).collect().await;
    assert_eq!(succeed.len(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_that_a_change_would_decide_otherwise_are_listed_exactly() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b", "c"]).await;
    let contract = mesh.contract(&ada, "a", "*").await;
    let denies = mesh
        .policy(
            &ada,
            10,
            json!([{ "field": "runId", "operator": "eq", "value": "run-1" },
        { "field": "target", "operator": "eq", "value": "c" }]),
            json!({ "type": "deny" }),
        )
        .await;
    let (to_b, _) = mesh.send(&ada, event("a", Some("b"))).await;
    let (to_c, _) = mesh.send(&ada, event("a", Some("c"))).await;
    let (to_all, _) = mesh.send(&ada, event("a", None)).await;
    mesh.send(&ada, event("b", Some("a"))).await;
    // That the contract has ended since does not change what the policies would have said.
    let path = format!("/api/registry/contracts/{}", contract["id"].as_str().unwrap());
    mesh.ask("DELETE", &path, &ada, &ada.org, None).await.ok();
    let flips = async |change: Value| {
        let answer = mesh.post("/api/policies/simulate", &ada, change).await.ok();
        let list = answer["flips"].as_array().unwrap().iter();
        let mut flips: Vec<_> = list
            .map(|f| {
                (
                    f["eventId"].as_str().unwrap().to_owned(),
                    f["target"].as_str().unwrap().to_owned(),
                    f["before"]["verdict"].as_str().unwrap().to_owned(),
                    f["after"]["verdict"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        flips.sort();
        assert_eq!((&answer["eventsExamined"], &answer["callsExamined"]), (&json!(4), &json!(4)), "{answer}");
        flips
    };
    let expected = |mut list: Vec<(&String, &str, &str, &str)>| {
        list.sort();
        let owned = |(id, target, before, after): (&String, &str, &str, &str)| {
            (id.clone(), target.to_owned(), before.to_owned(), after.to_owned())
        };
        list.into_iter().map(owned).collect::<Vec<_>>()
    };
    let opened = flips(json!({ "delete": denies["id"] })).await;
    assert_eq!(opened, expected(vec![(&to_c, "c", "deny", "deliver"), (&to_all, "c", "deny", "deliver")]));
    let new = json!({ "name": "no b", "priority": 5, "conditions": [{ "field": "target", "operator": "eq", "value": "b" }],
        "action": { "type": "deny" } });
    let closed = flips(json!({ "create": new })).await;
    assert_eq!(closed, expected(vec![(&to_b, "b", "deliver", "deny"), (&to_all, "b", "deliver", "deny")]));
    let observed = flips(json!({ "update": { "policy": denies["id"], "changes": { "mode": "observe" } } })).await;
    assert_eq!(observed, opened);
    let same = flips(json!({ "update": { "policy": denies["id"], "changes": { "name": "renamed" } } })).await;
    assert_eq!(same, []);
    let nothing = mesh.post("/api/policies/simulate", &ada, json!({})).await;
    assert_eq!(nothing.refused(), (400, "VALIDATION_FAILED"));
    let unknown = mesh.post("/api/policies/simulate", &ada, json!({ "delete": "policy_x" })).await;
    assert_eq!(unknown.refused(), (404, "NOT_FOUND"));
    assert_eq!(mesh.get("/api/policies", &ada).await["count"], 4, "nothing was changed");
}
