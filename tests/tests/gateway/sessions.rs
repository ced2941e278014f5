//! Sessions of the Model Context Protocol: what they are told, and their end.

use std::time::Duration;

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
        Ok(session)
    }

    async fn listen(&self, session: &str) -> anyhow::Result<Response> {
        Ok(self.request(Method::GET, session).header("accept", "text/event-stream").send().await?)
    }
}

/// The methods of so many notifications.
async fn told(stream: &mut Response, most: usize) -> anyhow::Result<Vec<String>> {
    let (mut told, mut text) = (Vec::new(), String::new());
    while told.len() < most {
        let chunk = tokio::time::timeout(SOON, stream.chunk()).await.context("nothing is told")??;
        text.push_str(std::str::from_utf8(&chunk.context("the stream has ended")?)?);
        while let Some((line, rest)) = text.split_once('\n') {
            if let Some(data) = line.strip_prefix("data: ") {
                let message: Value = serde_json::from_str(data)?;
                told.push(message["method"].as_str().context("no method")?.to_owned());
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
