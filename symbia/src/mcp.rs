//! `symbia mcp`: the platform's tools for programs that start a server of the Model Context Protocol as a process and speak to it
//! over standard input and output. Each message goes to the integrations service in the name of who is signed in; what they may
//! use, and nothing else, is what the program may. What the service tells without being asked is told to the program.

mod hearing;

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use anyhow::Context;
use clap::Args;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use symbia_events::Service;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use crate::{
    Ended,
    config::Config,
    session::{Credential, Sessions, SignIn},
};

/// Answers that wait for the program to read.
const QUEUE: usize = 64;
/// The header that names the session.
const SESSION: &str = "mcp-session-id";
/// JSON-RPC: the server failed.
const FAILED: i64 = -32603;

/// `symbia mcp`.
#[derive(Debug, Args)]
pub struct McpOptions {
    #[command(flatten)]
    sign_in: SignIn,
    /// Organization, for those who have several
    #[arg(long)]
    org: Option<String>,
    /// Only tools of these integrations: their keys, with commas
    #[arg(long)]
    integrations: Option<String>,
    /// Only tools with one of these tags, with commas
    #[arg(long)]
    tags: Option<String>,
    /// Address of the identity service [default: this machine]
    #[arg(long)]
    identity_url: Option<String>,
    /// Address of the integrations service [default: this machine]
    #[arg(long)]
    integrations_url: Option<String>,
}

/// The service, as the program sees it.
struct Door {
    http: reqwest::Client,
    url: String,
    credential: Credential,
    org: Option<String>,
    /// The version that both agreed on.
    version: OnceLock<String>,
    /// The handshake, and the session that it began last.
    hello: OnceLock<String>,
    session: RwLock<Option<String>>,
    beginning: Mutex<()>,
}

/// Passes messages on until standard input ends.
pub async fn run(config: &Config, options: McpOptions) -> Ended {
    let url = |given: &Option<String>, service: Service| {
        let here = || format!("http://127.0.0.1:{}", config.port(service));
        given.as_deref().map_or_else(here, |url| url.trim_end_matches('/').to_owned())
    };
    let credential = Sessions::at(&url(&options.identity_url, Service::Identity))?.credential(&options.sign_in).await?;
    let mut url =
        reqwest::Url::parse(&url(&options.integrations_url, Service::Integrations)).context("--integrations-url")?;
    url.set_path("/api/integrations/mcp");
    for (name, value) in [("integrations", &options.integrations), ("tags", &options.tags)] {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    let http = reqwest::Client::new();
    let (version, hello) = Default::default();
    let (session, beginning) = Default::default();
    let door = Door { http, url: url.into(), credential, org: options.org, version, hello, session, beginning };
    serve(Arc::new(door)).await?;
    Ok(ExitCode::SUCCESS)
}

// Several requests may be under way; each answer is a line.
async fn serve(door: Arc<Door>) -> anyhow::Result<()> {
    let (answers, mut lines) = mpsc::channel::<String>(QUEUE);
    let writing = tokio::spawn(async move {
        let mut out = tokio::io::stdout();
        while let Some(mut line) = lines.recv().await {
            line.push('\n');
            out.write_all(line.as_bytes()).await?;
            out.flush().await?;
        }
        Ok::<_, std::io::Error>(())
    });
    let hearing = tokio::spawn(Arc::clone(&door).hear(answers.clone()));
    let (mut messages, mut passing) = (BufReader::new(tokio::io::stdin()).lines(), JoinSet::new());
    while let Some(line) = messages.next_line().await.context("standard input")? {
        if line.trim().is_empty() {
            continue;
        }
        let (door, answers, begins) = (Arc::clone(&door), answers.clone(), begins(&line));
        let pass = async move {
            if let Some(answer) = door.pass(&line).await {
                // The program has gone.
                let _ = answers.send(answer.to_string()).await;
            }
        };
        // What follows the handshake goes by the version that it settles.
        if begins {
            pass.await
        } else {
            _ = passing.spawn(pass)
        }
        while passing.try_join_next().is_some() {}
    }
    while passing.join_next().await.is_some() {}
    hearing.abort();
    // Only then nobody writes any more.
    let _ = hearing.await;
    door.end().await;
    drop(answers);
    writing.await?.context("standard output")
}

fn begins(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|message| message["method"] == "initialize")
}

impl Door {
    /// The answer to a message; a notification has none.
    async fn pass(&self, line: &str) -> Option<Value> {
        let id = serde_json::from_str::<Value>(line).ok().map(|message| message["id"].clone()).unwrap_or_default();
        match self.ask(line).await {
            Ok(answer) => {
                if let Some(version) = answer.as_ref().and_then(|answer| answer["result"]["protocolVersion"].as_str()) {
                    let _ = self.version.set(version.to_owned());
                }
                answer
            }
            // Whoever asked waits for an answer with this id; nobody waits for one to a notification.
            Err(error) if !id.is_null() => {
                let error = json!({ "code": FAILED, "message": format!("{error:#}") });
                Some(json!({ "jsonrpc": "2.0", "id": id, "error": error }))
            }
            Err(error) => {
                tracing::warn!(%error, "a message was not passed on");
                None
            }
        }
    }

    async fn ask(&self, line: &str) -> anyhow::Result<Option<Value>> {
        let session = self.session();
        let answer = self.post(line, session.as_deref()).await?;
        if begins(line) {
            let _ = self.hello.set(line.to_owned());
            self.begun(&answer);
        }
        // A session lasts for days, and may have been ended elsewhere: the program knows nothing of it, and goes on in another.
        let answer = match session {
            Some(over) if answer.status() == StatusCode::NOT_FOUND => {
                self.begin_anew(&over).await?;
                self.post(line, self.session().as_deref()).await?
            }
            _ => answer,
        };
        let status = answer.status();
        if status == StatusCode::ACCEPTED {
            return Ok(None);
        }
        let said: Value = answer.json().await.with_context(|| format!("the integrations service answers {status}"))?;
        if said["jsonrpc"] == "2.0" {
            return Ok(Some(said));
        }
        let why = said["message"].as_str().unwrap_or("it is no server of the protocol");
        anyhow::bail!("the integrations service answers {status}: {why}")
    }

    async fn post(&self, line: &str, session: Option<&str>) -> anyhow::Result<Response> {
        let request = self.http.post(&self.url).header("content-type", "application/json").body(line.to_owned());
        let request = self.dressed(request, session).header("accept", "application/json, text/event-stream");
        request.send().await.with_context(|| format!("the integrations service at {}", self.url))
    }

    // With what every request carries.
    fn dressed(&self, request: RequestBuilder, session: Option<&str>) -> RequestBuilder {
        let mut request = self.credential.on(request);
        for (name, value) in [
            ("x-org-id", self.org.as_deref()),
            ("mcp-protocol-version", self.version.get().map(String::as_str)),
            (SESSION, session),
        ] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request
    }

    fn session(&self) -> Option<String> {
        self.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn begun(&self, answer: &Response) {
        let id = answer.headers().get(SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
        *self.session.write().unwrap_or_else(PoisonError::into_inner) = id;
    }

    // Another session than this one, which several may find to be over at once.
    async fn begin_anew(&self, over: &str) -> anyhow::Result<()> {
        let _turn = self.beginning.lock().await;
        if self.session().as_deref() == Some(over)
            && let Some(hello) = self.hello.get()
        {
            let answer = self.post(hello, None).await?;
            self.begun(&answer);
        }
        Ok(())
    }

    // Whoever starts the program anew begins another one.
    async fn end(&self) {
        let Some(session) = self.session() else { return };
        if let Err(error) = self.dressed(self.http.delete(&self.url), Some(&session)).send().await {
            tracing::debug!(%error, "a session was not ended");
        }
    }
}
