//! What the models answer.

use serde_json::{Value, json};

use super::stage::{House, until};

const CHAT: &str = "/v1/chat/completions";

fn ask(text: &str, more: Value) -> Value {
    let mut body = json!({ "model": "pico-chat", "temperature": 0, "messages": [{ "role": "user", "content": text }] });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_completed_as_clients_of_openai_expect() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let body = house.post(CHAT, &ada, ask("what is 2+2?", json!({ "store": true, "mystery": 1 }))).await.with(200);
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("pico-chat-q8-0")));
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"), "{body}");
    let choice = &body["choices"][0];
    assert_eq!(choice["message"], json!({ "role": "assistant", "content": "2 + 2 = 4" }));
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(body["symbia"]["droppedParams"][0]["param"], "mystery", "{body}");
    let usage = &body["usage"];
    let sum = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], sum);

    // The template and the tokens are what was counted.
    let prompt = house.post("/api/apply-template", &ada, ask("what is 2+2?", json!({}))).await.with(200);
    assert_eq!(prompt["prompt"], "<|im_start|>user\nwhat is 2+2?<|im_end|>\n<|im_start|>assistant\n");
    let text = json!({ "model": "pico-chat", "content": "hello" });
    let tokens = house.post("/api/tokenize", &ada, text).await.with(200)["tokens"].clone();
    let back = house.post("/api/detokenize", &ada, json!({ "model": "pico-chat", "tokens": tokens })).await.with(200);
    assert_eq!(back["content"], "hello");

    let several =
        json!({ "n": 3, "seed": 5, "temperature": 1.5, "max_tokens": 5, "logprobs": true, "top_logprobs": 2 });
    let body = house.post(CHAT, &ada, ask("Tell me a story.", several)).await.with(200);
    let choices = body["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    for choice in choices {
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        assert!(choice["finish_reason"] == "length" && tokens.len() == 5, "{choice}");
        assert_eq!(tokens[0]["top_logprobs"].as_array().unwrap().len(), 2);
    }
    assert_eq!(body["usage"]["completion_tokens"], 15);

    let stop = house.post(CHAT, &ada, ask("What is the capital of France?", json!({ "stop": "of France" }))).await;
    assert_eq!(stop.with(200)["choices"][0]["message"]["content"], "The capital ");

    let text = json!({ "model": "pico-chat", "prompt": "The capital of", "max_tokens": 4, "temperature": 0 });
    let body = house.post("/v1/completions", &ada, text).await.with(200);
    assert!(body["object"] == "text_completion" && body["choices"][0]["text"].is_string(), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_streamed_in_order_and_a_reader_who_leaves_stops_the_model() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let streamed = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let mut parts = house.stream(CHAT, &ada, ask("what is 2+2?", streamed)).await;
    assert_eq!(parts.pop().as_deref(), Some("[DONE]"));
    let parts: Vec<Value> = parts.iter().map(|part| serde_json::from_str(part).unwrap()).collect();
    assert_eq!(parts[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = parts.iter().filter_map(|part| part["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "2 + 2 = 4");
    let [.., last, usage] = parts.as_slice() else { panic!("{parts:?}") };
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert!(usage["choices"] == json!([]) && usage["usage"]["completion_tokens"].as_u64() > Some(3), "{usage}");
    assert!(parts.iter().all(|part| part["id"] == parts[0]["id"]), "one id for all");

    let tool = json!({ "type": "function", "function": { "name": "get_weather", "parameters":
        { "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] } } });
    let with_tool = ask("What is the weather in Paris?", json!({ "tools": [tool] }));
    let body = house.post(CHAT, &ada, with_tool.clone()).await.with(200);
    let call = &body["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(body["choices"][0]["finish_reason"], "tool_calls", "{body}");
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("get_weather")));
    let mut with_tool = with_tool;
    with_tool["stream"] = json!(true);
    let parts = house.stream(CHAT, &ada, with_tool.clone()).await;
    assert!(parts.iter().any(|part| part.contains("\"tool_calls\":[{") && part.contains("\"index\":0")), "{parts:?}");

    // The result of the call goes back, and is answered.
    let answered = json!([
        { "role": "user", "content": "What is the weather in Paris?" },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "tool_call_id": call["id"], "content": "sunny" },
    ]);
    with_tool["stream"] = json!(false);
    with_tool["messages"] = answered;
    house.post(CHAT, &ada, with_tool).await.with(200);

    let endless = ask("Tell me a story.", json!({ "stream": true, "ignore_eos": true, "max_tokens": 400 }));
    let mut answer = house.send("POST", CHAT, &ada, Some(&endless)).await;
    answer.chunk().await.unwrap().unwrap();
    drop(answer);
    let idle = || async { house.get("/api/stats", &ada).await.with(200)["activeRequests"] == 0 };
    until("the model is stopped", idle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_said_with_a_reason() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    assert_eq!(house.post(CHAT, "", ask("hello", json!({}))).await.status, 401);
    for (body, status, code) in [
        (ask("hello", json!({ "model": "pico-chant" })), 404, "model_not_found"),
        (ask("hello", json!({ "model": "openai/gpt-5" })), 404, "model_not_found"),
        (ask("hello", json!({ "model": "all-minilm-l6-v2" })), 400, "invalid_request_error"),
        (ask("hello", json!({ "temperature": 3 })), 400, "validation_failed"),
        (ask("hello", json!({ "temperature": "hot" })), 400, "validation_failed"),
        (ask("hello", json!({ "messages": [] })), 400, "validation_failed"),
        (ask("hello", json!({ "messages": [{ "role": "robot", "content": "x" }] })), 400, "validation_failed"),
        (ask("hello", json!({ "n": 9 })), 400, "validation_failed"),
        (ask("hello", json!({ "grammar": "root ::= \"a" })), 400, "invalid_schema"),
        (ask("hello", json!({ "tool_choice": "required" })), 400, "validation_failed"),
        (
            ask(
                "hello",
                json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": { "type": "no" } } } }),
            ),
            400,
            "invalid_schema",
        ),
    ] {
        let answer = house.post(CHAT, &ada, body.clone()).await;
        assert_eq!(answer.refused(), (status, code), "{body} {answer:?}");
        assert!(answer.body["error"]["message"].is_string() && answer.body["requestId"].is_string(), "{answer:?}");
    }
    let long = house.post(CHAT, &ada, ask(&"word ".repeat(2000), json!({}))).await;
    assert_eq!(long.refused(), (400, "context_length_exceeded"));
    assert!(long.body["error"]["message"].as_str().unwrap().contains("more than the 511"), "{long:?}");
    let typed = house.post(CHAT, &ada, ask("hello", json!({ "temperature": "hot" }))).await;
    assert_eq!(typed.body["error"]["param"], "temperature", "{typed:?}");

    house.end_inference();
    let gone = || async { house.get("/api/models/workers", &ada).await.with(200)["workers"] == json!([]) };
    until("the process is gone", gone).await;
    let answer = house.post("/v1/embeddings", &ada, json!({ "model": "all-minilm-l6-v2", "input": "a" })).await;
    assert_eq!(answer.refused(), (503, "engine_unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_become_vectors_and_the_gateway_s_shape_is_spoken() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let embed = |more: Value| {
        let mut body = json!({ "model": "all-minilm-l6-v2", "input": ["A cat.", "A kitten."] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let body = house.post("/v1/embeddings", &ada, embed(json!({}))).await.with(200);
    let vectors: Vec<Vec<f64>> = body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| serde_json::from_value(d["embedding"].clone()).unwrap())
        .collect();
    assert!(vectors.len() == 2 && vectors.iter().all(|vector| vector.len() == 384));
    let length: f64 = vectors[0].iter().map(|number| number * number).sum();
    assert!((length - 1.0).abs() < 1e-4, "{length}");
    assert!(body["usage"]["prompt_tokens"].as_u64() > Some(4), "{}", body["usage"]);
    let encoded = house.post("/v1/embeddings", &ada, embed(json!({ "encoding_format": "base64" }))).await.with(200);
    assert_eq!(encoded["data"][0]["embedding"].as_str().unwrap().len(), 2048);
    assert_eq!(house.post("/v1/embeddings", &ada, embed(json!({ "dimensions": 7 }))).await.status, 400);
    let long = house.post("/v1/embeddings", &ada, embed(json!({ "input": "word ".repeat(2000) }))).await;
    assert_eq!(long.refused(), (400, "context_length_exceeded"));

    let execute =
        |operation: &str, params: Value| json!({ "provider": "local", "operation": operation, "params": params });
    let asked = json!({ "model": "pico-chat", "prompt": "what is 2+2?", "temperature": 0 });
    let body = house.post("/api/integrations/execute", &ada, execute("chat.completions", asked)).await.with(200);
    assert_eq!((&body["success"], &body["data"]["content"]), (&json!(true), &json!("2 + 2 = 4")), "{body}");
    let asked = json!({ "model": "all-minilm-l6-v2", "input": "a" });
    let body = house.post("/api/integrations/execute", &ada, execute("embeddings", asked)).await.with(200);
    assert_eq!(body["data"]["embeddings"][0].as_array().unwrap().len(), 384);
    let refused =
        house.post("/api/integrations/execute", &ada, execute("paint", json!({ "model": "x" }))).await.with(400);
    assert_eq!((&refused["success"], &refused["errorCategory"]), (&json!(false), &json!("validation")), "{refused}");
    assert_eq!(refused["retryable"], false);
    assert!(refused["error"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_refused_with_a_reason_and_named() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let missing = json!(["VISION_MODEL", "VISION_MMPROJ"]);
    let status = house.get("/api/vision/status", &ada).await.with(200);
    assert_eq!(status, json!({ "ready": false, "missing": missing }));
    let picture = json!({ "imageBase64": "data:image/png;base64,AQI=", "prompt": "what is it?" });
    assert_eq!(house.post("/api/vision/classify", "", picture.clone()).await.status, 401);
    let refused = house.post("/api/vision/classify", &ada, picture).await.with(200);
    assert_eq!((&refused["ok"], &refused["arena"], &refused["missing"]), (&json!(false), &json!("REFUSED"), &missing));
    assert_eq!((&refused["imageDigest"], &refused["bytes"]), (&json!("a12871fee210fb86"), &json!(2)));
    let wrong = house.post("/api/vision/classify", &ada, json!({ "imageBase64": "?" })).await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
}
