//! A broker that is away: readiness turns red, writes are told when to come back, and all is well when it is there again.

use std::process::{Command, Stdio};

use anyhow::ensure;
use serde_json::{Value, json};
use symbia_tests::{apart::Apart, binary::until};

use crate::{Tested, kills::apart_ready};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_writes_are_put_off_and_nothing_has_to_be_restarted() -> Tested {
    let mut apart = Apart::start().await?;
    apart_ready(&apart).await?;
    let http = reqwest::Client::new();
    let found = |token: &str, name: &str| {
        http.post(format!("{}/api/orgs", apart.api())).bearer_auth(token).json(&json!({ "name": name })).send()
    };
    let body = json!({ "email": "ada@example.test", "password": "ada's password", "name": "Ada", "orgName": "Ada" });
    let registered = http.post(format!("{}/api/auth/register", apart.api())).json(&body).send().await?;
    let token = registered.error_for_status()?.json::<Value>().await?["token"].as_str().unwrap_or_default().to_owned();

    apart.servers.broker.stop().await;
    until("readiness is red", || async { Ok(apart.readiness().await == Some(503)) }).await?;
    let refused = found(&token, "Refused").await?;
    ensure!(refused.status() == 503 && refused.headers().contains_key("retry-after"), "{refused:?}");
    let said: Value = refused.json().await?;
    ensure!(said["code"] == "SERVICE_UNAVAILABLE" && said["retryAfter"].is_u64(), "{said}");

    // Supervision ended with the stop; so the test starts the server, on the same data.
    let config = apart.servers.dir().join("nats/nats-server.conf");
    let mut command = Command::new(&apart.servers.broker.binary().path);
    let mut broker = command.arg("--config").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let healed = async {
        apart_ready(&apart).await?;
        until("a write is done", || async { Ok(found(&token, "Done").await?.status() == 200) }).await
    };
    let healed = healed.await;
    let running = apart.roles.iter_mut().all(symbia_tests::apart::Role::runs);
    broker.kill()?;
    broker.wait()?;
    healed?;
    ensure!(running, "a process ended\n{}", apart.logs());
    Ok(())
}
