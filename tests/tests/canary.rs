//! Secrets with a mark in them go through the whole platform, the real one; then everything that it wrote is searched for the
//! mark: streams, snapshots, tables, an export of the log, the log files, exported traces, answers, the files on disk.
#![allow(missing_docs, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use async_nats::jetstream::{self, consumer::pull};
use axum::{Router, body::Bytes, extract::State, routing::post};
use futures::{StreamExt, TryStreamExt};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use symbia_tests::binary::{Installation, text, until};

type Tested = anyhow::Result<()>;

const PASSWORD: &str = "password-CANARY-93acf1";
const NEW_PASSWORD: &str = "password-CANARY-41bb0e";
const WRONG: &str = "password-CANARY-wrong-77";
const VAULT: &str = "sk-CANARY-vault-0123456789abcdef-72ce";
const CREDENTIAL: &str = "agent-CANARY-credential-0123456789abcdef";
const MESSAGE: &str = "message-CANARY that is erased again";
const SESSION_SECRET: &str = "session-CANARY-87321fbe8fdd08a4b9ec5e770515e6d4b0e14a99";

/// Everything that was exported over OTLP, as it came: texts stand in it as they are.
type Exported = Arc<Mutex<Vec<Bytes>>>;

async fn collector() -> anyhow::Result<(Exported, String)> {
    let exported = Exported::default();
    let take = async |State(exported): State<Exported>, body: Bytes| {
        exported.lock().unwrap_or_else(PoisonError::into_inner).push(body);
    };
    let app = Router::new().route("/v1/traces", post(take)).route("/v1/metrics", post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, app.with_state(Arc::clone(&exported))).into_future());
    Ok((exported, address))
}

/// Where something was found, and what.
#[derive(Default)]
struct Places(Vec<(String, String)>);

impl Places {
    fn add(&mut self, place: impl Into<String>, content: impl AsRef<[u8]>) {
        self.0.push((place.into(), String::from_utf8_lossy(content.as_ref()).into_owned()));
    }

    fn holding(&self, secret: &str) -> Vec<&str> {
        self.0.iter().filter(|(_, content)| content.contains(secret)).map(|(place, _)| place.as_str()).collect()
    }
}

struct House {
    installation: Installation,
    identity: String,
    messaging: String,
    http: Client,
    /// What the platform answered, by request.
    answers: Places,
}

impl House {
    async fn call(&mut self, method: Method, url: &str, token: &str, body: Value) -> anyhow::Result<Value> {
        // Each from another address: there are more attempts to sign in than one may make.
        let from = format!("10.0.{}.{}", rand::random::<u8>(), rand::random::<u8>());
        let request = self.http.request(method.clone(), url).bearer_auth(token).header("x-forwarded-for", from);
        let answer = request.json(&body).send().await?;
        let text = format!("{:?}\n{}", answer.headers().clone(), answer.text().await?);
        self.answers.add(format!("{method} {}", url.split("/api/").last().unwrap_or_default()), text.clone());
        Ok(serde_json::from_str(text.split_once('\n').map_or("", |(_, body)| body)).unwrap_or_default())
    }

    async fn identity(&mut self, method: Method, path: &str, token: &str, body: Value) -> anyhow::Result<Value> {
        self.call(method, &format!("{}{path}", self.identity), token, body).await
    }
}

fn secret(answer: &Value, name: &str) -> anyhow::Result<String> {
    Ok(answer[name].as_str().with_context(|| format!("no {name}: {answer}"))?.to_owned())
}

/// Uses every kind of secret, rightly and wrongly. Gives those that the platform made itself.
async fn live(house: &mut House) -> anyhow::Result<Vec<(&'static str, String, &'static str)>> {
    let body = json!({ "email": "ada@example.test", "password": PASSWORD, "name": "Ada", "orgName": "Ada" });
    let ada = house.identity(Method::POST, "/api/auth/register", "", body).await?;
    let (token, refresh) = (secret(&ada, "token")?, secret(&ada, "refreshToken")?);
    let org = ada["organization"]["id"].clone();

    let wrong = json!({ "email": "ada@example.test", "password": WRONG });
    house.identity(Method::POST, "/api/auth/login", "", wrong).await?;
    let change = json!({ "currentPassword": PASSWORD, "newPassword": NEW_PASSWORD });
    house.identity(Method::POST, "/api/users/me/password", &token, change).await?;
    let login = json!({ "email": "ada@example.test", "password": NEW_PASSWORD });
    let login = house.identity(Method::POST, "/api/auth/login", "", login).await?;
    let (token, login_refresh) = (secret(&login, "token")?, secret(&login, "refreshToken")?);
    let factor = house.identity(Method::POST, "/api/users/me/mfa", &token, json!({ "password": NEW_PASSWORD })).await?;
    let totp = secret(&factor, "secret")?;
    let key = house.identity(Method::POST, "/api/api-keys", &token, json!({ "name": "k", "orgId": org })).await?;
    let key = secret(&key, "key")?;
    let stored = json!({ "provider": "openai", "name": "v", "apiKey": VAULT });
    house.identity(Method::POST, "/api/credentials", &token, stored).await?;
    let agent = json!({ "agentId": "agent:canary", "name": "a", "credential": CREDENTIAL, "orgId": org });
    house.identity(Method::POST, "/api/agents", &token, agent).await?;
    let agent = json!({ "agentId": "agent:canary", "credential": CREDENTIAL });
    house.identity(Method::POST, "/api/auth/agent/login", "", agent).await?;

    let hook = format!("{}/api/webhooks/agent:canary", house.messaging);
    let hook = house.call(Method::PUT, &hook, &token, json!({ "url": "https://canary.example/told" })).await?;
    let hook = secret(&hook, "secret")?;

    // What is refused is told about, and still not repeated.
    for (path, body) in [
        ("/api/credentials", json!({ "provider": 5, "name": VAULT, "apiKey": [VAULT] })),
        ("/api/auth/login", json!({ "email": PASSWORD, "password": [NEW_PASSWORD] })),
        ("/api/auth/agent/login", json!({ "agentId": CREDENTIAL, "credential": { "x": CREDENTIAL } })),
        ("/api/users/me/password", json!({ "currentPassword": WRONG, "newPassword": NEW_PASSWORD, "x": PASSWORD })),
    ] {
        house.identity(Method::POST, path, &token, body).await?;
    }
    house.identity(Method::POST, "/api/auth/refresh", "", json!({ "refreshToken": format!("{refresh}x") })).await?;

    let base = format!("{}/api/conversations", house.messaging);
    let talk = house.call(Method::POST, &base, &token, json!({ "type": "group", "name": "Talk" })).await?;
    let talk = format!("{base}/{}", secret(&talk, "id")?);
    house.call(Method::POST, &format!("{talk}/messages"), &token, json!({ "content": MESSAGE })).await?;
    house.call(Method::POST, &format!("{talk}/erase"), &token, json!({})).await?;
    let said = house.call(Method::GET, &format!("{talk}/messages"), &token, Value::Null).await?;
    ensure!(!said.to_string().contains(MESSAGE), "it is erased and still read");

    Ok(vec![
        ("a refresh token", refresh, "POST auth/register"),
        ("the login's refresh token", login_refresh, "POST auth/login"),
        ("an access token's signature", token.rsplit('.').next().unwrap_or_default().to_owned(), "POST auth/login"),
        ("an API key", key, "POST api-keys"),
        ("a second factor's secret", totp, "POST users/me/mfa"),
        ("a webhook's secret", hook, "PUT webhooks/agent:canary"),
    ])
}

/// Every message of every stream, the snapshots' and the rate limits' among them.
async fn streams(js: jetstream::Context, places: &mut Places) -> Tested {
    let names: Vec<String> = js.stream_names().try_collect().await?;
    ensure!(names.iter().any(|name| name == "KV_SYMBIA_SNAP"), "{names:?}");
    for name in names {
        let mut stream = js.get_stream(&name).await?;
        let count = stream.info().await?.state.messages;
        // What waits in a queue is for its worker alone: it is read without a consumer.
        let first = stream.info().await?.state.first_sequence;
        let last = stream.info().await?.state.last_sequence;
        if name == "SYMBIA_CMD" || name == "SYMBIA_JOB" {
            for sequence in first..=last {
                if let Ok(message) = stream.get_raw_message(sequence).await {
                    places.add(format!("stream {name} {}", message.subject), format!("{:?}", message.headers));
                    places.add(format!("stream {name} {}", message.subject), &message.payload);
                }
            }
            continue;
        }
        let consumer = stream.create_consumer(pull::OrderedConfig::default()).await?;
        let mut messages = consumer.messages().await?.take(usize::try_from(count)?);
        // A counter that is replaced meanwhile does not come.
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_secs(2), messages.next()).await {
            let message = message?;
            places.add(format!("stream {name} {}", message.subject), format!("{:?}", message.headers));
            places.add(format!("stream {name} {}", message.subject), &message.payload);
        }
    }
    Ok(())
}

async fn tables(database: &str, places: &mut Places) -> Tested {
    let mut conn = PgConnection::connect(database).await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&mut conn)
    .await?;
    ensure!(tables.contains(&"vault.secrets".to_owned()) && tables.len() > 20, "{tables:?}");
    for table in tables {
        // Row-level security is forced on owners too.
        let select = || AssertSqlSafe(format!("SELECT t::text FROM {table} t"));
        let mut tx = conn.begin().await?;
        let mut rows: sqlx::Result<Vec<String>> = sqlx::query_scalar(select()).fetch_all(&mut *tx).await;
        drop(tx);
        let mut tx = conn.begin().await?;
        sqlx::query("SET LOCAL ROLE symbia_projector").execute(&mut *tx).await?;
        if let Ok(all) = sqlx::query_scalar(select()).fetch_all(&mut *tx).await {
            rows = Ok(all);
        }
        drop(tx);
        for row in rows.with_context(|| table.clone())? {
            places.add(format!("table {table}"), row);
        }
    }
    Ok(())
}

/// Files below a directory, but for those that hold secrets by their purpose: keys, and mail to those who asked for it.
fn files(dir: &Path, places: &mut Places) -> Tested {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if ["keys", "mail", "run.json", "nats-server.conf"].contains(&name) {
            continue;
        }
        if path.is_dir() {
            files(&path, places)?;
        } else if path.is_file() {
            places.add(format!("file {}", path.display()), fs::read(&path)?);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_anywhere_but_where_it_belongs() -> Tested {
    let (exported, otlp) = collector().await?;
    let mut installation = Installation::new()?;
    let log: PathBuf = installation.file("up.log");
    installation.log_to(&log);
    let variables = [
        ("SESSION_SECRET", SESSION_SECRET),
        ("SYMBIA_TRUSTED_PROXIES", "127.0.0.0/8"),
        ("SYMBIA_LOG", "debug,hyper=info,sqlx=debug"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &otlp),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ];
    let ready = installation.start_with(&["--skip-admin"], &variables)?;
    let address = |service: &str| ready["services"][service].as_str().map(str::to_owned).context("no address");
    let (identity, messaging) = (address("identity")?, address("messaging")?);
    let mut house = House { installation, identity, messaging, http: Client::new(), answers: Places::default() };
    let made = live(&mut house).await?;
    let ours = [
        ("the password", PASSWORD),
        ("the new password", NEW_PASSWORD),
        ("a wrong password", WRONG),
        ("what is in the vault", VAULT),
        ("an agent's credential", CREDENTIAL),
        ("an erased message", MESSAGE),
        ("the secret that signs tokens", SESSION_SECRET),
    ];
    until("spans are exported", || async {
        let exported = exported.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |body: &Bytes| body.windows(5).any(|part| part == b"erase");
        Ok(exported.iter().any(named))
    })
    .await?;
    // Snapshots are written when it stops; the second start shows them and reads what it was left.
    house.installation.stop()?;
    house.installation.start_with(&["--skip-admin"], &variables)?;

    let mut places = Places::default();
    let running = house.installation.running()?;
    streams(jetstream::new(house.installation.nats().await?), &mut places).await?;
    tables(running["database_url"].as_str().context("no database")?, &mut places).await?;
    let export = house.installation.file("export.jsonl");
    house.installation.run(&["log", "export", "--out", text(&export)])?.expect(0)?;
    places.add("the export", fs::read(&export)?);
    places.add("the log", fs::read(&log)?);
    for body in exported.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        places.add("telemetry", body);
    }
    files(&house.installation.data(), &mut places)?;
    for place in ["stream SYMBIA_EVT_IDENTITY", "stream KV_SYMBIA_SNAP", "table identity.users", "the log", "telemetry"]
    {
        ensure!(places.0.iter().any(|(name, content)| name.starts_with(place) && !content.is_empty()), "no {place}");
    }
    ensure!(!places.holding("POST /api/auth/login").is_empty(), "the search finds nothing at all");

    for (what, secret) in ours {
        ensure!(places.holding(secret).is_empty(), "{what} is in {:?}", places.holding(secret));
        // Who says a message is answered with it; else nothing comes back.
        let told: Vec<&str> = house.answers.holding(secret).into_iter().filter(|p| !p.ends_with("/messages")).collect();
        ensure!(told.is_empty(), "{what} is in the answer to {told:?}");
    }
    for (what, secret, issued_by) in made {
        ensure!(places.holding(&secret).is_empty(), "{what} is in {:?}", places.holding(&secret));
        ensure!(house.answers.holding(&secret) == [issued_by], "{what} is in {:?}", house.answers.holding(&secret));
    }
    ensure!(places.holding("Bearer ey").is_empty(), "a header with a token is in {:?}", places.holding("Bearer ey"));
    // A password's hash is one, too.
    ensure!(places.holding("$2b$").is_empty(), "a hash is in {:?}", places.holding("$2b$"));
    Ok(())
}
