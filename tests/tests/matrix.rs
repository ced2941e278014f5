//! Every route that any service documents, tried by a principal of another organization and by nobody: nothing is seen, nothing is
//! changed. The routes, their parameters and bodies come from the documents themselves, so that a new route is tried as well.
#![allow(missing_docs, reason = "tests")]

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::{Context, ensure};
use async_nats::jetstream::{self, consumer::pull::OrderedConfig};
use futures::{StreamExt, TryStreamExt};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Map, Value, json};
use symbia_events::Service;
use symbia_tests::binary::{Installation, until};

type Tested = anyhow::Result<()>;

/// Stands in everything that is to be seen by nobody else.
const MARK: &str = "MATRIX-CANARY";
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
/// Streams that do not end by themselves; `feed.rs` and the tests of messaging try those.
const ENDLESS: [&str; 3] = ["/events", "/events/ws", "/conversations/{id}/stream"];

struct House {
    http: Client,
    services: HashMap<Service, String>,
    installation: Installation,
}

struct Route {
    service: Service,
    method: Method,
    /// What stands before the template.
    root: String,
    template: String,
    operation: Value,
    document: Value,
}

impl Route {
    fn is_public(&self) -> bool {
        self.operation["security"].as_array().is_some_and(|ways| ways.is_empty() || ways.contains(&json!({})))
    }

    fn name(&self) -> String {
        format!("{} {} {}", self.service, self.method, self.template)
    }
}

/// Ada's things, by the name of the collection that their ids stand behind.
type Things = BTreeMap<&'static str, String>;

impl House {
    fn open() -> anyhow::Result<Self> {
        let mut installation = Installation::new()?;
        // So that the many requests need not come from one address.
        let ready = installation.start_with(&["--skip-admin"], &[("SYMBIA_TRUSTED_PROXIES", "127.0.0.0/8")])?;
        let services = Service::ALL.into_iter();
        let services = services.filter_map(|s| Some((s, ready["services"][s.name()].as_str()?.to_owned()))).collect();
        let http =
            Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(30)).build()?;
        Ok(House { http, services, installation })
    }

    fn url(&self, service: Service, path: &str) -> String {
        format!("{}{path}", self.services.get(&service).map_or("", String::as_str))
    }

    async fn call(
        &self,
        service: Service,
        method: &str,
        path: &str,
        token: &str,
        body: Value,
    ) -> anyhow::Result<Value> {
        let request = self.http.request(method.parse()?, self.url(service, path)).bearer_auth(token).json(&body);
        let answer = request.header("x-forwarded-for", address()).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{method} {path}: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    async fn register(&self, name: &str, mark: &str) -> anyhow::Result<Value> {
        let body = json!({ "email": format!("{name}@example.test"), "password": "a good password",
            "name": format!("{name} {mark}"), "orgName": format!("{name} {mark}") });
        self.call(Service::Identity, "POST", "/api/auth/register", "", body).await
    }

    async fn routes(&self) -> anyhow::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for service in Service::ALL {
            let document: Value = self.http.get(self.url(service, "/docs/openapi.json")).send().await?.json().await?;
            let paths = document["paths"].as_object().with_context(|| format!("{service} documents nothing"))?;
            for (template, item) in paths {
                if ENDLESS.contains(&template.as_str()) {
                    continue;
                }
                let root = item["servers"][0]["url"].as_str().or(document["servers"][0]["url"].as_str());
                let root = root.unwrap_or_default().to_owned();
                for method in METHODS.into_iter().filter(|method| item[*method].is_object()) {
                    routes.push(Route {
                        service,
                        method: method.to_uppercase().parse()?,
                        root: root.clone(),
                        template: template.clone(),
                        operation: item[method].clone(),
                        document: document.clone(),
                    });
                }
            }
        }
        Ok(routes)
    }

    /// How many messages there are by subject, of all that is about Ada.
    async fn happened(&self, things: &Things) -> anyhow::Result<BTreeMap<String, usize>> {
        let js = jetstream::new(self.installation.nats().await?);
        let mut about = BTreeMap::new();
        for service in Service::ALL {
            let stream = js.get_stream(service.event_stream()).await?;
            let mut subjects = stream.info_with_subjects(">").await?;
            while let Some(subject) = subjects.next().await {
                let (subject, count) = subject?;
                if things.values().any(|id| subject.split('.').any(|token| token == id)) {
                    about.insert(subject, count);
                }
            }
        }
        Ok(about)
    }

    /// The types of the events of an aggregate, the first of each message.
    async fn types(&self, subject: &str) -> anyhow::Result<Vec<String>> {
        let js = jetstream::new(self.installation.nats().await?);
        let service = subject.split('.').nth(2).context("no service")?.parse::<Service>()?;
        let stream = js.get_stream(service.event_stream()).await?;
        let filter = OrderedConfig { filter_subject: subject.to_owned(), ..Default::default() };
        let mut consumer = stream.create_consumer(filter).await?;
        let count = usize::try_from(consumer.info().await?.num_pending)?;
        let mut messages = consumer.messages().await?.take(count);
        let mut types = Vec::new();
        while let Some(message) = messages.try_next().await? {
            let body: Value = serde_json::from_slice(&message.payload)?;
            let first = if body.is_array() { &body[0] } else { &body };
            types.push(first["type"].as_str().unwrap_or_default().to_owned());
        }
        Ok(types)
    }
}

/// What anybody who knows an address may set off: it sends mail to its owner, and shows nothing.
const ANYBODYS: [&str; 2] =
    ["symbia.identity.user.password-reset-requested.v1", "symbia.identity.user.password-reset-mailed.v1"];

// Each request from another one.
fn address() -> String {
    let [a, b, c] = rand::random::<[u8; 3]>();
    format!("10.{a}.{b}.{c}")
}

/// One of everything that a member of an organization can have.
async fn furnish(house: &House) -> anyhow::Result<(String, Things)> {
    let ada = house.register("ada", MARK).await?;
    let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("no text: {value}"));
    let (token, org) = (text(&ada["token"])?, text(&ada["organization"]["id"])?);
    let mut things = Things::from([("orgs", org.clone()), ("users", text(&ada["user"]["id"])?)]);
    let identity = Service::Identity;
    let made = async |path: String, body: Value| -> anyhow::Result<Value> {
        house.call(identity, "POST", &path, &token, body).await
    };
    let project = text(&made(format!("/api/orgs/{org}/projects"), json!({ "name": MARK, "slug": "p" })).await?["id"])?;
    let app = made(format!("/api/projects/{project}/applications"), json!({ "name": MARK, "slug": "a" })).await?;
    let service =
        made(format!("/api/projects/{project}/services"), json!({ "name": MARK, "serviceType": "api" })).await?;
    let agent = json!({ "agentId": "agent:matrix", "name": MARK, "credential": "c".repeat(40), "orgId": org });
    let agent = made("/api/agents".to_owned(), agent).await?;
    let key = made("/api/api-keys".to_owned(), json!({ "name": MARK, "orgId": org })).await?;
    let secret = json!({ "provider": "openai", "name": MARK, "apiKey": format!("sk-{MARK}-secret") });
    let secret = made("/api/credentials".to_owned(), secret).await?;
    let invited = json!({ "email": "x@example.test", "role": "member" });
    let invitation = made(format!("/api/orgs/{org}/invitations"), invited).await?;
    let session = house.call(identity, "GET", "/api/auth/sessions", &token, Value::Null).await?;
    let details = house.call(identity, "GET", &format!("/api/orgs/{org}"), &token, Value::Null).await?;
    let talk = json!({ "type": "group", "name": MARK });
    let talk = house.call(Service::Messaging, "POST", "/api/conversations", &token, talk).await?;
    let talk_id = text(&talk["id"])?;
    let say = format!("/api/conversations/{talk_id}/messages");
    let message = house.call(Service::Messaging, "POST", &say, &token, json!({ "content": MARK })).await?;
    let sessions = session.as_array().or_else(|| session["sessions"].as_array());
    for (kind, id) in [
        ("projects", &json!(project)),
        ("applications", &app["id"]),
        ("services", &service["id"]),
        ("agents", &agent["id"]),
        ("api-keys", &key["id"]),
        ("credentials", &secret["id"]),
        ("invitations", &invitation["id"]),
        ("sessions", &sessions.and_then(|s| s.first()).map_or(Value::Null, |s| s["id"].clone())),
        ("members", &details["members"][0]["id"]),
        ("conversations", &json!(talk_id)),
        ("messages", &message["id"]),
    ] {
        things.insert(kind, text(id).with_context(|| format!("the id of {kind}"))?);
    }
    Ok((token, things))
}

/// The path with Ada's ids in it.
fn path(route: &Route, things: &Things) -> String {
    let mut path = route.root.trim_end_matches('/').to_owned();
    let mut collection = "";
    for segment in route.template.split('/').skip(1) {
        path.push('/');
        let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) else {
            collection = segment;
            path.push_str(segment);
            continue;
        };
        let named = things.iter().find(|(kind, _)| name.to_lowercase().starts_with(kind.trim_end_matches('s')));
        let id = things.get(collection).or(named.map(|(_, id)| id)).or_else(|| things.get("orgs"));
        path.push_str(if name == "scopeType" { "org" } else { id.map_or("x", String::as_str) });
    }
    let parameters = route.operation["parameters"].as_array().into_iter().flatten();
    let queries = parameters.filter(|p| p["in"] == "query").filter_map(|p| p["name"].as_str());
    let about = queries.filter(|name| name.to_lowercase().contains("org") || *name == "tenant");
    let query: Vec<String> = about.map(|name| format!("{name}={}", things["orgs"])).collect();
    if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
}

/// A body of a schema, which names Ada's things wherever it can.
fn body(route: &Route, things: &Things) -> Option<Value> {
    let content = route.operation["requestBody"]["content"].as_object()?;
    let schema = content.get("application/json").or_else(|| content.values().next())?;
    Some(value(&route.document, &schema["schema"], "", things, 0))
}

fn value(document: &Value, schema: &Value, name: &str, things: &Things, depth: usize) -> Value {
    if let Some(pointer) = schema["$ref"].as_str() {
        let target = document.pointer(pointer.trim_start_matches('#')).unwrap_or(&Value::Null);
        return value(document, target, name, things, depth);
    }
    let variant = ["oneOf", "anyOf"]
        .into_iter()
        .find_map(|way| schema[way].as_array()?.iter().find(|variant| variant["type"] != "null"));
    if let Some(variant) = variant {
        return value(document, variant, name, things, depth);
    }
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.clone();
    }
    let kinds = schema["type"].as_array().and_then(|kinds| kinds.iter().find(|kind| *kind != "null"));
    match kinds.or(Some(&schema["type"])).and_then(Value::as_str) {
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") if depth < 4 => json!([value(document, &schema["items"], name, things, depth + 1)]),
        Some("string") => json!(text(name, things)),
        _ if depth < 4 => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            let filled =
                properties.map(|(name, schema)| (name.clone(), value(document, schema, name, things, depth + 1)));
            Value::Object(filled.collect::<Map<_, _>>())
        }
        _ => Value::Null,
    }
}

fn text(name: &str, things: &Things) -> String {
    let lower = name.to_lowercase();
    let named = things.iter().find(|(kind, _)| {
        lower == "id" || lower.starts_with(&format!("{}id", kind.trim_end_matches('s').replace('-', "")))
    });
    match lower.as_str() {
        _ if named.is_some() => named.map(|(_, id)| id.clone()).unwrap_or_default(),
        "scopeid" | "tenant" => things["orgs"].clone(),
        "scopetype" => "org".to_owned(),
        "principalid" | "participantids" | "toprincipalid" => things["users"].clone(),
        "role" => "admin".to_owned(),
        "email" => "ada@example.test".to_owned(),
        "expiresat" => "2099-01-01T00:00:00Z".to_owned(),
        "password" | "currentpassword" | "newpassword" => "not her password".to_owned(),
        _ => "x".to_owned(),
    }
}

async fn send(house: &House, route: &Route, things: &Things, token: Option<&str>) -> anyhow::Result<Response> {
    let mut request = house.http.request(route.method.clone(), house.url(route.service, &path(route, things)));
    request = request.header("x-forwarded-for", address()).header("x-org-id", &things["orgs"]);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body(route, things) {
        request = request.json(&body);
    }
    request.send().await.with_context(|| route.name())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_sees_or_changes_anything_on_any_route() -> Tested {
    let house = House::open()?;
    let (ada, things) = furnish(&house).await?;
    let routes = house.routes().await?;
    ensure!(routes.len() > 200, "only {} routes", routes.len());

    // What follows from what Ada did has happened when twice in a row nothing new has.
    let last = std::sync::Mutex::new(BTreeMap::new());
    until("nothing more follows", || async {
        let now = house.happened(&things).await?;
        let mut last = last.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
        let settled = *last == now;
        *last = now;
        Ok(settled)
    })
    .await?;
    let before = house.happened(&things).await?;
    ensure!(before.len() > 8, "{before:?}");

    let mut eves = 0;
    let mut eve = String::new();
    let mut failures = Vec::new();
    let mut seen = [0usize; 2];
    for route in &routes {
        // A route may have ended Eve's session, or she has asked too often: another Eve goes on.
        let alive = house.http.get(house.url(Service::Identity, "/api/auth/me")).bearer_auth(&eve).send().await?;
        if alive.status() != StatusCode::OK || eves == 0 {
            eves += 1;
            let registered = house.register(&format!("eve{eves}"), "stranger").await?;
            eve = registered["token"].as_str().context("no token")?.to_owned();
        }
        let answer = send(&house, route, &things, Some(&eve)).await?;
        let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
        seen[usize::from(status.is_success())] += 1;
        if text.contains(MARK) || status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            failures.push(format!("{}: eve got {status} {text:.300}", route.name()));
        }
        let answer = send(&house, route, &things, None).await?;
        let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
        let refused = status == StatusCode::UNAUTHORIZED || route.is_public();
        if text.contains(MARK) || !refused || status.is_server_error() {
            failures.push(format!("{}: nobody got {status} {text:.300}", route.name()));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    ensure!(seen[0] > seen[1], "most routes refuse her: {seen:?}");

    let after = house.happened(&things).await?;
    for (subject, _) in after.iter().filter(|(subject, count)| before.get(*subject) != Some(count)) {
        let known = before.get(subject).copied().unwrap_or_default();
        let new: Vec<String> = house.types(subject).await?.into_iter().skip(known).collect();
        ensure!(
            new.iter().all(|what| ANYBODYS.contains(&what.as_str())),
            "to what is Ada's, {subject}, happened {new:?}"
        );
    }
    // She is still signed in, and still has all of it.
    let org = house.call(Service::Identity, "GET", &format!("/api/orgs/{}", things["orgs"]), &ada, Value::Null).await?;
    ensure!(
        org["organization"]["name"] == format!("ada {MARK}") && org["members"].as_array().map(Vec::len) == Some(1),
        "{org}"
    );
    Ok(())
}
