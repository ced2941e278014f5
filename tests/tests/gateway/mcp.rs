//! The platform as a server of the Model Context Protocol, and as a client of one: itself.

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    Tested,
    stage::{Person, Stage},
};

const TOOL: &str = "openai_chat_completions_create";

/// A client of the protocol, of some version.
struct Client<'a> {
    stage: &'a Stage,
    who: &'a Person,
    version: &'static str,
    query: &'static str,
}

impl Client<'_> {
    async fn send(&self, message: Value) -> anyhow::Result<(StatusCode, Value)> {
        let url = format!("{}/api/integrations/mcp{}", self.stage.gateway, self.query);
        let mut request = self.stage.http.post(url).bearer_auth(&self.who.token).json(&message);
        // Older clients know nothing of these.
        if self.version > "2025" {
            request = request.header("accept", "application/json, text/event-stream");
            request = request.header("mcp-protocol-version", self.version);
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    async fn ask(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let message = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        let (status, answer) = self.send(message).await?;
        ensure!(status == 200 && answer["id"] == 7, "{method}: {status} {answer}");
        Ok(answer)
    }

    async fn handshake(&self) -> Tested {
        let hello = json!({ "protocolVersion": self.version, "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" } });
        let said = self.ask("initialize", hello).await?;
        ensure!(said["result"]["protocolVersion"] == self.version, "{said}");
        ensure!(said["result"]["serverInfo"]["name"] == "symbia-integrations", "{said}");
        ensure!(said["result"]["capabilities"]["tools"].is_object(), "{said}");
        let (status, _) = self.send(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await?;
        ensure!(status == 202, "{status}");
        Ok(())
    }

    async fn tools(&self) -> anyhow::Result<(Vec<Value>, usize)> {
        let (mut tools, mut pages, mut cursor) = (Vec::new(), 0, Value::Null);
        loop {
            let params = if cursor.is_null() { json!({}) } else { json!({ "cursor": cursor }) };
            let page = self.ask("tools/list", params).await?;
            tools.extend(page["result"]["tools"].as_array().context("no tools")?.clone());
            pages += 1;
            cursor = page["result"]["nextCursor"].clone();
            if cursor.is_null() {
                return Ok((tools, pages));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_versions_list_page_and_call_a_tool_with_underscores() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    for version in ["2025-06-18", "2024-11-05"] {
        let client = Client { stage: &stage, who: &ada, version, query: "" };
        client.handshake().await?;
        let (tools, pages) = client.tools().await?;
        ensure!(pages > 1, "one page of {} tools", tools.len());
        let mut names: Vec<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
        ensure!(names.iter().all(|name| name.len() <= 64), "{names:?}");
        names.sort_unstable();
        names.dedup();
        ensure!(names.len() == tools.len() && names.contains(&TOOL), "{names:?}");
        ensure!(tools.iter().all(|tool| tool["inputSchema"]["type"] == "object"), "{version}");

        let arguments = json!({ "messages": [{ "role": "user", "content": "2+3?" }] });
        let said = client.ask("tools/call", json!({ "name": TOOL, "arguments": arguments })).await?;
        ensure!(said["result"]["content"][0]["text"] == "2 + 3 = 5 ✓", "{said}");
        ensure!(said["result"]["isError"] != true, "{said}");
        // What goes wrong in a tool is for the model to read; a tool that is none is an error of the protocol.
        let said = client.ask("tools/call", json!({ "name": TOOL, "arguments": { "messages": 1 } })).await?;
        ensure!(said["result"]["isError"] == true, "{said}");
        let said = client.ask("tools/call", json!({ "name": "openai_nothing", "arguments": {} })).await?;
        ensure!(said["error"]["code"] == -32602, "{said}");
        let said = client.ask("no/such/method", json!({})).await?;
        ensure!(said["error"]["code"] == -32601, "{said}");
    }
    let chosen = Client { stage: &stage, who: &ada, version: "2025-06-18", query: "?integrations=openai&tags=llm" };
    let (tools, _) = chosen.tools().await?;
    ensure!(tools.len() == 1 && tools[0]["name"] == TOOL, "{tools:?}");
    let (status, said) = chosen.send(json!({ "id": 1 })).await?;
    ensure!(status == 400 && said["error"]["code"] == -32600 && said["id"].is_null(), "{status} {said}");

    // A session is its caller's; who has none is answered as well.
    let eve = stage.register("eve").await?;
    let url = format!("{}/api/integrations/mcp", stage.gateway);
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-06-18",
        "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    let begun = stage.http.post(&url).bearer_auth(&ada.token).json(&hello).send().await?;
    let session = begun.headers().get("mcp-session-id").context("no session")?.to_str()?.to_owned();
    let ping = json!({ "jsonrpc": "2.0", "id": 2, "method": "ping" });
    let forged = format!("00000000{}", &session[8..]);
    for (who, session, status) in [(&ada, &session, 200), (&eve, &session, 404), (&ada, &forged, 404)] {
        let request = stage.http.post(&url).bearer_auth(&who.token).header("mcp-session-id", session);
        let answered = request.json(&ping).send().await?.status();
        ensure!(answered == status, "{answered}, not {status}");
    }

    // Who is not signed in is told where to do that.
    let nobody =
        stage.http.post(&url).json(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).send().await?;
    let challenge = nobody.headers().get("www-authenticate").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let metadata = challenge.split('"').nth(1).context("no metadata")?.to_owned();
    ensure!(nobody.status() == 401, "{}", nobody.status());
    let metadata: Value = stage.http.get(metadata).send().await?.error_for_status()?.json().await?;
    ensure!(metadata["authorization_servers"][0].is_string(), "{metadata}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_asked_for_its_tools_and_they_are_called_with_its_key() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    // Ada's tools are bob's through her token.
    let url = format!("{}/api/integrations/mcp?integrations=openai", stage.gateway);
    let register = json!({ "key": "adas_tools", "transport": "http", "serverUrl": url, "auth": { "type": "bearer" } });
    let path = "/api/integrations/mcp/register";
    let refused = stage.ask(&bob, "POST", path, Some(register.clone())).await?;
    ensure!(refused.status == 400, "without a key: {}", refused.body);
    let host = stage.gateway.trim_start_matches("http://");
    let keep = json!({ "provider": "adas_tools", "name": "ada", "apiKey": ada.token, "metadata": { "hosts": [host] } });
    let kept = stage.http.post(format!("{}/api/credentials", stage.identity)).bearer_auth(&bob.token).json(&keep);
    kept.send().await?.error_for_status()?;
    let made = stage.ask(&bob, "POST", path, Some(register)).await?;
    ensure!(made.status == 200 && made.body["operationCount"] == 6, "{}", made.body);
    let operations = &made.body["integration"]["operations"];
    let named = |id: &str| operations.as_array().is_some_and(|all| all.iter().any(|one| one["id"] == id));
    ensure!(named(&format!("tool.{TOOL}")), "{operations}");

    let body = json!({ "messages": [{ "role": "user", "content": "2+3?" }] });
    for path in [format!("adas_tools.tool.{TOOL}"), "adas_tools.openai.chat.completions.create".to_owned()] {
        let call = json!({ "operation": path, "body": body });
        let called = stage.ask(&bob, "POST", "/api/integrations/invoke", Some(call)).await?;
        ensure!(called.status == 200 && called.body["type"] == "mcp-tool", "{path}: {}", called.body);
        ensure!(called.body["data"]["content"][0]["text"] == "2 + 3 = 5 ✓", "{}", called.body);
    }
    // And through our own server again.
    let client = Client { stage: &stage, who: &bob, version: "2025-06-18", query: "" };
    let name = format!("adas_tools_tool_{TOOL}");
    let said = client.ask("tools/call", json!({ "name": name, "arguments": body })).await?;
    ensure!(said["result"]["content"][0]["text"] == "2 + 3 = 5 ✓", "{said}");
    // What is bob's is his to read, and nobody else's.
    let uri = json!({ "uri": "symbia://integrations/adas_tools" });
    let said = client.ask("resources/read", uri.clone()).await?;
    let text = said["result"]["contents"][0]["text"].as_str().context("no text")?;
    ensure!(serde_json::from_str::<Value>(text)?["operations"].as_array().map(Vec::len) == Some(6), "{said}");
    let listed = client.ask("resources/list", json!({})).await?["result"]["resources"].to_string();
    ensure!(listed.contains("adas_tools") && listed.contains("symbia://integrations/openai"), "{listed}");
    let hers = Client { who: &ada, ..client };
    ensure!(hers.ask("resources/read", uri).await?["error"]["code"] == -32002, "ada reads it");
    let listed = hers.ask("resources/list", json!({})).await?["result"]["resources"].to_string();
    ensure!(!listed.contains("adas_tools") && listed.contains("symbia://models"), "{listed}");
    let models = hers.ask("resources/read", json!({ "uri": "symbia://models" })).await?;
    ensure!(models["result"]["contents"][0]["text"].as_str().is_some_and(|text| text.contains("openai")), "{models}");
    // Her resources are read at her server, in bob's name and by nobody else.
    let called = json!({ "operation": "adas_tools.resource.models" });
    let called = stage.ask(&bob, "POST", "/api/integrations/invoke", Some(called)).await?;
    ensure!(called.status == 200 && called.body["type"] == "mcp-resource", "{}", called.body);
    ensure!(called.body["data"]["contents"][0]["uri"] == "symbia://models", "{}", called.body);
    let uri = "symbia://integrations/adas_tools/resource.models";
    let listed = client.ask("resources/list", json!({})).await?;
    let theirs = listed["result"]["resources"].as_array().and_then(|all| all.iter().find(|one| one["uri"] == uri));
    ensure!(theirs.is_some_and(|one| one["mimeType"] == "application/json"), "{listed}");
    let said = client.ask("resources/read", json!({ "uri": uri })).await?;
    let contents = &said["result"]["contents"][0];
    ensure!(contents["uri"] == uri && contents["text"].as_str().is_some_and(|text| text.contains("openai")), "{said}");
    ensure!(hers.ask("resources/read", json!({ "uri": uri })).await?["error"]["code"] == -32002, "ada reads bob's");
    let none = json!({ "uri": "symbia://integrations/adas_tools/resource.none" });
    ensure!(client.ask("resources/read", none).await?["error"]["code"] == -32002, "there is none");
    // Its prompts are bob's as well, beside the platform's own.
    let listed = client.ask("prompts/list", json!({})).await?;
    let names: Vec<&Value> =
        listed["result"]["prompts"].as_array().context("none")?.iter().map(|p| &p["name"]).collect();
    ensure!(names == ["use_integration", "adas_tools_prompt_use_integration"], "{listed}");
    ensure!(listed["result"]["prompts"][1]["arguments"][0]["required"] == true, "{listed}");
    for name in ["use_integration", "adas_tools_prompt_use_integration"] {
        let arguments = json!({ "integration": "openai", "task": "Say hello." });
        let said = client.ask("prompts/get", json!({ "name": name, "arguments": arguments })).await?;
        let text = said["result"]["messages"][0]["content"]["text"].as_str().unwrap_or_default();
        ensure!(text.contains("Say hello.") && text.contains("- chat.completions.create"), "{name}: {said}");
    }
    for wrong in [json!({ "name": "nothing" }), json!({ "name": "use_integration", "arguments": { "task": "x" } })] {
        ensure!(client.ask("prompts/get", wrong).await?["error"]["code"] == -32602, "it is none");
    }
    let (tools, _) = client.tools().await?;
    ensure!(
        !tools.iter().any(|tool| tool["name"]
            .as_str()
            .is_some_and(|name| name.contains("_prompt_") || name.contains("_resource_"))),
        "{tools:?}"
    );
    let hers = Client { who: &ada, ..client };
    ensure!(!hers.ask("prompts/list", json!({})).await?.to_string().contains("adas_tools"), "ada sees bob's");
    let theirs = json!({ "name": "use_integration", "arguments": { "integration": "adas_tools", "task": "x" } });
    ensure!(hers.ask("prompts/get", theirs).await?["error"]["code"] == -32602, "ada reads of bob's");
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    ensure!(!log.contains(&ada.token), "the token is in the log");
    Ok(())
}

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const DELEGATION: &str = "urn:symbia:params:oauth:token-type:delegation";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_the_tools_opens_the_tools_and_nothing_else() -> Tested {
    let stage = Stage::with_variables(&[("IDENTITY_AGENT_ENROLMENT", "open")]).await?;
    let ada = stage.register("ada").await?;
    let metadata = format!("{}/.well-known/oauth-protected-resource/api/integrations/mcp", stage.gateway);
    let metadata: Value = stage.http.get(metadata).send().await?.error_for_status()?.json().await?;
    let address = metadata["resource"].as_str().context("no resource")?.to_owned();
    ensure!(address.ends_with("/api/integrations/mcp"), "{metadata}");
    let identity = |path: &str, token: &str, body: Value| {
        let request = stage.http.post(format!("{}{path}", stage.identity)).json(&body);
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        async move { anyhow::Ok(request.send().await?.error_for_status()?.json::<Value>().await?) }
    };
    let agent = json!({ "agentId": "agent:a", "credential": "the-credential-of-an-agent-0123456789", "name": "A" });
    let agent = identity("/api/auth/agent/register", "", agent).await?;
    let agent = agent["token"].as_str().context("no agent")?;
    let elsewhere = "https://mcp.example/";
    let grant = json!({ "agentId": "agent:a", "scopes": ["cap:integrations.read", "role:member"],
        "audiences": [address, elsewhere] });
    let granted = identity("/api/delegations", &ada.token, grant).await?;
    let delegation = granted["id"].as_str().context("no delegation")?;
    let token_for = |resource: &str| {
        let form = [
            ("grant_type", EXCHANGE),
            ("subject_token", delegation),
            ("subject_token_type", DELEGATION),
            ("actor_token", agent),
            ("actor_token_type", ACCESS_TOKEN),
            ("resource", resource),
        ];
        let mut url = reqwest::Url::parse("form:x").ok();
        let body = url.as_mut().map(|url| url.query_pairs_mut().extend_pairs(form).finish().query().map(str::to_owned));
        let request = stage.http.post(format!("{}/api/oauth/token", stage.identity));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.body(body.flatten().unwrap_or_default());
        async move {
            let said: Value = request.send().await?.error_for_status()?.json().await?;
            anyhow::Ok(said["access_token"].as_str().context("no token")?.to_owned())
        }
    };
    let (tools, other) = (token_for(&address).await?, token_for(elsewhere).await?);
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    let ask = |token: &str| stage.http.post(&address).bearer_auth(token).json(&list).send();
    let opened = ask(&tools).await?;
    let status = opened.status();
    let said = opened.text().await?;
    ensure!(status == 200 && said.contains("anthropic_chat_completions_create"), "{status} {said:.300}");
    ensure!(ask(&other).await?.status() == 401, "a token for another address opens it");
    for url in [
        format!("{}/api/integrations/registry", stage.gateway),
        format!("{}/v1/models", stage.gateway),
        format!("{}/api/auth/me", stage.identity),
        format!("{}/v1/models", stage.models),
    ] {
        let refused = stage.http.get(&url).bearer_auth(&tools).send().await?.status();
        ensure!(refused == 401, "{url}: {refused}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_starts_a_process_gets_the_tools_of_who_is_signed_in() -> Tested {
    let stage = Stage::open().await?;
    let (ada, eve) = (stage.register("ada").await?, stage.register("eve").await?);
    let custom = json!({ "key": "adas", "type": "custom", "serverUrl": "https://adas.example",
        "auth": { "type": "none" }, "operations": [{ "id": "things.list", "method": "GET", "path": "/things" }] });
    let registered = stage.ask(&ada, "POST", "/api/integrations/register", Some(custom)).await?;
    ensure!(registered.status == 200, "{}", registered.body);
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-06-18",
        "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    let arguments = json!({ "messages": [{ "role": "user", "content": "2+3?" }] });
    let call = json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": { "name": TOOL, "arguments": arguments } });
    let messages = format!("{hello}\n{ready}\n\n{list}\nno json\n{call}\n");
    for (name, sees) in [("ada", true), ("eve", false)] {
        let password = stage.house.file(&format!("{name}.password"));
        std::fs::write(&password, format!("{name}'s password"))?;
        let (email, password) = (format!("{name}@example.test"), password.to_str().context("a path")?.to_owned());
        let arguments = [
            "mcp",
            "--email",
            &email,
            "--password-file",
            &password,
            "--integrations",
            "adas,openai",
            "--identity-url",
            &stage.identity,
            "--integrations-url",
            &stage.gateway,
        ];
        let home = stage.house.file(name);
        let said =
            stage.house.run_fed(&arguments, &[("HOME", home.to_str().context("a path")?)], &messages)?.expect(0)?;
        let answers: Vec<Value> = said.out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let of = |id: Value| answers.iter().find(|answer| answer["id"] == id).with_context(|| format!("{answers:?}"));
        ensure!(answers.len() == 4, "an answer for each question, and none for what is none: {answers:?}");
        ensure!(answers[0]["result"]["protocolVersion"] == "2025-06-18", "{answers:?}");
        ensure!(of(json!(2))?.to_string().contains("adas_things_list") == sees, "{name}: {}", of(json!(2))?);
        ensure!(of(json!(3))?["result"]["content"][0]["text"] == "2 + 3 = 5 ✓", "{}", of(json!(3))?);
        ensure!(of(Value::Null)?["error"]["code"] == -32700, "{answers:?}");
    }
    ensure!(eve.org != ada.org);
    Ok(())
}
