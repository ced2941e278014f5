//! Sessions of the Model Context Protocol: what they are told, and their end.

use std::{
    io::{BufRead, BufReader, Write},
    time::Duration,
};

use anyhow::{Context, ensure};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::{
    Tested,
    registry::register,
    stage::{Person, Stage},
};

const SOON: Duration = Duration::from_secs(30);

struct Client<'a> {
    stage: &'a Stage,
    who: &'a Person,
}

impl Client<'_> {
    fn request(&self, method: Method, session: &str) -> RequestBuilder {
        let url = format!("{}/api/integrations/mcp", self.stage.gateway);
        let request = self.stage.http.request(method, url).bearer_auth(&self.who.token);
        if session.is_empty() { request } else { request.header("mcp-session-id", session) }
    }

    async fn post(&self, session: &str, method: &str, params: Value) -> anyhow::Result<Response> {
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        Ok(self.request(Method::POST, session).json(&message).send().await?)
    }

    async fn begin(&self) -> anyhow::Result<String> {
        let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" } });
        let begun = self.post("", "initialize", hello).await?;
        let session = begun.headers().get("mcp-session-id").context("no session")?.to_str()?.to_owned();
        let said: Value = begun.json().await?;
        for list in ["tools", "prompts", "resources"] {
            ensure!(said["result"]["capabilities"][list]["listChanged"] == true, "{said}");
        }
        ensure!(said["result"]["capabilities"]["resources"]["subscribe"] == true, "{said}");
        Ok(session)
    }

    async fn listen(&self, session: &str) -> anyhow::Result<Response> {
        Ok(self.request(Method::GET, session).header("accept", "text/event-stream").send().await?)
    }
}

/// The methods of so many notifications, and of what they are.
async fn told(stream: &mut Response, most: usize) -> anyhow::Result<Vec<String>> {
    let (mut told, mut text) = (Vec::new(), String::new());
    while told.len() < most {
        let chunk = tokio::time::timeout(SOON, stream.chunk()).await.context("nothing is told")??;
        text.push_str(std::str::from_utf8(&chunk.context("the stream has ended")?)?);
        while let Some((line, rest)) = text.split_once('\n') {
            if let Some(data) = line.strip_prefix("data: ") {
                let message: Value = serde_json::from_str(data)?;
                let of = message["params"]["uri"].as_str().map(|uri| format!(" {uri}")).unwrap_or_default();
                told.push(format!("{}{of}", message["method"].as_str().context("no method")?));
            }
            text = rest.to_owned();
        }
    }
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_told_of_its_lists_until_it_is_ended() -> Tested {
    let stage = Stage::open().await?;
    let (ada, eve) = (stage.register("ada").await?, stage.register("eve").await?);
    let (hers, eves) = (Client { stage: &stage, who: &ada }, Client { stage: &stage, who: &eve });
    let session = hers.begin().await?;
    ensure!(eves.listen(&session).await?.status() == 404, "eve listens");
    let mute = hers.request(Method::GET, &session).header("accept", "application/json").send().await?;
    ensure!(mute.status() == 406, "{}", mute.status());
    let strange = hers.request(Method::GET, &session).header("accept", "text/event-stream");
    let strange = strange.header("mcp-protocol-version", "1999-01-01").send().await?;
    ensure!(strange.status() == 400, "{}", strange.status());
    let nobody = stage.http.get(format!("{}/api/integrations/mcp", stage.gateway)).send().await?;
    ensure!(nobody.status() == 401 && nobody.headers().contains_key("www-authenticate"), "{}", nobody.status());

    let mut stream = hers.listen(&session).await?;
    let kind = stream.headers().get("content-type").context("no kind")?.to_str()?.to_owned();
    ensure!(stream.status() == 200 && kind.starts_with("text/event-stream"), "{kind}");
    let custom = |key: &str| {
        json!({ "key": key, "type": "custom", "serverUrl": "https://things.example", "auth": { "type": "none" },
            "operations": [{ "id": "things.list", "method": "GET", "path": "/things" }] })
    };
    // What eve registers changes nothing of ada's; what ada registers changes no prompts.
    for (who, key) in [(&eve, "eves"), (&ada, "adas")] {
        ensure!(register(&stage, who, custom(key)).await?.status == 200, "{key} is not registered");
    }
    let changes = ["notifications/tools/list_changed", "notifications/resources/list_changed"];
    ensure!(told(&mut stream, 2).await? == changes);
    let removed = stage.ask(&ada, "DELETE", "/api/integrations/registry/adas", None).await?;
    ensure!(removed.status == 200, "{}", removed.body);
    ensure!(told(&mut stream, 2).await? == changes, "of what is no longer there");

    ensure!(eves.request(Method::DELETE, &session).send().await?.status() == 404, "eve ends it");
    ensure!(hers.request(Method::DELETE, "").send().await?.status() == 400);
    ensure!(hers.post(&session, "ping", json!({})).await?.status() == 200, "it goes on");
    ensure!(hers.request(Method::DELETE, &session).send().await?.status() == 204);
    let rest = async {
        while stream.chunk().await?.is_some() {}
        Ok::<_, reqwest::Error>(())
    };
    tokio::time::timeout(SOON, rest).await.context("the stream goes on")??;
    ensure!(hers.post(&session, "ping", json!({})).await?.status() == 404, "it is gone on with");
    ensure!(hers.listen(&session).await?.status() == 404);
    ensure!(hers.request(Method::DELETE, &session).send().await?.status() == 404);
    let another = hers.begin().await?;
    ensure!(hers.post(&another, "ping", json!({})).await?.status() == 200, "another begins");
    Ok(())
}

fn custom(key: &str, description: &str) -> Value {
    json!({ "key": key, "type": "custom", "serverUrl": "https://things.example", "auth": { "type": "none" },
        "description": description,
        "operations": [{ "id": "things.list", "method": "GET", "path": "/things", "description": description }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_hears_of_the_resources_that_it_has_subscribed_to() -> Tested {
    let stage = Stage::open().await?;
    let (ada, eve) = (stage.register("ada").await?, stage.register("eve").await?);
    let (hers, eves) = (Client { stage: &stage, who: &ada }, Client { stage: &stage, who: &eve });
    for key in ["first", "second"] {
        ensure!(register(&stage, &ada, custom(key, "old")).await?.status == 200, "{key} is not registered");
    }
    let session = hers.begin().await?;
    let ask = async |client: &Client<'_>, session: &str, method: &str, uri: &str| -> anyhow::Result<Value> {
        Ok(client.post(session, method, json!({ "uri": uri })).await?.json().await?)
    };
    let templates: Value = hers.post(&session, "resources/templates/list", json!({})).await?.json().await?;
    let of = |n: usize| templates["result"]["resourceTemplates"][n]["uriTemplate"].as_str().unwrap_or_default();
    ensure!(of(0) == "symbia://integrations/{key}" && of(1).ends_with("{key}/{+operation}"), "{templates}");

    let (first, second) = ("symbia://integrations/first", "symbia://integrations/second");
    let subscribed = ask(&hers, &session, "resources/subscribe", first).await?;
    ensure!(subscribed["result"] == json!({}), "{subscribed}");
    // Neither without a session, nor to what is not there, nor to what is another's.
    ensure!(ask(&hers, "", "resources/subscribe", first).await?["error"]["code"] == -32600, "without a session");
    let none = ask(&hers, &session, "resources/subscribe", "symbia://integrations/none").await?;
    ensure!(none["error"]["code"] == -32002, "{none}");
    let eves_own = eves.begin().await?;
    let foreign = ask(&eves, &eves_own, "resources/subscribe", first).await?;
    ensure!(foreign["error"]["code"] == -32002, "eve hears of ada's: {foreign}");

    // A change before the stream is open is told when it is.
    ensure!(register(&stage, &ada, custom("first", "new")).await?.status == 200);
    let mut stream = hers.listen(&session).await?;
    let updated = |uri: &str| format!("notifications/resources/updated {uri}");
    ensure!(told(&mut stream, 1).await? == [updated(first)]);
    // And one while it is open, of what is subscribed to alone.
    for key in ["second", "first"] {
        ensure!(register(&stage, &ada, custom(key, "newer")).await?.status == 200);
    }
    let mut heard = Vec::new();
    while !heard.contains(&updated(first)) {
        heard.extend(told(&mut stream, 1).await?);
    }
    ensure!(!heard.contains(&updated(second)), "{heard:?}");
    // Subscribed to while the stream is open; no longer to the other.
    ensure!(ask(&hers, &session, "resources/subscribe", second).await?["result"] == json!({}));
    ensure!(ask(&hers, &session, "resources/unsubscribe", first).await?["result"] == json!({}));
    for key in ["first", "second"] {
        let removed = stage.ask(&ada, "DELETE", &format!("/api/integrations/registry/{key}"), None).await?;
        ensure!(removed.status == 200, "{}", removed.body);
    }
    let mut heard = Vec::new();
    while !heard.contains(&updated(second)) {
        heard.extend(told(&mut stream, 1).await?);
    }
    ensure!(!heard.contains(&updated(first)), "{heard:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_starts_a_process_is_told_what_the_server_tells() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let password = stage.house.file("ada.password");
    std::fs::write(&password, "ada's password")?;
    let (password, home) = (password.to_str().context("a path")?.to_owned(), stage.house.file("ada"));
    let (identity, gateway) = (stage.identity.as_str(), stage.gateway.as_str());
    let arguments = [
        "mcp",
        "--email",
        "ada@example.test",
        "--password-file",
        &password,
        "--identity-url",
        identity,
        "--integrations-url",
        gateway,
    ];
    let mut process = stage.house.spawn(&arguments, &[("HOME", home.to_str().context("a path")?)])?;
    let mut input = process.stdin.take().context("no standard input")?;
    let output = process.stdout.take().context("no standard output")?;
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).for_each(|line| _ = sender.send(line));
    });
    let mut next = async || -> anyhow::Result<Value> {
        let line =
            tokio::time::timeout(SOON, lines.recv()).await.context("nothing is said")?.context("it has ended")?;
        Ok(serde_json::from_str(&line)?)
    };
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-06-18",
        "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    writeln!(input, "{hello}")?;
    ensure!(next().await?["id"] == 1, "no answer");
    ensure!(register(&stage, &ada, custom("first", "old")).await?.status == 200);
    let subscribe = json!({ "jsonrpc": "2.0", "id": 2, "method": "resources/subscribe",
        "params": { "uri": "symbia://integrations/first" } });
    writeln!(input, "{subscribe}")?;
    let mut said = Vec::new();
    while !said.iter().any(|message: &Value| message["id"] == 2) {
        said.push(next().await?);
    }
    ensure!(register(&stage, &ada, custom("first", "new")).await?.status == 200);
    let told = |said: &[Value], method: &str| said.iter().any(|message| message["method"] == method);
    while !told(&said, "notifications/resources/updated") {
        said.push(next().await?);
    }
    // Now the stream is open, and this is one tool more.
    ensure!(register(&stage, &ada, custom("second", "new")).await?.status == 200);
    while !told(&said, "notifications/tools/list_changed") {
        said.push(next().await?);
    }
    drop(input);
    ensure!(process.wait()?.success(), "it did not end well");
    Ok(())
}
