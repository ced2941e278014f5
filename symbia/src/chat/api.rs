//! The few requests that a chat makes, and its stream, which is taken up again where it broke off.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::sse::{Events, Sse};
use crate::session::{Credential, checked};

/// How long a stream that broke off is tried to be taken up again.
const RESUME: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
/// Beyond this without a sign of life the connection is dead; the service gives one every 20 s.
const SILENCE: Duration = Duration::from_secs(65);
const TRIES: usize = 5;

/// The messaging service, as somebody who is signed in.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    credential: Credential,
    org: Option<String>,
}

/// A conversation.
#[derive(Debug)]
pub struct Conversation {
    /// Id.
    pub id: String,
    /// Whether anybody there answers.
    pub has_assistant: bool,
}

impl Conversation {
    fn of(body: &Value) -> anyhow::Result<Self> {
        let id = body["id"].as_str().context("the messaging service answered without an id")?;
        let mut participants = body["participants"].as_array().into_iter().flatten();
        let is_assistant = |p: &Value| p["user_id"].as_str().is_some_and(|id| id.starts_with("assistant:"));
        Ok(Conversation { id: id.to_owned(), has_assistant: participants.any(is_assistant) })
    }
}

impl Api {
    /// The service at an address.
    pub fn new(base: String, credential: Credential, org: Option<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().read_timeout(SILENCE).build()?;
        Ok(Api { http, base, credential, org })
    }

    /// Opens a conversation with an assistant.
    pub async fn open(&self, assistant: &str) -> anyhow::Result<Conversation> {
        let body = json!({ "type": "private", "participantIds": [assistant] });
        Conversation::of(&self.call(Method::POST, "/api/conversations", Some(body)).await?)
    }

    /// A conversation that there is.
    pub async fn conversation(&self, id: &str) -> anyhow::Result<Conversation> {
        Conversation::of(&self.call(Method::GET, &format!("/api/conversations/{id}"), None).await?)
    }

    /// Says something. Under the same id it is said once, however often it is sent.
    pub async fn send(&self, conversation: &str, id: Uuid, text: &str) -> anyhow::Result<()> {
        let path = format!("/api/conversations/{conversation}/messages");
        self.call(Method::POST, &path, Some(json!({ "id": id, "content": text }))).await.map(|_| ())
    }

    /// Stops the answers under way.
    pub async fn cancel(&self, conversation: &str) -> anyhow::Result<()> {
        let path = format!("/api/conversations/{conversation}/control");
        self.call(Method::POST, &path, Some(json!({ "event": "stream.cancel" }))).await.map(|_| ())
    }

    /// Follows a conversation from now on.
    pub async fn follow(&self, conversation: &str) -> anyhow::Result<Following> {
        let path = format!("/api/conversations/{conversation}/stream");
        let mut following = Following { api: self.clone(), path, events: None, from: None };
        // The first event tells where the stream begins.
        following.next().await?;
        Ok(following)
    }

    // Each request may be repeated: messages have ids, and the others change nothing the second time.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let key = Uuid::new_v4().to_string();
        for attempt in 1.. {
            let mut request = self.request(method.clone(), path).header("idempotency-key", &key);
            if let Some(body) = &body {
                request = request.json(body);
            }
            match request.send().await {
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE && attempt < TRIES => {}
                Ok(answer) => return Ok(checked(answer).await?.json().await.unwrap_or_default()),
                Err(error) if attempt >= TRIES || error.is_builder() => {
                    return Err(error)
                        .with_context(|| format!("the messaging service at {} does not answer", self.base));
                }
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("the messaging service at {} does not answer", self.base)
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.credential.on(self.http.request(method, format!("{}{path}", self.base)));
        match &self.org {
            Some(org) => request.header("x-org-id", org),
            None => request,
        }
    }
}

/// A conversation's stream.
pub struct Following {
    api: Api,
    path: String,
    events: Option<Events>,
    from: Option<String>,
}

impl Following {
    /// The next event. When the stream breaks off it is taken up where it was. Cancel-safe.
    pub async fn next(&mut self) -> anyhow::Result<Sse> {
        let deadline = Instant::now() + RESUME;
        loop {
            if let Some(events) = &mut self.events {
                match events.next().await {
                    Ok(Some(event)) => {
                        if event.id.is_some() {
                            self.from.clone_from(&event.id);
                        }
                        return Ok(event);
                    }
                    Ok(None) | Err(_) => self.events = None,
                }
            }
            let mut request = self.api.request(Method::GET, &self.path);
            if let Some(from) = &self.from {
                request = request.header("last-event-id", from);
            }
            match request.send().await {
                Ok(answer) if !answer.status().is_server_error() => {
                    self.events = Some(Events::new(checked(answer).await?));
                }
                _ if Instant::now() > deadline => bail!("the messaging service at {} does not answer", self.api.base),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
