//! The platform's APIs as one process serves them, for rows that are measured over HTTP: broker, database, command worker,
//! projections, identity, messaging, and two routers of the mesh. Nobody meets a rate limit.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use symbia_api::{
    Platform,
    feed::{Feed, FeedConfig, PrivateConversations},
    http::{
        Health,
        rate::{Quota, RatePolicy},
        server::ServerConfig,
    },
    identity::{self, SigningKeys, Tokens},
    messaging, network,
    platform::{Parts, Settings},
};
use symbia_events::Service;
use symbia_nats::{broker::Durability, bus::CommandBus};
use symbia_projections::{
    Positions, Projection, ProjectorHandle, ProjectorOptions, ReadPool, fixed_keys,
    identity::Identity,
    messaging::Messaging,
    migrate,
    network::Network,
    secrets::{KeyEncryptionKey, SecretStore},
    server::{DatabaseServer, DatabaseServerOptions},
};
use symbia_workers::command::{Handlers, Share};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::ground::{Ground, Worker};

/// Connections for reading, as the binary has them.
const READERS: u32 = 16;

/// The running APIs.
pub struct Apis {
    /// Where identity is served.
    pub identity: String,
    /// Where messaging is served.
    pub messaging: String,
    /// Where the network service is served, twice.
    pub routers: Vec<String>,
    /// The owner's connections to the database.
    pub pool: PgPool,
    /// An HTTP client.
    pub http: Client,
    projectors: Vec<ProjectorHandle>,
    worker: Worker,
    database: DatabaseServer,
    stop: CancellationToken,
    ground: Ground,
}

impl Apis {
    /// Starts everything.
    pub async fn open(durability: Durability) -> Result<Self> {
        let ground = Ground::open(durability).await?;
        let database = DatabaseServer::start(DatabaseServerOptions::new(ground.dir().join("postgres"))).await?;
        let pool = PgPoolOptions::new().max_connections(READERS).connect(&database.url()).await?;
        migrate(&pool, &[]).await?;
        let kek = Zeroizing::new(std::array::from_fn(|i| u8::try_from(i).unwrap_or(0)));
        let secrets = SecretStore::open(pool.clone(), KeyEncryptionKey::new(&kek)?).await?;
        let models: [Arc<dyn Projection>; 3] = [
            Arc::new(Identity::new(secrets.clone())),
            Arc::new(Messaging::new(secrets.clone())),
            Arc::new(Network::default()),
        ];
        migrate(&pool, &models.iter().map(AsRef::as_ref).collect::<Vec<_>>()).await?;
        let worker = ground.worker(Handlers::all()).await?;
        let ring = fixed_keys(ground.keys.as_ref().clone());
        let jetstream = async_nats::jetstream::new(ground.connect().await?);
        let start = |model| ProjectorOptions::new(pool.clone(), jetstream.clone(), ring.clone()).build(model).start();
        let projectors = models.into_iter().map(start).collect();

        let nats = ground.connect().await?;
        let reader = ReadPool::new(database.url().parse()?, READERS);
        let open = Quota::per_minute(1_000_000_000);
        let rates = RatePolicy { auth: open, admin: open, verify: open, upload: open, standard: open, messages: open };
        let bus = CommandBus::open(nats.clone()).await?;
        bus.decide_here(worker.decider.here(Share::All));
        let platform = Platform::new(Parts {
            bus,
            positions: Positions::follow(nats.clone(), reader.clone()),
            tokens: Tokens::new(SigningKeys::generate()?, "symbia-bench", time::Duration::days(1)),
            keys: Arc::clone(&ground.keys),
            nats: nats.clone(),
            reader,
            secrets,
            settings: Settings { bcrypt_cost: 4, rates, ..Settings::default() },
        });
        let feed = Feed::new(nats, ring, Arc::new(PrivateConversations), FeedConfig::default());
        let stop = CancellationToken::new();
        let mut bases = Vec::new();
        for service in [Service::Identity, Service::Messaging, Service::Network, Service::Network] {
            let (health, config) = (Health::new(service, "bench"), ServerConfig::default());
            health.set_ready(true);
            let app = match service {
                Service::Identity => identity::service(platform.clone(), health, config),
                Service::Network => {
                    network::service(platform.clone(), &feed, network::Options::default(), health, config)
                }
                _ => messaging::service(platform.clone(), &feed, health, config),
            };
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            bases.push(format!("http://{}", listener.local_addr()?));
            tokio::spawn(app.build().serve(listener, stop.clone()));
        }
        let routers = bases.split_off(2);
        let messaging = bases.pop().context("no address")?;
        let identity = bases.pop().context("no address")?;
        Ok(Apis { identity, messaging, routers, pool, http: Client::new(), projectors, worker, database, stop, ground })
    }

    /// A connection to the broker.
    pub async fn connect(&self) -> Result<async_nats::Client> {
        self.ground.connect().await
    }

    /// Ends everything.
    pub async fn close(self) -> Result<()> {
        self.stop.cancel();
        self.worker.stop().await?;
        for projector in self.projectors {
            projector.stop().await;
        }
        self.pool.close().await;
        self.database.stop().await;
        Ok(())
    }
}

/// Somebody who is signed in.
#[derive(Clone)]
pub struct Person {
    /// Bearer token.
    pub token: String,
    /// Their organization.
    pub org: String,
}

/// Registers somebody at an identity service.
pub async fn register(http: &Client, identity: &str) -> Result<Person> {
    let body =
        json!({ "email": "ada@example.test", "password": "correct horse battery", "name": "Ada", "orgName": "Bench" });
    let answer = http.post(format!("{identity}/api/auth/register")).json(&body).send().await?;
    let (status, body): (_, Value) = (answer.status(), answer.json().await?);
    let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("{status} {body}"));
    Ok(Person { token: text(&body["token"])?, org: text(&body["organization"]["id"])? })
}

/// Opens a conversation and gives its id.
pub async fn talk(http: &Client, messaging: &str, who: &Person) -> Result<String> {
    let body = json!({ "type": "group", "name": "Talk", "orgId": who.org });
    let request = http.post(format!("{messaging}/api/conversations")).bearer_auth(&who.token).json(&body);
    let body: Value = request.send().await?.error_for_status()?.json().await?;
    body["id"].as_str().map(str::to_owned).with_context(|| body.to_string())
}

/// Writes a message.
pub async fn say(http: &Client, messaging: &str, who: &Person, conversation: &str, text: &str) -> Result<()> {
    let url = format!("{messaging}/api/conversations/{conversation}/messages");
    let answer = http.post(url).bearer_auth(&who.token).json(&json!({ "content": text })).send().await?;
    let status = answer.status();
    // Read to its end, so that the connection can be used again.
    let body = answer.bytes().await?;
    ensure!(status.as_u16() == 201, "{status} {}", String::from_utf8_lossy(&body));
    Ok(())
}

/// How long a start may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
