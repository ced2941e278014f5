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

    // Who is not signed in is told where to do that.
    let url = format!("{}/api/integrations/mcp", stage.gateway);
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
    ensure!(made.status == 200 && made.body["operationCount"] == 3, "{}", made.body);
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
    ensure!(serde_json::from_str::<Value>(text)?["operations"].as_array().map(Vec::len) == Some(3), "{said}");
    let listed = client.ask("resources/list", json!({})).await?["result"]["resources"].to_string();
    ensure!(listed.contains("adas_tools") && listed.contains("symbia://integrations/openai"), "{listed}");
    let hers = Client { who: &ada, ..client };
    ensure!(hers.ask("resources/read", uri).await?["error"]["code"] == -32002, "ada reads it");
    let listed = hers.ask("resources/list", json!({})).await?["result"]["resources"].to_string();
    ensure!(!listed.contains("adas_tools") && listed.contains("symbia://models"), "{listed}");
    let models = hers.ask("resources/read", json!({ "uri": "symbia://models" })).await?;
    ensure!(models["result"]["contents"][0]["text"].as_str().is_some_and(|text| text.contains("openai")), "{models}");
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    ensure!(!log.contains(&ada.token), "the token is in the log");
    Ok(())
}
