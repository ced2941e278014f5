//! A provider that answers at once; asked for so many tokens, it streams them at a steady pace.

use std::{convert::Infallible, sync::LazyLock, time::Duration};

use anyhow::Result;
use axum::{
    Router,
    body::{Body, Bytes},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{StreamExt, stream};
use memchr::memmem;
use serde_json::{Value, json};

/// Tokens a second.
pub const PACE: u32 = 50;
/// Each of them.
pub const TOKEN: &str = "tok ";

/// Where it is.
pub async fn provider() -> Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}/v1", listener.local_addr()?);
    let app = Router::new().route("/v1/chat/completions", post(answer));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(base)
}

fn choice(said: &str) -> Value {
    json!({ "id": "c", "model": "bench", "choices": [{ "index": 0, said: { "role": "assistant", "content": "four" },
        "finish_reason": "stop" }], "usage": { "prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6 } })
}

// What is not streamed is answered without a look at the question: the provider shall take little of the machine.
async fn answer(question: Bytes) -> Response {
    static AT_ONCE: LazyLock<Bytes> = LazyLock::new(|| choice("message").to_string().into());
    if memmem::find(&question, b"\"stream\":true").is_none() {
        return ([(CONTENT_TYPE, "application/json")], AT_ONCE.clone()).into_response();
    }
    let headers = [(CONTENT_TYPE, "text/event-stream")];
    let question: Value = serde_json::from_slice(&question).unwrap_or_default();
    match question["max_tokens"].as_u64() {
        Some(tokens) => (headers, Body::from_stream(paced(tokens))).into_response(),
        None => (headers, format!("data: {}\n\ndata: [DONE]\n\n", choice("delta"))).into_response(),
    }
}

fn paced(tokens: u64) -> impl stream::Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    let chunk = json!({ "id": "c", "model": "bench", "choices": [{ "index": 0, "delta": { "content": TOKEN } }] });
    let piece = Bytes::from(format!("data: {chunk}\n\n"));
    let ending = json!({ "id": "c", "model": "bench", "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 5, "completion_tokens": tokens } });
    let ending = Bytes::from(format!("data: {ending}\n\ndata: [DONE]\n\n"));
    let due = tokio::time::interval(Duration::from_secs(1) / PACE);
    let pieces = stream::unfold((due, 0), move |(mut due, told)| {
        let piece = piece.clone();
        async move {
            if told == tokens {
                return None;
            }
            due.tick().await;
            Some((piece, (due, told + 1)))
        }
    });
    pieces.chain(stream::iter([ending])).map(Ok)
}
