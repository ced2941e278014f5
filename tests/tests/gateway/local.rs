//! The models on this machine through the gateway, with no provider configured: what OpenAI's own client asks of them.

use anyhow::ensure;
use serde_json::{Value, json};
use symbia_tests::python::python;

use crate::{
    Tested,
    clients::script,
    stage::{Person, Stage},
};

const OPENAI: &str = r#"
import json, math, os
from openai import OpenAI, BadRequestError
client = OpenAI(base_url=os.environ["GATEWAY"] + "/v1", api_key=os.environ["TOKEN"], max_retries=0)
def ask(text): return [{"role": "user", "content": text}]
said = {}

weather = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters":
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}}}
paris = ask("What is the weather in Paris?")
first = client.chat.completions.create(model="auto", messages=paris, tools=[weather], temperature=0)
call = first.choices[0].message.tool_calls[0]
said["call"] = [call.function.name, json.loads(call.function.arguments), first.choices[0].finish_reason, first.model]
with client.chat.completions.stream(model="auto", messages=paris, tools=[weather], temperature=0) as stream:
    call = stream.get_final_completion().choices[0].message.tool_calls[0]
said["streamed call"] = [call.function.name, json.loads(call.function.arguments)]
again = paris + [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
said["after the call"] = client.chat.completions.create(model="auto", messages=again, tools=[weather], max_tokens=9).choices[0].message.role

schema = {"type": "object", "properties": {"sum": {"type": "integer"}, "kind": {"enum": ["even", "odd"]}},
    "required": ["sum", "kind"], "additionalProperties": False}
shaped = client.chat.completions.create(model="auto", messages=ask("what is 2+2?"), temperature=0, max_tokens=60,
    response_format={"type": "json_schema", "json_schema": {"name": "sum", "schema": schema, "strict": True}})
shaped = json.loads(shaped.choices[0].message.content)
said["shaped"] = [sorted(shaped), isinstance(shaped["sum"], int), shaped["kind"] in ("even", "odd")]
worded = client.chat.completions.create(model="auto", messages=ask("hello"), extra_body={"grammar": 'root ::= ("yes" | "no") "!"'})
said["worded"] = worded.choices[0].message.content in ("yes!", "no!")

several = dict(model="symbia-labs/pico-chat", messages=ask("Tell me a story."), n=3, seed=5, temperature=1.5, max_tokens=5,
    logprobs=True, top_logprobs=2)
whole = client.chat.completions.create(**several)
said["several"] = [[c.index, c.finish_reason, len(c.logprobs.content), len(c.logprobs.content[0].top_logprobs)] for c in whole.choices]
texts, tokens = ["", "", ""], [0, 0, 0]
for chunk in client.chat.completions.create(**several, stream=True):
    for c in chunk.choices:
        texts[c.index] += c.delta.content or ""
        tokens[c.index] += len(c.logprobs.content) if c.logprobs else 0
said["streamed several"] = [texts == [c.message.content for c in whole.choices], tokens]

made = client.embeddings.create(model="auto", input=["A cat sits on the mat.", "A kitten is on the rug.", "The stock market fell."])
dot = lambda a, b: sum(x * y for x, y in zip(a.embedding, b.embedding))
cat, kitten, stocks = made.data
said["vectors"] = [len(cat.embedding), abs(dot(cat, cat) - 1) < 1e-3, dot(cat, kitten) > dot(cat, stocks), made.usage.prompt_tokens > 10]
said["models"] = sorted(m.id for m in client.models.list() if m.id.startswith("symbia-labs/"))

said["response"] = client.responses.create(model="auto", input="what is 2+2?", temperature=0).output_text

def refused(call):
    try: return call()
    except BadRequestError as e: return [e.status_code, e.code]
image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.test/a.png"}}]}]
said["refused"] = [
    refused(lambda: client.chat.completions.create(model="auto", messages=image)),
    refused(lambda: client.chat.completions.create(model="auto", messages=ask("hi"), extra_body={"grammar": 'root ::= "a'})),
    refused(lambda: client.embeddings.create(model="auto", input="a", dimensions=2)),
    refused(lambda: client.chat.completions.create(model="auto", messages=ask("far too long " * 3000)))]
print(json.dumps(said))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn openais_client_calls_tools_shapes_answers_and_embeds_without_a_provider() -> Tested {
    let python = python()?;
    let stage = Stage::alone().await?;
    let ada = stage.register("ada").await?;
    let said = tokio::task::block_in_place(|| script(&stage, &python, OPENAI, &ada.token))?;
    let expected = json!({
        "call": ["get_weather", { "city": "Paris" }, "tool_calls", "pico-chat"],
        "streamed call": ["get_weather", { "city": "Paris" }],
        "after the call": "assistant",
        "shaped": [["kind", "sum"], true, true],
        "worded": true,
        "several": [[0, "length", 5, 2], [1, "length", 5, 2], [2, "length", 5, 2]],
        "streamed several": [true, [5, 5, 5]],
        "vectors": [384, true, true, true],
        "response": "2 + 2 = 4",
        "models": ["symbia-labs/all-minilm-l6-v2", "symbia-labs/pico-chat"],
        "refused": [[400, "unsupported_content"], [400, "invalid_schema"], [400, "unsupported_parameter"],
            [400, "context_length_exceeded"]],
    });
    ensure!(said == expected, "{said:#}\nexpected: {expected:#}");

    // Documents are put in order by the same vectors, with a model that is named and without.
    let documents = json!(["The stock market fell.", { "text": "A kitten is on the rug." }, "It rains."]);
    for model in [Value::Null, json!("auto"), json!("symbia-labs/all-minilm-l6-v2")] {
        let body = json!({ "model": model, "query": "Where is the cat?", "documents": documents, "top_n": 2,
            "return_documents": true });
        let ranked = stage.ask(&ada, "POST", "/v1/rerank", Some(body)).await?;
        let first = &ranked.body["results"][0];
        ensure!(ranked.status == 200 && first["index"] == 1, "{}", ranked.body);
        ensure!(first["document"]["text"] == "A kitten is on the rug.", "{}", ranked.body);
        ensure!(ranked.body["results"].as_array().is_some_and(|results| results.len() == 2), "{}", ranked.body);
    }
    let talker = json!({ "model": "symbia-labs/pico-chat", "query": "Where?", "documents": ["here"] });
    let refused = stage.ask(&ada, "POST", "/v1/rerank", Some(talker)).await?;
    ensure!(refused.status == 400, "a model of texts reranks: {} {}", refused.status, refused.body);
    Ok(())
}

impl Stage {
    async fn set(&self, root: &Person, patch: Value) -> anyhow::Result<()> {
        let path = format!("{}/api/models/pico-chat", self.models);
        self.http.patch(path).bearer_auth(&root.token).json(&patch).send().await?.error_for_status()?;
        Ok(())
    }
}

fn asks(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "what is 2+2?" }], "temperature": 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_this_machine_is_there_for_whom_it_is_set_under_every_name() -> Tested {
    let (stage, root) = Stage::administered().await?;
    let (ada, eve) = (stage.register("ada").await?, stage.register("eve").await?);
    stage.set(&root, json!({ "aliases": ["small"], "hiddenFrom": [eve.org], "defaults": { "maxTokens": 3 } })).await?;

    let mut short = asks("symbia-labs/small");
    let answered = loop {
        // What is set counts within a moment.
        let answered = stage.ask(&ada, "POST", "/v1/chat/completions", Some(short.clone())).await?;
        if answered.status == 200 {
            break answered;
        }
        ensure!(answered.status == 404, "{}", answered.body);
    };
    let usage = &answered.body["usage"]["completion_tokens"];
    ensure!(answered.body["model"] == "pico-chat-q8-0" && *usage == 3, "{}", answered.body);
    short["max_tokens"] = json!(50);
    let answered = stage.ask(&ada, "POST", "/v1/chat/completions", Some(short)).await?;
    ensure!(answered.body["choices"][0]["message"]["content"] == "2 + 2 = 4", "{}", answered.body);

    for name in ["auto", "pico-chat", "symbia-labs/pico-chat", "local/pico-chat-q8-0", "symbia-labs/small"] {
        let refused = stage.ask(&eve, "POST", "/v1/chat/completions", Some(asks(name))).await?;
        ensure!(refused.status == 404, "{name}: {} {}", refused.status, refused.body);
        let counted = stage.ask(&eve, "POST", "/v1/messages/count_tokens", Some(asks(name))).await?;
        ensure!(counted.status == 404, "{name}: {} {}", counted.status, counted.body);
    }
    let embed = json!({ "model": "symbia-labs/pico-chat", "input": "a" });
    let refused = stage.ask(&eve, "POST", "/v1/embeddings", Some(embed)).await?;
    ensure!(refused.status == 404, "{} {}", refused.status, refused.body);
    let (hers, listed) =
        (stage.ask(&eve, "GET", "/v1/models", None).await?, stage.ask(&ada, "GET", "/v1/models", None).await?);
    let names = |list: &Value| list.to_string().contains("pico");
    ensure!(!names(&hers.body) && names(&listed.body), "{}\n{}", hers.body, listed.body);

    // Nor is an answer given again of a model that was switched off.
    let mut kept = asks("pico-chat");
    kept["cache"] = json!({ "mode": "exact" });
    for _ in 0..2 {
        let answered = stage.ask(&ada, "POST", "/v1/chat/completions", Some(kept.clone())).await?;
        ensure!(answered.status == 200, "{}", answered.body);
    }
    stage.set(&root, json!({ "enabled": false })).await?;
    loop {
        let answered = stage.ask(&ada, "POST", "/v1/chat/completions", Some(kept.clone())).await?;
        if answered.status != 200 {
            ensure!(answered.status == 403, "{} {}", answered.status, answered.body);
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_model_the_gateway_says_that_this_machine_has_none() -> Tested {
    for (stage, expected) in [(Stage::without_models().await?, "unavailable"), (Stage::alone().await?, "available")] {
        let ada = stage.register("ada").await?;
        let told = stage.ask(&ada, "GET", "/api/integrations/capabilities", None).await?;
        let local = &told.body["byProvider"]["symbia-labs"];
        ensure!(told.status == 200 && local["status"] == expected, "{expected}: {local}");
        ensure!(
            local["models"].as_array().is_some_and(|models| models.is_empty() == (expected == "unavailable")),
            "{local}"
        );
    }
    Ok(())
}
