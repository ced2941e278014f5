//! A server that speaks Telegram's Bot API, as far as channels ask it, and as strict: messages that are too long or whose HTML
//! is broken are refused.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// The bot's token.
pub const TOKEN: &str = "7001:CANARY-telegram-token";

/// What it does with the next messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Takes them.
    Well,
    /// Wants to be asked again in a second, so many times.
    Busy(u32),
    /// Takes so many, and does not answer to the next.
    Silent(u32),
    /// Knows the token no more.
    Revoked,
}

#[derive(Default)]
struct Book {
    mood: Option<Mood>,
    /// Every call: its method, and its body.
    calls: Vec<(String, Value)>,
    /// What was taken.
    sent: Vec<Value>,
    /// What is told to who asks.
    updates: Vec<Value>,
    error: Option<String>,
    url: String,
    /// What is in a file, by its id.
    files: HashMap<String, Vec<u8>>,
}

#[derive(Clone, Default)]
pub struct FakeTelegram {
    book: Arc<Mutex<Book>>,
    told: Arc<Notify>,
    pub base: String,
}

impl FakeTelegram {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let telegram = FakeTelegram { base, ..FakeTelegram::default() };
        let routes = Router::new().route("/{bot}/{method}", post(called)).route("/file/{bot}/files/{id}", get(file));
        let app = routes.with_state(telegram.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(telegram)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is(&self, mood: Mood) {
        self.book().mood = Some(mood);
    }

    /// What `getWebhookInfo` says went wrong.
    pub fn errs(&self, error: Option<&str>) {
        self.book().error = error.map(str::to_owned);
    }

    /// Keeps a file for the bot.
    pub fn keeps(&self, id: &str, bytes: Vec<u8>) {
        self.book().files.insert(id.to_owned(), bytes);
    }

    /// Tells who asks.
    pub fn tell(&self, update: Value) {
        self.book().updates.push(update);
        self.told.notify_waiters();
    }

    /// The messages that it took.
    pub fn sent(&self) -> Vec<Value> {
        self.book().sent.clone()
    }

    /// The bodies of the calls of a method.
    pub fn calls(&self, method: &str) -> Vec<Value> {
        self.book().calls.iter().filter(|(called, _)| called == method).map(|(_, body)| body.clone()).collect()
    }
}

type Answered = (StatusCode, Json<Value>);

fn refuse(status: StatusCode, description: &str) -> Answered {
    let body = json!({ "ok": false, "error_code": status.as_u16(), "description": description });
    (status, Json(body))
}

fn ok(result: Value) -> Answered {
    (StatusCode::OK, Json(json!({ "ok": true, "result": result })))
}

async fn called(
    State(telegram): State<FakeTelegram>,
    Path((bot, method)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Answered {
    let revoked = {
        let mut book = telegram.book();
        book.calls.push((method.clone(), body.clone()));
        book.mood == Some(Mood::Revoked)
    };
    if bot != format!("bot{TOKEN}") || revoked {
        return refuse(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    match method.as_str() {
        "getMe" => ok(json!({ "id": 7001, "is_bot": true, "first_name": "Symbia", "username": "symbia_bot" })),
        "setWebhook" => {
            telegram.book().url = body["url"].as_str().unwrap_or_default().to_owned();
            ok(json!(true))
        }
        "deleteWebhook" => {
            telegram.book().url.clear();
            ok(json!(true))
        }
        "getWebhookInfo" => {
            let book = telegram.book();
            ok(json!({ "url": book.url, "pending_update_count": 0, "last_error_message": book.error }))
        }
        "sendChatAction" => ok(json!(true)),
        "getFile" => {
            let id = body["file_id"].as_str().unwrap_or_default();
            match telegram.book().files.get(id) {
                Some(bytes) => {
                    ok(json!({ "file_id": id, "file_size": bytes.len(), "file_path": format!("files/{id}") }))
                }
                None => refuse(StatusCode::BAD_REQUEST, "Bad Request: wrong file_id"),
            }
        }
        "getUpdates" => updates(&telegram, &body).await,
        "sendMessage" => message(&telegram, &body).await,
        _ => refuse(StatusCode::NOT_FOUND, "Not Found"),
    }
}

async fn file(
    State(telegram): State<FakeTelegram>,
    Path((bot, id)): Path<(String, String)>,
) -> Result<Vec<u8>, StatusCode> {
    let known = if bot == format!("bot{TOKEN}") { telegram.book().files.get(&id).cloned() } else { None };
    known.ok_or(StatusCode::NOT_FOUND)
}

async fn updates(telegram: &FakeTelegram, body: &Value) -> Answered {
    let from = body["offset"].as_i64().unwrap_or_default();
    let patience = Duration::from_secs(body["timeout"].as_u64().unwrap_or_default());
    let told = telegram.told.notified();
    let waiting = |telegram: &FakeTelegram| -> Vec<Value> {
        let mut book = telegram.book();
        book.updates.retain(|update| update["update_id"].as_i64() >= Some(from));
        book.updates.clone()
    };
    if waiting(telegram).is_empty() {
        let _ = tokio::time::timeout(patience, told).await;
    }
    ok(json!(waiting(telegram)))
}

async fn message(telegram: &FakeTelegram, body: &Value) -> Answered {
    let mood = telegram.book().mood;
    match mood {
        Some(Mood::Busy(left)) if left > 0 => {
            telegram.is(Mood::Busy(left - 1));
            let (status, Json(mut said)) = refuse(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests: retry after 1");
            said["parameters"] = json!({ "retry_after": 1 });
            return (status, Json(said));
        }
        Some(Mood::Silent(0)) => {
            std::future::pending::<()>().await;
        }
        Some(Mood::Silent(left)) => telegram.is(Mood::Silent(left - 1)),
        _ => {}
    }
    let text = body["text"].as_str().unwrap_or_default();
    let Some(plain) = plain(text, body["parse_mode"] == "HTML") else {
        return refuse(StatusCode::BAD_REQUEST, "Bad Request: can't parse entities: a mark that is not closed");
    };
    if plain.trim().is_empty() || plain.encode_utf16().count() > 4096 {
        return refuse(StatusCode::BAD_REQUEST, "Bad Request: message is empty or too long");
    }
    let mut book = telegram.book();
    let id = 900 + book.sent.len();
    let mut taken = body.clone();
    taken["plain"] = json!(plain);
    book.sent.push(taken);
    ok(json!({ "message_id": id, "date": 0, "chat": { "id": body["chat_id"], "type": "private" }, "text": plain }))
}

/// What somebody reads of a text; none when its marks are broken.
fn plain(text: &str, html: bool) -> Option<String> {
    if !html {
        return Some(text.to_owned());
    }
    let (mut said, mut open, mut rest) = (String::new(), Vec::new(), text);
    while let Some(place) = rest.find(['<', '&']) {
        said.push_str(&rest[..place]);
        let end = rest[place..].find(['>', ';'])? + place;
        let mark = &rest[place + 1..end];
        match (&rest[place..=place], mark.strip_prefix('/')) {
            ("&", _) => said.push_str(match mark {
                "amp" => "&",
                "lt" => "<",
                "gt" => ">",
                "quot" => "\"",
                _ => return None,
            }),
            (_, Some(name)) => {
                if open.pop() != Some(name.to_owned()) {
                    return None;
                }
            }
            (_, None) => {
                let name = mark.split(' ').next()?.to_owned();
                if !["b", "i", "s", "code", "pre", "a", "blockquote"].contains(&name.as_str()) {
                    return None;
                }
                open.push(name);
            }
        }
        rest = &rest[end + 1..];
    }
    said.push_str(rest);
    (open.is_empty() && !rest.contains('>')).then_some(said)
}
