//! The gateway's front: what a request through it takes beyond the same request to the provider itself, and how many it
//! answers; its durable events included. Rows that appear when the release build of `symbia` is there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::{Json, Router, http::HeaderMap, response::IntoResponse, routing::post};
use serde_json::{Value, json};

use super::{
    Bench,
    measure::{Lanes, percentile},
    process::Symbia,
    table::{Row, Target},
};

/// Rows of this group.
pub const ROWS: [&str; 3] = ["gateway_overhead_p50", "gateway_overhead_p99", "gateway_rps"];
/// Who ask at once, for the rate.
const ASKERS: usize = 64;

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let provider = provider().await?;
    let variables = [("OPENAI_BASE_URL", provider.as_str()), ("OPENAI_API_KEY", "sk-bench")];
    let Some(symbia) = Symbia::start_with(&variables).await? else { return Ok(()) };
    let (identity, gateway) = (symbia.base(5001), symbia.base(5007));
    let http = reqwest::Client::new();
    let ada = json!({ "email": "ada@example.test", "password": "ada's password", "name": "Ada", "orgName": "Ada" });
    let registered = http.post(format!("{identity}/api/auth/register")).json(&ada).send().await?.error_for_status()?;
    let registered: Value = registered.json().await?;
    let token = registered["token"].as_str().context("no token")?.to_owned();

    let (direct, through) = (
        Asker { http: http.clone(), url: format!("{provider}/chat/completions"), token: "sk-bench".to_owned() },
        Asker { http, url: format!("{gateway}/v1/chat/completions"), token },
    );
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    // In turn, so that both meet the same machine.
    for _ in 0..bench.scale.samples {
        raw.push(direct.ask().await?);
        ours.push(through.ask().await?);
    }
    for (name, share) in [(ROWS[0], 0.5), (ROWS[1], 0.99)] {
        let (raw, ours) = (percentile(&raw, share), percentile(&ours, share));
        let added = ours.saturating_sub(raw).as_secs_f64() * 1e3;
        let what = format!("fsync: added to a request to the provider, p{:.0}", share * 100.0);
        let target = Target::AtMost(if share < 0.9 { 0.5 } else { 2.0 });
        let (unit, ratio) = ("ms", None);
        bench.table.push(Row { name, what, ours: added, raw: Some(raw.as_secs_f64() * 1e3), ratio, unit, target });
    }
    let mut lanes = Lanes::deal((0..ASKERS).map(|_| ()), ASKERS);
    let ask = move |(): ()| {
        let through = through.clone();
        async move { through.ask().await.map(|_| ()) }
    };
    lanes.run_times(2, ask.clone()).await?;
    let rate = lanes.run(bench.scale.round * 2, ask).await?.rate;
    let what = format!("fsync: requests through the gateway, {ASKERS} at once");
    let target = Target::AtLeast(2000.0);
    bench.table.push(Row { name: ROWS[2], what, ours: rate, raw: None, ratio: None, unit: "/s", target });
    symbia.stop().await
}

/// Asks one question and reads the answer.
#[derive(Clone)]
struct Asker {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Asker {
    async fn ask(&self) -> Result<Duration> {
        let body = json!({ "model": "openai/bench", "messages": [{ "role": "user", "content": "2+2?" }] });
        let began = Instant::now();
        let answer = self.http.post(&self.url).bearer_auth(&self.token).json(&body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success() && text.contains("four"), "{status}: {text}");
        Ok(began.elapsed())
    }
}

/// A provider that answers at once, as a stream when it is asked for one.
async fn provider() -> Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}/v1", listener.local_addr()?);
    let answer = |Json(body): Json<Value>| async move {
        let choice = |said: &str| {
            json!({ "id": "c", "model": "bench", "choices": [{ "index": 0, said: { "role": "assistant", "content": "four" },
                "finish_reason": "stop" }], "usage": { "prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6 } })
        };
        if body["stream"] != true {
            return Json(choice("message")).into_response();
        }
        let mut headers = HeaderMap::new();
        headers.insert("content-type", axum::http::HeaderValue::from_static("text/event-stream"));
        (headers, format!("data: {}\n\ndata: [DONE]\n\n", choice("delta"))).into_response()
    };
    let app = Router::new().route("/v1/chat/completions", post(answer));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(base)
}
