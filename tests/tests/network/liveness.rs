//! A node that falls silent is given up, keeps its contracts, and comes back with its next sign of life.

use std::time::Duration;

use serde_json::json;

use crate::{
    identity::eventually,
    stage::{Mesh, event},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_goes_offline_keeps_its_contracts_and_comes_back() {
    let mesh = Mesh::with(|options| options.lease = Duration::from_secs(1)).await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    mesh.contract(&ada, "a", "b").await;
    eventually("the node is offline", async || {
        let node = mesh.get("/api/registry/nodes/b", &ada).await;
        (node["status"] == "offline").then_some(())
    })
    .await;
    let (id, _) = mesh.send(&ada, event("a", Some("b"))).await;
    mesh.settled(&ada, &id, "delivered").await;
    let beat = mesh.post("/api/registry/nodes/b/heartbeat", &ada, json!({})).await.ok();
    let node = mesh.get("/api/registry/nodes/b", &ada).await;
    assert_eq!((&node["status"], &beat["ok"]), (&json!("online"), &json!(true)));
    assert!(node["lastHeartbeat"].as_str() >= beat["timestamp"].as_str());
    let nobody = mesh.post("/api/registry/nodes/nobody/heartbeat", &ada, json!({})).await;
    assert_eq!(nobody.refused(), (404, "NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_not_in_the_log() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a"]).await;
    let before = mesh.head().await;
    for _ in 0..3 {
        mesh.post("/api/registry/nodes/a/heartbeat", &ada, json!({})).await.ok();
    }
    assert_eq!(mesh.head().await, before);
}
