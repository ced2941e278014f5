//! A whole platform with an operator and somebody with things of their own, and requests to any of its services.

use anyhow::{Context, ensure};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use symbia_events::Service;
use symbia_tests::binary::{Installation, text};

pub type Tested = anyhow::Result<()>;

/// Stands in what Ada's organization calls its own.
pub const MARK: &str = "EVERY-CANARY";
pub const CREDENTIAL: &str = "the-credential-of-an-agent-0123456789abcdef";
const PASSWORD: &str = "a good password";
/// They do not end by themselves; the tests of the feed try those.
const ENDLESS: [&str; 2] = ["/events", "/events/ws"];
/// These are about all accounts and organizations of the platform: they are the operators' own.
const OF_THE_PLATFORM: [&str; 2] = ["/api/admin/", "/api/users"];

/// A running platform.
pub struct House {
    http: Client,
    ready: Value,
    _installation: Installation,
}

/// A request.
#[derive(Clone)]
pub struct Asked<'a> {
    pub method: Method,
    pub path: &'a str,
    pub token: &'a str,
    pub headers: Vec<(&'a str, &'a str)>,
    pub body: Option<Value>,
}

/// Somebody who is signed in.
pub struct Person {
    pub id: String,
    pub token: String,
    pub org: String,
}

impl<'a> Asked<'a> {
    pub fn get(path: &'a str, token: &'a str) -> Self {
        Asked { method: Method::GET, path, token, headers: Vec::new(), body: None }
    }

    pub fn with(self, headers: &[(&'a str, &'a str)]) -> Self {
        Asked { headers: headers.to_vec(), ..self }
    }

    pub fn post(path: &'a str, token: &'a str, body: Value) -> Self {
        Asked { method: Method::POST, body: Some(body), ..Asked::get(path, token) }
    }
}

impl House {
    pub fn open() -> anyhow::Result<Self> {
        let mut installation = Installation::new()?;
        let password = installation.file("password");
        std::fs::write(&password, PASSWORD)?;
        let admin = ["--admin-name", "Root", "--admin-email", "root@example.test", "--admin-org", "Operators"];
        let arguments = [&["--memory"][..], &admin[..], &["--admin-password-file", text(&password)]].concat();
        let ready = installation.start_with(&arguments, &[])?;
        Ok(House { http: Client::new(), ready, _installation: installation })
    }

    pub async fn send(&self, service: Service, asked: Asked<'_>) -> anyhow::Result<Response> {
        let base = self.ready["services"][service.name()].as_str().context("no address")?;
        let mut request = self.http.request(asked.method, format!("{base}{}", asked.path));
        if !asked.token.is_empty() {
            request = request.bearer_auth(asked.token);
        }
        for (name, value) in asked.headers {
            request = request.header(name, value);
        }
        if let Some(body) = &asked.body {
            request = request.json(body);
        }
        Ok(request.send().await?)
    }

    pub async fn ask(&self, service: Service, asked: Asked<'_>) -> anyhow::Result<(StatusCode, String)> {
        let answer = self.send(service, asked).await?;
        Ok((answer.status(), answer.text().await?))
    }

    pub async fn done(&self, service: Service, asked: Asked<'_>) -> anyhow::Result<Value> {
        let (status, text) = self.ask(service, asked).await?;
        ensure!(status.is_success(), "{status} {text}");
        Ok(serde_json::from_str(&text)?)
    }

    pub async fn login(&self, email: &str) -> anyhow::Result<String> {
        let body = json!({ "email": email, "password": PASSWORD });
        string(&self.done(Service::Identity, Asked::post("/api/auth/login", "", body)).await?["token"])
    }

    /// Somebody with an organization.
    pub async fn register(&self, name: &str, org: &str) -> anyhow::Result<Person> {
        let body =
            json!({ "email": format!("{name}@example.test"), "password": PASSWORD, "name": org, "orgName": org });
        let said = self.done(Service::Identity, Asked::post("/api/auth/register", "", body)).await?;
        let (id, org) = (string(&said["user"]["id"])?, string(&said["organization"]["id"])?);
        Ok(Person { id, token: string(&said["token"])?, org })
    }

    /// Ada, whose organization has an agent and a conversation.
    pub async fn ada(&self) -> anyhow::Result<Person> {
        let ada = self.register("ada", MARK).await?;
        let agent = json!({ "agentId": "agent:marked", "name": MARK, "credential": CREDENTIAL, "orgId": ada.org });
        self.done(Service::Identity, Asked::post("/api/agents", &ada.token, agent)).await?;
        let talk = json!({ "type": "group", "name": MARK });
        self.done(Service::Messaging, Asked::post("/api/conversations", &ada.token, talk)).await?;
        Ok(ada)
    }

    /// What can be read without naming a thing, and whether anybody may.
    pub async fn lists(&self, service: Service) -> anyhow::Result<Vec<(String, bool)>> {
        let document = self.done(service, Asked::get("/docs/openapi.json", "")).await?;
        let mut lists = Vec::new();
        for (template, item) in document["paths"].as_object().context("no paths")? {
            let root =
                item["servers"][0]["url"].as_str().or(document["servers"][0]["url"].as_str()).unwrap_or_default();
            let path = format!("{}{template}", root.trim_end_matches('/'));
            let named = template.contains('{') || ENDLESS.contains(&template.as_str());
            let platforms = service == Service::Identity && OF_THE_PLATFORM.iter().any(|of| path.starts_with(of));
            if item["get"].is_object() && !named && !platforms {
                let ways = item["get"]["security"].as_array();
                lists.push((path, ways.is_some_and(|ways| ways.is_empty() || ways.contains(&json!({})))));
            }
        }
        Ok(lists)
    }
}

pub fn string(value: &Value) -> anyhow::Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("no text: {value}"))
}
