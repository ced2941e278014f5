//! The models as programs find them that speak Ollama's API: over raw HTTP, and with its own Python client.

use serde_json::{Value, json};

use super::{
    clients::python_says,
    stage::{Answer, House, until},
};

const PICO: &str = "pico-chat-q8-0";
const VECTORS: &str = "all-minilm-l6-v2-q8-0";

impl House {
    async fn ollama_send(&self, method: &str, path: &str, token: &str, body: Option<&Value>) -> reqwest::Response {
        let request = reqwest::Client::new().request(method.parse().unwrap(), format!("{}{path}", self.ollama()));
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        body.into_iter().fold(request, |request, body| request.json(body)).send().await.unwrap()
    }

    pub async fn ollama_ask(&self, path: &str, token: &str, body: Value) -> Answer {
        let answer = self.ollama_send("POST", path, token, Some(&body)).await;
        Answer { status: answer.status(), body: answer.json().await.unwrap_or_default() }
    }

    pub async fn ollama_get(&self, path: &str, token: &str) -> Answer {
        let answer = self.ollama_send("GET", path, token, None).await;
        Answer { status: answer.status(), body: answer.json().await.unwrap_or_default() }
    }

    /// The lines of a streamed answer.
    pub async fn ollama_lines(&self, path: &str, token: &str, body: Value) -> Vec<Value> {
        let answer = self.ollama_send("POST", path, token, Some(&body)).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &"application/x-ndjson".parse().unwrap())
        );
        let text = answer.text().await.unwrap();
        assert!(text.ends_with('\n'), "{text:?}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn ask(model: &str, more: Value) -> Value {
    let turns = json!([{ "role": "user", "content": "what is 2+2?" }]);
    let mut body = json!({ "model": model, "messages": turns, "options": { "temperature": 0 } });
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn ollamas_routes_answer_with_the_same_models() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    assert!(house.ollama_get("/api/version", "").await.with(200)["version"].is_string());
    for path in ["/api/tags", "/api/ps"] {
        assert_eq!(house.ollama_get(path, "").await.status, 401);
    }
    let tags = house.ollama_get("/api/tags", &ada).await.with(200);
    let names: Vec<&str> =
        tags["models"].as_array().unwrap().iter().filter_map(|model| model["name"].as_str()).collect();
    assert_eq!(names, [VECTORS, PICO]);
    let pico = &tags["models"][1];
    assert_eq!((&pico["details"]["family"], &pico["details"]["quantization_level"]), (&json!("llama"), &json!("Q8_0")));

    let lines = house.ollama_lines("/api/chat", &ada, ask("pico-chat:latest", json!({}))).await;
    let (last, pieces) = lines.split_last().unwrap();
    let said: String = pieces.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
    assert_eq!(said, "2 + 2 = 4");
    assert!(pieces.len() > 1 && pieces.iter().all(|line| line["done"] == false && line["model"] == "pico-chat:latest"));
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["message"]["content"]),
        (&json!(true), &json!("stop"), &json!(""))
    );
    assert!(last["prompt_eval_count"].as_u64() > Some(5) && last["eval_count"].as_u64() > Some(3), "{last}");
    assert!(last["total_duration"].as_u64() >= last["eval_duration"].as_u64(), "{last}");

    let whole = house.ollama_ask("/api/chat", &ada, ask("pico-chat", json!({ "stream": false }))).await.with(200);
    assert_eq!((&whole["message"]["content"], &whole["eval_count"]), (&json!("2 + 2 = 4"), &last["eval_count"]));
    let short = json!({ "stream": false, "options": { "temperature": 0, "num_predict": 2 } });
    let short = house.ollama_ask("/api/chat", &ada, ask("pico-chat", short)).await.with(200);
    assert_eq!((&short["done_reason"], &short["eval_count"]), (&json!("length"), &json!(2)));

    let tool = json!({ "type": "function", "function": { "name": "get_weather", "parameters":
        { "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] } } });
    let asked = json!({ "stream": false, "tools": [tool], "messages": [{ "role": "user", "content": "What is the weather in Paris?" }] });
    let called = house.ollama_ask("/api/chat", &ada, ask("pico-chat", asked)).await.with(200);
    let function = &called["message"]["tool_calls"][0]["function"];
    assert_eq!(
        (&function["name"], &function["arguments"]["city"]),
        (&json!("get_weather"), &json!("Paris")),
        "{called}"
    );
    let schema = json!({ "type": "object", "properties": { "sum": { "type": "integer" } }, "required": ["sum"], "additionalProperties": false });
    let shaped =
        house.ollama_ask("/api/chat", &ada, ask("pico-chat", json!({ "stream": false, "format": schema }))).await;
    let shaped: Value = serde_json::from_str(shaped.with(200)["message"]["content"].as_str().unwrap()).unwrap();
    assert!(shaped["sum"].is_i64(), "{shaped}");

    let text =
        json!({ "model": "pico-chat", "prompt": "what is 2+2?", "stream": false, "options": { "temperature": 0 } });
    assert_eq!(house.ollama_ask("/api/generate", &ada, text).await.with(200)["response"], "2 + 2 = 4");
    let raw = json!({ "model": "pico-chat", "prompt": "The capital of", "raw": true, "options": { "num_predict": 3 } });
    let lines = house.ollama_lines("/api/generate", &ada, raw).await;
    assert!(
        lines.iter().all(|line| line["response"].is_string()) && lines.last().unwrap()["done"] == true,
        "{lines:?}"
    );

    let made = house.ollama_ask("/api/embed", &ada, json!({ "model": VECTORS, "input": ["a", "b"] })).await.with(200);
    assert_eq!(
        made["embeddings"].as_array().unwrap().iter().map(|v| v.as_array().unwrap().len()).collect::<Vec<_>>(),
        [384, 384]
    );
    let shown = house.ollama_ask("/api/show", &ada, json!({ "model": PICO })).await.with(200);
    assert_eq!(shown["model_info"]["llama.context_length"], 512, "{shown}");
    assert!(shown["capabilities"].as_array().unwrap().contains(&json!("tools")), "{shown}");
    let loaded = house.ollama_ask("/api/generate", &ada, json!({ "model": VECTORS })).await.with(200);
    assert_eq!(loaded["done_reason"], "load");
    let running = house.ollama_get("/api/ps", &ada).await.with(200);
    assert_eq!(running["models"].as_array().unwrap().len(), 2, "{running}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_ollamas_routes_nobody_sees_more_than_elsewhere() {
    let house = House::open().await;
    let (root, ada, eve) = (house.register("root").await, house.register("ada").await, house.register("eve").await);
    let me = house.identity_get("/api/auth/me", &eve).await;
    let hidden = json!({ "hiddenFrom": [me["organizations"][0]["id"]], "aliases": ["small"] });
    assert_eq!(house.send("PATCH", &format!("/api/models/{PICO}"), &root, Some(&hidden)).await.status(), 200);
    let tags = house.ollama_get("/api/tags", &eve).await.with(200);
    assert!(!tags.to_string().contains("pico"), "{tags}");
    for name in [PICO, "pico-chat", "small:latest"] {
        for (path, body) in [
            ("/api/chat", ask(name, json!({}))),
            ("/api/generate", json!({ "model": name, "prompt": "a" })),
            ("/api/generate", json!({ "model": name })),
            ("/api/embed", json!({ "model": name, "input": "a" })),
            ("/api/show", json!({ "model": name })),
        ] {
            let refused = house.ollama_ask(path, &eve, body.clone()).await;
            let error = refused.body["error"].as_str().unwrap_or_else(|| panic!("{path}: {refused:?}"));
            assert!(refused.status == 404 && !error.replace(name, "").contains("pico"), "{path} {name} {refused:?}");
            assert_eq!(house.ollama_ask(path, "", body).await.status, 401, "{path}");
        }
    }
    assert_eq!(house.ollama_ask("/api/chat", &ada, ask("small", json!({ "stream": false }))).await.status, 200);
    for (path, body, why) in [
        ("/api/chat", ask(PICO, json!({ "format": "xml" })), "format"),
        ("/api/generate", json!({ "model": PICO, "prompt": "a", "suffix": "b" }), "suffix"),
        ("/api/chat", ask(PICO, json!({ "options": { "temperature": 7 } })), "temperature"),
        ("/api/chat", ask(PICO, json!({ "options": { "top_k": "many" } })), "top_k"),
    ] {
        let refused = house.ollama_ask(path, &ada, body).await;
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(
            refused.body["details"].to_string().contains(why) || refused.body["error"].to_string().contains(why),
            "{refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_stays_as_long_as_who_asks_wants_and_may() {
    let house = House::open().await;
    let (root, ada) = (house.register("root").await, house.register("ada").await);
    let keep = |keep: Value| json!({ "model": PICO, "prompt": "hello", "stream": false, "keep_alive": keep });
    let running = async || house.ollama_get("/api/ps", &ada).await.with(200)["models"].clone();
    let expires = async || running().await[0]["expires_at"].as_str().unwrap_or_default().to_owned();
    for (who, time) in [(&ada, json!(0)), (&ada, json!("1s"))] {
        house.ollama_ask("/api/generate", who, keep(time)).await.with(200);
        assert_eq!(running().await.as_array().map(Vec::len), Some(1), "ada has it unloaded");
    }
    let usual = expires().await;
    house.ollama_ask("/api/generate", &ada, keep(json!("20h"))).await.with(200);
    until("it stays longer", || async { expires().await[..13] > usual[..13] }).await;
    house.ollama_ask("/api/generate", &root, keep(json!(-1))).await.with(200);
    until("it stays", || async { expires().await.starts_with("9999") }).await;
    let wrong = house.ollama_ask("/api/generate", &ada, keep(json!("soon"))).await;
    assert_eq!((wrong.status.as_u16(), &wrong.body["details"][0]["path"]), (400, &json!("keep_alive")), "{wrong:?}");

    let away = json!({ "model": PICO, "keep_alive": 0 });
    assert_eq!(house.ollama_ask("/api/generate", &ada, away.clone()).await.status, 403);
    let unloaded = house.ollama_ask("/api/generate", &root, away).await.with(200);
    assert_eq!((&unloaded["done_reason"], &unloaded["done"]), (&json!("unload"), &json!(true)));
    assert_eq!(running().await, json!([]));
    let vectors = json!({ "model": VECTORS, "input": "a", "keep_alive": "0s" });
    house.ollama_ask("/api/embed", &root, vectors).await.with(200);
    until("it is unloaded when it has answered", || async { running().await == json!([]) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_thinks_when_it_can_and_is_to() {
    let house = House::open().await;
    let (root, ada) = (house.register("root").await, house.register("ada").await);
    let think = async |think: Value| {
        let asked = json!({ "stream": false, "think": think });
        house.ollama_ask("/api/chat", &ada, ask(PICO, asked)).await
    };
    for wrong in [json!(true), json!("high")] {
        let refused = think(wrong).await;
        let error = refused.body["error"].as_str().unwrap_or_default();
        assert!(refused.status == 400 && error.contains("does not think before it answers"), "{refused:?}");
    }
    assert_eq!(think(json!("much")).await.status, 400);
    assert_eq!(think(json!(false)).await.with(200)["message"]["content"], "2 + 2 = 4");

    let template = "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}\
        <|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}";
    let (path, set) = (format!("/api/models/{PICO}"), json!({ "chatTemplate": template }));
    assert_eq!(house.send("PATCH", &path, &root, Some(&set)).await.status(), 200);
    let read = async |how: Value| think(how).await.with(200)["prompt_eval_count"].as_u64().unwrap_or_default();
    let (thinks, does_not) = (read(json!(true)).await, read(json!(false)).await);
    assert!(thinks > 0 && does_not > thinks, "{thinks} {does_not}");
    assert_eq!(read(Value::Null).await, thinks, "by itself it does");
}

const PYTHON: &str = r#"
import json, os
from ollama import Client, ResponseError
client = Client(host=os.environ["MODELS"], headers={"Authorization": "Bearer " + os.environ["TOKEN"]})
ask = dict(model="pico-chat", messages=[{"role": "user", "content": "what is 2+2?"}], options={"temperature": 0})
said = {"models": [m.model for m in client.list().models]}
whole = client.chat(**ask)
said["whole"] = [whole.message.content, whole.done_reason]
said["streamed"] = "".join(part.message.content for part in client.chat(**ask, stream=True))
said["generated"] = client.generate(model="pico-chat", prompt="what is 2+2?", options={"temperature": 0}).response
def get_weather(city: str) -> str:
    """Weather of a city"""
call = client.chat(model="pico-chat", messages=[{"role": "user", "content": "What is the weather in Paris?"}],
    tools=[get_weather], options={"temperature": 0}).message.tool_calls[0].function
said["call"] = [call.name, call.arguments]
said["vectors"] = [len(v) for v in client.embed(model="all-minilm-l6-v2", input=["a", "b"]).embeddings]
said["shown"] = client.show("pico-chat").details.family
try: client.chat(model="nothing", messages=ask["messages"])
except ResponseError as e: said["unknown"] = [e.status_code, "nothing" in e.error]
print(json.dumps(said))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn ollamas_own_client_chats_generates_calls_tools_and_embeds() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let said = python_says(PYTHON, house.ollama(), &ada);
    let expected = json!({
        "models": [VECTORS, PICO],
        "whole": ["2 + 2 = 4", "stop"],
        "streamed": "2 + 2 = 4",
        "generated": "2 + 2 = 4",
        "call": ["get_weather", { "city": "Paris" }],
        "vectors": [384, 384],
        "shown": "llama",
        "unknown": [404, true],
    });
    assert_eq!(said, expected);
}
