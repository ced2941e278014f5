//! Without the broker: commands are refused with a time to come back, reading goes on, and everything heals by itself.

use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use super::stage::{House, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_broker_commands_get_503_and_the_service_heals_by_itself() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let ready = async || house.send("GET", "/health/ready", &[], None).await;
    let well = eventually("ready", async || Some(ready().await).filter(|a| a.status == 200)).await;
    assert!(well.body["checks"]["projections"]["lag"].is_u64());

    house.servers.broker.stop().await;
    let red = eventually("red", async || Some(ready().await).filter(|a| a.status == 503)).await;
    assert_eq!(red.body["checks"]["eventBus"]["status"], "unhealthy");
    assert_eq!(red.body["checks"]["database"]["status"], "ok");
    let refused = house.call("POST", "/api/orgs", &ada.token, json!({ "name": "Lab" })).await;
    assert_eq!(refused.refused(), (503, "SERVICE_UNAVAILABLE"));
    assert!(refused.headers.contains_key("retry-after") && refused.body["retryAfter"].is_u64());
    assert_eq!(house.get("/api/auth/me", &ada.token).await.ok()["user"]["id"], ada.id.as_str());

    let config = house.servers.dir().join("nats").join("nats-server.conf");
    let mut again = Command::new(&house.servers.broker.binary().path)
        .arg("--config")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("ready again", async || Some(ready().await).filter(|a| a.status == 200)).await;
    let org = house.call("POST", "/api/orgs", &ada.token, json!({ "name": "Lab" })).await.ok();
    assert_eq!(org["slug"], "lab");
    again.kill().await.unwrap();
}
