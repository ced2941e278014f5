//! OpenAI's own clients in two languages, with another base URL and nothing else.

use std::{fs, process::Command};

use serde_json::{Value, json};
use symbia_tests::{
    python::{python, run},
    stock,
};

use super::stage::House;

const PYTHON: &str = r#"
import json, os
from openai import OpenAI, NotFoundError
client = OpenAI(base_url=os.environ["MODELS"] + "/v1", api_key=os.environ["TOKEN"], max_retries=0)
ask = [{"role": "user", "content": "what is 2+2?"}]
said = {}
whole = client.chat.completions.create(model="pico-chat", messages=ask, temperature=0)
said["whole"] = [whole.choices[0].message.content, whole.choices[0].finish_reason]
chunks = list(client.chat.completions.create(model="pico-chat", messages=ask, temperature=0, stream=True, stream_options={"include_usage": True}))
said["streamed"] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
said["usage"] = chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
weather = {"type": "function", "function": {"name": "get_weather", "parameters":
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}}}
asked = [{"role": "user", "content": "What is the weather in Paris?"}]
call = client.chat.completions.create(model="pico-chat", messages=asked, tools=[weather], temperature=0).choices[0]
said["call"] = [call.message.tool_calls[0].function.name, json.loads(call.message.tool_calls[0].function.arguments), call.finish_reason]
with client.chat.completions.stream(model="pico-chat", messages=asked, tools=[weather], temperature=0) as stream:
    said["streamed call"] = json.loads(stream.get_final_completion().choices[0].message.tool_calls[0].function.arguments)
said["vectors"] = [len(e.embedding) for e in client.embeddings.create(model="all-minilm-l6-v2", input=["a", "b"]).data]
said["models"] = sorted(m.id for m in client.models.list())
said["model"] = client.models.retrieve("pico-chat").id
try: client.chat.completions.create(model="nothing", messages=ask)
except NotFoundError as e: said["unknown"] = e.code
print(json.dumps(said))
"#;

/// What a client is told.
fn expected() -> Value {
    json!({
        "whole": ["2 + 2 = 4", "stop"],
        "streamed": "2 + 2 = 4",
        "usage": true,
        "call": ["get_weather", { "city": "Paris" }, "tool_calls"],
        "streamed call": { "city": "Paris" },
        "vectors": [384, 384],
        "models": ["all-minilm-l6-v2-q8-0", "pico-chat-q8-0"],
        "model": "pico-chat-q8-0",
        "unknown": "model_not_found",
    })
}

/// What a Python program prints, as JSON; it finds the address in `MODELS`, and who it is in `TOKEN`.
pub fn python_says(program: &str, address: &str, token: &str) -> Value {
    let python = python().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("script.py");
    fs::write(&file, program).unwrap();
    let mut client = Command::new(python);
    client.arg(&file).env("MODELS", address).env("TOKEN", token);
    let printed = tokio::task::block_in_place(|| run(&mut client, "the client failed")).unwrap();
    serde_json::from_str(&printed).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_completes_streams_calls_tools_and_embeds() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    assert_eq!(python_says(PYTHON, house.address(), &ada), expected());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_completes_streams_calls_tools_and_embeds() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let said = stock::run("openai.cjs", &[("MODELS", house.address()), ("TOKEN", &ada)]).await.unwrap();
    assert_eq!(said, expected());
}
