//! Slack: what is said in threads there is answered in them; its calls are signed, and what is not is not heard. The Slack here
//! is the tests' own, and as strict as the real one about tokens, threads and lengths.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::ensure;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use symbia_events::integrations::slack_signature;
use symbia_tests::binary::{Installation, until};
use time::OffsetDateTime;

use crate::{
    Tested,
    channels::{stored, text},
    stage::{Answered, Person, Stage},
    vendor::Vendor,
};

const TOKEN: &str = "xoxb-CANARY-slack-token";
const SIGNING: &str = "CANARY0signing0secret0of0the0app";
const CHANNELS: &str = "/api/integrations/channels/slack";

#[derive(Default)]
struct Book {
    calls: Vec<(String, Value)>,
    /// Wants to be left alone, so many times.
    busy: u32,
    revoked: bool,
    /// Whose token it is: a person's.
    personal: bool,
}

/// A Slack.
#[derive(Clone, Default)]
struct FakeSlack {
    book: Arc<Mutex<Book>>,
    base: String,
}

impl FakeSlack {
    async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let slack = FakeSlack { base: format!("http://{}", listener.local_addr()?), ..FakeSlack::default() };
        let routes = Router::new()
            .route("/api/{method}", post(called))
            .route("/oauth/access", post(granted))
            .route("/files/{name}", get(file));
        let app = routes.with_state(slack.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(slack)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The messages that it took.
    fn said(&self) -> Vec<Value> {
        let book = self.book();
        book.calls.iter().filter(|(method, _)| method == "chat.postMessage").map(|(_, body)| body.clone()).collect()
    }
}

fn bears(headers: &HeaderMap) -> bool {
    headers.get("authorization").and_then(|value| value.to_str().ok()) == Some(&format!("Bearer {TOKEN}"))
}

async fn called(
    State(slack): State<FakeSlack>,
    Path(method): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let mut book = slack.book();
    let fails = |code: &str| Json(json!({ "ok": false, "error": code })).into_response();
    if book.revoked || !bears(&headers) {
        return fails("invalid_auth");
    }
    match method.as_str() {
        "auth.test" => {
            let bot = if book.personal { Value::Null } else { json!("B0") };
            Json(json!({ "ok": true, "url": "https://acme.slack.com/", "team": "Acme", "user": "symbia",
                "team_id": "T1", "user_id": "U0", "bot_id": bot }))
            .into_response()
        }
        "chat.postMessage" => {
            if book.busy > 0 {
                book.busy -= 1;
                let body = Json(json!({ "ok": false, "error": "ratelimited" }));
                return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], body).into_response();
            }
            let words = body["text"].as_str().unwrap_or_default();
            if words.is_empty() {
                return fails("no_text");
            }
            if words.chars().count() > 4000 {
                return fails("msg_too_long");
            }
            if body["channel"] == "C404" {
                return fails("channel_not_found");
            }
            book.calls.push((method, body.clone()));
            Json(json!({ "ok": true, "channel": body["channel"], "ts": format!("1800000000.{:06}", book.calls.len()) }))
                .into_response()
        }
        _ => fails("unknown_method"),
    }
}

// What an app is given that somebody let into their workspace (`oauth.v2.access`): the bot's token, and who it was.
async fn granted(headers: HeaderMap) -> Response {
    if headers.get("authorization").is_none_or(|value| !value.as_bytes().starts_with(b"Basic ")) {
        return Json(json!({ "ok": false, "error": "bad_client_secret" })).into_response();
    }
    Json(json!({ "ok": true, "access_token": TOKEN, "token_type": "bot", "scope": "chat:write,files:read",
        "bot_user_id": "U0", "team": { "id": "T1", "name": "Acme" }, "authed_user": { "id": "U1" } }))
    .into_response()
}

async fn file(State(_): State<FakeSlack>, Path(name): Path<String>, headers: HeaderMap) -> Result<String, StatusCode> {
    if bears(&headers) { Ok(format!("content of {name}")) } else { Err(StatusCode::FORBIDDEN) }
}

/// A workspace that Ada connected.
struct Workspace {
    stage: Stage,
    slack: FakeSlack,
    ada: Person,
    id: String,
    door: String,
}

// The bot's token, as it is kept when somebody links their workspace.
async fn linked(stage: &Stage, ada: &Person, slack: &FakeSlack) -> anyhow::Result<Value> {
    let back = "http://127.0.0.1:1/back";
    let client = json!({ "clientId": "symbia", "clientSecret": "CANARY-client-secret", "redirectUris": [back],
        "authorizationUrl": format!("{}/oauth/authorize", slack.base), "tokenUrl": format!("{}/oauth/access", slack.base),
        "clientAuth": "basic", "defaultScopes": ["chat:write", "files:read"] });
    let set = stage.ask(ada, "PUT", "/api/oauth/provider-configs/slack", Some(client)).await?;
    ensure!(set.status == 200, "{} {}", set.status, set.body);
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let begin = json!({ "provider": "slack", "redirectUri": back });
    let begun = http.post(format!("{}/api/oauth/authorize", stage.gateway)).bearer_auth(&ada.token).json(&begin);
    let begun = begun.send().await?.error_for_status()?;
    let cookie = begun.headers().get("set-cookie").and_then(|cookie| cookie.to_str().ok()).unwrap_or_default();
    let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
    let state = text(&begun.json::<Value>().await?["state"])?;
    let url = format!("{}/api/oauth/callback?code=c1&state={state}", stage.gateway);
    let place = http.get(url).header("cookie", cookie).send().await?;
    let place = place.headers().get("location").and_then(|place| place.to_str().ok()).unwrap_or_default().to_owned();
    ensure!(place.starts_with(back) && !place.contains("error"), "{place}");
    let all = stage.ask_at(&stage.identity, ada, "GET", "/api/credentials", None).await?.body;
    let all = all["credentials"].as_array().or(all.as_array()).cloned().unwrap_or_default();
    Ok(all.into_iter().find(|kept| kept["provider"] == "slack").map(|kept| kept["id"].clone()).unwrap_or_default())
}

impl Workspace {
    async fn open() -> anyhow::Result<Self> {
        Self::open_with(false).await
    }

    async fn open_with(linking: bool) -> anyhow::Result<Self> {
        let slack = FakeSlack::start().await?;
        let base = format!("{}/api", slack.base);
        let (house, vendor) = (Installation::new()?, Vendor::start().await?);
        let stage = Stage::with(house, &["--skip-admin"], vendor, &[("SLACK_BASE_URL", base.as_str())])?;
        let ada = stage.register("ada").await?;
        let credential = if linking {
            linked(&stage, &ada, &slack).await?
        } else {
            let token = json!({ "provider": "slack", "name": "bot", "apiKey": TOKEN });
            let kept = stage.ask_at(&stage.identity, &ada, "POST", "/api/credentials", Some(token)).await?;
            ensure!(kept.status < 300, "{}", kept.body);
            kept.body["id"].clone()
        };
        let unsigned = stage.ask(&ada, "POST", &format!("{CHANNELS}/connect"), Some(json!({}))).await?;
        ensure!(unsigned.status == 400 && unsigned.body["code"] == "VALIDATION_FAILED", "{}", unsigned.body);
        let body = json!({ "credentialId": credential, "signingSecret": SIGNING });
        slack.book().personal = true;
        let refused = stage.ask(&ada, "POST", &format!("{CHANNELS}/connect"), Some(body.clone())).await?.body;
        ensure!(refused["reason"] == "not_a_bot", "{refused}");
        slack.book().personal = false;
        let connected = stage.ask(&ada, "POST", &format!("{CHANNELS}/connect"), Some(body)).await?.body;
        ensure!(connected["status"] == "connected", "{connected}");
        ensure!(connected["channelAccountId"] == "T1:U0", "{connected}");
        ensure!(connected["channelAccountName"] == "symbia (Acme)", "{connected}");
        let (id, door) = (text(&connected["connectionId"])?, text(&connected["webhookUrl"])?);
        Ok(Workspace { stage, slack, ada, id, door })
    }

    async fn calls(&self, at: i64, secret: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let body = body.to_string();
        let signature = slack_signature(secret, at, body.as_bytes());
        let request = self.stage.http.post(&self.door).header("content-type", "application/json").body(body);
        let request = request.header("x-slack-request-timestamp", at.to_string());
        let answer = request.header("x-slack-signature", signature).send().await?;
        Ok((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
    }

    async fn tells(&self, id: &str, event: Value) -> Tested {
        let call = json!({ "type": "event_callback", "team_id": "T1", "event_id": id, "event": event });
        let (status, body) = self.calls(OffsetDateTime::now_utc().unix_timestamp(), SIGNING, &call).await?;
        ensure!(status == 200, "{status} {body}");
        Ok(())
    }

    async fn mine(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Answered> {
        self.stage.ask(&self.ada, method, &format!("{CHANNELS}{path}"), body).await
    }

    async fn conversations(&self) -> anyhow::Result<Vec<Value>> {
        let stage = &self.stage;
        let found = stage.ask_at(&stage.messaging, &self.ada, "GET", "/api/conversations", None).await?;
        Ok(found.body.as_array().cloned().unwrap_or_default())
    }

    // What people said in the only conversation, the first first.
    async fn messages(&self) -> anyhow::Result<Vec<Value>> {
        let Some(conversation) = self.conversations().await?.pop() else { return Ok(Vec::new()) };
        let path = format!("/api/conversations/{}/messages", text(&conversation["id"])?);
        let found = self.stage.ask_at(&self.stage.messaging, &self.ada, "GET", &path, None).await?;
        let mut messages = found.body.as_array().cloned().unwrap_or_default();
        messages.retain(|message| message["sender_type"] == "user");
        messages.sort_by_key(|message| message["sequence"].as_i64());
        Ok(messages)
    }
}

fn said(ts: &str, words: &str) -> Value {
    json!({ "type": "message", "channel": "C1", "channel_type": "channel", "user": "U1", "text": words, "ts": ts })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_in_a_thread_is_answered_there_and_only_slack_is_heard() -> Tested {
    let workspace = Workspace::open().await?;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let asked = json!({ "type": "url_verification", "token": "x", "challenge": "3eZbrw1aBm2rZgRNFdxV" });
    let (status, body) = workspace.calls(now, SIGNING, &asked).await?;
    ensure!(status == 200 && body["challenge"] == asked["challenge"], "{status} {body}");
    ensure!(workspace.calls(now - 600, SIGNING, &asked).await?.0 == 403, "an old call is heard");
    ensure!(workspace.calls(now, "another0secret00", &asked).await?.0 == 403, "another's call is heard");
    ensure!(workspace.stage.http.post(&workspace.door).json(&asked).send().await?.status() == 403, "an unsigned one");

    // Told again, as Slack does when it was not thanked in time; and what a bot says.
    workspace.slack.book().busy = 1;
    for _ in 0..2 {
        workspace.tells("Ev1", said("1700000000.000100", "/help")).await?;
    }
    let mut own = said("1700000001.000100", "/help");
    own["bot_id"] = json!("B0");
    workspace.tells("Ev2", own).await?;
    until("it is answered", || async { Ok(!workspace.slack.said().is_empty()) }).await?;
    let answer = workspace.slack.said().remove(0);
    let expected = json!({ "channel": "C1", "thread_ts": "1700000000.000100", "mrkdwn": true,
        "unfurl_links": true, "unfurl_media": true, "text": answer["text"] });
    ensure!(answer == expected, "{answer}");
    let words = text(&answer["text"])?;
    ensure!(
        words.starts_with("I am Symbia.") && words.contains("• This help") && words.contains("`symbia log"),
        "{words}"
    );

    // What is said in the thread is said in the same conversation; edits and deletions are of it.
    let mut more = said("1700000002.000100", "<@U0> a &lt; b");
    more["thread_ts"] = json!("1700000000.000100");
    more["subtype"] = json!("file_share");
    more["files"] = json!([{ "id": "F1", "name": "a.txt", "mimetype": "text/plain", "size": 16,
        "url_private_download": format!("{}/files/a.txt", workspace.slack.base) }]);
    workspace.tells("Ev3", more).await?;
    until("it is said", || async { Ok(workspace.messages().await?.len() == 2) }).await?;
    let second = workspace.messages().await?.remove(1);
    ensure!(second["content"] == "@U0 a < b" && workspace.conversations().await?.len() == 1, "{second}");
    let file = text(&second["metadata"]["attachments"][0]["url"])?;
    let stage = &workspace.stage;
    let file = stage.ask_at(&stage.messaging, &workspace.ada, "GET", &file, None).await?;
    ensure!(file.body == "content of a.txt", "{}", file.body);
    let changed = |subtype: &str, new: Value| {
        let old = json!({ "user": "U1", "text": "/help", "ts": "1700000000.000100" });
        json!({ "type": "message", "subtype": subtype, "channel": "C1", "channel_type": "channel",
            "ts": "1700000009.000100", "message": new, "previous_message": old })
    };
    let new = json!({ "user": "U1", "text": "hello", "ts": "1700000000.000100", "edited": { "ts": "1700000003.0" } });
    workspace.tells("Ev4", changed("message_changed", new)).await?;
    until("the edit shows", || async { Ok(workspace.messages().await?[0]["content"] == "hello") }).await?;
    workspace.tells("Ev5", changed("message_deleted", Value::Null)).await?;
    until("it is gone", || async {
        Ok(workspace.messages().await?.iter().all(|message| message["content"] != "hello"))
    })
    .await?;

    let log = stored(stage).await?;
    ensure!(log.contains("channel-message-withdrawn"), "nothing is stored");
    ensure!(!log.contains(TOKEN) && !log.contains(SIGNING), "the log holds a secret");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_was_linked_is_its_organizations_and_a_long_text_is_said_in_parts() -> Tested {
    let workspace = Workspace::open_with(true).await?;
    let own = format!("/connections/{}", workspace.id);
    let eve = workspace.stage.register("eve").await?;
    for (method, path) in [("GET", "status"), ("POST", "disconnect"), ("POST", "send")] {
        let body = (method == "POST").then(|| json!({ "chatId": "C1", "text": "hi" }));
        let path = format!("{CHANNELS}{own}/{path}");
        ensure!(workspace.stage.ask(&eve, method, &path, body).await?.status == 404, "{method} {path}");
    }
    let long = vec!["word ".repeat(450); 3].join("\n\n");
    let body = json!({ "chatId": "C1/1700000000.000100", "text": long });
    let sent = workspace.mine("POST", &format!("{own}/send"), Some(body)).await?;
    ensure!(sent.body["messageIds"].as_array().is_some_and(|ids| ids.len() == 3), "{}", sent.body);
    let said = workspace.slack.said();
    ensure!(said.iter().all(|part| part["thread_ts"] == "1700000000.000100"), "{said:?}");
    // A part ends where a word does, without the space.
    let words: Vec<usize> =
        said.iter().filter_map(|part| part["text"].as_str()).map(|text| text.split_whitespace().count()).collect();
    ensure!(words.iter().sum::<usize>() == 1350, "{words:?}");
    let refused = json!({ "chatId": "C404", "text": "hi" });
    let refused = workspace.mine("POST", &format!("{own}/send"), Some(refused)).await?;
    ensure!(refused.status == 400 && refused.body["reason"] == "forbidden", "{}", refused.body);
    let status = workspace.mine("GET", &format!("{own}/status"), None).await?.body;
    ensure!(status["status"] == "connected" && status["messagesSent"] == 1, "{status}");
    workspace.slack.book().revoked = true;
    let status = workspace.mine("GET", &format!("{own}/status"), None).await?.body;
    ensure!(status["status"] == "error" && status["error"] == "unauthorized", "{status}");
    let ended = workspace.mine("POST", &format!("{own}/disconnect"), Some(json!({}))).await?;
    ensure!(ended.body["status"] == "disconnected", "{}", ended.body);
    until("the signing secret is forgotten", || async {
        let asked = json!({ "type": "url_verification", "challenge": "x" });
        Ok(workspace.calls(OffsetDateTime::now_utc().unix_timestamp(), SIGNING, &asked).await?.0 == 403)
    })
    .await?;
    Ok(())
}
