//! A server that answers as OpenAI and Anthropic do: with a sum, or with a call of a tool when it is given one.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::script;

/// The installation's own keys.
pub const KEYS: [&str; 2] = ["sk-platform-openai-12345", "sk-platform-anthropic-12345"];
/// What it says when it uses no tool.
pub const SUM: [&str; 3] = ["2 + 3", " = ", "5 ✓"];

/// What its models `leaky` and `claude-leaky` say: personal data, cut at the worst places.
pub const LEAK: [&str; 10] =
    ["Write to a", "da@b", ".te", "st or 411", "1 1111 ", "1111 ", "1111. Cl", "ean from ", "here", " ✓"];

/// What it was asked: the key, and the body.
pub struct Asked {
    pub key: String,
    pub body: Value,
}

#[derive(Clone)]
pub struct Vendor {
    asked: Arc<Mutex<Vec<Asked>>>,
    base: String,
    // Lets the models `slow…` answer so many requests.
    gate: Arc<Semaphore>,
    refused: Arc<AtomicBool>,
    listings: Arc<Mutex<Vec<String>>>,
}

impl Vendor {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}/v1", listener.local_addr()?);
        let vendor = Vendor {
            base,
            asked: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            refused: Arc::default(),
            listings: Arc::default(),
        };
        let routes = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/embeddings", post(embeddings))
            .route("/v1/images/generations", post(images))
            .route("/v1/rerank", post(rerank))
            .route("/v1/moderations", post(moderations))
            .route("/v1/audio/speech", post(speech))
            .route("/v1/audio/{task}", post(listening))
            .route("/v1/models", get(models))
            .route("/v1/messages/count_tokens", post(count_tokens))
            .route("/v1/messages", post(messages))
            .layer(DefaultBodyLimit::disable());
        let app = routes.with_state(vendor.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(vendor)
    }

    /// The variables that make an installation ask it.
    pub fn variables(&self) -> [(&str, &str); 4] {
        [
            ("OPENAI_BASE_URL", self.base.as_str()),
            ("OPENAI_API_KEY", KEYS[0]),
            ("ANTHROPIC_BASE_URL", self.base.as_str()),
            ("ANTHROPIC_API_KEY", KEYS[1]),
        ]
    }

    /// What it was asked since it was last looked at.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys with which it was asked for its models, since it was last looked at.
    pub fn listings(&self) -> Vec<String> {
        std::mem::take(&mut self.listings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets the models `slow…` answer so many requests, in the order in which they came.
    pub fn let_answer(&self, requests: usize) {
        self.gate.add_permits(requests);
    }

    /// Has it answer no more.
    pub fn let_nobody_answer(&self) {
        self.gate.forget_permits(usize::MAX >> 3);
    }

    // A model `status-<status>-<code>` refuses with them; `once-429` does the first time.
    fn refusal(&self, model: &str) -> Option<Response> {
        let error = |status: StatusCode, code: &str| {
            let said = json!({ "error": { "message": "not now", "type": code, "code": code } });
            let after = (status == StatusCode::TOO_MANY_REQUESTS).then_some([("retry-after", "1")]);
            (status, after.unwrap_or([("x-refused", "1")]), Json(said)).into_response()
        };
        if model == "once-429" {
            let first = !self.refused.swap(true, Ordering::Relaxed);
            return first.then(|| error(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded"));
        }
        let (status, code) = model.strip_prefix("status-")?.split_once('-')?;
        Some(error(StatusCode::from_bytes(status.as_bytes()).ok()?, code))
    }

    fn note(&self, headers: &HeaderMap, body: &Value) {
        let asked = Asked { key: key(headers), body: body.clone() };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    }
}

fn key(headers: &HeaderMap) -> String {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    header("x-api-key") + header("authorization").trim_start_matches("Bearer ")
}

fn events(text: String) -> Response {
    ([("content-type", "text/event-stream")], text).into_response()
}

fn has_result(messages: &Value) -> bool {
    let of = |message: &Value| message["role"] == "tool" || message["content"][0]["type"] == "tool_result";
    messages.as_array().is_some_and(|messages| messages.iter().any(of))
}

async fn chat(State(vendor): State<Vendor>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    vendor.note(&headers, &body);
    if body["model"] == "broken" {
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": { "message": "oops" } }))).into_response();
    }
    if body["model"] == "shy" {
        let declined = json!({ "error": { "message": "not that", "code": "content_filter" } });
        return (StatusCode::BAD_REQUEST, Json(declined)).into_response();
    }
    if let Some(refusal) = body["model"].as_str().and_then(|model| vendor.refusal(model)) {
        return refusal;
    }
    let (scripted, waits) = if body["model"] == "scripted" { script::turn(&body) } else { (String::new(), false) };
    if (waits || body["model"].as_str().is_some_and(|model| model.starts_with("slow")))
        && let Ok(turn) = vendor.gate.acquire().await
    {
        turn.forget();
    }
    if !scripted.is_empty() {
        return events(scripted);
    }
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        let chunk =
            json!({ "id": "chatcmpl-9", "object": "chat.completion.chunk", "model": "fake-2026", "choices": [choice] });
        format!("data: {chunk}\n\n")
    };
    let mut said = String::new();
    if body["tools"].is_array() && !has_result(&body["messages"]) {
        let call = |rest: Value| json!({ "tool_calls": [rest] });
        let first =
            json!({ "index": 0, "id": "call_9", "type": "function", "function": { "name": "add", "arguments": "" } });
        said += &chunk(call(first), Value::Null);
        for piece in ["{\"a\": 2,", " \"b\": 3}"] {
            said += &chunk(call(json!({ "index": 0, "function": { "arguments": piece } })), Value::Null);
        }
        said += &chunk(json!({}), json!("tool_calls"));
    } else {
        let pieces: &[&str] = match &body {
            body if body["response_format"]["json_schema"]["name"] == "grade" => {
                &["{\"score\": 9, ", "\"reason\": \"both\"}"]
            }
            body if body["model"] == "clever" => &["bil", "ling"],
            body if body["model"] == "prose" => &[
                "Without an index on user_id all rows of the table are scanned: ",
                "create an index on user_id and created_at.",
            ],
            body if body["model"] == "leaky" => &LEAK,
            _ => &SUM,
        };
        for piece in pieces {
            said += &chunk(json!({ "content": piece }), Value::Null);
        }
        said += &chunk(json!({}), json!("stop"));
    }
    let usage = json!({ "id": "chatcmpl-9", "choices": [], "usage": { "prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18 } });
    let mut response = events(format!("{said}data: {usage}\n\ndata: [DONE]\n\n"));
    if body["model"] == "nearly-done" {
        let granted = [("x-ratelimit-limit-requests", "100"), ("x-ratelimit-remaining-requests", "2")];
        response
            .headers_mut()
            .extend(granted.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))));
    }
    response
}

async fn embeddings(State(vendor): State<Vendor>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    vendor.note(&headers, &body);
    let texts = body["input"].as_array().cloned().unwrap_or_default();
    // As long as its text, and a half; of the model `meanings`, whether it is about rain, or nearly so.
    let item = |(index, text): (usize, &Value)| {
        let text = text.as_str().unwrap_or_default();
        let vector = match body["model"] == "meanings" {
            true if text.contains("rain") => json!([1.0, 0.0]),
            true if text.contains("umbrella") => json!([0.98, 0.199]),
            true => json!([0.0, 1.0]),
            false => json!([text.len(), 0.5]),
        };
        json!({ "object": "embedding", "index": index, "embedding": vector })
    };
    let data: Vec<Value> = texts.iter().enumerate().map(item).collect();
    let usage = json!({ "prompt_tokens": texts.len(), "total_tokens": texts.len() });
    Json(json!({ "object": "list", "data": data, "model": "embed-2026", "usage": usage })).into_response()
}

async fn images(State(vendor): State<Vendor>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    vendor.note(&headers, &body);
    if let Some(refusal) = body["model"].as_str().and_then(|model| vendor.refusal(model)) {
        return refusal;
    }
    let size = if body["model"] == "huge" { 5_000_000 } else { 8 };
    let picture = if body["response_format"] == "url" {
        json!({ "url": "https://pictures.example.test/1.png", "revised_prompt": "a blue kingfisher" })
    } else {
        json!({ "b64_json": "A".repeat(size) })
    };
    let data = vec![picture; usize::try_from(body["n"].as_u64().unwrap_or(1)).unwrap_or(1)];
    let usage = json!({ "input_tokens": 10, "output_tokens": 100, "total_tokens": 110 });
    Json(json!({ "created": 1, "data": data, "usage": usage })).into_response()
}

// A model whose name begins with `page` answers with a page for people.
fn page(body: &Value) -> Option<Response> {
    body["model"]
        .as_str()
        .is_some_and(|model| model.starts_with("page"))
        .then(|| axum::response::Html("<html>Welcome</html>").into_response())
}

async fn rerank(State(vendor): State<Vendor>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    vendor.note(&headers, &body);
    if let Some(refusal) = body["model"].as_str().and_then(|model| vendor.refusal(model)).or_else(|| page(&body)) {
        return refusal;
    }
    // The longest first, whatever the question is.
    let score = |(index, text): (usize, &Value)| {
        let length = text.as_str().unwrap_or_default().len();
        json!({ "index": index, "relevance_score": length as f64 / 100.0 })
    };
    let texts = body["documents"].as_array().cloned().unwrap_or_default();
    let results: Vec<Value> = texts.iter().enumerate().map(score).collect();
    Json(json!({ "id": "rerank-9", "model": "rerank-2026", "results": results, "usage": { "total_tokens": 30 } }))
        .into_response()
}

async fn moderations(State(vendor): State<Vendor>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    vendor.note(&headers, &body);
    if let Some(refusal) = body["model"].as_str().and_then(|model| vendor.refusal(model)).or_else(|| page(&body)) {
        return refusal;
    }
    let result = |about: &Value| {
        let flagged = about.to_string().contains("hurt");
        json!({ "flagged": flagged, "categories": { "violence": flagged }, "category_scores": { "violence": 0.5 },
            "category_applied_input_types": { "violence": ["text"] } })
    };
    let results: Vec<Value> = match &body["input"] {
        Value::Array(texts) if texts.iter().all(Value::is_string) => texts.iter().map(result).collect(),
        input => vec![result(input)],
    };
    Json(json!({ "id": "modr-9", "model": "moderation-2026", "results": results })).into_response()
}

async fn speech(State(vendor): State<Vendor>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    vendor.note(&headers, &body);
    if let Some(refusal) = body["model"].as_str().and_then(|model| vendor.refusal(model)).or_else(|| page(&body)) {
        return refusal;
    }
    let kind = if body["response_format"] == "wav" { "audio/wav" } else { "audio/mpeg" };
    let size = if body["model"] == "huge" { 5_000_001 } else { 9 };
    ([("content-type", kind)], sound(size)).into_response()
}

/// Audio of so many bytes, of which none is like its neighbours.
pub fn sound(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

// The form is noted as it came, but for what separates its fields.
async fn listening(
    State(vendor): State<Vendor>,
    axum::extract::Path(task): axum::extract::Path<String>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let kind = header("content-type");
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap_or("none");
    let form = String::from_utf8_lossy(&body).replace(boundary, "B");
    let whole = header("content-length") == body.len().to_string();
    let field = |name: &str| {
        let (_, rest) = form.split_once(&format!("name=\"{name}\"\r\n\r\n"))?;
        Some(rest.split("\r\n").next().unwrap_or_default().to_owned())
    };
    let (model, format) = (field("model").unwrap_or_default(), field("response_format"));
    vendor.note(&headers, &json!({ "task": task, "form": form, "whole": whole }));
    if let Some(refusal) = vendor.refusal(&model).or_else(|| page(&json!({ "model": model }))) {
        return refusal;
    }
    let cue = "00:00:00,000 --> 00:00:02,500\nhello there\n";
    match format.as_deref() {
        None | Some("json") => {
            Json(json!({ "text": "hello there", "usage": { "type": "duration", "seconds": 3 } })).into_response()
        }
        Some("verbose_json") => Json(json!({ "task": task, "language": "english", "duration": 2.5,
            "text": "hello there", "segments": [] }))
        .into_response(),
        Some("text") => "hello there\n".into_response(),
        Some("srt") => format!("1\n{cue}").into_response(),
        Some(_) => format!("WEBVTT\n\n{}", cue.replace(',', ".")).into_response(),
    }
}

async fn models(State(vendor): State<Vendor>, headers: HeaderMap) -> Json<Value> {
    vendor.listings.lock().unwrap_or_else(PoisonError::into_inner).push(key(&headers));
    let model = |id: &str, created: i64| json!({ "id": id, "object": "model", "created": created, "owned_by": "fake" });
    Json(json!({ "object": "list", "data": [model("fake", 1), model("embed-it", 2)] }))
}

async fn count_tokens(State(vendor): State<Vendor>, headers: HeaderMap, Json(body): Json<Value>) -> Json<Value> {
    vendor.note(&headers, &body);
    Json(json!({ "input_tokens": 42 }))
}

async fn messages(State(vendor): State<Vendor>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    vendor.note(&headers, &body);
    let mut said = Vec::new();
    said.push(json!({ "type": "message_start", "message": { "id": "msg_9", "type": "message", "role": "assistant",
        "model": "claude-fake-2026", "content": [], "stop_reason": null, "usage": { "input_tokens": 12, "output_tokens": 1 } } }));
    let stop = if body["tools"].is_array() && !has_result(&body["messages"]) {
        let block = json!({ "type": "tool_use", "id": "toolu_9", "name": "add", "input": {} });
        said.push(json!({ "type": "content_block_start", "index": 0, "content_block": block }));
        for piece in ["{\"a\": 2,", " \"b\": 3}"] {
            let delta = json!({ "type": "input_json_delta", "partial_json": piece });
            said.push(json!({ "type": "content_block_delta", "index": 0, "delta": delta }));
        }
        "tool_use"
    } else {
        said.push(
            json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
        );
        let pieces: &[&str] = if body["model"] == "claude-leaky" { &LEAK } else { &SUM };
        for piece in pieces {
            let delta = json!({ "type": "text_delta", "text": piece });
            said.push(json!({ "type": "content_block_delta", "index": 0, "delta": delta }));
        }
        "end_turn"
    };
    said.push(json!({ "type": "content_block_stop", "index": 0 }));
    said.push(json!({ "type": "message_delta", "delta": { "stop_reason": stop }, "usage": { "output_tokens": 6 } }));
    said.push(json!({ "type": "message_stop" }));
    events(
        said.iter()
            .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default()))
            .collect(),
    )
}
