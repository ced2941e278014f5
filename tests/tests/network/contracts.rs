//! What a contract says besides who may send what: how much, until when, and what of the data is not shown. And what services
//! have with each other from the first.

use serde_json::{Value, json};

use crate::{
    identity::eventually,
    stage::{Mesh, event},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_limits_how_much_passes_and_hides_what_it_says() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    let terms = json!({ "from": "a", "to": "b", "allowedEventTypes": ["message.*"], "boundaries": ["intra"],
        "maxEventsPerSecond": 2, "redact": ["text", "no.such"] });
    let contract = mesh.made("/api/registry/contracts", &ada, terms).await;
    assert_eq!((&contract["maxEventsPerSecond"], &contract["redact"]), (&json!(2), &json!(["no.such", "text"])));
    let traces = futures::future::join_all((0..8).map(|_| mesh.send(&ada, event("a", Some("b"))))).await;
    let limited: Vec<_> = traces.iter().filter(|(_, trace)| trace["error"] == "rate_limited").collect();
    assert!(!limited.is_empty() && limited.len() <= 6, "{traces:?}");
    for (id, trace) in &traces {
        match trace["error"].as_str() {
            Some(_) => assert_eq!(trace["path"][0]["action"], "drop"),
            None => _ = mesh.settled(&ada, id, "delivered").await,
        }
    }
    assert_eq!(mesh.inbox.of("b").len(), 8 - limited.len());
    let data = json!({ "text": "[redacted]", "n": 1 });
    assert!(mesh.inbox.of("b").iter().all(|posted| posted.body["payload"]["data"] == data));
    let listed = mesh.get("/api/events?traces=false", &ada).await;
    assert!(listed["events"].as_array().unwrap().iter().all(|event| event["payload"]["data"] == data), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_the_time_of_a_contract_is_over_is_told() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    let mut watching = mesh.socket(&ada).await;
    assert_eq!(watching.call("sdn:watch", &[json!({})]).await.unwrap()["ok"], true);
    let end = (time::OffsetDateTime::now_utc() + time::Duration::seconds(2))
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    let short =
        json!({ "from": "a", "to": "b", "allowedEventTypes": ["*"], "boundaries": ["intra"], "expiresAt": end });
    let contract = mesh.made("/api/registry/contracts", &ada, short).await;
    let told = watching.event("network:contract:expired").await.unwrap();
    assert_eq!(told.data["contractId"], contract["id"]);
    let (_, trace) = mesh.send(&ada, event("a", Some("b"))).await;
    assert_eq!(trace["error"], "expired_contract");
    let listed = mesh.get("/api/registry/contracts", &ada).await;
    assert_eq!(listed["contracts"][0]["status"], "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_begin_with_the_contracts_that_they_need() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    let pairs = async || -> Vec<String> {
        let listed = mesh.get("/api/registry/contracts", &ada).await;
        let pair = |c: &Value| format!("{}>{}", c["from"].as_str().unwrap(), c["to"].as_str().unwrap());
        let mut pairs: Vec<String> = listed["contracts"].as_array().unwrap().iter().map(pair).collect();
        pairs.sort();
        pairs
    };
    mesh.register(&ada, &["messaging"]).await;
    assert_eq!(pairs().await, [""; 0]);
    mesh.register(&ada, &["assistants"]).await;
    assert_eq!(pairs().await, ["assistants>*", "assistants>messaging", "messaging>assistants"]);
    mesh.register(&ada, &["assistants", "messaging"]).await;
    assert_eq!(pairs().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_told_which_entity_lives_on_a_node_until_it_leaves() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a"]).await;
    let entry = json!({ "type": "service", "slug": "billing", "displayName": "Billing", "orgId": ada.org });
    let entity = mesh.house.call("POST", "/api/entities", &ada.token, entry).await;
    let id = entity.body["id"].as_str().unwrap_or_else(|| panic!("{}", entity.body)).to_owned();
    mesh.ask("PUT", "/api/registry/nodes/a/entity", &ada, &ada.org, Some(json!({ "entityId": id }))).await.ok();
    let path = format!("/api/entities/{id}");
    let lives_on = async |node: Value| {
        eventually("the directory knows", async || {
            let found = mesh.house.get(&path, &ada.token).await.body;
            (found["boundNodeId"] == node).then_some(())
        })
        .await;
    };
    lives_on(json!("a")).await;
    mesh.ask("DELETE", "/api/registry/nodes/a", &ada, &ada.org, None).await.ok();
    lives_on(Value::Null).await;
}
