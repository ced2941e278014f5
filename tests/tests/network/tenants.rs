//! Every group of routes, asked by the admin of another organization, by a member without rights, and by nobody.

use serde_json::json;

use crate::stage::{Mesh, event};

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_sees_changes_and_infers_nothing() {
    let mesh = Mesh::open().await;
    let (ada, eve) = (mesh.house.register("ada").await, mesh.house.register("eve").await);
    mesh.register(&ada, &["secret-node", "b"]).await;
    let contract = mesh.contract(&ada, "secret-node", "b").await["id"].as_str().unwrap().to_owned();
    let policy = mesh.policy(&ada, 10, json!([]), json!({ "type": "log", "level": "info" })).await;
    let policy = policy["id"].as_str().unwrap().to_owned();
    let hook =
        json!({ "name": "secret-hook", "type": "webhook", "endpoint": "https://h.example/", "eventTypes": ["x"] });
    let bridge = mesh.made("/api/registry/bridges", &ada, hook.clone()).await["id"].as_str().unwrap().to_owned();
    let (sent, _) = mesh.send(&ada, event("secret-node", Some("b"))).await;
    mesh.settled(&ada, &sent, "delivered").await;
    let node = mesh.node("secret-node");
    let new_contract = json!({ "from": "secret-node", "to": "b", "allowedEventTypes": ["*"], "boundaries": ["intra"] });
    let new_policy = json!({ "name": "x", "priority": 1, "conditions": [], "action": { "type": "deny" } });
    let before = mesh.head().await;
    for (method, path, body) in [
        ("GET", "/api/registry/nodes".to_owned(), None),
        ("POST", "/api/registry/nodes".to_owned(), Some(node)),
        ("GET", "/api/registry/nodes/secret-node".to_owned(), None),
        ("DELETE", "/api/registry/nodes/secret-node".to_owned(), None),
        ("POST", "/api/registry/nodes/secret-node/heartbeat".to_owned(), Some(json!({}))),
        ("GET", "/api/registry/nodes/secret-node/signing-key".to_owned(), None),
        ("PUT", "/api/registry/nodes/secret-node/entity".to_owned(), Some(json!({ "entityId": "ent_1" }))),
        ("DELETE", "/api/registry/nodes/secret-node/entity".to_owned(), None),
        ("GET", "/api/registry/nodes/capability/test".to_owned(), None),
        ("GET", "/api/registry/nodes/type/service".to_owned(), None),
        ("GET", "/api/registry/contracts".to_owned(), None),
        ("POST", "/api/registry/contracts".to_owned(), Some(new_contract)),
        ("DELETE", format!("/api/registry/contracts/{contract}"), None),
        ("GET", "/api/registry/bridges".to_owned(), None),
        ("POST", "/api/registry/bridges".to_owned(), Some(hook)),
        ("GET", format!("/api/registry/bridges/{bridge}"), None),
        ("PATCH", format!("/api/registry/bridges/{bridge}"), Some(json!({ "active": false }))),
        ("DELETE", format!("/api/registry/bridges/{bridge}"), None),
        ("POST", "/api/events".to_owned(), Some(event("secret-node", Some("b")))),
        ("POST", "/api/events/hash".to_owned(), Some(event("secret-node", Some("b")))),
        ("GET", "/api/events".to_owned(), None),
        ("GET", "/api/events/stats".to_owned(), None),
        ("GET", format!("/api/events/{sent}/trace"), None),
        ("GET", format!("/api/events/{sent}/why"), None),
        ("POST", format!("/api/events/{sent}/redrive"), Some(json!({}))),
        ("GET", "/api/events/traces/run-1".to_owned(), None),
        ("GET", "/api/policies".to_owned(), None),
        ("POST", "/api/policies".to_owned(), Some(new_policy)),
        ("GET", format!("/api/policies/{policy}"), None),
        ("PATCH", format!("/api/policies/{policy}"), Some(json!({ "priority": 1 }))),
        ("DELETE", format!("/api/policies/{policy}"), None),
        ("POST", "/api/policies/test".to_owned(), Some(event("secret-node", Some("b")))),
        ("POST", "/api/policies/simulate".to_owned(), Some(json!({ "delete": policy }))),
        ("GET", "/api/sdn/topology".to_owned(), None),
        ("GET", "/api/sdn/summary".to_owned(), None),
        ("GET", "/api/sdn/graph".to_owned(), None),
        ("GET", "/api/sdn/nodes".to_owned(), None),
        ("GET", "/api/sdn/policies".to_owned(), None),
        ("GET", format!("/api/sdn/trace/{sent}"), None),
        ("GET", "/api/sdn/traces/run-1".to_owned(), None),
        ("GET", "/api/sdn/flow/run-1".to_owned(), None),
        ("POST", "/api/sdn/simulate".to_owned(), Some(event("secret-node", Some("b")))),
    ] {
        let asked = mesh.ask(method, &path, &eve, &ada.org, body.clone()).await;
        assert_eq!(asked.refused(), (403, "ORG_ACCESS_DENIED"), "{method} {path}");
        // The same ids in the stranger's own organization lead nowhere.
        if method == "GET" {
            let own = mesh.ask(method, &path, &eve, &eve.org, None).await.body.to_string();
            for secret in [ada.org.as_str(), &contract, &bridge, "secret-hook", "hello"] {
                assert!(!own.contains(secret), "{path}: {own}");
            }
        }
    }
    assert_eq!(mesh.head().await, before);
    // The same id is another's elsewhere, and nothing tells that it is in use.
    mesh.register(&eve, &["secret-node", "b"]).await;
    let (theirs, trace) = mesh.send(&eve, event("secret-node", Some("b"))).await;
    assert_eq!((&trace["error"], mesh.inbox.of("b").len()), (&json!("no_contract"), 1));
    let same_id = json!({ "id": sent });
    let mut reused = event("secret-node", Some("b"));
    reused["id"] = same_id["id"].clone();
    let (id, _) = mesh.send(&eve, reused).await;
    assert_eq!((id.as_str(), theirs != sent), (sent.as_str(), true));
    assert_eq!(mesh.get("/api/events/stats", &ada).await["totalEvents"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_does_what_its_capabilities_say_and_nobody_does_nothing() {
    let mesh = Mesh::open().await;
    let (ada, bob) = (mesh.house.register("ada").await, mesh.house.register("bob").await);
    let invite = format!("/api/orgs/{}/members/invite", ada.org);
    mesh.house.call("POST", &invite, &ada.token, json!({ "email": bob.email, "role": "member" })).await.ok();
    mesh.register(&ada, &["a", "b"]).await;
    let list = mesh.ask("GET", "/api/registry/nodes", &bob, &ada.org, None).await.ok();
    assert_eq!(list["count"], 2);
    for (method, path, body, needed) in [
        ("POST", "/api/registry/nodes", Some(mesh.node("c")), "cap:network.nodes.admin"),
        ("GET", "/api/sdn/topology", None, "cap:network.topology.read"),
        ("GET", "/api/events", None, "cap:network.events.read"),
        ("POST", "/api/events", Some(event("a", Some("b"))), "cap:network.events.write"),
        ("POST", "/api/events/any/redrive", Some(json!({})), "cap:network.nodes.admin"),
        ("GET", "/api/events/traces/run-1", None, "cap:network.traces.read"),
        ("GET", "/api/policies", None, "cap:network.policies.read"),
    ] {
        let answer = mesh.ask(method, path, &bob, &ada.org, body).await;
        assert_eq!(answer.refused(), (403, "MISSING_CAPABILITY"), "{method} {path}");
        assert!(answer.body.to_string().contains(needed), "{method} {path}: {}", answer.body);
    }
    let forged = mesh.post("/api/registry/nodes/a/heartbeat", &bob, json!({})).await;
    assert_eq!(forged.status.as_u16(), 404, "in the member's own organization there is no such node");
    let forged = mesh.ask("POST", "/api/registry/nodes/a/heartbeat", &bob, &ada.org, Some(json!({}))).await;
    assert_eq!(forged.refused(), (403, "NODE_OWNED"));
    let nobody = crate::identity::Person { token: "none".into(), ..bob };
    assert_eq!(mesh.ask("GET", "/api/registry/nodes", &nobody, &ada.org, None).await.status.as_u16(), 401);
    let health = mesh.http_get("/api/platform/health").await;
    assert_eq!((&health["platform"], &health["services"]), (&json!("healthy"), &json!([])));
}
