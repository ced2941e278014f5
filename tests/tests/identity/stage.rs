//! A platform of a test's own, and a client that remembers every answer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::jetstream;
use futures::TryStreamExt;
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use sqlx::PgPool;
use symbia_api::{
    Platform,
    http::{Health, rate::Quota, rate::RatePolicy, server::ServerConfig},
    identity::{self, SigningKeys, Tokens},
    platform::{Parts, SecretText, Settings},
};
use symbia_egress::Rules;
use symbia_events::{KeyRing, Service};
use symbia_nats::{
    bus::CommandBus,
    store::{EventStore, StoreOptions},
    topology,
};
use symbia_projections::{
    Positions, ProjectorHandle, ProjectorOptions, ReadPool, Rebuilder, fixed_keys,
    identity::Identity,
    migrate,
    secrets::{KeyEncryptionKey, SecretStore},
};
use symbia_tests::cluster::TestServers;
use symbia_workers::command::{CommandWorker, Decider, Handlers, Options};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub const SETUP_TOKEN: &str = "setup-CANARY-5b1f0c7e";
pub const PASSWORD: &str = "password-CANARY-93ac";

/// A whole platform. Dropping it ends everything.
pub struct House {
    pub platform: Platform,
    pub jetstream: jetstream::Context,
    pub pool: PgPool,
    pub signing: SigningKeys,
    pub keys: Arc<KeyRing>,
    pub answers: Mutex<Vec<(String, String)>>,
    base: String,
    http: reqwest::Client,
    stop: CancellationToken,
    projector: tokio::sync::Mutex<Option<ProjectorHandle>>,
    projection: Arc<Identity>,
    pub servers: TestServers,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body
    }

    /// Status and code of a refusal.
    pub fn refused(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["code"].as_str().unwrap_or_default())
    }
}

/// Somebody who is signed in.
#[derive(Clone)]
pub struct Person {
    pub id: String,
    pub email: String,
    pub token: String,
    pub refresh_token: String,
    pub org: String,
}

impl House {
    pub async fn open() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut Settings)) -> Self {
        let servers = TestServers::start().await.unwrap();
        let nats = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .connect(servers.nats_url())
            .await
            .unwrap();
        let jetstream = jetstream::new(nats.clone());
        topology::ensure(&jetstream, 1).await.unwrap();
        let pool = PgPool::connect(&servers.database_url()).await.unwrap();
        migrate(&pool, &[]).await.unwrap();
        let kek = KeyEncryptionKey::new(&Zeroizing::new(rand::random())).unwrap();
        let secrets = SecretStore::open(pool.clone(), kek).await.unwrap();
        let projection = Arc::new(Identity::new(secrets.clone()));
        migrate(&pool, &[&*projection]).await.unwrap();

        let keys = Arc::new(KeyRing::generate(OffsetDateTime::now_utc()));
        let stop = CancellationToken::new();
        let store = EventStore::new(nats.clone(), Arc::clone(&keys), &StoreOptions::default());
        let decider = Decider::new(store, Handlers::all());
        let worker = CommandWorker::new(nats.clone(), decider, Options::default());
        tokio::spawn(worker.run(stop.clone()));

        let generous = Quota::per_minute(100_000);
        let mut settings = Settings {
            bcrypt_cost: 4,
            setup_token: Some(SecretText::new(SETUP_TOKEN)),
            rates: RatePolicy {
                auth: generous,
                admin: generous,
                standard: generous,
                verify: generous,
                ..RatePolicy::default()
            },
            command_timeout: Duration::from_secs(20),
            visible_within: Duration::from_secs(10),
            egress: Rules::development(),
            ..Settings::default()
        };
        configure(&mut settings);
        let reader = ReadPool::new(servers.database_url().parse().unwrap(), 8);
        let signing = SigningKeys::generate().unwrap();
        let platform = Platform::new(Parts {
            bus: CommandBus::open(nats.clone()).await.unwrap(),
            positions: Positions::follow(nats.clone(), reader.clone()),
            tokens: Tokens::new(signing.clone(), "symbia-test", time::Duration::days(7)),
            keys: Arc::clone(&keys),
            nats,
            reader,
            secrets,
            settings,
        });
        let health = Health::new(Service::Identity, "test");
        health.set_ready(true);
        let service = identity::service(platform.clone(), health, ServerConfig::default()).build();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(service.serve(listener, stop.clone()));
        let house = House {
            platform,
            jetstream,
            pool,
            signing,
            keys,
            answers: Mutex::default(),
            base,
            http: reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap(),
            stop,
            projector: tokio::sync::Mutex::default(),
            projection,
            servers,
        };
        house.start_projector().await;
        house
    }

    pub async fn start_projector(&self) {
        let ring = fixed_keys(KeyRing::clone(&self.keys));
        let options = ProjectorOptions::new(self.pool.clone(), self.jetstream.clone(), ring);
        *self.projector.lock().await = Some(options.build(self.projection.clone()).start());
    }

    /// From now on the read models stand still.
    pub async fn stop_projector(&self) {
        if let Some(projector) = self.projector.lock().await.take() {
            projector.stop().await;
        }
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let method: Method = method.parse().unwrap();
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = &body {
            request = request.json(body);
        }
        self.answer(request, format!("{method} {path}")).await
    }

    /// Posts a body as it is.
    pub async fn send_raw(&self, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let mut request = self.http.post(format!("{}{path}", self.base)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.answer(request, format!("POST {path}")).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder, what: String) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        self.answers.lock().unwrap().push((what, format!("{headers:?}\n{text}")));
        Answer { status, headers, body }
    }

    pub async fn call(&self, method: &str, path: &str, token: &str, body: Value) -> Answer {
        let bearer = format!("Bearer {token}");
        self.send(method, path, &[("authorization", &bearer)], Some(body)).await
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        self.send("GET", path, &[("authorization", &bearer)], None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[], Some(body)).await
    }

    /// Registers somebody with an organization of the same name.
    pub async fn register(&self, name: &str) -> Person {
        let email = format!("{name}@example.test");
        let body = json!({ "email": email, "password": PASSWORD, "name": name, "orgName": format!("{name} org") });
        Self::person(&self.post("/api/auth/register", body).await.ok(), email)
    }

    /// Becomes the first super admin.
    pub async fn claim(&self, name: &str) -> Person {
        let email = format!("{name}@example.test");
        let body = json!({ "email": email, "password": PASSWORD, "name": name, "orgName": format!("{name} org") });
        let claimed = self.send("POST", "/api/bootstrap/claim", &[("x-setup-token", SETUP_TOKEN)], Some(body)).await;
        Self::person(&claimed.ok(), email)
    }

    pub fn person(body: &Value, email: String) -> Person {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        Person {
            id: text(&body["user"]["id"]),
            token: text(&body["token"]),
            refresh_token: text(&body["refreshToken"]),
            org: text(&body["organization"]["id"]),
            email,
        }
    }

    /// How many events each subject of identity has, beside notes of what was refused: what happened so far.
    pub async fn head(&self) -> BTreeMap<String, usize> {
        let stream = self.jetstream.get_stream(Service::Identity.event_stream()).await.unwrap();
        let subjects = stream.info_with_subjects(">").await.unwrap();
        let counted: BTreeMap<String, usize> = subjects.try_collect().await.unwrap();
        // A note may be written at any time.
        counted.into_iter().filter(|(subject, _)| !subject.starts_with("symbia.evt.identity.global.access.")).collect()
    }

    /// Events of one kind of aggregate.
    pub async fn events_of(&self, kind: &str) -> usize {
        let head = self.head().await;
        head.iter().filter(|(subject, _)| subject.split('.').nth(4) == Some(kind)).map(|(_, events)| events).sum()
    }
}

impl House {
    /// The read models are, byte for byte, what the log says, folded in one go beside them.
    pub async fn read_models_are_what_the_log_says(&self) {
        let keys = fixed_keys(KeyRing::clone(&self.keys));
        let rebuilder = Rebuilder { pool: self.pool.clone(), jetstream: self.jetstream.clone(), keys };
        let verified = rebuilder.verify(&*self.projection, &|_| {}).await.unwrap();
        let differing: Vec<_> = verified.differing().collect();
        assert!(verified.events > 0 && differing.is_empty(), "{differing:?}");
    }
}

/// Asks until the answer satisfies, at most 30 s.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
