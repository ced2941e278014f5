//! Policies act: each action, priorities, versions, observing, and the reason for every decision.

use serde_json::{Value, json};

use crate::stage::{Mesh, event};

fn only(field: &str, value: &str) -> Value {
    json!([{ "field": field, "operator": "eq", "value": value }])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_is_seen_by_who_gets_the_event_and_in_the_trace() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b", "c", "d", "e"]).await;
    mesh.contract(&ada, "a", "*").await;
    let refuses = mesh.policy(&ada, 50, only("target", "b"), json!({ "type": "deny", "reason": "not b" })).await;
    let observed = json!({ "name": "watched", "priority": 60, "conditions": only("target", "c"), "mode": "observe",
        "action": { "type": "deny" } });
    mesh.made("/api/policies", &ada, observed).await;
    mesh.policy(&ada, 50, only("target", "c"), json!({ "type": "route", "target": "e" })).await;
    let mapping = json!({ "text": "=changed", "count": "n", "n": "" });
    mesh.policy(&ada, 50, only("target", "d"), json!({ "type": "transform", "mapping": mapping })).await;
    mesh.policy(&ada, 70, json!([]), json!({ "type": "log", "level": "info" })).await;

    let (id, denied) = mesh.send(&ada, event("a", Some("b"))).await;
    let hop = &denied["path"][0];
    assert_eq!((&denied["status"], &denied["error"]), (&json!("dropped"), &json!("policy_denied")));
    assert_eq!((&hop["policyId"], &hop["reason"]), (&refuses["id"], &json!("not b")));

    let (redirected, _) = mesh.send(&ada, event("a", Some("c"))).await;
    let trace = mesh.settled(&ada, &redirected, "delivered").await;
    let hop = &trace["path"][0];
    assert_eq!((&hop["node"], &hop["redirectedFrom"], &hop["verdict"]), (&json!("e"), &json!("c"), &json!("redirect")));

    let (changed, _) = mesh.send(&ada, event("a", Some("d"))).await;
    let trace = mesh.settled(&ada, &changed, "delivered").await;
    assert_eq!(trace["path"][0]["action"], "transform");
    let posted = mesh.inbox.of("d").remove(0).body;
    assert_eq!(posted["payload"]["data"], json!({ "text": "changed", "count": 1 }));
    let original = mesh.get("/api/events", &ada).await["events"][2]["event"].clone();
    assert_eq!(original["payload"]["data"], json!({ "text": "hello", "n": 1 }));
    assert_ne!(posted["hash"], original["hash"]);
    assert!(mesh.inbox.of("b").is_empty() && mesh.inbox.of("c").is_empty());

    let why = mesh.get(&format!("/api/events/{redirected}/why"), &ada).await;
    let rules = why["decisions"][0]["rules"].as_array().unwrap();
    let asked: Vec<_> = rules.iter().map(|rule| (rule["action"].as_str().unwrap(), &rule["decisive"])).collect();
    let (no, yes) = (json!(false), json!(true));
    // About c: logged, observed, sent on; then about e: logged, allowed.
    assert_eq!(asked, [("log", &no), ("deny", &no), ("route", &yes), ("log", &no), ("allow", &yes)]);
    assert_eq!(rules[1]["mode"], "observe");
    assert_eq!(rules[2]["inputs"]["target"], "c");
    assert_eq!(rules[2]["policy"]["action"], json!({ "type": "route", "to": "e" }));
    assert_eq!((&why["senderId"], why["decisions"][0]["decidedBy"].as_str()), (&json!(ada.id), Some("policy")));
    // The event of the log that it names is there and says the same.
    let position: u64 = why["position"].as_str().unwrap().trim_start_matches("network:").parse().unwrap();
    let stream = mesh.house.jetstream.get_stream("SYMBIA_EVT_NETWORK").await.unwrap();
    let message = stream.get_raw_message(position).await.unwrap();
    let logged: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!((&logged["id"], &logged["data"]["eventId"]), (&why["logEventId"], &json!(redirected)));
    assert!(!String::from_utf8_lossy(&message.payload).contains("hello"), "what an event says is sealed in the log");
    let why = mesh.get(&format!("/api/events/{id}/why"), &ada).await;
    let decision = &why["decisions"][0];
    let asked: Vec<_> = decision["rules"].as_array().unwrap().iter().map(|r| (&r["action"], &r["decisive"])).collect();
    assert_eq!(decision["verdict"], "deny");
    assert_eq!(asked, [(&json!("log"), &no), (&json!("deny"), &yes)], "logged, and denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_a_version_that_counts_from_the_next_call() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    mesh.contract(&ada, "a", "b").await;
    let policy = mesh.policy(&ada, 10, json!([]), json!({ "type": "deny" })).await;
    let path = format!("/api/policies/{}", policy["id"].as_str().unwrap());
    let (id, first) = mesh.send(&ada, event("a", Some("b"))).await;
    let change = async |body: Value| mesh.ask("PATCH", &path, &ada, &ada.org, Some(body)).await;
    let off = change(json!({ "enabled": false })).await.ok();
    assert_eq!((&off["version"], &off["enabled"], &off["priority"]), (&json!(2), &json!(false), &json!(10)));
    let (second, now) = mesh.send(&ada, event("a", Some("b"))).await;
    assert_eq!(first["status"], "dropped");
    assert_ne!(now["status"], "dropped", "it may have arrived already");
    assert_ne!(first["policySetVersion"], now["policySetVersion"]);
    mesh.settled(&ada, &second, "delivered").await;
    assert_eq!(change(json!({ "priority": 1, "expectedVersion": 1 })).await.refused(), (409, "VERSION_CONFLICT"));
    assert_eq!(change(json!({ "prioritty": 1 })).await.refused(), (400, "VALIDATION_FAILED"));
    let bad = json!({ "conditions": [{ "field": "runId", "operator": "regex", "value": "(" }] });
    assert_eq!(change(bad).await.refused(), (400, "VALIDATION_FAILED"));
    let why = mesh.get(&format!("/api/events/{id}/why"), &ada).await;
    let rule = &why["decisions"][0]["rules"][0];
    assert_eq!((&rule["version"], &rule["policy"]["enabled"]), (&json!(1), &json!(true)), "as it was then");
    mesh.ask("DELETE", &path, &ada, &ada.org, None).await.ok();
    assert_eq!(mesh.ask("GET", &path, &ada, &ada.org, None).await.refused(), (404, "NOT_FOUND"));

    let defaults = mesh.get("/api/policies", &ada).await;
    let built_in = |p: &&Value| p["builtIn"] == true;
    assert_eq!(defaults["policies"].as_array().unwrap().iter().filter(built_in).count(), 3);
    let allow = "/api/policies/policy_default_allow_intra";
    let changed = mesh.ask("PATCH", allow, &ada, &ada.org, Some(json!({ "action": { "type": "deny" } }))).await.ok();
    assert_eq!(changed["version"], 2);
    let (_, trace) = mesh.send(&ada, event("a", Some("b"))).await;
    assert_eq!(trace["status"], "dropped");
    mesh.ask("DELETE", allow, &ada, &ada.org, None).await.ok();
    assert_eq!(mesh.get("/api/policies", &ada).await["count"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_can_be_asked_without_sending() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    let policy = mesh.policy(&ada, 10, only("eventType", "message.new"), json!({ "type": "deny" })).await;
    let before = mesh.head().await;
    let tested = mesh.post("/api/policies/test", &ada, event("a", None)).await.ok();
    assert_eq!((&tested["result"]["policyId"], &tested["result"]["action"]["type"]), (&policy["id"], &json!("deny")));
    assert_eq!(tested["allPolicies"].as_array().unwrap().len(), 4);
    assert_eq!(tested["event"]["hash"], "0".repeat(64));
    assert_eq!(mesh.head().await, before);
}
