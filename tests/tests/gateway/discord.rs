//! Discord: the bot is told over a gateway that it holds open, goes on where it was when that breaks, and answers over HTTP. The
//! Discord here is the tests' own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::ensure;
use async_nats::jetstream;
use axum::{
    Json, Router,
    extract::{
        Path, State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use symbia_tests::binary::{Installation, until};
use tokio::sync::Notify;

use crate::{
    Tested,
    channels::{stored, text},
    stage::{Answered, Person, Stage},
    vendor::Vendor,
};

const TOKEN: &str = "OTAw.CANARY.discord-token";
const CHANNELS: &str = "/api/integrations/channels/discord";

#[derive(Default)]
struct Book {
    /// What was said over HTTP, with its channel.
    said: Vec<(String, Value)>,
    /// Wants to be left alone, so many times.
    busy: u32,
    /// What came over gateways: how sessions were begun or gone on with, and signs of life.
    begun: Vec<Value>,
    beats: Vec<Value>,
    /// What is told; the first is number 2.
    told: Vec<Value>,
    /// Breaks the gateway that is open: without a word, or with one.
    breaks: Option<Option<u16>>,
    closed: bool,
    /// Somebody waits for the slow file.
    waited_for: bool,
}

/// A Discord.
#[derive(Clone, Default)]
struct FakeDiscord {
    book: Arc<Mutex<Book>>,
    /// Lets the slow file go.
    goes: Arc<Notify>,
    at: String,
}

impl FakeDiscord {
    async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let discord = FakeDiscord { at: listener.local_addr()?.to_string(), ..FakeDiscord::default() };
        let routes = Router::new()
            .route("/api/users/@me", get(me))
            .route("/api/gateway/bot", get(gateway))
            .route("/api/channels/{id}/messages", post(say))
            .route("/api/channels/{id}/typing", post(types))
            .route("/gateway", get(opened))
            .route("/files/{name}", get(file));
        let app = routes.with_state(discord.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(discord)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, kind: &str, data: Value) {
        let mut book = self.book();
        let number = book.told.len() + 2;
        book.told.push(json!({ "op": 0, "t": kind, "s": number, "d": data }));
    }

    fn said(&self) -> Vec<(String, Value)> {
        self.book().said.clone()
    }
}

fn bears(headers: &HeaderMap) -> bool {
    headers.get("authorization").and_then(|value| value.to_str().ok()) == Some(&format!("Bot {TOKEN}"))
}

fn unauthorized() -> Response {
    (StatusCode::UNAUTHORIZED, Json(json!({ "message": "401: Unauthorized", "code": 0 }))).into_response()
}

async fn me(headers: HeaderMap) -> Response {
    if !bears(&headers) {
        return unauthorized();
    }
    Json(json!({ "id": "900", "username": "symbia", "bot": true })).into_response()
}

async fn gateway(State(discord): State<FakeDiscord>, headers: HeaderMap) -> Response {
    if !bears(&headers) {
        return unauthorized();
    }
    let limit = json!({ "total": 1000, "remaining": 999, "reset_after": 0, "max_concurrency": 1 });
    Json(json!({ "url": format!("ws://{}/gateway", discord.at), "shards": 1, "session_start_limit": limit }))
        .into_response()
}

async fn say(
    State(discord): State<FakeDiscord>,
    Path(channel): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    if !bears(&headers) {
        return unauthorized();
    }
    let mut book = discord.book();
    if book.busy > 0 {
        book.busy -= 1;
        let body = Json(json!({ "message": "You are being rate limited.", "retry_after": 0.3, "global": false }));
        return (StatusCode::TOO_MANY_REQUESTS, body).into_response();
    }
    let refuse = |code: u32| (StatusCode::FORBIDDEN, Json(json!({ "code": code, "message": "no" }))).into_response();
    if channel == "404" {
        return refuse(50_013);
    }
    if body["content"].as_str().is_none_or(|words| words.is_empty() || words.chars().count() > 2000) {
        return (StatusCode::BAD_REQUEST, Json(json!({ "code": 50_035 }))).into_response();
    }
    book.said.push((channel, body));
    Json(json!({ "id": format!("{}", 10_000 + book.said.len()) })).into_response()
}

async fn types() -> StatusCode {
    StatusCode::NO_CONTENT
}

async fn file(State(discord): State<FakeDiscord>, Path(name): Path<String>) -> Response {
    match name.as_str() {
        "busy.txt" => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "60")]).into_response(),
        "slow.txt" => {
            discord.book().waited_for = true;
            discord.goes.notified().await;
            "slow".into_response()
        }
        name => format!("content of {name}").into_response(),
    }
}

async fn opened(State(discord): State<FakeDiscord>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |socket| {
        // It ends when either side has had enough.
        let _ = discord.serves(socket).await;
    })
}

impl FakeDiscord {
    async fn serves(&self, mut socket: WebSocket) -> anyhow::Result<()> {
        let send = |value: Value| Message::text(value.to_string());
        socket.send(send(json!({ "op": 10, "d": { "heartbeat_interval": 200 } }))).await?;
        let (mut behind, mut look) = (None::<usize>, tokio::time::interval(Duration::from_millis(20)));
        loop {
            let message = tokio::select! {
                message = socket.recv() => message,
                _ = look.tick() => {
                    let breaks = self.book().breaks.take();
                    match breaks {
                        Some(Some(code)) => {
                            let frame = CloseFrame { code, reason: "".into() };
                            return Ok(socket.send(Message::Close(Some(frame))).await?);
                        }
                        Some(None) => return Ok(()),
                        None => {}
                    }
                    let next = behind.and_then(|behind| self.book().told.get(behind).cloned());
                    if let (Some(next), Some(count)) = (next, behind.as_mut()) {
                        socket.send(send(next)).await?;
                        *count += 1;
                    }
                    continue;
                }
            };
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(_))) => {
                    self.book().closed = true;
                    return Ok(());
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return Ok(()),
            };
            let told: Value = serde_json::from_str(&text)?;
            match told["op"].as_u64() {
                Some(1) => {
                    self.book().beats.push(told["d"].clone());
                    socket.send(send(json!({ "op": 11 }))).await?;
                }
                Some(op @ (2 | 6)) => {
                    ensure!(told["d"]["token"] == TOKEN, "another token");
                    self.book().begun.push(told.clone());
                    let resume = format!("ws://{}/gateway", self.at);
                    let begins = if op == 2 {
                        behind = Some(self.book().told.len());
                        json!({ "op": 0, "t": "READY", "s": 1, "d": { "session_id": "s1", "resume_gateway_url": resume,
                            "user": { "id": "900" } } })
                    } else {
                        // From one before: what was told already is told again.
                        let known = told["d"]["seq"].as_u64().unwrap_or_default().saturating_sub(2);
                        behind = Some(usize::try_from(known)?);
                        json!({ "op": 0, "t": "RESUMED", "s": told["d"]["seq"], "d": {} })
                    };
                    socket.send(send(begins)).await?;
                }
                _ => {}
            }
        }
    }
}

fn said(id: &str, words: &str) -> Value {
    json!({ "id": id, "channel_id": "7", "guild_id": "1", "type": 0, "content": words, "mentions": [],
        "timestamp": "2026-01-01T00:00:00.000000+00:00", "edited_timestamp": null, "attachments": [],
        "author": { "id": "42", "username": "grace", "global_name": "Grace" } })
}

fn attached(discord: &FakeDiscord, name: &str) -> Value {
    json!({ "id": "1", "filename": name, "content_type": "text/plain; charset=utf-8", "size": 16,
        "url": format!("http://{}/files/{name}", discord.at) })
}

/// A bot that Ada connected.
struct Bot {
    stage: Stage,
    discord: FakeDiscord,
    ada: Person,
    id: String,
}

impl Bot {
    async fn open() -> anyhow::Result<Self> {
        let discord = FakeDiscord::start().await?;
        let base = format!("http://{}/api", discord.at);
        let (house, vendor) = (Installation::new()?, Vendor::start().await?);
        let stage = Stage::with(house, &["--skip-admin"], vendor, &[("DISCORD_BASE_URL", base.as_str())])?;
        let ada = stage.register("ada").await?;
        let token = json!({ "provider": "discord", "name": "bot", "apiKey": TOKEN });
        let kept = stage.ask_at(&stage.identity, &ada, "POST", "/api/credentials", Some(token)).await?;
        let body = json!({ "credentialId": kept.body["id"] });
        let connected = stage.ask(&ada, "POST", &format!("{CHANNELS}/connect"), Some(body)).await?.body;
        ensure!(connected["status"] == "connected" && connected["channelAccountId"] == "900", "{connected}");
        let id = text(&connected["connectionId"])?;
        Ok(Bot { stage, discord, ada, id })
    }

    async fn mine(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Answered> {
        let path = format!("{CHANNELS}/connections/{}{path}", self.id);
        self.stage.ask(&self.ada, method, &path, body).await
    }

    // What people said in the only conversation, the first first.
    async fn messages(&self) -> anyhow::Result<Vec<Value>> {
        let (stage, ada) = (&self.stage, &self.ada);
        let found = stage.ask_at(&stage.messaging, ada, "GET", "/api/conversations", None).await?.body;
        ensure!(found[1].is_null(), "one channel is several conversations: {found}");
        let Some(id) = found[0]["id"].as_str() else { return Ok(Vec::new()) };
        let path = format!("/api/conversations/{id}/messages");
        let found = stage.ask_at(&stage.messaging, ada, "GET", &path, None).await?;
        let mut messages = found.body.as_array().cloned().unwrap_or_default();
        messages.retain(|message| message["sender_type"] == "user" && message["content"].is_string());
        messages.sort_by_key(|message| message["sequence"].as_i64());
        Ok(messages)
    }

    // A file that comes when its conversation was erased is not kept.
    async fn erased_meanwhile(&self) -> Tested {
        let (stage, ada, discord) = (&self.stage, &self.ada, &self.discord);
        let ignored = async || anyhow::Ok(stored(stage).await?.matches("channel-update-ignored.v1\"").count());
        let before = ignored().await?;
        let found = stage.ask_at(&stage.messaging, ada, "GET", "/api/conversations", None).await?.body;
        let conversation = text(&found[0]["id"])?;
        let path = format!("/api/conversations/{conversation}");
        let mut last = said("30", "look");
        last["attachments"] = json!([attached(discord, "slow.txt")]);
        discord.tell("MESSAGE_CREATE", last);
        until("the file is waited for", || async { Ok(discord.book().waited_for) }).await?;
        let erased = stage.ask_at(&stage.messaging, ada, "POST", &format!("{path}/erase"), Some(json!({}))).await?;
        ensure!(erased.status < 300, "{}", erased.body);
        until("the key is destroyed", || async {
            let file = stage.ask_at(&stage.messaging, ada, "GET", &format!("{path}/files/x"), None).await?;
            Ok(file.status == 410 || file.body["code"] == "CONVERSATION_NOT_FOUND")
        })
        .await?;
        discord.goes.notify_one();
        until("what came too late is ignored", || async { Ok(ignored().await? > before) }).await?;
        let files = jetstream::new(stage.house.nats().await?).get_stream("SYMBIA_FILES").await?;
        let kept = files.get_last_raw_message_by_subject(&format!("symbia.file.{}.{conversation}.>", ada.org)).await;
        ensure!(kept.is_err(), "a file is kept: {kept:?}");
        Ok(())
    }

    async fn has(&self, words: &[&str]) -> Tested {
        until("it is said", || async {
            Ok(self.messages().await?.iter().map(|message| message["content"].clone()).collect::<Vec<_>>() == words)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_held_open_and_gone_on_with_and_what_it_tells_is_answered() -> Tested {
    let mut bot = Bot::open().await?;
    let discord = bot.discord.clone();
    until("a session has begun", || async { Ok(!discord.book().begun.is_empty()) }).await?;
    let begun = discord.book().begun[0].clone();
    ensure!(begun["op"] == 2 && begun["d"]["intents"] == 37_376, "{begun}");

    // Busy the first time; and the bot hears neither itself nor others of its kind.
    discord.book().busy = 1;
    discord.tell("MESSAGE_CREATE", said("5", "/help"));
    let mut own = said("6", "/help");
    own["author"] = json!({ "id": "900", "username": "symbia" });
    let mut other = said("7", "/help");
    other["author"]["bot"] = json!(true);
    discord.tell("MESSAGE_CREATE", own);
    discord.tell("MESSAGE_CREATE", other);
    until("it is answered", || async { Ok(!discord.said().is_empty()) }).await?;
    let (channel, answer) = discord.said().remove(0);
    let words = text(&answer["content"])?;
    ensure!(channel == "7" && words.starts_with("I am Symbia.") && words.contains("`symbia log"), "{words}");
    ensure!(answer["allowed_mentions"] == json!({ "parse": [] }) && answer["enforce_nonce"] == true, "{answer}");
    bot.has(&["/help"]).await?;
    until("signs of life name the last", || async { Ok(discord.book().beats.last() == Some(&json!(4))) }).await?;

    // It breaks without a word: the session is gone on with, and what is told twice is said once.
    discord.book().breaks = Some(None);
    let mut more = said("8", "");
    // One that is to be had later is not waited for.
    more["attachments"] = json!([attached(&discord, "a.txt"), attached(&discord, "busy.txt")]);
    more["message_reference"] = json!({ "message_id": "5", "channel_id": "7" });
    more["type"] = json!(19);
    discord.tell("MESSAGE_CREATE", more);
    bot.has(&["/help", "[Attachment]"]).await?;
    let resumed = discord.book().begun[1].clone();
    ensure!(resumed["op"] == 6 && resumed["d"]["session_id"] == "s1" && resumed["d"]["seq"] == 4, "{resumed}");
    let second = bot.messages().await?.remove(1);
    ensure!(second["reply_to"] == bot.messages().await?[0]["id"], "{second}");
    ensure!(second["metadata"]["attachments"][1]["error"] == "rate_limited", "{second}");
    let file = text(&second["metadata"]["attachments"][0]["url"])?;
    let file = bot.stage.ask_at(&bot.stage.messaging, &bot.ada, "GET", &file, None).await?;
    ensure!(file.body == "content of a.txt", "{}", file.body);

    // Another process goes on with it as well, and is told of edits and deletions.
    bot.stage.house.stop()?;
    let mut edited = said("5", "hello");
    edited["edited_timestamp"] = json!("2026-01-01T00:01:00+00:00");
    discord.tell("MESSAGE_UPDATE", edited);
    discord.tell("MESSAGE_DELETE", json!({ "id": "8", "channel_id": "7", "guild_id": "1" }));
    let base = format!("http://{}/api", discord.at);
    bot.stage.restart_with(&[("DISCORD_BASE_URL", base.as_str())])?;
    bot.has(&["hello"]).await?;
    let resumed = discord.book().begun[2].clone();
    ensure!(resumed["op"] == 6 && resumed["d"]["seq"] == 5, "{resumed}");

    // A session that is over is followed by another.
    discord.book().breaks = Some(Some(4009));
    until("another session", || async { Ok(discord.book().begun.len() == 4) }).await?;
    ensure!(discord.book().begun[3]["op"] == 2, "{}", discord.book().begun[3]);

    // Said by hand, in parts and as an answer.
    let long = vec!["word ".repeat(300); 2].join("\n\n");
    let body = json!({ "chatId": "7", "text": long, "replyToMessageId": "5", "formatting": { "silent": true } });
    let sent = bot.mine("POST", "/send", Some(body)).await?.body;
    ensure!(sent["messageIds"].as_array().is_some_and(|ids| ids.len() == 2), "{sent}");
    let (_, last) = discord.said().pop().unwrap_or_default();
    ensure!(last["message_reference"]["message_id"] == "5" && last["flags"] == 4096, "{last}");
    for (chat, reason) in [("404", "forbidden"), ("../users", "bad_id")] {
        let refused = bot.mine("POST", "/send", Some(json!({ "chatId": chat, "text": "hi" }))).await?;
        ensure!(refused.status == 400 && refused.body["reason"] == reason, "{}", refused.body);
    }
    bot.erased_meanwhile().await?;
    let ended = bot.mine("POST", "/disconnect", Some(json!({}))).await?;
    ensure!(ended.body["status"] == "disconnected", "{}", ended.body);
    until("the gateway is left", || async { Ok(discord.book().closed) }).await?;
    let log = stored(&bot.stage).await?;
    ensure!(log.contains("channel-message-withdrawn") && !log.contains(TOKEN), "the log holds a secret, or nothing");
    Ok(())
}
