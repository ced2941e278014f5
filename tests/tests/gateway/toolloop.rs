//! Tools of MCP servers that the gateway calls itself: what the caller is told, what the model and the servers are asked, and that
//! none of it is done twice.

use anyhow::{Context, ensure};
use reqwest::Response;
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    stage::{Person, Stage},
    vendor::Asked,
    weather::Weather,
};

pub const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

/// A script: one call of the forecast, and an answer that repeats what it gave.
fn forecast() -> Value {
    json!([{ "say": "Let me see.", "call": [["weather_forecast", { "city": "Bern" }]] }, { "tell": true }])
}

fn server() -> Value {
    json!({ "type": "mcp", "server": "weather" })
}

/// A request to play a script, with the weather's tools.
pub fn plays(script: &Value, more: Value) -> Value {
    let mut body = json!({ "model": "openai/scripted", "tools": [server()],
        "messages": [{ "role": "user", "content": script.to_string() }] });
    merge(&mut body, more);
    body
}

pub fn merge(body: &mut Value, more: Value) {
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
}

pub async fn post(stage: &Stage, token: &str, path: &str, key: Option<&str>, body: &Value) -> anyhow::Result<Response> {
    let mut request = stage.http.post(format!("{}{path}", stage.gateway)).bearer_auth(token).json(body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    Ok(request.send().await?)
}

pub async fn chat(stage: &Stage, who: &Person, body: Value) -> anyhow::Result<Value> {
    let answered = stage.ask(who, "POST", CHAT, Some(body)).await?;
    ensure!(answered.status == 200, "{} {}", answered.status, answered.body);
    Ok(answered.body)
}

/// The chunks of a stream that has its clean end.
pub fn chunks(text: &str) -> anyhow::Result<Vec<Value>> {
    ensure!(text.trim_end().ends_with("data: [DONE]"), "no clean end: {text}");
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    Ok(data.map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// How many turns of its own the model saw each time that it was asked.
pub fn turns(asked: &[Asked]) -> Vec<usize> {
    let own = |asked: &Asked| {
        let messages = asked.body["messages"].as_array().into_iter().flatten();
        messages.filter(|message| message["role"] == "assistant").count()
    };
    asked.iter().map(own).collect()
}

pub fn results(asked: &Asked) -> Vec<&Value> {
    let messages = asked.body["messages"].as_array().into_iter().flatten();
    messages.filter(|message| message["role"] == "tool").map(|message| &message["content"]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_asked_again_with_what_its_tools_gave_until_it_answers() -> Tested {
    let (stage, weather) = (Stage::open().await?, Weather::start().await?);
    let ada = stage.register("ada").await?;
    weather.register(&stage, &ada, "weather").await?;

    // Whole, and as a stream.
    let whole = chat(&stage, &ada, plays(&forecast(), json!({}))).await?;
    let (message, usage) = (&whole["choices"][0]["message"], &whole["usage"]);
    let answer = "Let me see.\n\nBern: rain";
    ensure!(message["content"] == answer && message["tool_calls"].is_null(), "{whole}");
    ensure!(whole["choices"][0]["finish_reason"] == "stop" && usage["total_tokens"] == 36, "{whole}");
    ensure!(usage["prompt_tokens"] == 24 && usage["completion_tokens"] == 12, "{whole}");
    ensure!(weather.called() == [("forecast".to_owned(), json!({ "city": "Bern" }))]);
    let asked = stage.vendor.asked();
    ensure!(turns(&asked) == [0, 1], "{:?}", turns(&asked));
    let functions = asked[0].body["tools"].as_array().context("no tools")?;
    let names: Vec<&Value> = functions.iter().map(|tool| &tool["function"]["name"]).collect();
    let all = ["weather_forecast", "weather_fail", "weather_wait", "weather_meet", "weather_talk"];
    ensure!(names == all && functions[0]["function"]["parameters"]["required"] == json!(["city"]), "{functions:?}");
    ensure!(functions[1]["function"]["parameters"]["properties"].is_object(), "{functions:?}");
    let turn = &asked[1].body["messages"][1];
    ensure!(
        turn["content"] == "Let me see." && turn["tool_calls"][0]["function"]["name"] == "weather_forecast",
        "{turn}"
    );
    ensure!(asked[1].body["messages"][2]["tool_call_id"] == turn["tool_calls"][0]["id"], "{}", asked[1].body);

    let streamed = plays(&forecast(), json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let streamed = post(&stage, &ada.token, CHAT, None, &streamed).await?;
    ensure!(streamed.headers().contains_key("x-symbia-request-id"), "{:?}", streamed.headers());
    let streamed = chunks(&streamed.text().await?)?;
    let deltas: Vec<&Value> = streamed.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let text: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    ensure!(text == answer && deltas.iter().all(|delta| delta["tool_calls"].is_null()), "{streamed:?}");
    let pieces = deltas.iter().filter(|delta| delta["content"].as_str().is_some_and(|text| !text.is_empty())).count();
    ensure!(pieces == 4, "as they come, two of each turn: {streamed:?}");
    let ends: Vec<&Value> =
        streamed.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).filter(|end| !end.is_null()).collect();
    ensure!(ends == ["stop"] && streamed.last().context("none")?["usage"]["total_tokens"] == 36, "{streamed:?}");
    let one = streamed.iter().all(|chunk| chunk["id"] == streamed[0]["id"]);
    ensure!(one && deltas.iter().filter(|delta| delta["role"] == "assistant").count() == 1, "{streamed:?}");

    // Each turn is a request on record, and each call an invocation; budgets and usage count each once.
    let path = "/api/integrations/executions";
    until("four requests have ended", || async {
        let rows = stage.ask(&ada, "GET", path, None).await?.body;
        Ok(rows.as_array().is_some_and(|rows| rows.iter().filter(|row| row["status"] == "completed").count() == 4))
    })
    .await?;
    let rows = stage.ask(&ada, "GET", path, None).await?.body;
    ensure!(rows.as_array().is_some_and(|rows| rows.iter().all(|row| row["totalTokens"] == 18)), "{rows}");
    let id = whole["id"].as_str().and_then(|id| id.strip_prefix("chatcmpl-")).context("no id")?;
    let first = stage.ask(&ada, "GET", &format!("{path}/{id}"), None).await?.body;
    ensure!(first["result"]["toolCalls"][0]["function"]["name"] == "weather_forecast", "{first}");
    let used = stage.ask(&ada, "GET", "/api/integrations/usage", None).await?.body;
    ensure!(used["summary"]["totalRequests"] == 4 && used["summary"]["totalTokens"] == 72, "{used}");
    let made = stage.ask(&ada, "GET", "/api/integrations/invocations", None).await?.body;
    let done =
        |row: &Value| row["operation"] == "tool.forecast" && row["success"] == true && row["integration"] == "weather";
    ensure!(made.as_array().is_some_and(|made| made.len() == 2 && made.iter().all(done)), "{made}");
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    ensure!(!log.contains("Bern") && log.contains("invocation-completed"), "content in the log");

    // A budget counts every turn once, and ends the loop where it is used up.
    let bob = stage.register("bob").await?;
    weather.register(&stage, &bob, "weather").await?;
    let budget = json!({ "scope": "org", "period": "day", "unit": "requests", "limit": 3 });
    ensure!(stage.ask(&bob, "PUT", "/api/integrations/budgets", Some(budget)).await?.status == 200);
    weather.called();
    chat(&stage, &bob, plays(&forecast(), json!({}))).await?;
    let refused = stage.ask(&bob, "POST", CHAT, Some(plays(&forecast(), json!({})))).await?;
    ensure!(refused.status == 402 && weather.called().len() == 2, "{} {}", refused.status, refused.body);
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_and_what_is_the_callers_own_ends_as_it_should() -> Tested {
    let (stage, weather) = (Stage::open().await?, Weather::start().await?);
    let ada = stage.register("ada").await?;
    weather.register(&stage, &ada, "weather").await?;

    // Errors of all kinds are for the model to read, and the calls of one turn are made side by side.
    let script = json!([
        { "call": [["weather_fail", {}], ["weather_forecast", []], ["weather_meet", {}], ["weather_meet", {}], ["weather_talk", {}]] },
        { "say": "so it is" },
    ]);
    let said = chat(&stage, &ada, plays(&script, json!({}))).await?;
    ensure!(said["choices"][0]["message"]["content"] == "so it is", "{said}");
    let asked = stage.vendor.asked();
    let told: Vec<&str> = results(&asked[1]).into_iter().filter_map(Value::as_str).collect();
    ensure!(told.len() == 5 && told[0] == "Error: the barometer is broken", "{told:?}");
    ensure!(told[1].starts_with("Error: ") && told[1].contains("no JSON object"), "{told:?}");
    ensure!(told[2..4] == ["met", "met"], "{:?}", &told[2..4]);
    ensure!(told[4].len() < 20_000 && told[4].contains("cut off here: 16384 of 60000 bytes"), "{}", told[4].len());
    let mut called: Vec<String> = weather.called().into_iter().map(|(tool, _)| tool).collect();
    called.sort_unstable();
    ensure!(called == ["fail", "meet", "meet", "talk"], "what has no arguments is not called: {called:?}");

    // A server that is not there any more.
    let unreachable = json!({ "key": "gone", "transport": "http", "serverUrl": "http://127.0.0.1:9/mcp",
        "auth": { "type": "none" } });
    stage.ask(&ada, "POST", "/api/integrations/mcp/register", Some(unreachable)).await?;
    let unknown = plays(&forecast(), json!({ "tools": [{ "type": "mcp", "server": "gone" }] }));
    let unknown = stage.ask(&ada, "POST", CHAT, Some(unknown)).await?;
    ensure!(unknown.status == 400 && unknown.body.to_string().contains("no tools are known"), "{}", unknown.body);
    ensure!(stage.vendor.asked().is_empty(), "the model is asked without its tools");

    // Two rounds of calls, and no third.
    let again = json!({ "say": "On.", "call": [["weather_forecast", { "city": "Bern" }]] });
    let script = json!([again, again, again, again]);
    let used_up = chat(&stage, &ada, plays(&script, json!({ "max_tool_rounds": 2 }))).await?;
    let end = &used_up["choices"][0];
    ensure!(end["finish_reason"] == "length" && end["finish_details"]["type"] == "max_tool_rounds", "{used_up}");
    ensure!(
        end["finish_details"]["max_tool_rounds"] == 2 && end["message"]["content"] == "On.\n\nOn.\n\nOn.",
        "{used_up}"
    );
    ensure!(end["message"]["tool_calls"].is_null() && used_up["usage"]["total_tokens"] == 54, "{used_up}");
    ensure!(turns(&stage.vendor.asked()) == [0, 1, 2] && weather.called().len() == 2);
    let streamed = plays(&script, json!({ "max_tool_rounds": 1, "stream": true }));
    let streamed = chunks(&post(&stage, &ada.token, CHAT, None, &streamed).await?.text().await?)?;
    let end = &streamed.last().context("no end")?["choices"][0];
    ensure!(end["finish_reason"] == "length" && end["finish_details"]["max_tool_rounds"] == 1, "{end}");
    stage.vendor.asked();
    weather.called();

    // A function of the caller's own goes to the caller, and what stands beside it is not called.
    let add = json!({ "type": "function", "function": { "name": "add", "parameters": { "type": "object" } } });
    let script = json!([
        { "call": [["weather_forecast", { "city": "Bern" }]] },
        { "say": "And?", "call": [["weather_forecast", { "city": "Basel" }], ["add", { "a": 2 }]] },
    ]);
    let tools = json!({ "tools": [add, { "type": "mcp", "server_label": "weather", "allowed_tools": ["forecast"],
        "require_approval": "never" }] });
    let mixed = chat(&stage, &ada, plays(&script, tools.clone())).await?;
    let (message, finish) = (&mixed["choices"][0]["message"], &mixed["choices"][0]["finish_reason"]);
    let calls = message["tool_calls"].as_array().context("no calls")?;
    ensure!(calls.len() == 1 && calls[0]["function"]["name"] == "add" && finish == "tool_calls", "{mixed}");
    ensure!(weather.called() == [("forecast".to_owned(), json!({ "city": "Bern" }))]);
    let asked = stage.vendor.asked();
    let names: Vec<Value> = asked[0].body["tools"]
        .as_array()
        .context("no tools")?
        .iter()
        .map(|tool| tool["function"]["name"].clone())
        .collect();
    ensure!(names == ["add", "weather_forecast"], "{names:?}");
    let mut streaming = tools;
    merge(&mut streaming, json!({ "stream": true }));
    let streamed = post(&stage, &ada.token, CHAT, None, &plays(&script, streaming)).await?;
    let streamed = chunks(&streamed.text().await?)?;
    let pieces: Vec<&Value> = streamed.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]).collect();
    let named: Vec<&Value> =
        pieces.iter().map(|piece| &piece["function"]["name"]).filter(|name| !name.is_null()).collect();
    let places = pieces.iter().filter(|piece| !piece.is_null()).all(|piece| piece["index"] == 0);
    ensure!(named == ["add"] && places, "{streamed:?}");
    // Its result comes back as ever, and the tools are there again.
    let mut goes_on = plays(&json!([]), json!({ "tools": [server()] }));
    let said = json!([{ "call": [] }, { "call": [["weather_forecast", { "city": "Chur" }]] }, { "tell": true }]);
    goes_on["messages"] = json!([{ "role": "user", "content": said.to_string() }, message,
        { "role": "tool", "tool_call_id": calls[0]["id"], "content": "5" }]);
    let said = chat(&stage, &ada, goes_on).await?;
    ensure!(said["choices"][0]["message"]["content"] == "Chur: rain", "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_those_of_ones_own_organization_and_refusals_come_before_any_model_is_asked() -> Tested {
    let (stage, weather) = (Stage::open().await?, Weather::start().await?);
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    weather.register(&stage, &ada, "weather").await?;
    let custom = json!({ "key": "things", "type": "custom", "serverUrl": "https://things.example",
        "auth": { "type": "none" }, "operations": [{ "id": "things.list", "method": "GET", "path": "/things" }] });
    ensure!(stage.ask(&ada, "POST", "/api/integrations/register", Some(custom)).await?.status == 200);

    let of = |tool: Value| {
        json!({ "type": "mcp", "server": "weather" }).as_object().cloned().map(|mut whole| {
            whole.extend(tool.as_object().cloned().unwrap_or_default());
            json!({ "tools": [whole] })
        })
    };
    for (more, param, status, says) in [
        (json!({ "tools": [{ "type": "mcp", "server": "nothing" }] }), "tools[0].server", 404, "not registered"),
        (json!({ "tools": [{ "type": "mcp", "server": "things" }] }), "tools[0].server", 400, "no MCP server"),
        (json!({ "tools": [{ "type": "mcp", "server": "openai" }] }), "tools[0].server", 400, "no MCP server"),
        (json!({ "tools": [server(), server()] }), "tools[1].server", 400, "once"),
        (of(json!({ "allowed": ["snow"] })).context("tools")?, "tools[0].allowed", 400, "forecast, fail"),
        (of(json!({ "allowed": [] })).context("tools")?, "tools[0].server", 400, "no tool may be called"),
        (of(json!({ "require_approval": "always" })).context("tools")?, "tools[0].require_approval", 400, "never"),
        (of(json!({ "server_url": weather.url })).context("tools")?, "tools[0].server_url", 400, "mcp/register"),
        (json!({ "n": 2 }), "n", 400, "must be 1"),
        (json!({ "max_tool_rounds": 0 }), "max_tool_rounds", 400, "1 to 16"),
        (json!({ "tool_choice": { "type": "mcp", "server": "weather", "name": "snow" } }), "tool_choice", 400, "snow"),
    ] {
        let refused = stage.ask(&ada, "POST", CHAT, Some(plays(&forecast(), more.clone()))).await?;
        let error = &refused.body["error"];
        ensure!(refused.status == status && error["param"] == param, "{more}: {} {}", refused.status, refused.body);
        let message = error["message"].as_str().unwrap_or_default();
        ensure!(message.contains(says), "{more}: {message}");
    }
    let input = json!({ "model": "openai/scripted", "input": forecast().to_string(),
        "tools": [{ "type": "mcp", "server_label": "weather", "server_url": weather.url }] });
    let refused = stage.ask(&ada, "POST", RESPONSES, Some(input)).await?;
    ensure!(refused.status == 400 && refused.body["error"]["param"] == "tools[0].server_url", "{}", refused.body);

    // Another's server is as unknown as one that nobody has.
    let at = |key: &str| plays(&forecast(), json!({ "tools": [{ "type": "mcp", "server": key }] }));
    let mut answers = Vec::new();
    for key in ["weather", "nowhere"] {
        let refused = stage.ask(&bob, "POST", CHAT, Some(at(key))).await?;
        let error = refused.body["error"].to_string().replace(key, "…");
        answers.push((refused.status, error, refused.body["code"].clone(), refused.body["hint"].clone()));
    }
    ensure!(answers[0].0 == 404 && answers[0] == answers[1], "{answers:?}");
    let inside = stage.ask_in(&bob, Some(&ada.org), "POST", CHAT, Some(at("weather"))).await?;
    ensure!(inside.status == 403, "{} {}", inside.status, inside.body);
    ensure!(stage.vendor.asked().is_empty() && weather.count() == 0, "somebody was asked");

    // A key asks the models that it names, and calls what its owner may.
    for (scope, status) in [("model:openai/scripted", 200), ("model:openai/other", 403)] {
        let (_, key) = stage.mint(&ada, json!([scope])).await?;
        let answered = post(&stage, &key, CHAT, None, &plays(&forecast(), json!({}))).await?;
        ensure!(answered.status() == status, "{scope}: {}", answered.text().await?);
    }
    ensure!(weather.called().len() == 1 && turns(&stage.vendor.asked()) == [0, 1]);

    // The first call can be asked for, and only the first; and what changes nothing can be chosen.
    let more = json!({ "tools": [{ "type": "mcp", "server": "weather", "allowed_tools": { "read_only": true } }],
        "tool_choice": { "type": "mcp", "server_label": "weather", "name": "forecast" } });
    chat(&stage, &ada, plays(&forecast(), more)).await?;
    let asked = stage.vendor.asked();
    ensure!(asked[0].body["tool_choice"]["function"]["name"] == "weather_forecast", "{}", asked[0].body);
    ensure!(asked[1].body["tool_choice"] == "auto", "{}", asked[1].body);
    ensure!(asked[0].body["tools"].as_array().map(Vec::len) == Some(1), "{}", asked[0].body);
    Ok(())
}
