//! Stock clients, with another base URL and nothing else.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use symbia_tests::{
    binary::text,
    python::{python, run},
};

use crate::{Tested, stage::Stage, vendor::KEYS};

const OPENAI: &str = r#"
import json, os
from openai import OpenAI, APIStatusError, BadRequestError, AuthenticationError
base = os.environ["GATEWAY"] + "/v1"
client = OpenAI(base_url=base, api_key=os.environ["TOKEN"], max_retries=0)
ask = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2+3?"}]
said = {}

whole = client.chat.completions.create(model="openai/fake", messages=ask, temperature=0.5, max_tokens=50, stop=["END"])
said["whole"] = [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.model, whole.usage.total_tokens]

chunks = list(client.chat.completions.create(model="openai/fake", messages=ask, stream=True, stream_options={"include_usage": True}))
said["streamed"] = ["".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks[-1].usage.total_tokens,
    [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason], chunks[0].choices[0].delta.role]
said["pieces"] = sum(1 for c in chunks if c.choices and c.choices[0].delta.content)

tools = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters":
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}}}]
first = client.chat.completions.create(model="openai/fake", messages=ask, tools=tools, tool_choice="auto")
call = first.choices[0].message.tool_calls[0]
said["call"] = [call.id, call.function.name, json.loads(call.function.arguments), first.choices[0].finish_reason]
again = ask + [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "5"}]
second = client.chat.completions.create(model="openai/fake", messages=again, tools=tools)
said["after the call"] = second.choices[0].message.content
with client.chat.completions.stream(model="openai/fake", messages=ask, tools=tools) as stream:
    final = stream.get_final_completion()
said["streamed call"] = json.loads(final.choices[0].message.tool_calls[0].function.arguments)

schema = {"type": "json_schema", "json_schema": {"name": "sum", "schema": {"type": "object"}, "strict": True}}
client.chat.completions.create(model="openai/fake", messages=ask, response_format=schema)

made = client.embeddings.create(model="openai/embed", input=["a", "three"])
said["vectors"] = [[round(x, 3) for x in e.embedding] for e in made.data]
plain = client.embeddings.create(model="openai/embed", input="ab", encoding_format="float", dimensions=2)
said["vector"] = plain.data[0].embedding

first = client.responses.create(model="openai/fake", instructions="be brief", input="2+3?", max_output_tokens=50, metadata={"for": "ada"})
said["response"] = [first.output_text, first.status, first.model, first.usage.total_tokens, first.instructions]
later = client.responses.create(model="openai/fake", input="sure?", previous_response_id=first.id)
said["later response"] = [later.output_text, later.previous_response_id == first.id]
events = list(client.responses.create(model="openai/fake", input=[{"role": "user", "content": "2+3?"}], stream=True))
said["streamed response"] = ["".join(e.delta for e in events if e.type == "response.output_text.delta"), events[-1].response.output_text,
    [e.sequence_number for e in events] == list(range(len(events)))]
said["events"] = [e.type.removeprefix("response.") for e in events if not e.type.endswith(".delta")]
flat = [{"type": "function", **tools[0]["function"]}]
with client.responses.stream(model="openai/fake", input="2+3?", tools=flat) as stream:
    final = stream.get_final_response()
call = final.output[0]
said["response's call"] = [call.type, call.name, json.loads(call.arguments), final.status]
result = [{"type": "function_call_output", "call_id": call.call_id, "output": "5"}]
said["after it"] = client.responses.create(model="openai/fake", input=result, previous_response_id=final.id, tools=flat).output_text
again = client.responses.retrieve(first.id)
said["read again"] = [again.output_text == first.output_text, again.status, again.instructions, again.model == first.model,
    again.usage.total_tokens, again.max_output_tokens, again.metadata]
calls = client.responses.retrieve(final.id)
said["its call again"] = [calls.output[0].call_id == call.call_id, calls.tools[0].name]
client.responses.delete(first.id)
unstored = client.responses.create(model="openai/fake", input="2+3?", store=False)
said["not stored"] = [unstored.output_text, unstored.store]
def gone(id):
    found = []
    for ask in [lambda: client.responses.retrieve(id), lambda: client.responses.delete(id),
                lambda: client.responses.create(model="openai/fake", input="hi", previous_response_id=id)]:
        try: found.append(ask())
        except APIStatusError as e: found.append(e.status_code)
    return found
said["gone"] = [gone(first.id), gone(unstored.id), gone("resp_nobody")]
try: client.responses.create(model="openai/fake", input="hi", previous_response_id="resp_nobody")
except BadRequestError as e: said["unknown response"] = [e.status_code, e.param]

looked = client.moderations.create(input=["fine", "hurt"])
said["moderation"] = [[r.flagged for r in looked.results], looked.results[1].categories.violence, looked.model]
try: client.moderations.create(input=[])
except BadRequestError as e: said["no moderation"] = [e.status_code, e.param, e.type]

said["text"] = client.completions.create(model="openai/fake", prompt="2+3?").choices[0].text
said["models"] = [m.id for m in client.models.list()]
try: client.chat.completions.create(model="openai/fake", messages=ask, n=9)
except BadRequestError as e: said["refused"] = [e.status_code, e.param, e.type]
try: OpenAI(base_url=base, api_key="sk_0_nobody", max_retries=0).models.list()
except AuthenticationError as e: said["unknown key"] = e.status_code
# Anthropic's model through OpenAI's API.
other = client.chat.completions.create(model="anthropic/claude-fake", messages=ask)
said["other"] = [other.choices[0].message.content, other.model]
print(json.dumps(said))
"#;

const ANTHROPIC: &str = r#"
import json, os
from anthropic import Anthropic, BadRequestError
client = Anthropic(base_url=os.environ["GATEWAY"], api_key=os.environ["TOKEN"], max_retries=0)
ask = [{"role": "user", "content": "2+3?"}]
said = {}

whole = client.messages.create(model="anthropic/claude-fake", max_tokens=50, system="be brief", messages=ask)
said["whole"] = [whole.content[0].text, whole.stop_reason, whole.model, whole.usage.input_tokens, whole.usage.output_tokens]
with client.messages.stream(model="anthropic/claude-fake", max_tokens=50, messages=ask) as stream:
    pieces = list(stream.text_stream)
    final = stream.get_final_message()
said["streamed"] = ["".join(pieces), final.stop_reason, final.usage.output_tokens]
said["pieces"] = len(pieces)

tools = [{"name": "add", "description": "adds", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}]
first = client.messages.create(model="anthropic/claude-fake", max_tokens=50, messages=ask, tools=tools)
call = first.content[-1]
said["call"] = [call.id, call.name, call.input, first.stop_reason]
again = ask + [{"role": "assistant", "content": first.content},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "5"}]}]
said["after the call"] = client.messages.create(model="anthropic/claude-fake", max_tokens=50, messages=again, tools=tools).content[0].text
with client.messages.stream(model="anthropic/claude-fake", max_tokens=50, messages=ask, tools=tools) as stream:
    said["streamed call"] = stream.get_final_message().content[-1].input
count = client.messages.count_tokens
said["counted"] = [count(model="anthropic/claude-fake", messages=ask, tools=tools).input_tokens, count(model="openai/fake", messages=ask).input_tokens]
try: client.messages.create(model="anthropic/claude-fake", max_tokens=50, messages=[{"role": "robot", "content": "x"}])
except BadRequestError as e: said["refused"] = [e.status_code, e.body["error"]["type"]]
# OpenAI's model through Anthropic's API.
other = client.messages.create(model="openai/fake", max_tokens=50, messages=ask)
said["other"] = [other.content[0].text, other.model]
print(json.dumps(said))
"#;

pub fn script(stage: &Stage, python: &Path, code: &str, token: &str) -> anyhow::Result<Value> {
    let file = stage.house.file("script.py");
    fs::write(&file, code)?;
    let mut command = Command::new(python);
    command.arg(text(&file)).env("GATEWAY", &stage.gateway).env("TOKEN", token);
    let printed = run(&mut command, "the client failed")?;
    serde_json::from_str(&printed).with_context(|| format!("the client printed {printed}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_complete_stream_call_tools_and_embed() -> Tested {
    let python = python()?;
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;

    let said = tokio::task::block_in_place(|| script(&stage, &python, OPENAI, &ada.token))?;
    let answer = "2 + 3 = 5 ✓";
    let models = said["models"].as_array().context("no models")?.clone();
    let expected = json!({
        "whole": [answer, "stop", "fake-2026", 18],
        "streamed": [answer, 18, ["stop"], "assistant"],
        "pieces": 3,
        "call": ["call_9", "add", { "a": 2, "b": 3 }, "tool_calls"],
        "after the call": answer,
        "streamed call": { "a": 2, "b": 3 },
        "response": [answer, "completed", "fake-2026", 18, "be brief"],
        "later response": [answer, true],
        "streamed response": [answer, answer, true],
        "events": ["created", "in_progress", "output_item.added", "content_part.added", "output_text.done",
            "content_part.done", "output_item.done", "completed"],
        "response's call": ["function_call", "add", { "a": 2, "b": 3 }, "completed"],
        "after it": answer,
        "read again": [true, "completed", "be brief", true, 18, 50, { "for": "ada" }],
        "its call again": [true, "add"],
        "not stored": [answer, false],
        "gone": [[404, 404, 400], [404, 404, 400], [404, 404, 400]],
        "unknown response": [400, "previous_response_id"],
        "vectors": [[1.0, 0.5], [5.0, 0.5]],
        "vector": [2.0, 0.5],
        "moderation": [[false, true], true, "moderation-2026"],
        "no moderation": [400, "input", "invalid_request_error"],
        "text": answer,
        "models": models,
        "refused": [400, "n", "invalid_request_error"],
        "unknown key": 401,
        "other": [answer, "claude-fake-2026"],
    });
    ensure!(said == expected, "OpenAI's client: {said:#}\nexpected: {expected:#}");
    // As the vendor lists them.
    ensure!(models.contains(&json!("openai/fake")) && !models.contains(&json!("openai/gpt-4o-mini")), "{models:?}");

    // What was asked of the vendor, with the installation's key.
    let asked = stage.vendor.asked();
    let first = json!({
        "model": "fake", "messages": [{ "role": "system", "content": "be brief" }, { "role": "user", "content": "2+3?" }],
        "stream": true, "stream_options": { "include_usage": true }, "temperature": 0.5, "max_tokens": 50, "stop": ["END"],
    });
    ensure!(asked[0].body == first, "{}", asked[0].body);
    ensure!(asked.iter().all(|asked| KEYS.contains(&asked.key.as_str())), "another key");
    let formats: Vec<&Value> = asked.iter().map(|a| &a.body["response_format"]["json_schema"]["strict"]).collect();
    ensure!(formats.contains(&&json!(true)), "{formats:?}");
    let rounds = asked.iter().filter(|a| a.body["messages"][3]["tool_call_id"] == "call_9").count();
    ensure!(rounds == 1, "the result of the tool was not passed on");
    // What was said before a response, without its instructions.
    let turns =
        |turns: &Value| turns.as_array().map(|turns| turns.iter().map(|t| t["content"].clone()).collect::<Vec<_>>());
    let later =
        asked.iter().filter_map(|a| turns(&a.body["messages"])).find(|turns| turns.last() == Some(&json!("sure?")));
    ensure!(later == Some(vec![json!("2+3?"), json!(answer), json!("sure?")]), "{later:?}");

    let said = tokio::task::block_in_place(|| script(&stage, &python, ANTHROPIC, &ada.token))?;
    let expected = json!({
        "whole": [answer, "end_turn", "claude-fake-2026", 12, 6],
        "streamed": [answer, "end_turn", 6],
        "pieces": 3,
        "call": ["toolu_9", "add", { "a": 2, "b": 3 }, "tool_use"],
        "after the call": answer,
        "streamed call": { "a": 2, "b": 3 },
        "counted": [42, 1],
        "refused": [400, "invalid_request_error"],
        "other": [answer, "fake-2026"],
    });
    ensure!(said == expected, "Anthropic's client: {said:#}\nexpected: {expected:#}");
    Ok(())
}
