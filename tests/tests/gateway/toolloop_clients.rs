//! A stock client whose tools are called by the gateway, by both APIs.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use symbia_tests::{binary::until, python::python};

use crate::{Tested, clients::script, stage::Stage, toolloop::results, weather::Weather};

const OPENAI: &str = r#"
import json, os
from openai import OpenAI, APIStatusError
client = OpenAI(base_url=os.environ["GATEWAY"] + "/v1", api_key=os.environ["TOKEN"], max_retries=0)
play = lambda *turns: json.dumps(turns)
model = "openai/scripted"
said = {}

forecast = lambda city: ["weather_forecast", {"city": city}]
script = play({"say": "Let me see.", "call": [forecast("Bern"), ["weather_fail", {}]]}, {"tell": True})
ask = [{"role": "user", "content": script}]
server = {"type": "mcp", "server_label": "weather", "allowed_tools": ["forecast", "fail"], "require_approval": "never"}

whole = client.chat.completions.create(model=model, messages=ask, tools=[server])
said["chat"] = [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.total_tokens, whole.choices[0].message.tool_calls]
chunks = list(client.chat.completions.create(model=model, messages=ask, tools=[server], stream=True, stream_options={"include_usage": True}))
said["chat, streamed"] = ["".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks[-1].usage.total_tokens,
    [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]]

shown = lambda r: [[i.type, getattr(i, "name", None), getattr(i, "status", None)] for i in r.output]
first = client.responses.create(model=model, input=script, tools=[server])
said["response"] = [shown(first), first.output_text, first.status, first.usage.total_tokens]
listed, call, failed = first.output[0], first.output[2], first.output[3]
said["its list"] = [listed.server_label, [t.name for t in listed.tools], listed.tools[0].input_schema["required"]]
said["its calls"] = [json.loads(call.arguments), call.output, call.error, failed.output, failed.error.type, failed.error.content[0]["text"]]
again = client.responses.retrieve(first.id)
said["read again"] = [[i.model_dump() for i in again.output] == [i.model_dump() for i in first.output], again.usage == first.usage,
    again.status, [t.type for t in again.tools]]

later = client.responses.create(model=model, input=play({"say": "it did"}), previous_response_id=first.id)
said["gone on with"] = later.output_text
back = client.responses.create(model=model, input=[{"role": "user", "content": "rain?"}] + [i.model_dump() for i in first.output]
    + [{"role": "user", "content": play({"say": "so it is"})}])
said["sent back"] = back.output_text

events = list(client.responses.create(model=model, input=script, tools=[server], stream=True))
kinds = [e.type.removeprefix("response.") for e in events]
said["events"] = [k for k in kinds if k != "output_text.delta"][:26]
said["numbered"] = [e.sequence_number for e in events] == list(range(len(events)))
said["streamed"] = ["".join(e.delta for e in events if e.type == "response.output_text.delta"), shown(events[-1].response), events[-1].response.usage.total_tokens]
with client.responses.stream(model=model, input=script, tools=[server]) as stream:
    final = stream.get_final_response()
said["accumulated"] = [shown(final), final.output_text]

both = [server, {"type": "function", "name": "add", "parameters": {"type": "object"}}]
mixed = client.responses.create(model=model, input=play({"call": [forecast("Bern")]}, {"call": [forecast("Basel"), ["add", {"a": 2}]]}), tools=both)
said["mixed"] = shown(mixed)
result = [{"type": "function_call_output", "call_id": mixed.output[-1].call_id, "output": "5"}, {"role": "user", "content": play({"say": "five"})}]
said["after it"] = client.responses.create(model=model, input=result, previous_response_id=mixed.id, tools=both).output_text
turns = [{"call": [forecast("Bern")]}] * 3
used_up = client.responses.create(model=model, input=play(*turns), tools=[server], extra_body={"max_tool_rounds": 1})
said["used up"] = [used_up.status, used_up.incomplete_details.reason, client.responses.retrieve(used_up.id).incomplete_details.reason]

def refused(ask):
    try: return ask()
    except APIStatusError as e: return e.status_code
turn = first.output[-1].id.removeprefix("msg_")
said["a turn alone"] = refused(lambda: client.responses.retrieve("resp_" + turn))
said["ids"] = [first.id.removeprefix("resp_"), turn]
client.responses.delete(first.id)
said["gone"] = [refused(lambda: client.responses.retrieve(first.id)),
    refused(lambda: client.responses.create(model=model, input="x", previous_response_id=first.id))]
try: client.responses.create(model=model, input=script, tools=[{"type": "mcp", "server_label": "nowhere", "require_approval": "never"}])
except APIStatusError as e: said["unknown"] = [e.status_code, e.param]
print(json.dumps(said))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_has_tools_called_by_both_apis() -> Tested {
    let python = python()?;
    let (stage, weather) = (Stage::open().await?, Weather::start().await?);
    let ada = stage.register("ada").await?;
    weather.register(&stage, &ada, "weather").await?;
    let said = tokio::task::block_in_place(|| script(&stage, &python, OPENAI, &ada.token))?;

    let told = "Bern: rain & Error: the barometer is broken";
    let text = format!("Let me see.\n\n{told}");
    let items = json!([
        ["mcp_list_tools", null, null],
        ["message", null, "completed"],
        ["mcp_call", "forecast", "completed"],
        ["mcp_call", "fail", "failed"],
        ["message", null, "completed"],
    ]);
    let joined = format!("Let me see.{told}");
    let call = ["output_item.added", "mcp_call.in_progress", "mcp_call_arguments.delta", "mcp_call_arguments.done"];
    let message =
        ["output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done"];
    let list = ["output_item.added", "mcp_list_tools.in_progress", "mcp_list_tools.completed", "output_item.done"];
    let events = [&["created", "in_progress"][..], &list, &message, &call, &call].concat();
    let mut heard: Vec<&str> =
        said["events"].as_array().context("no events")?.iter().filter_map(Value::as_str).collect();
    let ends = heard.split_off(events.len());
    ensure!(heard == events, "{heard:?}\nexpected: {events:?}");
    // Which of two calls ends first, nobody knows.
    let mut calls = ends[..4].to_vec();
    calls.sort_unstable();
    ensure!(calls == ["mcp_call.completed", "mcp_call.failed", "output_item.done", "output_item.done"], "{ends:?}");
    ensure!(ends[4] == "output_item.added", "{ends:?}");

    let expected = json!({
        "chat": [text, "stop", 36, null],
        "chat, streamed": [text, 36, ["stop"]],
        "response": [items, joined, "completed", 36],
        "its list": ["weather", ["forecast", "fail"], ["city"]],
        "its calls": [{ "city": "Bern" }, "Bern: rain", null, null, "mcp_tool_execution_error", "the barometer is broken"],
        "read again": [true, true, "completed", ["mcp"]],
        "gone on with": "it did",
        "sent back": "so it is",
        "events": said["events"],
        "numbered": true,
        "streamed": [joined, items, 36],
        "accumulated": [items, joined],
        "mixed": [["mcp_list_tools", null, null], ["mcp_call", "forecast", "completed"], ["function_call", "add", "completed"]],
        "after it": "five",
        "used up": ["incomplete", "max_tool_rounds", "max_tool_rounds"],
        "a turn alone": 404,
        "ids": said["ids"],
        "gone": [404, 400],
        "unknown": [404, "tools[0].server_label"],
    });
    ensure!(said == expected, "{said:#}\nexpected: {expected:#}");

    // Whoever goes on with a response has its calls, and their results, before them.
    let asked = stage.vendor.asked();
    let of = |text: &str| asked.iter().find(|asked| asked.body["messages"].to_string().contains(text));
    let later = of("it did").context("not gone on with")?;
    let roles: Vec<&str> =
        later.body["messages"].as_array().context("none")?.iter().filter_map(|m| m["role"].as_str()).collect();
    ensure!(roles == ["user", "assistant", "tool", "tool", "assistant", "user"], "{roles:?}");
    let back = of("so it is").context("not sent back")?;
    ensure!(results(back)[0] == "Bern: rain" && results(back).len() == 2, "{}", back.body);
    let after = of("five").context("not gone on with")?;
    let calls = after.body["messages"].to_string();
    ensure!(
        calls.contains("Bern") && !calls.contains("\"{\\\"city\\\":\\\"Basel\\\"}\""),
        "a call without a result: {calls}"
    );
    // Nothing of a response that was deleted is told any more, whichever turn it is of.
    for id in said["ids"].as_array().context("no ids")? {
        let path = format!("/api/integrations/executions/{}", id.as_str().context("no id")?);
        let shown = || async { anyhow::Ok(stage.ask(&ada, "GET", &path, None).await?.body) };
        until("it shows", || async { Ok(shown().await?["status"] == "completed") }).await?;
        ensure!(shown().await?["result"].is_null(), "{}", shown().await?);
    }
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    Ok(())
}
