//! Each provider against a server that has the shape of its vendor's: the exact request, the normalized answer, and what is
//! made of servers that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Response, StatusCode, Uri},
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use symbia_events::integrations::{
    AnswerFormat, ErrorCategory, FinishReason, PromptOptions, PromptRole, Sampling, Tool, ToolCall,
};
use symbia_workers::integrations::{
    Answer, Anthropic, AnthropicOptions, ApiKey, Delta, Fault, Inputs, OpenAi, OpenAiOptions, Prompt, Provider, Turn,
};
use zeroize::Zeroizing;

const KEY: &str = "sk-leased-0123456789";

struct Asked {
    path: String,
    headers: HeaderMap,
    body: Value,
}

type Answering = Arc<dyn Fn() -> Response<Body> + Send + Sync>;

struct Vendor {
    base: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Vendor {
    async fn answering(answer: impl Fn() -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer): (_, Answering) = (Arc::clone(&asked), Arc::new(answer));
        let app = Router::new().fallback(move |uri: Uri, headers: HeaderMap, body: Bytes| {
            let body = serde_json::from_slice(&body).unwrap();
            seen.lock().unwrap().push(Asked { path: uri.path().to_owned(), headers, body });
            let answer = Arc::clone(&answer);
            async move { answer() }
        });
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Vendor { base, asked }
    }

    async fn saying(status: u16, kind: &'static str, body: impl Into<String>) -> Self {
        let body = body.into();
        Self::answering(move || said(status, kind, body.clone())).await
    }

    fn asked(&self) -> Asked {
        self.asked.lock().unwrap().pop().expect("it was asked")
    }

    fn anthropic(&self) -> Anthropic {
        Anthropic::new(AnthropicOptions { idle: Duration::from_secs(1), ..AnthropicOptions::new(&self.base, None) })
            .unwrap()
    }

    fn openai(&self) -> OpenAi {
        OpenAi::new(OpenAiOptions { idle: Duration::from_secs(1), ..OpenAiOptions::new(&self.base, None) }).unwrap()
    }
}

fn said(status: u16, kind: &str, body: impl Into<Body>) -> Response<Body> {
    let response = Response::builder().status(StatusCode::from_u16(status).unwrap()).header("content-type", kind);
    response.header("request-id", "req-7").body(body.into()).unwrap()
}

fn key() -> ApiKey {
    ApiKey::new(Zeroizing::new(KEY.to_owned()))
}

fn prompt(model: &str) -> Prompt {
    Prompt {
        org: "acme".to_owned(),
        request_id: "r1".to_owned(),
        attempt: 1,
        model: model.to_owned(),
        turns: vec![Turn::text(PromptRole::User, "what is 1+1?")],
        sampling: Sampling::default(),
        options: PromptOptions::default(),
    }
}

fn add() -> Tool {
    let parameters = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    Tool { name: "add".to_owned(), description: Some("adds".to_owned()), parameters, strict: None }
}

/// The pieces that were heard, as texts.
async fn ask(provider: &dyn Provider, prompt: &Prompt) -> (Result<Answer, Fault>, Vec<String>) {
    let mut heard = Vec::new();
    let answer = provider
        .complete(prompt, Some(&key()), &mut |choice, delta| {
            assert_eq!(choice, 0);
            heard.push(match delta {
                Delta::Text(text) => text.to_owned(),
                Delta::Reasoning(text) => format!("thinking {text}"),
                Delta::Tool { index, id, name, arguments } => format!("tool {index} {id:?} {name:?} {arguments}"),
                Delta::Logprobs(tokens) => format!("{} likely tokens", tokens.len()),
            });
        })
        .await;
    (answer, heard)
}

fn sse(events: &[Value]) -> String {
    events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("x"))).collect()
}

#[tokio::test]
async fn anthropic_is_asked_with_the_leased_key_and_its_blocks_become_text_calls_and_usage() {
    let vendor = Vendor::saying(
        200,
        "text/event-stream",
        sse(&[
            json!({ "type": "message_start", "message": { "id": "msg_1", "type": "message", "role": "assistant", "content": [],
                "model": "claude-3-5-haiku-20241022", "stop_reason": null,
                "usage": { "input_tokens": 20, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 1, "output_tokens": 1 } } }),
            json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "thinking", "thinking": "" } }),
            json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "thinking_delta", "thinking": "hm" } }),
            json!({ "type": "content_block_stop", "index": 0 }),
            json!({ "type": "ping" }),
            json!({ "type": "content_block_start", "index": 1, "content_block": { "type": "text", "text": "" } }),
            json!({ "type": "content_block_delta", "index": 1, "delta": { "type": "text_delta", "text": "Let me " } }),
            json!({ "type": "content_block_delta", "index": 1, "delta": { "type": "text_delta", "text": "add." } }),
            json!({ "type": "content_block_start", "index": 2,
                "content_block": { "type": "tool_use", "id": "toolu_1", "name": "add", "input": {} } }),
            json!({ "type": "content_block_delta", "index": 2, "delta": { "type": "input_json_delta", "partial_json": "{\"a\"" } }),
            json!({ "type": "content_block_delta", "index": 2, "delta": { "type": "input_json_delta", "partial_json": ":1}" } }),
            json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use", "stop_sequence": null },
                "usage": { "output_tokens": 17 } }),
            json!({ "type": "message_stop" }),
        ]),
    )
    .await;
    let options = PromptOptions { tools: vec![add()], ..PromptOptions::default() };
    let prompt = Prompt { options, ..prompt("claude-3-5-haiku-20241022") };
    let (answer, heard) = ask(&vendor.anthropic(), &prompt).await;
    let answer = answer.unwrap();
    let asked = vendor.asked();
    assert_eq!(asked.path, "/v1/messages");
    assert_eq!(asked.headers["x-api-key"], KEY);
    assert_eq!(asked.headers["anthropic-version"], "2023-06-01");
    assert!(!asked.headers.contains_key("authorization"));
    let expected = json!({
        "model": "claude-3-5-haiku-20241022", "max_tokens": 4096, "stream": true,
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "what is 1+1?" }] }],
        "tools": [{ "name": "add", "description": "adds", "input_schema": add().parameters }],
    });
    assert_eq!(asked.body, expected);
    assert_eq!((answer.text.as_str(), answer.reasoning.as_str()), ("Let me add.", "hm"));
    let call = ToolCall { id: "toolu_1".into(), name: "add".into(), arguments: "{\"a\":1}".into() };
    assert_eq!(answer.tool_calls, [call]);
    assert_eq!(
        (answer.finish_reason, answer.raw_finish_reason.as_deref()),
        (FinishReason::ToolCalls, Some("tool_use"))
    );
    let usage = answer.usage;
    assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (26, 17, 43));
    assert_eq!((usage.cached_prompt_tokens, usage.estimated), (Some(5), false));
    assert_eq!(answer.provider_request_id.as_deref(), Some("msg_1"));
    let expected = [
        "thinking hm",
        "Let me ",
        "add.",
        "tool 0 Some(\"toolu_1\") Some(\"add\") ",
        "tool 0 None None {\"a\"",
        "tool 0 None None :1}",
    ];
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn json_that_anthropic_gives_through_a_tool_is_the_answers_text() {
    let vendor = Vendor::saying(
        200,
        "text/event-stream",
        sse(&[
            json!({ "type": "message_start", "message": { "id": "msg_1", "model": "c", "usage": { "input_tokens": 3, "output_tokens": 1 } } }),
            json!({ "type": "content_block_start", "index": 0,
                "content_block": { "type": "tool_use", "id": "toolu_1", "name": "answer", "input": {} } }),
            json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "input_json_delta", "partial_json": "{\"sum\":2}" } }),
            json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" }, "usage": { "output_tokens": 5 } }),
            json!({ "type": "message_stop" }),
        ]),
    )
    .await;
    let format =
        AnswerFormat::JsonSchema { name: "sum".into(), schema: json!({ "type": "object" }), strict: Some(true) };
    let options = PromptOptions { format: Some(format), ..PromptOptions::default() };
    let (answer, _) = ask(&vendor.anthropic(), &Prompt { options, ..prompt("claude-3-5-haiku-20241022") }).await;
    let answer = answer.unwrap();
    assert_eq!((answer.text.as_str(), answer.finish_reason), ("{\"sum\":2}", FinishReason::Stop));
    assert!(answer.tool_calls.is_empty());
    assert_eq!(vendor.asked().body["tool_choice"], json!({ "type": "tool", "name": "answer" }));
}

#[tokio::test]
async fn streamed_tool_calls_of_openai_are_put_together() {
    let chunk = |delta: Value, finish: Value| {
        json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o-2024",
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] })
    };
    let piece = |index: u32, rest: Value| json!({ "tool_calls": [{ "index": index, "id": rest["id"], "function": rest["function"] }] });
    let chunks = [
        chunk(json!({ "role": "assistant", "content": null }), Value::Null),
        chunk(piece(0, json!({ "id": "call_1", "function": { "name": "add", "arguments": "" } })), Value::Null),
        chunk(piece(0, json!({ "function": { "arguments": "{\"a\":" } })), Value::Null),
        chunk(piece(0, json!({ "function": { "arguments": "1}" } })), Value::Null),
        chunk(piece(1, json!({ "id": "call_2", "function": { "name": "add", "arguments": "{}" } })), Value::Null),
        chunk(json!({}), json!("tool_calls")),
        json!({ "id": "chatcmpl-1", "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": 4,
            "prompt_tokens_details": { "cached_tokens": 2 } } }),
    ];
    let body: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    let vendor = Vendor::saying(200, "text/event-stream; charset=utf-8", format!("{body}data: [DONE]\n\n")).await;
    let (answer, heard) = ask(&vendor.openai(), &prompt("gpt-4o")).await;
    let answer = answer.unwrap();
    let call = |id: &str, arguments: &str| ToolCall { id: id.into(), name: "add".into(), arguments: arguments.into() };
    assert_eq!(answer.tool_calls, [call("call_1", "{\"a\":1}"), call("call_2", "{}")]);
    assert_eq!((answer.finish_reason, answer.model.as_str()), (FinishReason::ToolCalls, "gpt-4o-2024"));
    assert_eq!((answer.usage.prompt_tokens, answer.usage.cached_prompt_tokens), (9, Some(2)));
    assert_eq!(heard.len(), 4, "{heard:?}");
    let asked = vendor.asked();
    assert_eq!(
        (asked.path.as_str(), &asked.headers["authorization"]),
        ("/v1/chat/completions", &format!("Bearer {KEY}").parse().unwrap())
    );
}

#[tokio::test]
async fn embeddings_come_in_the_order_of_their_texts_and_hugging_face_is_asked_where_it_has_them() {
    let inputs = |dimensions| Inputs {
        org: "acme".to_owned(),
        request_id: "r1".into(),
        model: "m/e".into(),
        texts: vec!["one".into(), "two".into()],
        dimensions,
    };
    let body = json!({ "model": "e-1", "data": [
        { "index": 1, "embedding": [3.0, 4.0] }, { "index": 0, "embedding": [1.0, 2.0] } ], "usage": { "prompt_tokens": 2 } });
    let vendor = Vendor::saying(200, "application/json", body.to_string()).await;
    let made = vendor.openai().embed(&inputs(Some(2)), Some(&key())).await.unwrap();
    assert_eq!((made.model.as_str(), made.vectors), ("e-1", vec![vec![1.0, 2.0], vec![3.0, 4.0]]));
    assert_eq!((made.usage.prompt_tokens, made.usage.estimated), (2, false));
    let asked = vendor.asked();
    let expected = json!({ "model": "m/e", "input": ["one", "two"], "encoding_format": "float", "dimensions": 2 });
    assert_eq!((asked.path.as_str(), asked.body), ("/v1/embeddings", expected));

    // One vector for each token.
    let vendor =
        Vendor::saying(200, "application/json", json!([[[1.0, 1.0], [3.0, 1.0]], [[0.0, 2.0]]]).to_string()).await;
    let provider = OpenAi::hugging_face(OpenAiOptions::hugging_face(&vendor.base, None)).unwrap();
    let made = provider.embed(&inputs(None), Some(&key())).await.unwrap();
    assert_eq!((made.vectors, made.usage.estimated), (vec![vec![2.0, 1.0], vec![0.0, 2.0]], true));
    let asked = vendor.asked();
    assert_eq!(asked.path, "/hf-inference/models/m/e/pipeline/feature-extraction");
    assert_eq!(asked.body, json!({ "inputs": ["one", "two"] }));

    let none = Vendor::saying(200, "application/json", "{}").await.anthropic().embed(&inputs(None), Some(&key())).await;
    assert_eq!(none.unwrap_err().category, ErrorCategory::Validation);
}

#[tokio::test]
async fn several_answers_come_with_their_probabilities_or_not_at_all() {
    let likely = |token: &str| {
        let top = json!([{ "token": "a", "logprob": -0.1, "bytes": [97] }, { "token": "\u{fffd}", "logprob": -3.0, "bytes": [226] }]);
        json!({ "content": [{ "token": token, "logprob": -0.1, "bytes": token.as_bytes(), "top_logprobs": top }] })
    };
    let chunk = |index: u32, text: &str, finish: Value| {
        let logprobs = if text.is_empty() { Value::Null } else { likely(text) };
        json!({ "id": "c", "model": "m-1", "choices": [
            { "index": index, "delta": { "content": text }, "logprobs": logprobs, "finish_reason": finish }] })
    };
    let (first, second) = (chunk(0, "a", Value::Null), chunk(1, "b", Value::Null));
    let ends = [chunk(1, "", json!("length")), chunk(7, "nobody's", json!("stop")), chunk(0, "", json!("stop"))];
    let options = PromptOptions { choices: Some(2), logprobs: Some(2), ..PromptOptions::default() };
    let prompt = Prompt { options, ..prompt("m") };
    let whole = sse(&[&[first.clone(), second.clone()][..], &ends].concat());
    let vendor = Vendor::saying(200, "text/event-stream", whole).await;
    let mut heard = Vec::new();
    let mut hear = |choice: u32, delta: Delta<'_>| heard.push((choice, format!("{delta:?}").starts_with("Text")));
    let answer = vendor.openai().complete(&prompt, Some(&key()), &mut hear).await.unwrap();
    assert_eq!(heard, [(0, false), (0, true), (1, false), (1, true)]);
    assert_eq!((answer.text.as_str(), answer.finish_reason), ("a", FinishReason::Stop));
    assert_eq!((answer.logprobs.len(), answer.logprobs[0].top[1].bytes()), (1, &[226][..]));
    let [other] = answer.others.as_slice() else { panic!("{:?}", answer.others) };
    assert_eq!((other.text.as_str(), other.finish_reason, other.logprobs.len()), ("b", FinishReason::Length, 1));

    // One of them has no end.
    let broken = sse(&[first, second, ends[2].clone()]);
    let vendor = Vendor::saying(200, "text/event-stream", broken).await;
    let fault = vendor.openai().complete(&prompt, Some(&key()), &mut |_, _| {}).await.unwrap_err();
    assert_eq!(fault.code.as_deref(), Some("truncated_stream"));
    let fault = ask(&vendor.anthropic(), &prompt).await.0.unwrap_err();
    assert_eq!((fault.category, fault.code.as_deref()), (ErrorCategory::Validation, Some("unsupported_parameter")));
}

#[tokio::test]
async fn what_vendors_refuse_is_told_apart_and_the_key_is_not_repeated() {
    let error = |kind: &str, message: &str| json!({ "type": "error", "error": { "type": kind, "message": message } });
    for (status, body, category, code) in [
        (400, error("invalid_request_error", "bad"), ErrorCategory::Validation, "request_refused"),
        (
            400,
            error("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
            ErrorCategory::Validation,
            "context_length_exceeded",
        ),
        (401, error("authentication_error", KEY), ErrorCategory::Auth, "key_refused"),
        (402, error("billing_error", "pay"), ErrorCategory::Quota, "quota_exceeded"),
        (403, error("permission_error", "no"), ErrorCategory::Auth, "key_refused"),
        (404, error("not_found_error", "no"), ErrorCategory::NotFound, "model_not_found"),
        (413, error("request_too_large", "no"), ErrorCategory::Validation, "request_refused"),
        (429, error("rate_limit_error", "slow"), ErrorCategory::RateLimit, "rate_limited"),
        (500, error("api_error", "oops"), ErrorCategory::Provider, "provider_error"),
        (529, error("overloaded_error", "busy"), ErrorCategory::Provider, "provider_error"),
    ] {
        let vendor = Vendor::saying(status, "application/json", body.to_string()).await;
        let fault = ask(&vendor.anthropic(), &prompt("claude-3-5-haiku-20241022")).await.0.unwrap_err();
        assert_eq!((fault.category, fault.code.as_deref()), (category, Some(code)), "{status} {body}");
        assert!(!fault.message.contains(KEY), "{}", fault.message);
        let upstream = fault.upstream.unwrap();
        assert_eq!((upstream.status, upstream.request_id.as_deref()), (Some(status), Some("req-7")));
    }
    // A model that Hugging Face is loading.
    let loading = json!({ "error": "Model is currently loading", "estimated_time": 2.5 });
    let vendor = Vendor::saying(503, "application/json", loading.to_string()).await;
    let provider = OpenAi::hugging_face(OpenAiOptions::hugging_face(&vendor.base, None)).unwrap();
    let fault = ask(&provider, &prompt("m")).await.0.unwrap_err();
    assert_eq!((fault.category, fault.retry_after), (ErrorCategory::Provider, Some(Duration::from_millis(2500))));
    // Refused in the middle.
    let start = json!({ "type": "message_start", "message": { "id": "m" } });
    let vendor = Vendor::saying(200, "text/event-stream", sse(&[start, error("overloaded_error", "busy")])).await;
    let fault = ask(&vendor.anthropic(), &prompt("c")).await.0.unwrap_err();
    assert_eq!(fault.category, ErrorCategory::Provider);
}

#[tokio::test]
async fn half_an_answer_a_page_and_silence_are_errors_in_time() {
    let start = json!({ "type": "message_start", "message": { "id": "m" } });
    let piece = json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "half" } });
    let block = json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } });
    let begun = sse(&[start, block, piece]);
    for (body, kind, code) in [
        (begun.clone(), "text/event-stream", "truncated_stream"),
        (format!("{begun}event: message_del"), "text/event-stream", "truncated_stream"),
        (format!("{begun}data: {{\"type\": \"mess\n\n"), "text/event-stream", "invalid_response"),
        ("<html>busy</html>".to_owned(), "text/html; charset=utf-8", "invalid_response"),
        (String::new(), "text/event-stream", "truncated_stream"),
    ] {
        let vendor = Vendor::saying(200, kind, body.clone()).await;
        let (answer, heard) = ask(&vendor.anthropic(), &prompt("c")).await;
        assert_eq!(answer.unwrap_err().code.as_deref(), Some(code), "{body}");
        assert!(heard.is_empty() || heard == ["half"]);
        let vendor = Vendor::saying(200, kind, body).await;
        assert!(ask(&vendor.openai(), &prompt("m")).await.0.is_err());
    }
    let silent =
        || said(200, "text/event-stream", Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()));
    let vendor = Vendor::answering(silent).await;
    let since = Instant::now();
    let fault = ask(&vendor.anthropic(), &prompt("c")).await.0.unwrap_err();
    assert_eq!(fault.category, ErrorCategory::Timeout);
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_hundred_megabytes_are_not_read() {
    const PIECE: usize = 64 * 1024;
    for kind in ["application/json", "text/event-stream"] {
        let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let vendor = Vendor::answering(move || {
            let counted = Arc::clone(&counted);
            let piece = Bytes::from(vec![b'x'; PIECE]);
            let pieces = stream::iter(0..1600).map(move |_| {
                counted.fetch_add(PIECE, std::sync::atomic::Ordering::Relaxed);
                Ok::<_, std::io::Error>(piece.clone())
            });
            said(200, kind, Body::from_stream(pieces))
        })
        .await;
        let (answer, _) = ask(&vendor.openai(), &prompt("m")).await;
        assert_eq!(answer.unwrap_err().code.as_deref(), Some("invalid_response"), "{kind}");
        assert!(sent.load(std::sync::atomic::Ordering::Relaxed) < 32 << 20, "{kind}");
    }
}
