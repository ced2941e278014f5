//! A provider that answers at once; asked for so many tokens, it streams them at a steady pace.

use std::{convert::Infallible, time::Duration};

use anyhow::Result;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{StreamExt, stream};
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

async fn answer(Json(body): Json<Value>) -> Response {
    let choice = |said: &str| {
        json!({ "id": "c", "model": "bench", "choices": [{ "index": 0, said: { "role": "assistant", "content": "four" },
            "finish_reason": "stop" }], "usage": { "prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6 } })
    };
    if body["stream"] != true {
        return Json(choice("message")).into_response();
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    match body["max_tokens"].as_u64() {
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
