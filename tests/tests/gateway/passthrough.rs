//! Calls of a provider's own API: passed on as they come, with the key put in, metered, and with one end whatever happens.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Request, StatusCode},
    response::{IntoResponse, Redirect, Response},
};
use futures::StreamExt;
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use symbia_tests::binary::until;
use tokio::sync::Semaphore;

use crate::{
    Tested,
    stage::{Person, Stage},
    vendor::KEYS,
};

const KEY: &str = "sk-adas-own-secret-24680";
const CHAT: &str = "chat/completions";

/// A request, as it came.
struct Came {
    what: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A provider that notes what it gets to the byte.
#[derive(Clone)]
struct Upstream {
    came: Arc<Mutex<Vec<Came>>>,
    base: String,
    // Lets a stream go on.
    gate: Arc<Semaphore>,
}

impl Upstream {
    async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}/v1", listener.local_addr()?);
        let upstream = Upstream { came: Arc::default(), base, gate: Arc::new(Semaphore::new(0)) };
        let app = Router::new().fallback(answer).with_state(upstream.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(upstream)
    }

    fn came(&self) -> Vec<Came> {
        std::mem::take(&mut self.came.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn stage(&self) -> anyhow::Result<Stage> {
        Stage::with_variables(&[("OPENAI_BASE_URL", &self.base)]).await
    }
}

async fn answer(State(upstream): State<Upstream>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 * 1024 * 1024).await.unwrap_or_default();
    let what = format!("{} {}", parts.method, parts.uri);
    let came = Came { what, headers: parts.headers, body };
    upstream.came.lock().unwrap_or_else(PoisonError::into_inner).push(came);
    match parts.uri.path() {
        "/v1/away" => Redirect::temporary("http://localhost:9/lured").into_response(),
        "/v1/busy" => (StatusCode::TOO_MANY_REQUESTS, "come back later").into_response(),
        "/v1/completions" => {
            let first = "data: {\"model\":\"fake\",\"choices\":[{\"delta\":{\"content\":\"2\"}}]}\n\n";
            let rest =
                "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
            let rest = futures::stream::once(async move {
                if let Ok(turn) = upstream.gate.acquire().await {
                    turn.forget();
                }
                Ok::<_, std::convert::Infallible>(Bytes::from(rest))
            });
            let pieces = futures::stream::iter([Ok(Bytes::from(first))]).chain(rest);
            ([("content-type", "text/event-stream")], Body::from_stream(pieces)).into_response()
        }
        _ => {
            let said = "{\"model\": \"fake-2026\",  \"usage\":{\"prompt_tokens\":12,\"completion_tokens\":6}}";
            let mut response = ([("content-type", "application/json"), ("x-of-theirs", "1")], said).into_response();
            response.headers_mut().insert("set-cookie", HeaderValue::from_static("session=theirs"));
            response
        }
    }
}

fn request(stage: &Stage, token: &str, method: &str, path: &str) -> anyhow::Result<reqwest::RequestBuilder> {
    let client = reqwest::Client::builder().redirect(Policy::none()).build()?;
    let url = format!("{}/api/integrations/passthrough/openai/{path}", stage.gateway);
    Ok(client.request(method.parse()?, url).bearer_auth(token))
}

async fn post(stage: &Stage, token: &str, path: &str, body: impl Into<String>) -> anyhow::Result<reqwest::Response> {
    let request = request(stage, token, "POST", path)?.header("content-type", "application/json");
    Ok(request.body(body.into()).send().await?)
}

fn id_of(response: &reqwest::Response) -> anyhow::Result<String> {
    let id = response.headers().get("x-symbia-request-id").context("no id")?;
    Ok(id.to_str()?.to_owned())
}

async fn ended(stage: &Stage, who: &Person, id: &str) -> anyhow::Result<Value> {
    let path = format!("/api/integrations/executions/{id}");
    let read = || async { Ok(stage.ask(who, "GET", &path, None).await?.body["endedAt"].is_string()) };
    until("the call has its end", read).await?;
    Ok(stage.ask(who, "GET", &path, None).await?.body)
}

async fn used(stage: &Stage, who: &Person) -> anyhow::Result<Value> {
    let used = stage.ask(who, "GET", "/api/integrations/usage", None).await?;
    Ok(used.body["summary"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_passed_on_as_it_is_with_the_key_and_counts() -> Tested {
    let upstream = Upstream::start().await?;
    let stage = upstream.stage().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let keep = json!({ "provider": "openai", "name": "mine", "apiKey": KEY });
    let kept = stage.http.post(format!("{}/api/credentials", stage.identity)).bearer_auth(&ada.token).json(&keep);
    kept.send().await?.error_for_status()?;

    // To the byte, without what says who calls; and back.
    let body = "{ \"model\":\"fake\",\n  \"odd\" : [1,2 ] }";
    let sent = request(&stage, &ada.token, "POST", "chat/completions?x=1%2F2&y")?
        .header("content-type", "application/json")
        .header("x-org-id", &ada.org)
        .header("cookie", "token=adas")
        .header("x-api-key", "not-theirs")
        .header("openai-beta", "thing")
        .body(body);
    let answered = sent.send().await?;
    ensure!(answered.status() == 200, "{} {}", answered.status(), answered.text().await?);
    ensure!(answered.headers().get("set-cookie").is_none(), "a cookie comes back");
    ensure!(answered.headers().get("x-of-theirs").is_some(), "a header got lost");
    let id = id_of(&answered)?;
    let said = answered.text().await?;
    ensure!(said.contains("\"fake-2026\",  \"usage\""), "{said}");
    let came = upstream.came();
    ensure!(came.len() == 1 && came[0].what == "POST /v1/chat/completions?x=1%2F2&y", "{:?}", came[0].what);
    let header = |name: &str| came[0].headers.get(name).and_then(|value| value.to_str().ok());
    ensure!(came[0].body == body.as_bytes() && header("openai-beta") == Some("thing"), "{:?}", came[0].headers);
    ensure!(header("authorization") == Some(format!("Bearer {KEY}").as_str()), "another key");
    for name in ["cookie", "x-api-key", "x-org-id", "x-request-id", "traceparent"] {
        ensure!(header(name).is_none(), "{name} is passed on");
    }
    let row = ended(&stage, &ada, &id).await?;
    ensure!(row["operation"] == "passthrough" && row["status"] == "completed" && row["totalTokens"] == 18, "{row}");
    ensure!(row["credentialSource"] == "personal" && row["model"] == "fake" && row["attempts"] == 1, "{row}");

    // Bob has another key, and sees nothing of ada's.
    ensure!(request(&stage, &bob.token, "GET", "models")?.send().await?.status() == 200, "bob's call is not passed on");
    let came = upstream.came();
    let key = came[0].headers.get("authorization").and_then(|value| value.to_str().ok());
    ensure!(came[0].what == "GET /v1/models" && key == Some(format!("Bearer {}", KEYS[0]).as_str()), "{key:?}");
    ensure!(stage.ask(&bob, "GET", &format!("/api/integrations/executions/{id}"), None).await?.status == 404);
    ensure!(request(&stage, &bob.token, "GET", "models")?.header("x-org-id", &ada.org).send().await?.status() == 403);

    // The installation's account keeps nothing for others.
    for (method, path) in
        [("GET", "files"), ("GET", "files/file-1/content"), ("DELETE", "files/file-1"), ("POST", "responses")]
    {
        let kept = request(&stage, &bob.token, method, path)?.send().await?;
        let status = kept.status();
        ensure!(status == 403 && kept.text().await?.contains("a key of your own"), "{method} {path}: {status}");
    }
    ensure!(upstream.came().is_empty(), "the installation's account is open");

    // It stays below the base URL, and follows nothing.
    for path in ["a%2F..%2F..%2Fadmin", "a%5Cb", "a%252Fb", "a//b", "https%3A//x.example/"] {
        ensure!(request(&stage, &ada.token, "GET", path)?.send().await?.status() == 400, "{path}");
    }
    let away = request(&stage, &ada.token, "GET", "away")?.send().await?;
    ensure!(away.status() == 307, "{}", away.status());
    let busy = request(&stage, &ada.token, "GET", "busy")?.send().await?;
    let (status, id) = (busy.status(), id_of(&busy)?);
    ensure!(status == 429 && busy.text().await? == "come back later", "an error is not passed back: {status}");
    let row = ended(&stage, &ada, &id).await?;
    ensure!(
        row["status"] == "failed" && row["errorCategory"] == "rate_limit" && row["errorCode"] == "http_429",
        "{row}"
    );
    let unknown = format!("{}/api/integrations/passthrough/symbia-labs/x", stage.gateway);
    ensure!(stage.http.get(unknown).bearer_auth(&ada.token).send().await?.status() == 404);
    upstream.came();

    // Where the organization lets it go, as far as its key reaches, and while there is room.
    let deny = json!({ "denyHosts": ["127.0.0.1"] });
    stage.ask(&ada, "PUT", "/api/integrations/egress-policy", Some(deny)).await?;
    let kept_in = post(&stage, &ada.token, CHAT, body).await?;
    ensure!(kept_in.status() == 403 && kept_in.text().await?.contains("denyHosts"), "the policy does not hold");
    stage.ask(&ada, "PUT", "/api/integrations/egress-policy", Some(json!({}))).await?;
    let (_, key) = stage.mint(&ada, json!(["model:openai/fake"])).await?;
    for (path, body) in [
        (CHAT, "{\"model\":\"other\"}"),
        (CHAT, "{\"model\":\"fake\",\"model\":\"other\"}"),
        (CHAT, "{\"messages\":[]}"),
        ("models/other/x", "{\"model\":\"fake\"}"),
    ] {
        let refused = post(&stage, &key, path, body).await?;
        ensure!(refused.status() == 403, "{path} {body}: {}", refused.status());
    }
    ensure!(upstream.came().is_empty(), "the provider was asked");
    ensure!(post(&stage, &key, CHAT, body).await?.status() == 200, "the key does not reach its model");
    let limit = json!({ "scope": "model", "subject": "rare", "period": "total", "unit": "requests", "limit": 1 });
    stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(limit)).await?;
    let rare = "{\"model\":\"rare\"}";
    let used_up = || async { Ok(post(&stage, &ada.token, CHAT, rare).await?.status() == 402) };
    until("the budget is used up", used_up).await?;
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_comes_as_it_is_said_and_has_one_end_whoever_is_lost() -> Tested {
    let upstream = Upstream::start().await?;
    let mut stage = upstream.stage().await?;
    let ada = stage.register("ada").await?;
    let body = "{\"model\":\"fake\",\"stream\":true}";

    // The first piece is there while the provider still thinks.
    let mut streamed = post(&stage, &ada.token, "completions", body).await?;
    let id = id_of(&streamed)?;
    let first = tokio::time::timeout(Duration::from_secs(5), streamed.chunk()).await??.context("no piece")?;
    ensure!(first.starts_with(b"data: {\"model\""), "{first:?}");
    upstream.gate.add_permits(1);
    let mut rest = Vec::new();
    while let Some(piece) = streamed.chunk().await? {
        rest.extend_from_slice(&piece);
    }
    ensure!(rest.ends_with(b"data: [DONE]\n\n"), "{}", String::from_utf8_lossy(&rest));
    let row = ended(&stage, &ada, &id).await?;
    ensure!(row["status"] == "completed" && row["totalTokens"] == 9, "{row}");

    // Who goes away leaves an end behind.
    let gone = post(&stage, &ada.token, "completions", body).await?;
    let id = id_of(&gone)?;
    drop(gone);
    let row = ended(&stage, &ada, &id).await?;
    ensure!(row["status"] == "failed" && row["errorCode"] == "client_disconnect", "{row}");

    // So does who dies: nobody calls again, and it counts once.
    let before = used(&stage, &ada).await?["totalRequests"].as_u64().context("no sum")?;
    upstream.came();
    let request = request(&stage, &ada.token, "POST", "completions")?.header("x-symbia-timeout-ms", "1000");
    let mut dying = request.header("content-type", "application/json").body(body).send().await?;
    let id = id_of(&dying)?;
    dying.chunk().await?;
    stage.house.kill()?;
    let usual = stage.vendor.clone();
    let variables = [&usual.variables()[..], &[("OPENAI_BASE_URL", upstream.base.as_str())][..]].concat();
    stage.restart_with(&variables)?;
    let row = ended(&stage, &ada, &id).await?;
    ensure!(row["status"] == "failed" && row["errorCode"] == "front_lost", "{row}");
    ensure!(upstream.came().len() == 1, "it was made again");
    ensure!(used(&stage, &ada).await?["totalRequests"] == before + 1, "it counts twice");
    Ok(())
}
