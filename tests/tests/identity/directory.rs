//! The directory: entries, addresses, nodes, names, instances, and its keeping in step with users and agents.

use std::sync::Arc;

use serde_json::{Value, json};
use symbia_commands::{SERVICE_TOKEN_MAX, ServiceToken};
use symbia_events::Service;
use symbia_nats::bus::CommandBus;
use symbia_workers::{directory::DirectoryKeeper, reactor::ReactorRunner};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::stage::{Answer, House, PASSWORD, Person, SETUP_TOKEN, eventually};

fn billing(org: &str, instance: Option<&str>) -> Value {
    json!({
        "type": "assistant", "slug": "billing", "displayName": "Billing", "orgId": org, "instanceId": instance,
        "instanceIndex": if instance.is_some() { 2 } else { 1 },
    })
}

async fn resolve(house: &House, who: &Person, address: &str, org: Option<&str>) -> Answer {
    house.call("POST", "/api/entities/resolve", &who.token, json!({ "address": address, "orgId": org })).await
}

fn service(house: &House, service: Service) -> String {
    let token = ServiceToken { service, audience: Service::Identity, act: None, purpose: None };
    token.sign(&house.keys, OffsetDateTime::now_utc(), SERVICE_TOKEN_MAX)
}

async fn as_service(house: &House, who: Service, method: &str, path: &str, body: Value) -> Answer {
    let token = service(house, who);
    house.send(method, path, &[("x-service-auth", &token)], Some(body)).await
}

fn id(value: &Value) -> &str {
    value["id"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_found_by_its_names_and_lives_on_one_node_at_a_time() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let put = async |body: Value| house.call("POST", "/api/entities", &ada.token, body).await;
    let first = put(billing(&ada.org, None)).await;
    assert_eq!((first.status.as_u16(), &first.body["status"]), (201, &json!("active")));
    let first = first.body;
    let again = put(billing(&ada.org, None)).await;
    assert_eq!((again.status.as_u16(), &again.body["existingId"]), (409, &first["id"]));
    let second = put(billing(&ada.org, Some("two"))).await;
    assert_eq!(second.status.as_u16(), 201, "{}", second.body);
    let second = second.body;
    assert_eq!(put(json!({ "slug": "x" })).await.refused(), (400, "VALIDATION_FAILED"));

    let both = resolve(&house, &ada, "@billing", Some(&ada.org)).await.ok();
    assert_eq!((&both["count"], &both["resolved"][0]["id"]), (&json!(2), &first["id"]));
    for (address, found) in
        [("billing#two", &second), (id(&second), &second), ("assistant:billing", &first), ("@billing", &first)]
    {
        let answer = resolve(&house, &ada, address, None).await.ok();
        let resolved = &answer["resolved"];
        let resolved = if resolved.is_array() { &resolved[0] } else { resolved };
        assert_eq!((&answer["address"], &resolved["id"]), (&json!(address), &found["id"]), "{address}");
    }
    let near = resolve(&house, &ada, "@bilin", None).await;
    assert_eq!((near.refused(), &near.body["address"]), ((404, "NOT_FOUND"), &json!("@bilin")));
    let near = resolve(&house, &ada, "@billings", None).await;
    assert_eq!(near.body["suggestions"], json!(["billing"]));
    let path = format!("/api/entities/{}", id(&first));
    house.call("PATCH", &path, &ada.token, json!({ "status": "suspended", "tags": ["old"] })).await.ok();
    assert_eq!(resolve(&house, &ada, "@billing", None).await.ok()["resolved"]["id"], second["id"]);

    let bind = async |entity: &Value, node: &str, seconds: u32| {
        let body = json!({ "nodeId": node, "leaseSeconds": seconds });
        as_service(&house, Service::Network, "POST", &format!("/api/entities/{}/bind", id(entity)), body).await
    };
    assert_eq!(bind(&first, "node-1", 1).await.ok()["boundNodeId"], "node-1");
    let on_node = house.get("/api/entities/by-node/node-1", &ada.token).await.ok();
    assert_eq!(on_node["id"], first["id"]);
    // Until its lease runs out.
    eventually("the node is free", async || {
        let bound = bind(&second, "node-1", 600).await;
        (bound.status == 200).then_some(())
    })
    .await;
    assert_eq!(bind(&first, "node-1", 600).await.refused(), (409, "NODE_TAKEN"));
    let unbind = format!("/api/entities/{}/unbind", id(&second));
    let unbound = as_service(&house, Service::Network, "POST", &unbind, json!({})).await.ok();
    assert_eq!(unbound["boundNodeId"], Value::Null);
    for answer in [
        as_service(&house, Service::Models, "POST", &unbind, json!({})).await,
        house.call("POST", &unbind, &ada.token, json!({})).await,
    ] {
        assert_eq!(answer.status.as_u16(), 403, "{}", answer.body);
    }

    let names = format!("{path}/aliases");
    let alias = json!({ "aliasType": "federated", "aliasValue": "billing@acme.test", "priority": 5 });
    let aliases = house.call("POST", &names, &ada.token, alias.clone()).await.ok();
    assert_eq!(aliases["aliases"].as_array().unwrap().len(), 3);
    let added = aliases["aliases"].as_array().unwrap().iter().find(|a| a["aliasType"] == "federated").unwrap();
    house.call("DELETE", &format!("{names}/{}", id(added)), &ada.token, json!({})).await.ok();
    house.call("DELETE", &path, &ada.token, json!({})).await.ok();
    assert_eq!(house.get(&path, &ada.token).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(put(billing(&ada.org, None)).await.status.as_u16(), 201);
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_finds_reads_and_writes_nothing_of_another_organization() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let entity = house.call("POST", "/api/entities", &ada.token, billing(&ada.org, None)).await.body;
    let path = format!("/api/entities/{}", id(&entity));
    as_service(&house, Service::Network, "POST", &format!("{path}/bind"), json!({ "nodeId": "node-1" })).await.ok();
    let before = house.head().await;
    let bearer = format!("Bearer {}", eve.token);
    let forged = [("authorization", bearer.as_str()), ("x-org-id", &ada.org), ("x-service-id", "network")];
    for (method, path, body) in [
        ("GET", path.clone(), None),
        ("PATCH", path.clone(), Some(json!({ "displayName": "Eve's" }))),
        ("DELETE", path.clone(), None),
        ("POST", format!("{path}/bind"), Some(json!({ "nodeId": "mine" }))),
        ("POST", format!("{path}/unbind"), None),
        ("GET", format!("{path}/aliases"), None),
        ("POST", format!("{path}/aliases"), Some(json!({ "aliasType": "slug", "aliasValue": "x" }))),
        ("GET", format!("{path}/instances"), None),
        ("PUT", format!("{path}/instances/one"), Some(json!({ "status": "busy" }))),
        ("GET", "/api/entities/by-node/node-1".to_owned(), None),
        ("POST", "/api/entities".to_owned(), Some(billing(&ada.org, Some("evil")))),
        ("POST", "/api/entities/resolve".to_owned(), Some(json!({ "address": "@billing" }))),
        ("POST", "/api/entities/resolve".to_owned(), Some(json!({ "address": id(&entity), "orgId": ada.org }))),
        ("POST", "/api/entities/sync".to_owned(), Some(json!({ "source": "all" }))),
    ] {
        let answer = house.send(method, &path, &forged, body.clone()).await;
        assert!([403, 404].contains(&answer.status.as_u16()), "{method} {path}: {}", answer.body);
        assert!(!answer.body.to_string().contains("Billing"), "{}", answer.body);
        assert_eq!(house.send(method, &path, &[], body).await.refused(), (401, "AUTH_REQUIRED"), "{method} {path}");
    }
    let unknown = resolve(&house, &eve, "@billin", None).await;
    assert_eq!((unknown.status.as_u16(), &unknown.body["suggestions"]), (404, &json!([])));
    let list = house.get(&format!("/api/entities?orgId={}", ada.org), &eve.token).await.ok();
    assert_eq!(list["count"], 0);
    assert_eq!(house.head().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_agents_have_entries_that_follow_them() {
    let house = House::open().await;
    let claim = json!({ "email": "root@example.test", "password": PASSWORD, "name": "Root" });
    let root = house.send("POST", "/api/bootstrap/claim", &[("x-setup-token", SETUP_TOKEN)], Some(claim)).await.ok();
    let root = House::person(&root, "root@example.test".to_owned());
    let ada = house.register("ada").await;
    // Those from before the keeper.
    let synced = house.call("POST", "/api/entities/sync", &root.token, json!({ "source": "users" })).await.ok();
    assert_eq!(synced["created"], json!({ "users": 2, "agents": 0 }));
    let again = house.call("POST", "/api/entities/sync", &root.token, json!({ "source": "all" })).await.ok();
    assert_eq!(again["created"], json!({ "users": 0, "agents": 0 }));

    let bus = CommandBus::open(house.platform.nats.clone()).await.unwrap();
    let keeper = DirectoryKeeper::new(bus, Arc::clone(&house.keys), house.platform.secrets.clone());
    let (nats, stop) = (house.platform.nats.clone(), CancellationToken::new());
    tokio::spawn(ReactorRunner::new(nats, Arc::clone(&house.keys), Arc::new(keeper)).run(stop.clone()));
    let agent = json!({ "agentId": "assistant:billing", "credential": "x".repeat(32), "name": "Billing" });
    let agent = house.call("POST", "/api/agents", &ada.token, agent).await.ok();
    let found = eventually("an entry", async || {
        let answer = resolve(&house, &ada, "assistant:billing", Some(&ada.org)).await;
        (answer.status == 200).then_some(answer.body["resolved"].clone())
    })
    .await;
    assert_eq!(
        (&found["sourceId"], &found["orgId"], &found["metadata"]),
        (&agent["id"], &json!(ada.org), &json!({ "agentId": "assistant:billing" }))
    );
    let entry = format!("/api/entities/{}", id(&found));
    let path = format!("/api/agents/{}", id(&agent));
    let status = async |expected: &str| {
        eventually(expected, async || (house.get(&entry, &ada.token).await.body["status"] == expected).then_some(()))
            .await;
    };
    house.call("POST", &format!("{path}/deactivate"), &ada.token, json!({})).await.ok();
    status("inactive").await;
    house.call("POST", &format!("{path}/activate"), &ada.token, json!({})).await.ok();
    status("active").await;

    let login = json!({ "agentId": "assistant:billing", "credential": "x".repeat(32) });
    let login = house.post("/api/auth/agent/login", login).await.ok();
    let bearer = login["token"].as_str().unwrap();
    let report = json!({ "status": "busy", "loadScore": 3 });
    let reported = house.call("PUT", &format!("{entry}/instances/one"), bearer, report.clone()).await.ok();
    assert_eq!(reported["instances"][0]["loadScore"], 3);
    let by_other = house.call("PUT", &format!("{entry}/instances/one"), &ada.token, report).await;
    assert_eq!(by_other.refused(), (403, "FORBIDDEN"));

    // People are found by those who share an organization with them, and by themselves.
    let person = resolve(&house, &ada, "@ada", Some(&ada.org)).await.ok();
    assert_eq!((&person["resolved"]["displayName"], &person["resolved"]["type"]), (&json!("ada"), &json!("user")));
    let eve = house.register("eve").await;
    assert_eq!(resolve(&house, &eve, "@ada", None).await.refused(), (404, "NOT_FOUND"));
    eventually("eve's own", async || (resolve(&house, &eve, "user:eve", None).await.status == 200).then_some(())).await;
    house.call("DELETE", &path, &ada.token, json!({})).await.ok();
    eventually("no entry", async || (house.get(&entry, &ada.token).await.status == 404).then_some(())).await;
    stop.cancel();
    house.read_models_are_what_the_log_says().await;
}
