//! Nodes that speak through sockets, in several processes: each event once, what waited first, in order; and who hears what.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use symbia_tests::socketio::{Options, SocketClient, Told};

use crate::{
    identity::eventually,
    stage::{Mesh, event, silent},
};

fn sent(n: usize) -> Value {
    let mut event = event("a", Some("b"));
    event["payload"]["data"] = json!({ "n": n });
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_sockets_in_two_processes_gets_each_event_once() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a"]).await;
    let other = mesh.serve().await;
    let (mut here, mut there) = (mesh.speaker(&mesh.base, &ada, "b").await, mesh.speaker(&other, &ada, "b").await);
    mesh.contract(&ada, "a", "b").await;
    let mut ids = HashSet::new();
    for n in 0..20 {
        let (id, _) = mesh.send(&ada, sent(n)).await;
        mesh.settled(&ada, &id, "delivered").await;
        ids.insert(id);
    }
    // Both connections end with something that they are told in order.
    let mut received = Vec::new();
    for socket in [&mut here, &mut there] {
        let topology = socket.call("sdn:topology", &[]).await.unwrap();
        assert_eq!(topology["nodes"].as_array().unwrap().len(), 2);
    }
    mesh.contract(&ada, "b", "a").await;
    for socket in [&mut here, &mut there] {
        let told =
            socket.until(|told| told.name == "network:contract:created" && told.data["from"] == "b").await.unwrap();
        let events = told.into_iter().filter(|told| told.name == "event:received");
        received.extend(events.map(|told| told.data["wrapper"]["id"].as_str().unwrap().to_owned()));
    }
    assert_eq!(received.len(), 20, "each once: {received:?}");
    assert_eq!(received.into_iter().collect::<HashSet<_>>(), ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_while_a_node_was_away_is_there_when_it_comes_back_elsewhere() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a"]).await;
    let other = mesh.serve().await;
    let away = mesh.speaker(&mesh.base, &ada, "b").await;
    let all = json!({ "from": "a", "to": "b", "allowedEventTypes": ["*"], "boundaries": ["intra"] });
    mesh.made("/api/registry/contracts", &ada, all).await;
    let mut console = SocketClient::open(&other, &ada.token, None).await.unwrap();
    assert_eq!(console.call("sdn:watch", &[json!({})]).await.unwrap()["ok"], true);
    drop(away);
    let told = console.event("network:node:disconnected").await.unwrap();
    assert_eq!(told.data, json!({ "nodeId": "b" }));
    let mut ids = Vec::new();
    for n in 0..5 {
        let (id, _) = mesh.send(&ada, sent(n)).await;
        ids.push(id);
    }
    let mut passing = event("a", Some("b"));
    passing["payload"]["type"] = json!("typing.start");
    let (_, trace) = mesh.send(&ada, passing).await;
    let hop = &trace["path"][0];
    assert_eq!((&trace["status"], &hop["reason"]), (&json!("error"), &json!("not_connected")), "{trace}");
    let path = format!("/api/events/{}/trace", ids[0]);
    eventually("the first waits", async || {
        let trace = mesh.get(&path, &ada).await;
        (trace["path"][0]["reason"] == "not_connected").then_some(())
    })
    .await;

    let mut back = mesh.speaker(&other, &ada, "b").await;
    let mut received = Vec::new();
    while received.len() < ids.len() {
        let told = back.event("event:received").await.unwrap().data;
        assert_eq!(told["payload"]["type"], "message.new", "what is not kept does not come later");
        received.push(told["wrapper"]["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(received, ids, "once, and in order");
    for id in &ids {
        mesh.settled(&ada, id, "delivered").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_run_keep_their_order_when_the_first_fails() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    mesh.contract(&ada, "a", "b").await;
    mesh.inbox.refuse("b", &[503]);
    let mut ids = Vec::new();
    for n in 0..30 {
        ids.push(mesh.send(&ada, sent(n)).await.0);
    }
    mesh.settled(&ada, ids.last().unwrap(), "delivered").await;
    let posted: Vec<Value> = mesh.inbox.of("b").iter().map(|p| p.body["payload"]["data"]["n"].clone()).collect();
    assert_eq!(posted, (0..30).map(|n| json!(n)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_to_three_is_told_once_to_each_who_watches_for_it() {
    let mesh = Mesh::open().await;
    let (ada, eve) = (mesh.house.register("ada").await, mesh.house.register("eve").await);
    mesh.register(&ada, &["a", "c"]).await;
    let _speakers = [mesh.speaker(&mesh.base, &ada, "b").await, mesh.speaker(&mesh.base, &ada, "d").await];
    mesh.contract(&ada, "a", "*").await;
    let mut watching = mesh.socket(&ada).await;
    let mut ids = Vec::new();
    for filter in [json!({}), json!({ "eventType": "message.*" }), json!({ "status": "dropped" })] {
        let watch = watching.call("sdn:watch", &[filter]).await.unwrap();
        ids.push(watch["subscriptionId"].clone());
    }
    let mut stranger = mesh.socket(&eve).await;
    assert_eq!(stranger.call("sdn:watch", &[json!({})]).await.unwrap()["ok"], true, "of her own organization");
    let stolen = stranger.call("sdn:unwatch", &[json!({ "subscriptionId": ids[0] })]).await.unwrap();
    assert_eq!(stolen["ok"], false);
    let (id, _) = mesh.send(&ada, event("a", None)).await;
    let of = |told: &Told, run: &str, watch: &Value| {
        told.name == "sdn:event" && told.data["trace"]["runId"] == run && told.data["subscriptionId"] == *watch
    };
    let mut told = watching.until(|told| of(told, "run-1", &ids[1])).await.unwrap();
    let mut denied = event("a", Some("nowhere"));
    denied["runId"] = json!("run-2");
    mesh.send(&ada, denied).await;
    told.extend(watching.until(|told| of(told, "run-2", &ids[2])).await.unwrap());
    let seen: Vec<_> = told.iter().filter(|told| told.name == "sdn:event").collect();
    let of_first: Vec<&Value> = seen
        .iter()
        .filter(|told| told.data["event"]["wrapper"]["id"] == id.as_str())
        .map(|told| &told.data["subscriptionId"])
        .collect();
    assert_eq!(of_first, [&ids[0], &ids[1]]);
    for told in seen.iter().filter(|told| told.data["trace"]["runId"] == "run-1") {
        let (trace, path) = (&told.data["trace"], told.data["trace"]["path"].as_array().unwrap());
        assert_eq!((&trace["status"], path.len()), (&json!("delivered"), 3), "{trace}");
        assert!(path.iter().all(|hop| hop["from"] == "a" && hop["action"] == "deliver"), "{trace}");
    }
    // What the stranger hears is of her own organization.
    mesh.ask("POST", "/api/registry/nodes", &eve, &eve.org, Some(silent("hers"))).await;
    let heard = stranger.until(|told| told.name == "network:topology:changed").await.unwrap();
    assert!(!json!(heard.iter().map(|told| &told.data).collect::<Vec<_>>()).to_string().contains(&id));
    assert_eq!(heard[0].data["nodeId"], "hers", "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_does_on_a_socket_what_its_capabilities_say_and_nobody_does_nothing() {
    let mesh = Mesh::open().await;
    let (ada, bob) = (mesh.house.register("ada").await, mesh.house.register("bob").await);
    let invite = format!("/api/orgs/{}/members/invite", ada.org);
    mesh.house.call("POST", &invite, &ada.token, json!({ "email": bob.email, "role": "member" })).await.ok();
    mesh.register(&ada, &["a", "b"]).await;
    let auth = json!({ "token": bob.token, "orgId": ada.org });
    let member = SocketClient::connect(&mesh.base, Options { auth, ..Options::default() }).await.unwrap();
    let calls = [
        ("node:register", silent("c"), Some("cap:network.nodes.admin")),
        ("node:heartbeat", json!({ "nodeId": "a" }), None),
        ("node:unregister", json!({ "nodeId": "a" }), None),
        ("event:send", sent(1), Some("cap:network.events.write")),
        (
            "contract:create",
            json!({ "from": "a", "to": "b", "allowedEventTypes": ["*"], "boundaries": ["intra"] }),
            Some("cap:network.contracts.write"),
        ),
        ("contract:delete", json!({ "contractId": "x" }), Some("cap:network.contracts.write")),
        (
            "policy:create",
            json!({ "name": "x", "priority": 1, "conditions": [], "action": { "type": "deny" } }),
            Some("cap:network.policies.write"),
        ),
        ("policy:update", json!({ "policyId": "x", "changes": {} }), Some("cap:network.policies.write")),
        ("policy:delete", json!({ "policyId": "x" }), Some("cap:network.policies.write")),
        (
            "bridge:register",
            json!({ "name": "x", "type": "webhook", "endpoint": "https://h.example/", "eventTypes": ["x"] }),
            Some("cap:network.nodes.admin"),
        ),
        ("bridge:update", json!({ "bridgeId": "x", "active": true }), Some("cap:network.nodes.admin")),
        ("bridge:delete", json!({ "bridgeId": "x" }), Some("cap:network.nodes.admin")),
        ("entity:bind", json!({ "nodeId": "a", "entityId": "ent_1" }), None),
        ("entity:unbind", json!({ "nodeId": "a" }), None),
        ("sdn:watch", json!({}), Some("cap:network.events.read")),
        ("sdn:topology", Value::Null, Some("cap:network.topology.read")),
    ];
    let before = mesh.head().await;
    let strangers = SocketClient::connect(&mesh.base, Options::default()).await.unwrap();
    let forged = Options { auth: json!({ "token": "forged" }), ..Options::default() };
    let forged = SocketClient::connect(&mesh.base, forged).await.unwrap();
    for (call, argument, needed) in calls {
        let answer = member.call(call, std::slice::from_ref(&argument)).await.unwrap();
        let error = if needed.is_some() { "insufficient_permissions" } else { "node_owned" };
        assert_eq!((&answer["ok"], &answer["error"]), (&json!(false), &json!(error)), "{call}: {answer}");
        assert_eq!(answer["requiredPermission"].as_str(), needed, "{call}: {answer}");
        for nobody in [&strangers, &forged] {
            let answer = nobody.call(call, std::slice::from_ref(&argument)).await.unwrap();
            assert_eq!((&answer["ok"], &answer["error"]), (&json!(false), &json!("authentication_required")), "{call}");
        }
    }
    assert_eq!(mesh.head().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_changes_the_mesh_as_rest_does() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    let socket = mesh.speaker(&mesh.base, &ada, "a").await;
    let call = async |name: &str, argument: Value| {
        let answer = socket.call(name, &[argument]).await.unwrap();
        assert_eq!(answer["ok"], true, "{name}: {answer}");
        answer
    };
    let policy = json!({ "name": "x", "priority": 5, "conditions": [], "action": { "type": "log", "level": "info" } });
    let policy = call("policy:create", policy).await["policy"]["id"].clone();
    let changed = call("policy:update", json!({ "policyId": policy, "changes": { "priority": 7 } })).await;
    assert_eq!(changed["policy"]["priority"], 7);
    call("policy:delete", json!({ "policyId": policy })).await;
    let bridge = json!({ "name": "x", "type": "webhook", "endpoint": "https://h.example/", "eventTypes": ["x"] });
    let bridge = call("bridge:register", bridge).await["bridge"]["id"].clone();
    let off = call("bridge:update", json!({ "bridgeId": bridge, "active": false })).await;
    assert_eq!(off["bridge"]["active"], false);
    call("bridge:delete", json!({ "bridgeId": bridge })).await;
    let contract = json!({ "from": "a", "to": "b", "allowedEventTypes": ["x"], "boundaries": ["intra"] });
    let contract = call("contract:create", contract).await["contract"]["id"].clone();
    call("contract:delete", json!({ "contractId": contract })).await;
    call("node:heartbeat", json!({ "nodeId": "a" })).await;
    call("node:unregister", json!({ "nodeId": "a" })).await;
    let topology = socket.call("sdn:topology", &[]).await.unwrap();
    for kind in ["nodes", "contracts", "bridges"] {
        assert_eq!(topology[kind], json!([]), "{topology}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_acknowledges_is_asked_again_when_it_does_not() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a"]).await;
    let mut socket = mesh.socket(&ada).await;
    let mut node = silent("b");
    node["acknowledges"] = json!(true);
    assert_eq!(socket.call("node:register", &[node]).await.unwrap()["ok"], true);
    mesh.contract(&ada, "a", "b").await;
    let (id, _) = mesh.send(&ada, sent(1)).await;
    // This client calls no callbacks.
    for _ in 0..2 {
        assert_eq!(socket.event("event:received").await.unwrap().data["wrapper"]["id"], id.as_str());
    }
    let trace = mesh.get(&format!("/api/events/{id}/trace"), &ada).await;
    assert_eq!((&trace["status"], &trace["path"][0]["attempt"]), (&json!("pending"), &json!(2)), "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_routers_lose_nothing_and_keep_the_order_of_each_run() {
    const RUNS: usize = 10;
    const EACH: usize = 20;
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    let other = mesh.serve().await;
    mesh.register(&ada, &["a"]).await;
    let mut targets = [mesh.speaker(&mesh.base, &ada, "b").await, mesh.speaker(&other, &ada, "c").await];
    mesh.contract(&ada, "a", "*").await;
    let routers = [mesh.socket(&ada).await, SocketClient::open(&other, &ada.token, None).await.unwrap()];
    // Within a run one after another, by turns through both; the runs at once.
    let run = async |run: usize| {
        for n in 0..EACH {
            let mut event = event("a", None);
            event["runId"] = json!(format!("run-{run}"));
            event["payload"]["data"] = json!({ "n": n });
            let sent = routers[(run + n) % 2].call("event:send", &[event]).await.unwrap();
            assert_eq!(sent["ok"], true, "{sent}");
        }
    };
    futures::future::join_all((0..RUNS).map(run)).await;
    for target in &mut targets {
        let mut received: HashMap<String, Vec<usize>> = HashMap::new();
        for _ in 0..RUNS * EACH {
            let event = target.event("event:received").await.unwrap().data;
            let run = event["wrapper"]["runId"].as_str().unwrap().to_owned();
            received
                .entry(run)
                .or_default()
                .push(usize::try_from(event["payload"]["data"]["n"].as_u64().unwrap()).unwrap());
        }
        assert_eq!(received.len(), RUNS);
        for (run, numbers) in received {
            assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "{run}");
        }
    }
}
