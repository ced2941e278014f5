//! Every process ends without notice, and the mesh is as it was (network.md §16, row 10).

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use symbia_tests::{binary::until, socketio::SocketClient};

use crate::{
    stage::{event, silent},
    three_ways::{Member, Platform},
};

async fn speaker(platform: &Platform, who: &Member) -> anyhow::Result<SocketClient> {
    let socket = SocketClient::open(platform.at("network"), &who.token, None).await?;
    let registered = socket.call("node:register", &[silent("b")]).await?;
    ensure!(registered["ok"] == true, "{registered}");
    Ok(socket)
}

async fn delivered(platform: &Platform, who: &Member, run: &str) -> anyhow::Result<String> {
    let mut sent = event("a", Some("b"));
    sent["runId"] = json!(run);
    let sent = platform.ask(Method::POST, "/api/events", who, Some(sent)).await?;
    let id = sent["eventId"].as_str().with_context(|| sent.to_string())?.to_owned();
    let trace = format!("/api/events/{id}/trace");
    until("it is delivered", || async {
        Ok(platform.ask(Method::GET, &trace, who, None).await?["status"] == "delivered")
    })
    .await?;
    Ok(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_contracts_policies_bridges_and_history_are_there_after_every_process_was_killed() -> anyhow::Result<()> {
    let mut platform = Platform::open(true)?;
    let ada = platform.register("ada").await?;
    let make =
        async |platform: &Platform, path: &str, body: Value| platform.ask(Method::POST, path, &ada, Some(body)).await;
    for node in ["a", "b"] {
        make(&platform, "/api/registry/nodes", silent(node)).await?;
    }
    let contract =
        json!({ "from": "a", "to": "b", "allowedEventTypes": ["message.*"], "boundaries": ["intra", "inter"] });
    make(&platform, "/api/registry/contracts", contract).await?;
    let conditions = json!([{ "field": "eventType", "operator": "eq", "value": "message.secret" }]);
    let policy =
        json!({ "name": "no secrets", "priority": 500, "conditions": conditions, "action": { "type": "deny" } });
    make(&platform, "/api/policies", policy).await?;
    let bridge = json!({ "name": "out", "type": "webhook", "endpoint": "https://out.test/", "eventTypes": ["bill.*"] });
    make(&platform, "/api/registry/bridges", bridge).await?;
    let mut socket = speaker(&platform, &ada).await?;
    let first = delivered(&platform, &ada, "before").await?;
    socket.event("event:received").await?;

    let all = async |platform: &Platform| -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        for path in ["/api/registry/contracts", "/api/policies", "/api/registry/bridges", "/api/events?runId=before"] {
            all.push(platform.ask(Method::GET, path, &ada, None).await?);
        }
        all.push(platform.ask(Method::GET, &format!("/api/events/{first}/why"), &ada, None).await?);
        Ok(all)
    };
    let before = all(&platform).await?;
    platform.restart()?;
    ensure!(all(&platform).await? == before, "what the mesh knows is another after a restart");
    let nodes = platform.ask(Method::GET, "/api/registry/nodes", &ada, None).await?;
    ensure!(nodes["count"] == 2, "{nodes}");

    // The node comes back by itself, as who speaks for it does, and gets what is sent now.
    let mut socket = speaker(&platform, &ada).await?;
    let second = delivered(&platform, &ada, "after").await?;
    ensure!(socket.event("event:received").await?.data["wrapper"]["id"] == second.as_str(), "it gets another event");
    let mut denied = event("a", Some("b"));
    denied["payload"]["type"] = json!("message.secret");
    let denied = make(&platform, "/api/events", denied).await?;
    ensure!(denied["trace"]["status"] == "dropped", "the policy counts: {denied}");
    Ok(())
}
