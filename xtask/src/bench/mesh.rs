//! Events over the mesh: how many two routers take in a second on the durable lane, and that each of them is there afterwards.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use symbia_nats::broker::Durability;

use super::{
    Bench,
    api::{Apis, PATIENCE, Person, register},
    messages::bare_writes,
    table::{Row, Target},
    wire::{Prepared, exchange, lanes},
};

/// Rows of this group.
pub const ROWS: [&str; 1] = ["mesh_events_64"];
const CLIENTS: usize = 64;
const WARM: Duration = Duration::from_millis(500);

/// Measures the row.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let apis = Apis::open(Durability::Interval).await?;
    let ada = register(&apis.http, &apis.identity).await?;
    for node in ["a", "b"] {
        let node = json!({ "id": node, "name": node, "type": "service", "capabilities": [], "endpoint": "" });
        ask(&apis.http, Method::POST, &apis.routers[0], "/api/registry/nodes", &ada, Some(node)).await?;
    }
    let contract = json!({ "from": "a", "to": "b", "allowedEventTypes": ["*"], "boundaries": ["intra"] });
    ask(&apis.http, Method::POST, &apis.routers[0], "/api/registry/contracts", &ada, Some(contract)).await?;

    // Each run goes through both routers.
    let event = |lane: usize| {
        let event = json!({ "payload": { "type": "order.paid", "data": { "n": 1 } }, "source": "a",
            "runId": format!("run-{}", lane / 2) });
        Prepared::new(Method::POST, &format!("{}/api/events", apis.routers[lane % 2]), Some(&ada.token), Some(&event))
    };
    let mut ours = lanes((0..CLIENTS).map(event).collect::<Result<Vec<_>>>()?).await?;
    let warmed = ours.run(WARM, exchange).await?;
    let ours = ours.run(bench.scale.round, exchange).await?;
    let mut bare = lanes(vec![bare_writes(&apis).await?; CLIENTS]).await?;
    bare.run(WARM, exchange).await?;
    let raw = bare.run(bench.scale.round, exchange).await?.rate;

    let wanted = u64::try_from(warmed.steps() + ours.steps())?;
    ensure!(all_there(&apis, &ada, wanted).await?, "not all of {wanted} events are there");
    bench.table.push(Row {
        name: ROWS[0],
        what: format!(
            "send events over the mesh through two routers, {CLIENTS} connections (raw: axum, JetStream and PostgreSQL alone)"
        ),
        ours: ours.rate,
        raw: Some(raw),
        ratio: Some(ours.rate / raw),
        unit: "/s",
        target: Target::AtLeast(10_000.0),
    });
    apis.close().await
}

async fn all_there(apis: &Apis, who: &Person, wanted: u64) -> Result<bool> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let stats = ask(&apis.http, Method::GET, &apis.routers[1], "/api/events/stats", who, None).await?;
        let total = stats["totalEvents"].as_u64().with_context(|| stats.to_string())?;
        if total >= wanted || tokio::time::Instant::now() >= deadline {
            return Ok(total == wanted);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ask(
    http: &Client,
    method: Method,
    base: &str,
    path: &str,
    who: &Person,
    body: Option<Value>,
) -> Result<Value> {
    let mut request = http.request(method, format!("{base}{path}")).bearer_auth(&who.token);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await?;
    let (status, body) = (answer.status(), answer.bytes().await?);
    ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
    Ok(serde_json::from_slice(&body)?)
}
