//! A server that speaks OpenAI's chat completions, well or badly.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::post,
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use symbia_workers::integrations::{ApiKey, OpenAiOptions};
use zeroize::Zeroizing;

pub const KEY: &str = "sk-test-0123456789";

#[derive(Clone, Debug)]
pub enum Mode {
    /// Streams these pieces, cut up at odd places.
    Answers(Vec<&'static str>),
    /// The same with a pause before each piece: time to die in.
    Paced(Vec<&'static str>, Duration),
    /// Goes on until nobody listens.
    Endless,
    /// Never answers.
    Hangs,
    /// Refuses.
    Refuses(u16, Vec<(&'static str, &'static str)>, Value),
    /// Says this, as a stream.
    Says(&'static str),
    /// Says this, as JSON without streaming.
    Whole(Value),
}

pub struct Asked {
    pub headers: HeaderMap,
    pub body: Value,
}

#[derive(Default)]
struct Shared {
    mode: Mutex<Option<Mode>>,
    first: Mutex<VecDeque<Mode>>,
    asked: Mutex<Vec<Asked>>,
    left: Mutex<Option<Instant>>,
}

#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
    port: u16,
}

impl Upstream {
    pub async fn start(mode: Mode) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { mode: Mutex::new(Some(mode)), ..Shared::default() });
        let app = Router::new().route("/v1/chat/completions", post(answer)).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Upstream { shared, port }
    }

    pub fn options(&self) -> OpenAiOptions {
        let key = ApiKey::new(Zeroizing::new(KEY.to_owned()));
        let options = OpenAiOptions::new(&format!("http://127.0.0.1:{}/v1/", self.port), Some(key));
        OpenAiOptions { idle: Duration::from_secs(1), ..options }
    }

    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = Some(mode);
    }

    /// What it does for the next requests, one after the other, before it does what was set.
    pub fn first(&self, modes: impl IntoIterator<Item = Mode>) {
        self.shared.first.lock().unwrap().extend(modes);
    }

    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.asked.lock().unwrap())
    }

    /// When the last listener of an endless answer went away.
    pub fn left(&self) -> Option<Instant> {
        *self.shared.left.lock().unwrap()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let body = serde_json::from_slice(&body).unwrap();
    shared.asked.lock().unwrap().push(Asked { headers, body });
    let first = shared.first.lock().unwrap().pop_front();
    let mode = first.unwrap_or_else(|| shared.mode.lock().unwrap().clone().unwrap());
    let events = |body: Body| Response::builder().header("content-type", "text/event-stream").body(body).unwrap();
    match mode {
        Mode::Answers(pieces) => {
            let mut text = String::from(": welcome\n\n");
            for piece in &pieces {
                text.push_str(&frame(&json!({ "content": piece }), None));
            }
            text.push_str(&ending());
            let bytes: Vec<_> = text.into_bytes().chunks(7).map(Bytes::copy_from_slice).collect();
            events(Body::from_stream(stream::iter(bytes).map(Ok::<_, std::io::Error>)))
        }
        Mode::Paced(pieces, pause) => {
            let frames = pieces.iter().map(|piece| frame(&json!({ "content": piece }), None)).chain([ending()]);
            let frames: Vec<String> = frames.collect();
            let paced = stream::iter(frames).then(move |frame| async move {
                tokio::time::sleep(pause).await;
                Ok::<_, std::io::Error>(Bytes::from(frame))
            });
            events(Body::from_stream(paced))
        }
        Mode::Endless => {
            let leaving = Leaving(shared);
            let pieces = stream::unfold((leaving, 0), |(leaving, n)| async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let piece = Bytes::from(frame(&json!({ "content": format!("{n} ") }), None));
                Some((Ok::<_, std::io::Error>(piece), (leaving, n + 1)))
            });
            events(Body::from_stream(pieces))
        }
        Mode::Hangs => std::future::pending().await,
        Mode::Refuses(status, headers, body) => {
            let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Body::from(body.to_string())).unwrap()
        }
        Mode::Says(text) => events(Body::from(text)),
        Mode::Whole(body) => {
            Response::builder().header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
        }
    }
}

fn ending() -> String {
    let usage = json!({ "id": "chatcmpl-1", "model": "fake-1", "choices": [],
        "usage": { "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18 } });
    format!("{}data: {usage}\n\ndata: [DONE]\n\n", frame(&json!({}), Some("stop")))
}

fn frame(delta: &Value, finish: Option<&str>) -> String {
    let chunk = json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "fake-1",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] });
    format!("data: {chunk}\n\n")
}

struct Leaving(Arc<Shared>);

impl Drop for Leaving {
    fn drop(&mut self) {
        *self.0.left.lock().unwrap() = Some(Instant::now());
    }
}
