//! A platform of a test's own with everything that local models need.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use symbia_api::{
    Platform,
    http::{Health, rate::Quota, rate::RatePolicy, server::ServerConfig},
    identity::{self, SigningKeys, Tokens},
    models,
    platform::{Parts, Settings},
};
use symbia_events::{KeyRing, Service, commit, models::ModelSource};
use symbia_nats::{
    bus::CommandBus,
    log::LogReader,
    store::{EventStore, StoreOptions},
    topology,
};
use symbia_projections::{
    Positions, Projection, ProjectorHandle, ProjectorOptions, ReadPool, Rebuilder, fixed_keys,
    identity::Identity,
    migrate,
    models::Models,
    secrets::{KeyEncryptionKey, SecretStore},
};
use symbia_tests::cluster::TestServers;
use symbia_workers::{
    command::{CommandWorker, Decider, Handlers, Options},
    models::{
        InferenceWorker,
        bootstrap::bootstrap,
        downloader::{Downloader, serve_searches},
        keeper::{ModelKeeper, record},
        pull::{self, Puller},
    },
    reactor::ReactorRunner,
    sender::Sender,
};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

const SOON: Duration = Duration::from_secs(30);

/// A whole platform. Dropping it ends everything.
pub struct House {
    pub nats: async_nats::Client,
    pub pool: PgPool,
    keys: Arc<KeyRing>,
    bus: CommandBus,
    reader: ReadPool,
    identity: String,
    models: String,
    ollama: String,
    http: reqwest::Client,
    stop: CancellationToken,
    inference: CancellationToken,
    _projectors: Vec<ProjectorHandle>,
    _servers: TestServers,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
        self.inference.cancel();
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    /// The body of an answer with this status.
    #[track_caller]
    pub fn with(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// Status and OpenAI's code of a refusal.
    pub fn refused(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["error"]["code"].as_str().unwrap_or_default())
    }
}

pub fn shipped() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models")
}

impl House {
    /// With the models that ship.
    pub async fn open() -> Self {
        Self::with(symbia_workers::models::Options::new(shipped())).await
    }

    /// With an engine of choice.
    pub async fn with(engine: symbia_workers::models::Options) -> Self {
        Self::build(engine, None).await
    }

    /// The same, with models got over the network.
    pub async fn getting(engine: symbia_workers::models::Options, pull: pull::Options) -> Self {
        Self::build(engine, Some(pull)).await
    }

    async fn build(engine: symbia_workers::models::Options, pull: Option<pull::Options>) -> Self {
        let servers = TestServers::start().await.unwrap();
        let nats = async_nats::connect(servers.nats_url()).await.unwrap();
        let jetstream = async_nats::jetstream::new(nats.clone());
        topology::ensure(&jetstream, 1).await.unwrap();
        let pool = PgPool::connect(&servers.database_url()).await.unwrap();
        migrate(&pool, &[]).await.unwrap();
        let kek = KeyEncryptionKey::new(&Zeroizing::new(rand::random())).unwrap();
        let secrets = SecretStore::open(pool.clone(), kek).await.unwrap();
        let projections: [Arc<dyn Projection>; 2] = [Arc::new(Identity::new(secrets.clone())), Arc::new(Models)];
        let borrowed: Vec<&dyn Projection> = projections.iter().map(AsRef::as_ref).collect();
        migrate(&pool, &borrowed).await.unwrap();

        let keys = Arc::new(KeyRing::generate(OffsetDateTime::now_utc()));
        let ring = fixed_keys(KeyRing::clone(&keys));
        let (stop, inference) = (CancellationToken::new(), CancellationToken::new());
        let store = EventStore::new(nats.clone(), Arc::clone(&keys), &StoreOptions::default());
        let worker = CommandWorker::new(nats.clone(), Decider::new(store, Handlers::all()), Options::default());
        tokio::spawn(worker.run(stop.clone()));
        let options = || ProjectorOptions::new(pool.clone(), jetstream.clone(), ring.clone());
        let projectors = projections.into_iter().map(|projection| options().build(projection).start()).collect();
        let bus = CommandBus::open(nats.clone()).await.unwrap();
        let sender = Sender::new(bus.clone(), Arc::clone(&keys));
        let keeper = Arc::new(ModelKeeper::new(nats.clone(), sender.clone()));
        tokio::spawn(ReactorRunner::new(nats.clone(), Arc::clone(&keys), keeper).run(stop.clone()));
        let reader = ReadPool::new(servers.database_url().parse().unwrap(), 16);
        tokio::spawn(record(nats.clone(), bus.clone(), Arc::clone(&keys), reader.clone(), stop.clone()));
        if let Some(pull) = pull {
            let puller = Puller::new(pull).unwrap();
            let downloader = Downloader::new(nats.clone(), sender, puller.clone());
            let downloader = ReactorRunner::new(nats.clone(), Arc::clone(&keys), Arc::new(downloader));
            tokio::spawn(downloader.run(stop.clone()));
            tokio::spawn(serve_searches(nats.clone(), puller, stop.clone()));
        }
        tokio::spawn(InferenceWorker::start(nats.clone(), engine).unwrap().run(inference.clone()));

        let generous = Quota::per_minute(100_000);
        let settings = Settings {
            bcrypt_cost: 4,
            open_bootstrap: true,
            rates: RatePolicy { auth: generous, standard: generous, ..RatePolicy::default() },
            command_timeout: Duration::from_secs(20),
            visible_within: Duration::from_secs(10),
            ..Settings::default()
        };
        let platform = Platform::new(Parts {
            bus: bus.clone(),
            positions: Positions::follow(nats.clone(), reader.clone()),
            tokens: Tokens::new(SigningKeys::generate().unwrap(), "symbia-test", time::Duration::days(7)),
            keys: Arc::clone(&keys),
            nats: nats.clone(),
            reader: reader.clone(),
            secrets,
            settings,
        });
        let mut bases = Vec::new();
        let services = [Service::Identity, Service::Models, Service::Models];
        for (service, app) in services.into_iter().zip([identity::service, models::ollama::service, models::service]) {
            let health = Health::new(service, "test");
            health.set_ready(true);
            let app = app(platform.clone(), health, ServerConfig::default());
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            bases.push(format!("http://{}", listener.local_addr().unwrap()));
            tokio::spawn(app.build().serve(listener, stop.clone()));
        }
        let (models, ollama) = (bases.pop().unwrap(), bases.pop().unwrap());
        let identity = bases.pop().unwrap();
        let (http, _projectors, _servers) = (reqwest::Client::new(), projectors, servers);
        House { nats, pool, keys, bus, reader, identity, models, ollama, http, stop, inference, _projectors, _servers }
    }

    /// Where the models service is.
    pub fn address(&self) -> &str {
        &self.models
    }

    /// Where those find the models who speak Ollama's API.
    pub fn ollama(&self) -> &str {
        &self.ollama
    }

    /// Starts one more inference process, which ends with the first.
    pub fn add_inference(&self, engine: symbia_workers::models::Options) {
        let worker = InferenceWorker::start(self.nats.clone(), engine).unwrap();
        tokio::spawn(worker.run(self.inference.clone()));
    }

    /// Asks for the models that an installation begins with.
    pub async fn bootstrap(&self, wanted: Vec<ModelSource>) {
        let (bus, keys) = (self.bus.clone(), Arc::clone(&self.keys));
        bootstrap(wanted, bus, keys, self.reader.clone(), self.stop.clone()).await;
    }

    /// Ends the inference process.
    pub fn end_inference(&self) {
        self.inference.cancel();
    }

    /// Registers somebody with an organization and gives their token; the first is super admin.
    pub async fn register(&self, name: &str) -> String {
        let body = json!({ "email": format!("{name}@example.test"), "password": "correct horse", "name": name,
            "orgName": format!("{name} org") });
        let answer = self.http.post(format!("{}/api/auth/register", self.identity)).json(&body).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["token"].as_str().unwrap().to_owned()
    }

    pub async fn send(&self, method: &str, path: &str, token: &str, body: Option<&Value>) -> Response {
        let method: Method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.models));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.unwrap()
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        let answer = self.send("GET", path, token, None).await;
        Answer { status: answer.status(), body: answer.json().await.unwrap_or_default() }
    }

    /// What the identity service answers.
    pub async fn identity_get(&self, path: &str, token: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.identity)).bearer_auth(token).send().await.unwrap();
        answer.json().await.unwrap()
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        let answer = self.send("POST", path, token, Some(&body)).await;
        Answer { status: answer.status(), body: answer.json().await.unwrap_or_default() }
    }

    /// The data of a stream's events.
    pub async fn stream(&self, path: &str, token: &str, body: Value) -> Vec<String> {
        let answer = self.send("POST", path, token, Some(&body)).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        let text = answer.text().await.unwrap();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    /// The names of a model's events, once the last one is as expected.
    pub async fn events(&self, model: &str, last: &str) -> Vec<String> {
        let jetstream = async_nats::jetstream::new(self.nats.clone());
        let mut log = LogReader::open(jetstream, Service::Models, 0, Vec::new()).await.unwrap();
        let mut names = Vec::new();
        let read = async {
            while names.last().is_none_or(|name| name != last) {
                for message in log.next_batch(64, SOON).await.unwrap() {
                    let events = commit::decode(&self.keys, &message.payload).unwrap();
                    let own = events.into_iter().map(|signed| signed.event).filter(|event| event.aggregateid == model);
                    names.extend(own.map(|event| event.event_type.split('.').nth(3).unwrap().to_owned()));
                }
            }
        };
        assert!(tokio::time::timeout(SOON, read).await.is_ok(), "no {last} after {names:?}");
        names
    }

    /// The read model is what the log says, folded in one go beside it.
    pub async fn read_model_is_what_the_log_says(&self) {
        let keys = fixed_keys(KeyRing::clone(&self.keys));
        let jetstream = async_nats::jetstream::new(self.nats.clone());
        let rebuilder = Rebuilder { pool: self.pool.clone(), jetstream, keys };
        let verified = rebuilder.verify(&Models, &|_| {}).await.unwrap();
        assert!(verified.events > 0, "nothing was folded");
        assert!(verified.differing().next().is_none());
    }
}

/// Waits until something holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, wait).await.is_ok(), "{what}");
}
