//! APIs that an organization registers: found out, called, and kept apart, with keys that stay where they belong.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    stage::{Answered, Person, Stage},
};

const KEY: &str = "pets-key-of-ada-86420";

/// Paths, and the key that came with each.
type Seen = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A server that notes what it is asked: `GET /v1/pets/1`, and with what key.
#[derive(Clone, Default)]
pub struct Server {
    seen: Seen,
    pub base: String,
    elsewhere: String,
}

impl Server {
    pub async fn start(elsewhere: &str) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let server = Server {
            base: format!("http://{}", listener.local_addr()?),
            elsewhere: elsewhere.to_owned(),
            ..Server::default()
        };
        let app = Router::new()
            .route("/openapi.yaml", get(document))
            .route("/split/{name}", get(split))
            .fallback(noted)
            .with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(server)
    }

    pub fn seen(&self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn host(&self) -> &str {
        self.base.trim_start_matches("http://")
    }
}

async fn document(State(_): State<Server>) -> &'static str {
    "openapi: 3.0.3
info: {title: Pets, version: '1'}
servers: [{url: /v1}]
paths:
  /pets/{id}:
    parameters: [{name: id, in: path, required: true, schema: {type: string}}]
    get: {operationId: getPet, summary: Read a pet, tags: [pets], responses: {200: {description: ok}}}
  /pets:
    post:
      operationId: createPet
      requestBody: {content: {application/json: {schema: {type: object}}}}
      responses: {201: {description: made}}
  /away:
    get: {operationId: getAway, responses: {200: {description: ok}}}
"
}

// A document in two parts, and one that leads inside.
async fn split(Path(name): Path<String>) -> &'static str {
    match name.as_str() {
        "openapi.yaml" => {
            "openapi: 3.0.3
servers: [{url: /v1}]
paths:
  /pets:
    post:
      operationId: createPet
      parameters: [{$ref: 'common.yaml#/parameters/Lang'}]
      requestBody: {content: {application/json: {schema: {$ref: 'common.yaml#/schemas/Pet'}}}}
      responses: {201: {description: made}}
"
        }
        "common.yaml" => {
            "parameters: {Lang: {name: lang, in: query, schema: {$ref: '#/schemas/Word'}}}
schemas: {Word: {type: string}, Pet: {type: object, properties: {name: {$ref: '#/schemas/Word'}}}}
"
        }
        _ => {
            "openapi: 3.0.3
paths: {/pets: {get: {operationId: getPets, parameters: [{$ref: 'http://10.0.0.1/common.yaml#/x'}]}}}
"
        }
    }
}

async fn noted(State(server): State<Server>, request: Request) -> Response {
    let key = request.headers().get("authorization").and_then(|key| key.to_str().ok()).map(str::to_owned);
    let what = format!("{} {}", request.method(), request.uri());
    server.seen.lock().unwrap_or_else(PoisonError::into_inner).push((what, key));
    match request.uri().path() {
        "/v1/away" => Redirect::temporary(&format!("{}/lured", server.elsewhere)).into_response(),
        "/v1/pets/none" => (StatusCode::NOT_FOUND, Json(json!({ "message": "no such pet" }))).into_response(),
        path => Json(json!({ "name": "Rex of the canary", "path": path })).into_response(),
    }
}

pub async fn register(stage: &Stage, who: &Person, body: Value) -> anyhow::Result<Answered> {
    stage.ask(who, "POST", "/api/integrations/register", Some(body)).await
}

pub async fn invoke(stage: &Stage, who: &Person, operation: &str, with: Value) -> anyhow::Result<Answered> {
    let mut body = with;
    body["operation"] = json!(operation);
    stage.ask(who, "POST", "/api/integrations/invoke", Some(body)).await
}

async fn keep(stage: &Stage, who: &Person, body: Value) -> anyhow::Result<String> {
    let kept = stage.http.post(format!("{}/api/credentials", stage.identity)).bearer_auth(&who.token).json(&body);
    let kept: Value = kept.send().await?.error_for_status()?.json().await?;
    kept["id"].as_str().map(str::to_owned).context("no id")
}

fn pets(server: &Server, auth: Value) -> Value {
    let source = json!({ "specUrl": format!("{}/openapi.yaml", server.base) });
    json!({ "key": "pets", "type": "openapi", "openapi": source, "auth": auth })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_becomes_operations_that_are_called_and_recorded() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let server = Server::start("").await?;
    let made = register(&stage, &ada, pets(&server, json!({ "type": "none" }))).await?;
    ensure!(made.status == 200 && made.body["operationCount"] == 3, "{} {}", made.status, made.body);
    ensure!(made.body["integration"]["openapi"]["serverUrl"] == format!("{}/v1", server.base), "{}", made.body);
    let tree = stage.ask(&ada, "GET", "/api/integrations/namespace", None).await?.body;
    ensure!(tree["integrations"]["pets"]["pet"]["get"]["_path"] == "/pets/{id}", "{tree}");
    let found = stage.ask(&ada, "GET", "/api/integrations/operations/search?tag=pets", None).await?.body;
    ensure!(found["results"][0]["integrationKey"] == "pets" && found["results"][0]["operation"]["id"] == "pet.get");

    // Values stand where they belong, and the answer comes back whole.
    let called = invoke(&stage, &ada, "integrations.pets.pet.get", json!({ "params": { "id": "a/b" } })).await?;
    ensure!(
        called.status == 200 && called.body["success"] == true && called.body["statusCode"] == 200,
        "{}",
        called.body
    );
    ensure!(called.body["data"]["path"] == "/v1/pets/a%2Fb", "{}", called.body);
    let gone = invoke(&stage, &ada, "pets.pet.get", json!({ "params": { "id": "none" } })).await?;
    ensure!(gone.status == 200 && gone.body["success"] == false && gone.body["statusCode"] == 404, "{}", gone.body);
    ensure!(gone.body["data"]["message"] == "no such pet", "{}", gone.body);
    for (operation, with, status) in [
        ("pets.pet.get", json!({}), 400),
        ("pets.pet.get", json!({ "params": { "id": ".." } }), 400),
        ("pets.pet.get", json!({ "params": { "id": "1" }, "headers": { "Authorization": "mine" } }), 400),
        ("pets.pet.none", json!({}), 404),
        ("nothing.at.all", json!({}), 404),
    ] {
        let refused = invoke(&stage, &ada, operation, with).await?;
        ensure!(refused.status == status, "{operation}: {} {}", refused.status, refused.body);
    }
    let seen: Vec<String> = server.seen().into_iter().map(|(what, _)| what).collect();
    ensure!(seen == ["GET /v1/pets/a%2Fb", "GET /v1/pets/none"], "{seen:?}");

    // Another organization has none of it, and may register the same key for itself.
    ensure!(stage.ask(&bob, "GET", "/api/integrations/registry/pets", None).await?.status == 404, "bob reads it");
    ensure!(
        invoke(&stage, &bob, "pets.pet.get", json!({ "params": { "id": "1" } })).await?.status == 404,
        "bob calls it"
    );
    let listed = stage.ask(&bob, "GET", "/api/integrations/registry", None).await?.body.to_string();
    ensure!(!listed.contains("pets") && listed.contains("openai"), "{listed:.300}");
    for path in ["/api/integrations/registry", "/api/integrations/registry/pets", "/api/integrations/namespace"] {
        ensure!(stage.ask_in(&bob, Some(&ada.org), "GET", path, None).await?.status == 403, "bob in ada's: {path}");
    }
    let removed = stage.ask_in(&bob, Some(&ada.org), "DELETE", "/api/integrations/registry/pets", None).await?;
    ensure!(removed.status == 403, "{}", removed.body);
    ensure!(server.seen().is_empty(), "bob reached the server");

    // Intent before, result after, content under seal.
    until("the log has them", || async {
        Ok(stage.house.run(&["log", "export"])?.expect(0)?.out.matches(".invocation-completed.v1").count() == 2)
    })
    .await?;
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    let place = |what: &str| log.find(what).with_context(|| format!("no {what}"));
    let (asked, started, ended) =
        (place("invocation-requested")?, place("invocation-attempt-started")?, place("invocation-completed")?);
    ensure!(asked < started && started < ended, "{asked} {started} {ended}");
    ensure!(!log.contains("Rex of the canary") && !log.contains("no such pet"), "content in the log");

    let calls = || stage.ask(&ada, "GET", "/api/integrations/invocations?integration=pets", None);
    until("the calls show", || async { Ok(calls().await?.body[0]["status"] == "failed") }).await?;
    let made = calls().await?.body;
    ensure!(made.as_array().is_some_and(|calls| calls.len() == 5), "{made}");
    ensure!(made[4]["statusCode"] == 200 && made[4]["status"] == "completed" && made[4]["success"] == true, "{made}");
    ensure!(stage.ask(&bob, "GET", "/api/integrations/invocations", None).await?.body == json!([]), "bob sees calls");

    // Removed, it is gone.
    let removed = stage.ask(&ada, "DELETE", "/api/integrations/registry/pets", None).await?;
    ensure!(removed.status == 200, "{}", removed.body);
    ensure!(stage.ask(&ada, "GET", "/api/integrations/registry/pets", None).await?.status == 404, "still there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_to_the_hosts_that_its_owner_named_and_nowhere_else() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let thief = Server::start("").await?;
    let server = Server::start(&thief.base).await?;
    let made = register(&stage, &ada, pets(&server, json!({ "type": "bearer" }))).await?;
    ensure!(made.status == 200, "{}", made.body);
    let call = |operation: &'static str| invoke(&stage, &ada, operation, json!({ "params": { "id": "1" } }));

    let none = call("pets.pet.get").await?;
    ensure!(none.status == 401 && none.body["code"] == "NO_KEY", "{}", none.body);
    let id = keep(&stage, &ada, json!({ "provider": "pets", "name": "mine", "apiKey": KEY })).await?;
    let unbound = call("pets.pet.get").await?;
    ensure!(unbound.status == 401 && unbound.body["code"] == "KEY_OF_ANOTHER_HOST", "{}", unbound.body);
    ensure!(unbound.body["message"].as_str().is_some_and(|text| text.contains(server.host())), "{}", unbound.body);
    ensure!(server.seen().is_empty(), "asked without a key");

    let bind = json!({ "metadata": { "hosts": [server.host()] } });
    let bound =
        stage.http.patch(format!("{}/api/credentials/{id}", stage.identity)).bearer_auth(&ada.token).json(&bind);
    bound.send().await?.error_for_status()?;
    let called = call("pets.pet.get").await?;
    ensure!(called.status == 200, "{}", called.body);
    ensure!(server.seen() == [("GET /v1/pets/1".to_owned(), Some(format!("Bearer {KEY}")))], "the key is not sent");

    // Somebody who may register points an integration at a host of their own, under that key.
    for (key, auth) in [
        ("pets", json!({ "type": "bearer" })),
        ("lure", json!({ "type": "bearer", "credentialKey": "pets" })),
        ("lure", json!({ "type": "apiKey", "header": "X-Lure", "credentialKey": "pets" })),
        ("lure", json!({ "type": "bearer", "credentialKey": "openai" })),
    ] {
        let lure = json!({ "key": key, "type": "openapi", "auth": auth,
            "openapi": { "specUrl": format!("{}/openapi.yaml", server.base), "serverUrl": thief.base } });
        ensure!(register(&stage, &ada, lure).await?.status == 200);
        let refused = invoke(&stage, &ada, &format!("{key}.pet.get"), json!({ "params": { "id": "1" } })).await?;
        ensure!(refused.status == 401, "{} {}", refused.status, refused.body);
    }
    ensure!(thief.seen().is_empty(), "the thief was asked");

    // A redirect carries nothing along.
    ensure!(register(&stage, &ada, pets(&server, json!({ "type": "bearer" }))).await?.status == 200);
    let lured = invoke(&stage, &ada, "pets.away.get", json!({})).await?;
    ensure!(lured.status == 200, "{}", lured.body);
    ensure!(thief.seen() == [("GET /lured".to_owned(), None)], "the key went along");

    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    ensure!(log.contains("credential-released") && !log.contains(KEY), "the key is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leads_inside_and_what_is_the_platforms_own_is_refused() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    for (url, says) in [
        ("http://169.254.169.254/latest/meta-data/", "not a public one"),
        ("http://10.0.0.1/openapi.json", "not a public one"),
        ("http://[::ffff:10.0.0.1]/openapi.json", "not a public one"),
        ("http://2852039166/", "not a public one"),
        ("https://metadata.google.internal/", "not called from here"),
        ("https://nats:4222/", "not called from here"),
    ] {
        let from = json!({ "key": "inside", "type": "openapi", "openapi": { "specUrl": url } });
        let refused = register(&stage, &ada, from).await?;
        ensure!(refused.status == 400 && refused.body["success"] == false, "{url}: {}", refused.body);
        ensure!(refused.body["message"].as_str().is_some_and(|text| text.contains(says)), "{url}: {}", refused.body);
        let parsed =
            stage.ask(&ada, "POST", "/api/integrations/parse/openapi", Some(json!({ "specUrl": url }))).await?;
        ensure!(parsed.status == 400, "{url}: {}", parsed.body);
        let mcp = json!({ "key": "inside", "transport": "http", "serverUrl": url });
        let refused = stage.ask(&ada, "POST", "/api/integrations/mcp/register", Some(mcp)).await?;
        ensure!(refused.status == 400, "{url}: {}", refused.body);
    }
    for key in ["openai", "identity", "symbia-labs"] {
        let taken = json!({ "key": key, "type": "openapi", "openapi": { "specUrl": "https://x.example/" } });
        ensure!(register(&stage, &ada, taken).await?.status == 409, "{key}");
        let path = format!("/api/integrations/registry/{key}");
        ensure!(stage.ask(&ada, "DELETE", &path, None).await?.status == 409, "{key}");
    }
    let process = json!({ "key": "x", "transport": "stdio", "command": "sh" });
    let refused = stage.ask(&ada, "POST", "/api/integrations/mcp/register", Some(process)).await?;
    ensure!(refused.status == 400, "{}", refused.body);

    // A document that comes along is read here.
    let spec = json!({ "openapi": "3.1.0", "info": { "title": "T", "version": "1" }, "servers": [{ "url": "https://t.example" }],
        "paths": { "/x": { "get": { "operationId": "listThings" } } } });
    let parsed = stage.ask(&ada, "POST", "/api/integrations/parse/openapi", Some(json!({ "spec": spec }))).await?;
    ensure!(parsed.status == 200 && parsed.body["operations"][0]["id"] == "things.list", "{}", parsed.body);
    let text = stage.ask(&ada, "POST", "/api/integrations/parse/openapi", Some(json!({ "spec": "a: [" }))).await?;
    ensure!(text.status == 400, "{}", text.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_and_services_are_called_by_either_name() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    for path in ["integrations.openai.chat.completions.create", "integrations.openai.chat.completion.create"] {
        let body = json!({ "messages": [{ "role": "user", "content": "2+3?" }] });
        let called = invoke(&stage, &ada, path, json!({ "body": body })).await?;
        ensure!(called.status == 200 && called.body["data"]["content"] == "2 + 3 = 5 ✓", "{path}: {}", called.body);
        ensure!(called.body["operation"] == "chat.completions.create", "{}", called.body);
    }
    let models = invoke(&stage, &ada, "openai.models.list", json!({})).await?;
    ensure!(models.body["data"][0]["id"].is_string(), "{}", models.body);
    for path in ["identity.auth.me.get", "integrations.identity.identity.auth.me.get"] {
        let me = invoke(&stage, &ada, path, json!({})).await?;
        ensure!(me.status == 200 && me.body["data"].to_string().contains(&ada.id), "{path}: {}", me.body);
    }
    let registry = stage.ask(&ada, "GET", "/api/integrations/registry/identity", None).await?.body;
    let operations = registry["integration"]["operations"].as_array().cloned().unwrap_or_default();
    let ids: Vec<&str> = operations.iter().filter_map(|operation| operation["id"].as_str()).collect();
    ensure!(ids.iter().any(|id| id.contains("auth.me")) && !ids.iter().any(|id| id.contains("password")), "{ids:?}");
    Ok(())
}
