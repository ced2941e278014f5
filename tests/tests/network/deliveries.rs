//! An event on its way: posted to who may have it, signed, tried again, and traced.

use serde_json::{Value, json};
use symbia_events::network::{Boundary, HashedEvent, is_event_hash, verify_service_hash};

use uuid::Uuid;

use crate::{
    identity::eventually,
    stage::{Mesh, event},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_reaches_each_node_once_signed_and_its_flow_has_an_edge_for_each() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b", "c", "d"]).await;
    mesh.contract(&ada, "a", "*").await;
    let (id, trace) = mesh.send(&ada, event("a", None)).await;
    assert_eq!(trace["path"].as_array().unwrap().len(), 3, "{trace}");
    let trace = mesh.settled(&ada, &id, "delivered").await;
    for hop in trace["path"].as_array().unwrap() {
        assert_eq!((&hop["from"], &hop["policyId"]), (&json!("a"), &json!("policy_default_allow_intra")));
    }
    crate::identity::eventually("all three have it", async || {
        let got = ["b", "c", "d"].map(|node| mesh.inbox.of(node).len());
        (got == [1, 1, 1]).then_some(())
    })
    .await;
    assert!(mesh.inbox.of("a").is_empty());
    let posted = mesh.inbox.of("b").remove(0);
    assert_eq!(posted.body["wrapper"]["path"], json!(["a", "b"]));
    assert_eq!((&posted.headers["x-symbia-event-id"], &posted.headers["x-symbia-run-id"]), (&id, &"run-1".to_owned()));

    let keys = mesh.get("/api/registry/nodes/b/signing-key", &ada).await;
    let (wrapper, data) = (&posted.body["wrapper"], &posted.body["payload"]["data"]);
    let bytes = |data: &Value| {
        HashedEvent {
            v: 1,
            id: &id,
            event_type: "message.new",
            data,
            source: "a",
            target: None,
            run_id: "run-1",
            timestamp: wrapper["timestamp"].as_str().unwrap(),
            boundary: Boundary::Intra,
            caused_by: None,
            source_entity_id: None,
            target_entity_id: None,
            org_id: Some(&ada.org),
        }
        .bytes()
        .unwrap()
    };
    let delivery_key = keys["deliveryKey"].as_str().unwrap().as_bytes();
    assert!(is_event_hash(delivery_key, &bytes(data), &posted.headers["x-symbia-signature"]));
    assert!(!is_event_hash(delivery_key, &bytes(&json!({ "text": "forged" })), &posted.headers["x-symbia-signature"]));
    let listed = mesh.get("/api/events", &ada).await;
    let kid = listed["events"][0]["event"]["keyId"].as_str().unwrap();
    let hash = posted.body["hash"].as_str().unwrap();
    assert_eq!(verify_service_hash(&mesh.house.keys, kid, &bytes(data), hash), Ok(()));
    assert_eq!(&listed["events"][0]["event"]["payload"]["data"], data);

    let flow = mesh.get("/api/sdn/flow/run-1", &ada).await;
    let edges: Vec<_> =
        flow["edges"].as_array().unwrap().iter().map(|e| (e["from"].clone(), e["to"].clone())).collect();
    assert_eq!(edges, ["b", "c", "d"].map(|to| (json!("a"), json!(to))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_gets_the_event_when_it_is_back_and_one_without_address_never() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    mesh.contract(&ada, "a", "b").await;
    mesh.inbox.refuse("b", &[503, 500]);
    let (id, trace) = mesh.send(&ada, event("a", Some("b"))).await;
    assert_eq!(trace["status"], "pending");
    let trace = mesh.settled(&ada, &id, "delivered").await;
    assert_eq!((&trace["path"][0]["attempt"], mesh.inbox.of("b").len()), (&json!(3), 1));
    let stats = mesh.get("/api/events/stats", &ada).await;
    assert_eq!(
        (&stats["totalEvents"], &stats["deliveredCount"], &stats["pendingCount"]),
        (&json!(1), &json!(1), &json!(0))
    );

    mesh.made("/api/registry/nodes", &ada, crate::stage::silent("c")).await;
    mesh.contract(&ada, "a", "c").await;
    let (id, _) = mesh.send(&ada, event("a", Some("c"))).await;
    let trace = mesh.settled(&ada, &id, "error").await;
    let hop = &trace["path"][0];
    assert_eq!((&hop["action"], &hop["reason"], &hop["attempt"]), (&json!("drop"), &json!("not_connected"), &json!(1)));
    let path = format!("/api/events/{id}/redrive");
    let again = mesh.post(&path, &ada, json!({ "target": "c" })).await.ok();
    assert_eq!(again["status"], "pending", "{again}");
    mesh.settled(&ada, &id, "error").await;
    assert_eq!(mesh.post(&path, &ada, json!({ "target": "b" })).await.refused(), (404, "NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_inside_the_platforms_networks_is_not_called() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a"]).await;
    let mut inside = mesh.node("b");
    inside["endpoint"] = json!("http://169.254.169.254/latest/meta-data");
    mesh.made("/api/registry/nodes", &ada, inside).await;
    mesh.contract(&ada, "a", "b").await;
    let (id, _) = mesh.send(&ada, event("a", Some("b"))).await;
    let path = format!("/api/events/{id}/trace");
    crate::identity::eventually("the refusal shows", async || {
        let trace = mesh.get(&path, &ada).await;
        (trace["path"][0]["reason"] == "address_not_allowed").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_needs_no_contract_and_credentials_do_not_travel() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b", "c"]).await;
    mesh.contract(&ada, "a", "b").await;
    let mut asked = event("a", Some("b"));
    asked["payload"]["data"] =
        json!({ "_auth": { "token": "CANARY" }, "headers": [{ "Authorization": "Bearer CANARY" }] });
    let (id, _) = mesh.send(&ada, asked).await;
    mesh.settled(&ada, &id, "delivered").await;
    assert!(!mesh.inbox.of("b")[0].body.to_string().contains("CANARY"));
    assert!(!mesh.get("/api/events", &ada).await.to_string().contains("CANARY"));
    let answer = |cause: &str, target: &str, run: &str| {
        let mut answer = event("b", Some(target));
        answer["causedBy"] = json!(cause);
        answer["runId"] = json!(run);
        answer
    };
    let (reply, _) = mesh.send(&ada, answer(&id, "a", "run-1")).await;
    mesh.settled(&ada, &reply, "delivered").await;
    for (cause, target, run) in
        [(id.as_str(), "c", "run-1"), (id.as_str(), "a", "run-2"), (reply.as_str(), "a", "run-1")]
    {
        let (_, trace) = mesh.send(&ada, answer(cause, target, run)).await;
        assert_eq!(
            (&trace["status"], &trace["error"]),
            (&json!("dropped"), &json!("no_contract")),
            "{cause} {target} {run}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_gets_what_goes_to_the_outside() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a"]).await;
    let hook = json!({ "name": "Hook", "type": "webhook", "endpoint": format!("{}/hook", mesh.inbox.base),
        "eventTypes": ["message.*"] });
    let node = mesh.made("/api/registry/bridges", &ada, hook).await["nodeId"].clone();
    let outside = json!({ "from": "a", "to": node, "allowedEventTypes": ["message.*"], "boundaries": ["extra"] });
    mesh.made("/api/registry/contracts", &ada, outside).await;
    let (_, near) = mesh.send(&ada, event("a", None)).await;
    assert_eq!(near["path"][0]["raisedTo"], "extra", "{near}");
    let mut far = event("a", None);
    far["boundary"] = json!("extra");
    let (id, _) = mesh.send(&ada, far).await;
    mesh.settled(&ada, &id, "delivered").await;
    assert!(!mesh.inbox.of("hook").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_presents_the_credential_that_its_organization_keeps() {
    const SECRET: &str = "hook-CANARY-1c7e";
    let mesh = Mesh::open().await;
    let (ada, eve) = (mesh.house.register("ada").await, mesh.house.register("eve").await);
    mesh.register(&ada, &["a"]).await;
    let keep = async |who: &crate::identity::Person| {
        let bearer = format!("Bearer {}", who.token);
        let headers = [("authorization", bearer.as_str()), ("x-org-id", who.org.as_str())];
        let body = json!({ "provider": "hook", "name": "hook", "apiKey": SECRET, "isOrgWide": true });
        let kept = mesh.house.send("POST", "/api/credentials", &headers, Some(body)).await;
        kept.body["id"].as_str().unwrap_or_else(|| panic!("{}", kept.body)).to_owned()
    };
    let bridge = async |credential: String, inbox: &str| {
        let hook = json!({ "name": inbox, "type": "webhook", "endpoint": format!("{}/{inbox}", mesh.inbox.base),
            "eventTypes": ["message.*"], "config": { "credentialRef": credential } });
        let node = mesh.made("/api/registry/bridges", &ada, hook).await["nodeId"].clone();
        let outside = json!({ "from": "a", "to": node, "allowedEventTypes": ["message.*"], "boundaries": ["extra"] });
        mesh.made("/api/registry/contracts", &ada, outside).await;
        let mut far = event("a", node.as_str());
        far["boundary"] = json!("extra");
        mesh.send(&ada, far).await.0
    };
    let own = bridge(keep(&ada).await, "own").await;
    mesh.settled(&ada, &own, "delivered").await;
    assert_eq!(mesh.inbox.of("own")[0].headers["authorization"], format!("Bearer {SECRET}"));
    let foreign = bridge(keep(&eve).await, "foreign").await;
    let trace = mesh.settled(&ada, &foreign, "error").await;
    assert_eq!((&trace["path"][0]["reason"], mesh.inbox.of("foreign").len()), (&json!("credential_denied"), 0));
    assert!(!mesh.get("/api/events", &ada).await.to_string().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_is_posted_once_to_who_has_an_address_and_no_socket() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    let all = json!({ "from": "a", "to": "b", "allowedEventTypes": ["*"], "boundaries": ["intra"] });
    mesh.made("/api/registry/contracts", &ada, all).await;
    let before = mesh.head().await;
    let mut typing = event("a", Some("b"));
    typing["payload"]["type"] = json!("typing.start");
    let (id, trace) = mesh.send(&ada, typing.clone()).await;
    assert_eq!(trace["status"], "delivered", "{trace}");
    let posted = mesh.inbox.of("b");
    assert_eq!(posted.len(), 1);
    assert_eq!((&posted[0].body["wrapper"]["id"], &posted[0].headers["x-symbia-event-id"]), (&json!(id), &id));
    assert_eq!(posted[0].body["hash"], posted[0].headers["x-symbia-hash"]);
    mesh.inbox.refuse("b", &[500]);
    let (_, trace) = mesh.send(&ada, typing).await;
    assert_eq!((&trace["status"], &trace["path"][0]["reason"]), (&json!("error"), &json!("http_500")), "{trace}");
    // Neither tried again nor kept.
    assert_eq!((mesh.inbox.of("b").len(), mesh.head().await), (1, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_go_on_in_order_while_nobody_folds_the_mesh() {
    let mut mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    mesh.contract(&ada, "a", "b").await;
    mesh.send(&ada, event("a", Some("b"))).await;
    mesh.stop_projector().await;
    // The first fails once: what came after it waits for it.
    mesh.inbox.refuse("b", &[503]);
    let mut sent = Vec::new();
    for n in 1..=3 {
        let mut next = event("a", Some("b"));
        (next["id"], next["payload"]["data"]["n"]) = (json!(Uuid::from_u128(n)), json!(n));
        // It is stored; who asks is not told what became of it.
        mesh.post("/api/events", &ada, next).await;
        sent.push(json!(n));
    }
    let taken = eventually("all are delivered", async || {
        let posted = mesh.inbox.of("b");
        (posted.len() == 4)
            .then(|| posted[1..].iter().map(|p| p.body["payload"]["data"]["n"].clone()).collect::<Vec<_>>())
    })
    .await;
    assert_eq!(taken, sent);
}
