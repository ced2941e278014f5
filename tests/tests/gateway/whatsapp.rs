//! WhatsApp: Meta is shown the way by who knows the token, and heard when it signs; what is said to the number is answered
//! there, and what became of the answer is known. The WhatsApp here is the tests' own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::ensure;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use symbia_events::integrations::meta_signature;
use symbia_tests::binary::{Installation, until};

use crate::{
    Tested,
    channels::{stored, text},
    stage::Stage,
    vendor::Vendor,
};

const TOKEN: &str = "EAAG-CANARY-whatsapp-token";
const SECRET: &str = "CANARY0secret0of0the0app0at0meta";
const CHANNELS: &str = "/api/integrations/channels/whatsapp";
const NUMBER: &str = "106540352242922";

#[derive(Default)]
struct Book {
    said: Vec<Value>,
    /// Refuses the next message with this code of an error.
    refuses: Option<i64>,
}

/// A WhatsApp.
#[derive(Clone, Default)]
struct FakeWhatsApp {
    book: Arc<Mutex<Book>>,
    base: String,
}

impl FakeWhatsApp {
    async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let whatsapp = FakeWhatsApp { base: format!("http://{}", listener.local_addr()?), ..FakeWhatsApp::default() };
        let routes = Router::new()
            .route("/{id}", get(looked_up))
            .route("/{id}/messages", axum::routing::post(told))
            .route("/files/{id}", get(file));
        let app = routes.with_state(whatsapp.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(whatsapp)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self, kind: &str) -> Vec<Value> {
        self.book().said.iter().filter(|body| !body[kind].is_null()).cloned().collect()
    }
}

fn refuse(status: StatusCode, code: i64) -> Response {
    let error = json!({ "error": { "message": "no", "type": "OAuthException", "code": code } });
    (status, Json(error)).into_response()
}

fn bears(headers: &HeaderMap) -> bool {
    headers.get("authorization").and_then(|value| value.to_str().ok()) == Some(&format!("Bearer {TOKEN}"))
}

async fn looked_up(State(whatsapp): State<FakeWhatsApp>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if !bears(&headers) {
        return refuse(StatusCode::UNAUTHORIZED, 190);
    }
    match id.as_str() {
        NUMBER => Json(json!({ "id": NUMBER, "display_phone_number": "+1 555 0100", "verified_name": "Acme" }))
            .into_response(),
        "77" => Json(json!({ "id": "77", "url": format!("{}/files/77", whatsapp.base), "mime_type": "audio/ogg" }))
            .into_response(),
        _ => refuse(StatusCode::BAD_REQUEST, 100),
    }
}

async fn told(
    State(whatsapp): State<FakeWhatsApp>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let mut book = whatsapp.book();
    if !bears(&headers) || id != NUMBER {
        return refuse(StatusCode::UNAUTHORIZED, 190);
    }
    if body["messaging_product"] != "whatsapp" {
        return refuse(StatusCode::BAD_REQUEST, 100);
    }
    if body["type"] == "text" {
        if let Some(code) = book.refuses.take() {
            return refuse(StatusCode::BAD_REQUEST, code);
        }
        if body["text"]["body"].as_str().is_none_or(|words| words.is_empty() || words.chars().count() > 4096) {
            return refuse(StatusCode::BAD_REQUEST, 100);
        }
    }
    book.said.push(body);
    let id = format!("wamid.out{}", book.said.len());
    Json(json!({ "messaging_product": "whatsapp", "messages": [{ "id": id }] })).into_response()
}

async fn file(Path(id): Path<String>, headers: HeaderMap) -> Result<String, StatusCode> {
    if bears(&headers) { Ok(format!("content of {id}")) } else { Err(StatusCode::FORBIDDEN) }
}

fn call(value: Value) -> Value {
    let mut value = value;
    value["messaging_product"] = json!("whatsapp");
    value["metadata"] = json!({ "display_phone_number": "15550100", "phone_number_id": NUMBER });
    value["contacts"] = json!([{ "wa_id": "4917012345", "profile": { "name": "Grace" } }]);
    let changes = json!([{ "field": "messages", "value": value }]);
    json!({ "object": "whatsapp_business_account", "entry": [{ "id": "1", "changes": changes }] })
}

fn said(id: &str, kind: &str, what: Value) -> Value {
    json!({ "id": id, "from": "4917012345", "timestamp": "1800000000", "type": kind, kind: what })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_a_number_is_answered_there_and_what_became_of_it_is_known() -> Tested {
    let whatsapp = FakeWhatsApp::start().await?;
    let (house, vendor) = (Installation::new()?, Vendor::start().await?);
    let stage = Stage::with(house, &["--skip-admin"], vendor, &[("WHATSAPP_BASE_URL", whatsapp.base.as_str())])?;
    let ada = stage.register("ada").await?;
    let token = json!({ "provider": "whatsapp", "name": "number", "apiKey": TOKEN });
    let kept = stage.ask_at(&stage.identity, &ada, "POST", "/api/credentials", Some(token)).await?;
    let connect = format!("{CHANNELS}/connect");
    let wanted = |number: Value, secret: Value| {
        Some(json!({ "credentialId": kept.body["id"], "signingSecret": secret, "config": { "phoneNumberId": number } }))
    };
    for (number, secret) in
        [(Value::Null, json!(SECRET)), (json!(NUMBER), Value::Null), (json!("+1 555"), json!(SECRET))]
    {
        let refused = stage.ask(&ada, "POST", &connect, wanted(number, secret)).await?;
        ensure!(refused.status == 400 && refused.body["code"] == "VALIDATION_FAILED", "{}", refused.body);
    }
    let connected = stage.ask(&ada, "POST", &connect, wanted(json!(NUMBER), json!(SECRET))).await?.body;
    ensure!(connected["status"] == "connected" && connected["channelAccountId"] == NUMBER, "{connected}");
    ensure!(connected["channelAccountName"] == "Acme (+1 555 0100)", "{connected}");
    let (id, door) = (text(&connected["connectionId"])?, text(&connected["webhookUrl"])?);
    let verify_token = text(&connected["verifyToken"])?;

    // Meta asks whether the address is the app's, and is heard from then on when it signs.
    for (given, expected) in [(verify_token.as_str(), 200), ("guessed", 403)] {
        let query = [("hub.mode", "subscribe"), ("hub.verify_token", given), ("hub.challenge", "1158201444")];
        let url = reqwest::Url::parse_with_params(&door, query)?;
        let answer = stage.http.get(url).send().await?;
        let (status, body) = (answer.status().as_u16(), answer.text().await?);
        ensure!(status == expected && (body == "1158201444") == (expected == 200), "{given}: {status} {body}");
    }
    let tells = async |secret: &str, value: Value| {
        let body = call(value).to_string();
        let request = stage.http.post(&door).header("x-hub-signature-256", meta_signature(secret, body.as_bytes()));
        anyhow::Ok(request.body(body).send().await?.status().as_u16())
    };
    let hello = || json!({ "messages": [said("wamid.in1", "text", json!({ "body": "/help" }))] });
    ensure!(tells("another0secret00", hello()).await? == 403, "another's call is heard");
    ensure!(stage.http.post(&door).json(&call(hello())).send().await?.status() == 403, "an unsigned one");

    // Told twice; busy the first time; and somebody waves.
    whatsapp.book().refuses = Some(131_056);
    let wave = said("wamid.in2", "reaction", json!({ "message_id": "wamid.in1", "emoji": "👍" }));
    for value in [hello(), hello(), json!({ "messages": [wave] })] {
        ensure!(tells(SECRET, value).await? == 200, "it is not taken in");
    }
    until("it is answered", || async { Ok(!whatsapp.said("text").is_empty()) }).await?;
    let answer = whatsapp.said("text").remove(0);
    ensure!(answer["to"] == "4917012345" && answer["recipient_type"] == "individual", "{answer}");
    let words = text(&answer["text"]["body"])?;
    ensure!(words.starts_with("I am Symbia.") && words.contains("• This help"), "{words}");
    let typing = whatsapp.said("typing_indicator");
    ensure!(typing.iter().all(|body| body["message_id"] == "wamid.in1" && body["status"] == "read"), "{typing:?}");

    // A voice message that answers, with its file; and what became of the answer.
    let mut voice =
        said("wamid.in3", "audio", json!({ "id": "77", "mime_type": "audio/ogg; codecs=opus", "voice": true }));
    voice["context"] = json!({ "id": "wamid.in1", "from": "4917012345" });
    ensure!(tells(SECRET, json!({ "messages": [voice] })).await? == 200, "a voice");
    let found = stage.ask_at(&stage.messaging, &ada, "GET", "/api/conversations", None).await?.body;
    ensure!(found[0]["name"] == "Grace" && found[1].is_null(), "{found}");
    let path = format!("/api/conversations/{}/messages", text(&found[0]["id"])?);
    let voice = async || {
        let all = stage.ask_at(&stage.messaging, &ada, "GET", &path, None).await?.body;
        let all = all.as_array().cloned().unwrap_or_default();
        let first = all.iter().find(|message| message["content"] == "/help").map(|message| message["id"].clone());
        let voice = all.into_iter().find(|message| message["metadata"]["attachments"].is_array());
        anyhow::Ok(voice.filter(|voice| Some(&voice["reply_to"]) == first.as_ref()))
    };
    until("the voice is there", || async { Ok(voice().await?.is_some()) }).await?;
    let file = voice().await?.map(|voice| voice["metadata"]["attachments"][0].clone()).unwrap_or_default();
    ensure!(file["type"] == "audio" && file["mimeType"] == "audio/ogg", "{file}");
    let file = stage.ask_at(&stage.messaging, &ada, "GET", &text(&file["url"])?, None).await?;
    ensure!(file.body == "content of 77", "{}", file.body);

    // Said by hand, in parts and as an answer.
    let send = format!("{CHANNELS}/connections/{id}/send");
    let long = vec!["word ".repeat(700); 2].join("\n\n");
    let body = json!({ "chatId": "4917012345", "text": long, "replyToMessageId": "wamid.in3" });
    let sent = stage.ask(&ada, "POST", &send, Some(body)).await?.body;
    let ids = sent["messageIds"].as_array().cloned().unwrap_or_default();
    ensure!(ids.len() == 2, "{sent}");
    let parts = whatsapp.said("context");
    ensure!(parts.len() == 2 && parts[0]["context"]["message_id"] == "wamid.in3", "{parts:?}");
    let status = |of: &Value, status: &str| {
        json!({ "id": of, "recipient_id": "4917012345", "status": status,
        "timestamp": "1800000001", "errors": if status == "failed" { json!([{ "code": 131_026 }]) } else { Value::Null } })
    };
    let told = [(&ids[0], "sent"), (&ids[0], "read"), (&ids[0], "delivered"), (&ids[1], "failed")];
    let statuses = told.map(|(of, became)| status(of, became));
    ensure!(tells(SECRET, json!({ "statuses": statuses })).await? == 200, "a status");
    whatsapp.book().refuses = Some(131_047);
    let refused = stage.ask(&ada, "POST", &send, Some(json!({ "chatId": "4917012345", "text": "hi" }))).await?;
    ensure!(refused.status == 400 && refused.body["reason"] == "window_closed", "{}", refused.body);

    let log = stored(&stage).await?;
    let receipts = log.matches("\"receipt\":\"").count();
    ensure!(receipts == 3, "sent, read and failed are noted: {receipts}");
    ensure!(log.contains("\"receipt\":\"failed\"") && log.contains("\"undeliverable\""), "the failure is not noted");
    ensure!(!log.contains(TOKEN) && !log.contains(SECRET) && !log.contains(&verify_token), "the log holds a secret");
    Ok(())
}
