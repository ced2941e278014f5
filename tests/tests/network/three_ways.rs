//! One mesh, asked by another organization over REST, over Socket.IO and at the broker: none of its nodes, events and traces.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::{Client, ConnectOptions, Event};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use symbia_tests::{
    binary::{Installation, until},
    socketio::SocketClient,
};
use tokio::sync::mpsc;

use crate::stage::{event, silent};

/// Agents register themselves.
const ENROLS: [(&str, &str); 1] = [("IDENTITY_AGENT_ENROLMENT", "open")];

/// Somebody with an organization of their own.
pub struct Member {
    pub token: String,
    pub org: String,
}

/// The platform as it is shipped.
pub struct Platform {
    ready: Value,
    http: reqwest::Client,
    installation: Installation,
}

impl Platform {
    /// One that keeps nothing, or one that keeps everything in its directory.
    pub fn open(kept: bool) -> anyhow::Result<Self> {
        let mut installation = Installation::new()?;
        let more: &[&str] = if kept { &[] } else { &["--memory"] };
        let ready = installation.start_with(&[more, &["--skip-admin"]].concat(), &ENROLS)?;
        Ok(Platform { ready, http: reqwest::Client::new(), installation })
    }

    /// Ends every process at once, and begins anew in the same directory.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.installation.kill()?;
        self.ready = self.installation.start_with(&["--skip-admin"], &ENROLS)?;
        Ok(())
    }

    pub fn at(&self, service: &str) -> &str {
        self.ready["services"][service].as_str().unwrap_or_default()
    }

    pub async fn register(&self, name: &str) -> anyhow::Result<Member> {
        let body = json!({ "email": format!("{name}@example.test"), "password": "a good password", "name": name,
            "orgName": name });
        let url = format!("{}/api/auth/register", self.at("identity"));
        let said: Value = self.http.post(url).json(&body).send().await?.error_for_status()?.json().await?;
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| said.to_string());
        Ok(Member { token: text(&said["token"])?, org: text(&said["organization"]["id"])? })
    }

    pub async fn ask(&self, method: Method, path: &str, who: &Member, body: Option<Value>) -> anyhow::Result<Value> {
        let request = self.http.request(method, format!("{}{path}", self.at("network"))).bearer_auth(&who.token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    // With what the broker refuses.
    async fn broker(&self, who: &Member) -> anyhow::Result<(Client, mpsc::UnboundedReceiver<String>)> {
        let (sender, said) = mpsc::unbounded_channel();
        let options = ConnectOptions::with_token(who.token.clone()).event_callback(move |event| {
            if let Event::ServerError(error) = event {
                let _ = sender.send(error.to_string());
            }
            async {}
        });
        Ok((options.connect(self.ready["nats"].as_str().context("no broker")?).await?, said))
    }

    // Two nodes, a contract between them, and an event of each lane.
    async fn mesh(&self, who: &Member, mark: &str) -> anyhow::Result<()> {
        let (from, to) = (format!("{mark}-a"), format!("{mark}-b"));
        for node in [&from, &to] {
            self.ask(Method::POST, "/api/registry/nodes", who, Some(silent(node))).await?;
        }
        let contract = json!({ "from": from, "to": to, "allowedEventTypes": ["*"], "boundaries": ["intra"] });
        self.ask(Method::POST, "/api/registry/contracts", who, Some(contract)).await?;
        for kind in ["typing.start", "message.new"] {
            let mut sent = event(&from, Some(&to));
            sent["payload"] = json!({ "type": kind, "data": { "said": mark } });
            sent["runId"] = json!("run-shared");
            self.ask(Method::POST, "/api/events", who, Some(sent)).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_organization_sees_nothing_of_a_mesh_on_any_way() -> anyhow::Result<()> {
    let platform = Platform::open(false)?;
    let (ada, eve) = (platform.register("ada").await?, platform.register("eve").await?);
    let open = async |who: &Member| -> anyhow::Result<SocketClient> {
        let socket = SocketClient::open(platform.at("network"), &who.token, None).await?;
        let watches = socket.call("sdn:watch", &[json!({})]).await?;
        ensure!(watches["ok"] == true, "{watches}");
        Ok(socket)
    };
    let (mut hers, mut other) = (open(&ada).await?, open(&eve).await?);
    let nodes = format!("symbia.evt.network.{}.node.*", ada.org);
    let (bus, _) = platform.broker(&ada).await?;
    let mut told = bus.subscribe(nodes.clone()).await?;
    bus.flush().await?;
    let (foreign, mut refusals) = platform.broker(&eve).await?;
    let mut heard = Vec::new();
    for subject in [
        nodes,
        format!("symbia.evt.network.{}.>", ada.org),
        "symbia.evt.network.*.routed-event.*".to_owned(),
        format!("symbia.mesh.{}.>", ada.org),
        "symbia.mesh.>".to_owned(),
    ] {
        heard.push(foreign.subscribe(subject.clone()).await?);
        foreign.flush().await?;
        let refusal = refusals.recv().await.context("nothing was said")?.to_lowercase();
        ensure!(refusal.contains("permissions violation for subscription"), "{subject}: {refusal}");
    }
    platform.mesh(&ada, "hidden").await?;
    platform.mesh(&eve, "open").await?;

    // Each way tells its own organization.
    told.next().await.context("the broker told nothing")?;
    let is = |mark: &'static str| {
        move |told: &symbia_tests::socketio::Told| {
            told.name == "sdn:event"
                && told.data["event"]["payload"]["data"]["said"] == mark
                && told.data["event"]["payload"]["type"] == "message.new"
        }
    };
    hers.until(is("hidden")).await?;
    let all = other.until(is("open")).await?;
    ensure!(all.iter().any(|told| told.name == "network:node:joined"), "{all:?}");
    let mut seen: Vec<Value> = all.into_iter().map(|told| told.data).collect();
    seen.push(other.call("sdn:topology", &[]).await?);
    for path in [
        "/api/registry/nodes",
        "/api/registry/contracts",
        "/api/events",
        "/api/events/traces/run-shared",
        "/api/events/stats",
        "/api/sdn/topology",
        "/api/sdn/graph",
        "/api/sdn/traces/run-shared",
        "/api/sdn/flow/run-shared",
    ] {
        let own = platform.ask(Method::GET, path, &ada, None).await?.to_string();
        ensure!(path.ends_with("stats") || own.contains("hidden") || own.contains("run-shared"), "{path}: {own}");
        seen.push(platform.ask(Method::GET, path, &eve, None).await?);
    }
    for said in seen {
        let text = said.to_string();
        ensure!(!text.contains("hidden") && !text.contains(&ada.org), "{text}");
    }
    for subscription in &mut heard {
        let nothing = tokio::time::timeout(Duration::ZERO, subscription.next()).await;
        ensure!(!matches!(nothing, Ok(Some(_))), "she heard {nothing:?}");
    }

    // A forged credential is counted as an agent's where there is one of that name, and as a person's else.
    let counted = async |name: &str| -> anyhow::Result<u64> {
        let shown = platform.http.get(format!("{}/metrics", platform.at("network"))).send().await?.text().await?;
        let line = shown.lines().find(|line| line.starts_with(name));
        Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0))
    };
    let new = json!({ "agentId": "agent:a", "credential": "the-credential-of-an-agent-0123456789", "name": "A" });
    let url = format!("{}/api/auth/agent/register", platform.at("identity"));
    let agent: Value = platform.http.post(url).json(&new).send().await?.error_for_status()?.json().await?;
    let token = agent["token"].as_str().context("no token")?;
    let (signed, _) = token.rsplit_once('.').context("no signature")?;
    let nobodys = "e30.eyJ0eXBlIjoiYWdlbnQiLCJzdWIiOiJub2JvZHkifQ.x";
    for forged in [format!("{signed}.Zm9yZ2Vk"), nobodys.to_owned()] {
        let socket = SocketClient::open(platform.at("network"), &forged, None).await?;
        ensure!(socket.call("sdn:topology", &[]).await?["nodes"].is_null(), "it is let in as somebody");
    }
    let both = || async {
        let agents = counted("network_agent_auth_failure_total").await?;
        Ok((agents, counted("network_user_auth_failure_total").await?) == (1, 1))
    };
    until("both are counted", both).await?;
    Ok(())
}
