//! Nodes, contracts and bridges: who owns what, and what there is to be seen of it.

use serde_json::{Value, json};

use crate::stage::{Mesh, event};

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_belongs_to_who_registered_it_and_is_found_by_what_it_can() {
    let mesh = Mesh::open().await;
    let (ada, bob) = (mesh.house.register("ada").await, mesh.house.register("bob").await);
    mesh.register(&ada, &["messaging", "assistant:billing"]).await;
    let first = mesh.get("/api/registry/nodes/messaging", &ada).await;
    assert_eq!((&first["status"], &first["ownerId"]), (&json!("online"), &json!(ada.id)));
    let again = json!({ "name": "New", "type": "client", "capabilities": ["x"], "endpoint": "", "id": "messaging",
        "metadata": { "version": 2 } });
    let again = mesh.made("/api/registry/nodes", &ada, again).await;
    assert_eq!((&again["name"], &again["registeredAt"]), (&json!("New"), &first["registeredAt"]));
    assert_eq!(again["metadata"], json!({ "version": 2 }));

    let invite = format!("/api/orgs/{}/members/invite", ada.org);
    let as_admin = json!({ "email": bob.email, "role": "admin" });
    mesh.house.call("POST", &invite, &ada.token, as_admin).await.ok();
    let stolen = mesh.ask("POST", "/api/registry/nodes", &bob, &ada.org, Some(mesh.node("messaging"))).await;
    assert_eq!(stolen.refused(), (403, "NODE_OWNED"));
    let as_it = mesh.ask("GET", "/api/registry/nodes/messaging/signing-key", &bob, &ada.org, None).await;
    assert_eq!(as_it.refused(), (403, "NODE_OWNED"));

    let found = mesh.get("/api/registry/nodes/capability/test", &ada).await;
    assert_eq!((ids(&found["nodes"]), &found["count"]), (vec!["assistant:billing"], &json!(1)));
    assert_eq!(ids(&mesh.get("/api/registry/nodes/type/client", &ada).await["nodes"]), ["messaging"]);
    let unknown = mesh.ask("GET", "/api/registry/nodes/type/robot", &ada, &ada.org, None).await;
    assert_eq!(unknown.refused(), (400, "VALIDATION_FAILED"));

    let contract = mesh.contract(&ada, "messaging", "assistant:billing").await;
    let gone = mesh.ask("DELETE", "/api/registry/nodes/messaging", &ada, &ada.org, None).await;
    assert_eq!(gone.ok(), json!({ "ok": true }));
    assert_eq!(
        mesh.ask("GET", "/api/registry/nodes/messaging", &ada, &ada.org, None).await.refused(),
        (404, "NOT_FOUND")
    );
    let contracts = mesh.get("/api/registry/contracts?nodeId=messaging", &ada).await;
    assert_eq!(ids(&contracts["contracts"]), [contract["id"].as_str().unwrap()], "contracts stand without their nodes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_the_node_of_its_own_id_and_sends_with_the_capability_that_an_admin_gave_it() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    let sends = mesh.enrol(&ada, "assistant:billing", &["cap:network.events.write"]).await;
    let plain = mesh.enrol(&ada, "assistant:plain", &["cap:messaging.send"]).await;
    let node = |id: &str| {
        let mut node = mesh.node(id);
        node["type"] = json!("assistant");
        node
    };
    mesh.made("/api/registry/nodes", &sends, node("assistant:billing")).await;
    mesh.made("/api/registry/nodes", &plain, node("assistant:plain")).await;
    let other = mesh.post("/api/registry/nodes", &plain, node("assistant:other")).await;
    assert_eq!(other.refused(), (403, "AGENT_ID_MISMATCH"));
    let stolen = mesh.post("/api/registry/nodes", &plain, node("assistant:billing")).await;
    assert_eq!(stolen.refused(), (403, "AGENT_ID_MISMATCH"));
    mesh.contract(&ada, "assistant:billing", "assistant:plain").await;
    let (id, _) = mesh.send(&sends, event("assistant:billing", Some("assistant:plain"))).await;
    mesh.settled(&ada, &id, "delivered").await;
    let spoofed = mesh.post("/api/events", &ada, event("assistant:billing", None)).await;
    assert_eq!(spoofed.refused(), (403, "SOURCE_NOT_OWNED"), "not even an admin");
    let unable = mesh.post("/api/events", &plain, event("assistant:plain", None)).await;
    assert_eq!(unable.refused(), (403, "MISSING_CAPABILITY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_is_one_contract_until_it_is_ended() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    let unknown = json!({ "from": "nobody", "to": "b", "allowedEventTypes": ["*"], "boundaries": ["intra"] });
    assert_eq!(mesh.post("/api/registry/contracts", &ada, unknown).await.refused(), (400, "SOURCE_UNKNOWN"));
    let first = mesh.contract(&ada, "a", "b").await;
    let same = json!({ "from": "a", "to": "b", "allowedEventTypes": ["message.*"], "boundaries": ["inter", "intra"] });
    assert_eq!(mesh.made("/api/registry/contracts", &ada, same).await, first);
    let graph = mesh.get("/api/sdn/graph", &ada).await;
    assert_eq!(graph["adjacency"], json!({ "a": ["b"], "b": [] }));
    let path = format!("/api/registry/contracts/{}", first["id"].as_str().unwrap());
    mesh.ask("DELETE", &path, &ada, &ada.org, None).await.ok();
    assert_eq!(mesh.ask("DELETE", &path, &ada, &ada.org, None).await.refused(), (404, "NOT_FOUND"));
    let past = json!({ "from": "a", "to": "b", "allowedEventTypes": ["message.*"], "boundaries": ["intra", "inter"],
        "expiresAt": "2020-01-01T00:00:00Z" });
    assert_eq!(mesh.made("/api/registry/contracts", &ada, past).await["status"], "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_is_registered_without_secrets_switched_and_removed() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    let hook = |config: Value| {
        json!({ "name": "Hook", "type": "webhook", "endpoint": "https://hook.example/", "eventTypes": ["message.*"],
            "config": config })
    };
    let secret = mesh.post("/api/registry/bridges", &ada, hook(json!({ "apiKey": "CANARY" }))).await;
    assert_eq!(secret.refused(), (400, "VALIDATION_FAILED"));
    assert!(!secret.body.to_string().contains("CANARY"));
    let bridge = mesh.made("/api/registry/bridges", &ada, hook(json!({ "credentialRef": "c-1" }))).await;
    let path = format!("/api/registry/bridges/{}", bridge["id"].as_str().unwrap());
    assert_eq!((&bridge["active"], &bridge["config"]), (&json!(true), &json!({ "credentialRef": "c-1" })));
    let off = mesh.ask("PATCH", &path, &ada, &ada.org, Some(json!({ "active": false }))).await.ok();
    assert_eq!(off["active"], false);
    let summary = mesh.get("/api/sdn/summary", &ada).await;
    assert_eq!(summary["bridges"], json!({ "total": 1, "active": 0 }));
    let other = mesh.ask("PATCH", &path, &ada, &ada.org, Some(json!({ "endpoint": "https://x.example/" }))).await;
    assert_eq!(other.refused(), (400, "VALIDATION_FAILED"));
    mesh.ask("DELETE", &path, &ada, &ada.org, None).await.ok();
    assert_eq!(mesh.get("/api/registry/bridges", &ada).await, json!({ "bridges": [], "count": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_of_the_directory_lives_on_a_node_and_is_reached_there() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    mesh.contract(&ada, "a", "b").await;
    let entry = json!({ "type": "assistant", "slug": "billing", "displayName": "Billing", "orgId": ada.org });
    let entity = mesh.house.call("POST", "/api/entities", &ada.token, entry).await.body["id"].clone();
    let bind = async |id: &Value| {
        mesh.ask("PUT", "/api/registry/nodes/b/entity", &ada, &ada.org, Some(json!({ "entityId": id }))).await
    };
    assert_eq!(bind(&json!("ent_nobody")).await.refused(), (404, "NOT_FOUND"));
    bind(&entity).await.ok();
    assert_eq!(mesh.get("/api/registry/nodes/b", &ada).await["entityId"], entity);
    let mut event = event("a", None);
    event["targetEntityId"] = entity.clone();
    let (id, _) = mesh.send(&ada, event.clone()).await;
    assert_eq!(mesh.settled(&ada, &id, "delivered").await["path"][0]["node"], "b");
    assert_eq!(mesh.inbox.of("b")[0].body["wrapper"]["targetEntityId"], entity);
    mesh.ask("DELETE", "/api/registry/nodes/b/entity", &ada, &ada.org, None).await.ok();
    let (_, trace) = mesh.send(&ada, event).await;
    assert_eq!((&trace["status"], &trace["error"]), (&json!("unrouted"), &json!("no_targets")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_finds_the_mesh_where_it_looks() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    let browser = mesh.speaker(&mesh.base, &ada, "c").await;
    let contract = mesh.contract(&ada, "a", "b").await;
    let (id, _) = mesh.send(&ada, event("a", Some("b"))).await;
    let trace = mesh.settled(&ada, &id, "delivered").await;

    let topology = mesh.get("/api/sdn/topology", &ada).await;
    assert_eq!((topology["nodes"].as_array().map(Vec::len), &topology["contracts"]), (Some(3), &json!([contract])));
    assert!(topology["bridges"].is_array() && topology["timestamp"].is_string(), "{topology}");
    assert_eq!(browser.call("sdn:topology", &[]).await.unwrap()["contracts"], topology["contracts"]);
    let nodes = mesh.get("/api/sdn/nodes", &ada).await;
    assert_eq!((&nodes["count"], &nodes["nodes"]), (&json!(3), &topology["nodes"]));
    let summary = mesh.get("/api/sdn/summary", &ada).await;
    let by_type = json!({ "service": 3, "assistant": 0, "sandbox": 0, "bridge": 0, "client": 0 });
    assert_eq!(summary["nodes"], json!({ "total": 3, "byType": by_type, "connected": 3 }));
    assert_eq!(
        (&summary["contracts"]["total"], &summary["policies"]),
        (&json!(1), &json!({ "total": 3, "enabled": 3 }))
    );
    let counts = ["totalEvents", "totalTraces", "deliveredCount", "droppedCount", "errorCount"];
    assert_eq!(counts.map(|name| summary["events"][name].as_u64().unwrap()), [1, 1, 1, 0, 0]);

    for (query, found) in [("source=a", 1), ("source=b", 0), ("runId=run-1", 1), ("status=dropped", 0), ("target=b", 1)]
    {
        let listed = mesh.get(&format!("/api/events?{query}"), &ada).await;
        assert_eq!(listed["count"], found, "{query}");
    }
    let pair = &mesh.get("/api/events", &ada).await["events"][0];
    assert_eq!((&pair["event"]["wrapper"]["id"], &pair["trace"]), (&json!(id), &trace));
    let hop = &mesh.get(&format!("/api/sdn/trace/{id}"), &ada).await["path"][0];
    assert_eq!((&hop["node"], &hop["nodeName"], &hop["nodeType"]), (&json!("b"), &json!("b"), &json!("service")));
    let policies = mesh.get("/api/sdn/policies", &ada).await;
    assert_eq!(policies, mesh.get("/api/policies", &ada).await);
}
