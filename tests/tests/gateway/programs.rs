//! Programs as channels: what goes either way is signed as in Standard Webhooks.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::{Value, json};
use symbia_events::messaging::webhook_signature;
use symbia_tests::binary::until;
use time::OffsetDateTime;

use crate::{Tested, stage::Stage};

const CHANNELS: &str = "/api/integrations/channels/webhook";

/// What it was told, with the headers.
type Told = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

async fn program() -> anyhow::Result<(Told, String)> {
    let told = Told::default();
    // It is not well the first time.
    let take = async |State(told): State<Told>, headers: HeaderMap, body: Bytes| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        told.push((headers, body));
        if told.len() == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT }
    };
    let app = Router::new().route("/told", post(take)).with_state(Arc::clone(&told));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/told", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((told, url))
}

struct Program {
    stage: Stage,
    door: String,
    secret: String,
}

impl Program {
    /// Tells something under an id, at a time, with a signature of a secret.
    async fn tells(&self, id: &str, at: i64, secret: &str, body: &Value) -> anyhow::Result<u16> {
        let body = body.to_string();
        let signature = webhook_signature(secret, id, at, body.as_bytes()).context("no secret")?;
        let request = self.stage.http.post(&self.door).body(body).header("webhook-id", id);
        let request = request.header("webhook-timestamp", at).header("webhook-signature", format!("v1,x {signature}"));
        Ok(request.send().await?.status().as_u16())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_tells_and_is_told_under_signatures() -> Tested {
    let (told, url) = program().await?;
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let inner = json!({ "config": { "targetUrl": "http://10.0.0.1/told" } });
    let inner = stage.ask(&ada, "POST", &format!("{CHANNELS}/connect"), Some(inner)).await?;
    ensure!(inner.status == 400 && inner.body["reason"] == "address_not_allowed", "{}", inner.body);
    let body = json!({ "config": { "targetUrl": url } });
    let connected = stage.ask(&ada, "POST", &format!("{CHANNELS}/connect"), Some(body)).await?;
    ensure!(connected.status == 200, "{}", connected.body);
    let text = |name: &str| connected.body[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
    let (secret, door) = (text("webhookSecret")?, text("webhookUrl")?);
    let program = Program { stage, door, secret };

    let said = json!({ "type": "channel.message.inbound", "data": { "id": "m1", "text": "/help",
        "sender": { "id": "u1", "name": "Grace" }, "chat": { "id": "room", "type": "group", "name": "Room" } } });
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let other = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    ensure!(program.tells("w1", now, other, &said).await? == 403, "another's secret");
    ensure!(program.tells("w1", now - 600, &program.secret, &said).await? == 403, "an old one");
    ensure!(program.tells("w0", now, &program.secret, &json!({ "data": {} })).await? == 400, "nothing is said");
    for _ in 0..2 {
        ensure!(program.tells("w1", now, &program.secret, &said).await? == 200, "it is not taken");
    }
    let all = || told.lock().unwrap_or_else(PoisonError::into_inner).clone();
    until("it is told again", || async { Ok(all().len() >= 2) }).await?;
    let told = all();
    ensure!(told.len() == 2, "{told:?}");
    let header =
        |n: usize, name: &str| told[n].0.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    ensure!(header(0, "webhook-id") == header(1, "webhook-id"), "another id for the same");
    let at = header(1, "webhook-timestamp").parse()?;
    let signature = webhook_signature(&program.secret, &header(1, "webhook-id"), at, &told[1].1);
    ensure!(signature.as_deref() == Some(header(1, "webhook-signature").as_str()), "the signature");
    let body: Value = serde_json::from_slice(&told[1].1)?;
    ensure!(body["data"]["chatId"] == "room", "{body}");
    ensure!(body["data"]["text"].as_str().is_some_and(|text| text.starts_with("I am Symbia.")), "{body}");
    let stage = &program.stage;
    let found = stage.ask_at(&stage.messaging, &ada, "GET", "/api/conversations", None).await?.body;
    ensure!(found[0]["type"] == "group" && found[0]["name"] == "Room" && found[1].is_null(), "{found}");
    Ok(())
}
