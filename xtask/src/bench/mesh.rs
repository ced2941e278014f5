//! Events over the mesh: how many two routers take in a second on the durable lane, and that each of them is there afterwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use symbia_nats::broker::Durability;

use super::{
    Bench,
    api::{Apis, PATIENCE, Person, register},
    measure::Lanes,
    messages::{bare_writes, write_bare},
    table::{Row, Target},
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

    let (sent, who) = (Arc::new(AtomicU64::new(0)), Arc::new(ada.clone()));
    let count = Arc::clone(&sent);
    let send = move |(http, router, lane): (Client, Arc<str>, usize)| {
        let (count, who) = (Arc::clone(&count), Arc::clone(&who));
        async move {
            let event = json!({ "payload": { "type": "order.paid", "data": { "n": 1 } }, "source": "a",
                "runId": format!("run-{lane}") });
            ask(&http, Method::POST, &router, "/api/events", &who, Some(event)).await?;
            count.fetch_add(1, Ordering::Relaxed);
            anyhow::Ok((http, router, lane))
        }
    };
    // Each run goes through both routers.
    let lane = |at: usize| (Client::new(), Arc::from(apis.routers[at % 2].as_str()), at / 2);
    let mut lanes = Lanes::deal((0..CLIENTS).map(lane), CLIENTS);
    lanes.run(WARM, send.clone()).await?;
    let rate = lanes.run(bench.scale.round, send).await?.rate;
    let bare: Arc<str> = bare_writes(&apis).await?.into();
    let write = move |http| write_bare(http, Arc::clone(&bare));
    let mut bare_lanes = Lanes::deal((0..CLIENTS).map(|_| Client::new()), CLIENTS);
    bare_lanes.run(WARM, write.clone()).await?;
    let raw = bare_lanes.run(bench.scale.round, write).await?.rate;

    let wanted = sent.load(Ordering::Relaxed);
    ensure!(all_there(&apis, &ada, wanted).await?, "not all of {wanted} events are there");
    bench.table.push(Row {
        name: ROWS[0],
        what: format!(
            "send events over the mesh through two routers, {CLIENTS} connections (raw: axum, JetStream and PostgreSQL alone)"
        ),
        ours: rate,
        raw: Some(raw),
        ratio: Some(rate / raw),
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
