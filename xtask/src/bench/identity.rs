//! Asking who somebody is, against a bare server that reads one row; and what a storm of log-ins leaves of everything else.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream;
use axum::{Json, Router, extract::State, routing::get};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use symbia_api::{
    Platform,
    http::{
        Health,
        rate::{Quota, RatePolicy},
        server::ServerConfig,
    },
    identity::{self, SigningKeys, Tokens},
    platform::{Parts, Settings},
};
use symbia_events::Service;
use symbia_nats::{broker::Durability, bus::CommandBus};
use symbia_projections::{
    Positions, ProjectorHandle, ProjectorOptions, ReadPool, fixed_keys,
    identity::Identity,
    migrate,
    secrets::{KeyEncryptionKey, SecretStore},
    server::{DatabaseServer, DatabaseServerOptions},
};
use symbia_workers::command::{Handlers, Share};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{
    Bench,
    ground::{Ground, Worker},
    measure::{Lanes, Pairs},
    table::{Row, Target},
};

/// Rows of this group.
pub const ROWS: [&str; 4] = ["me", "introspect", "login_storm", "login_storm_p99"];
const LANES: usize = 64;
const CONNECTIONS: u32 = 16;
const PASSWORD: &str = "a good password";
/// Of what is deployed; the tests' is lower.
const BCRYPT_COST: u32 = 10;
/// Pause between two looks at another route during the storm.
const LOOK: Duration = Duration::from_millis(10);

/// The identity service with all it stands on, and a bare server beside it.
struct House {
    http: Client,
    ours: String,
    bare: String,
    token: String,
    stop: CancellationToken,
    projector: ProjectorHandle,
    worker: Worker,
    _database: DatabaseServer,
}

impl House {
    async fn open(ground: &Ground) -> Result<Self> {
        let database = DatabaseServer::start(DatabaseServerOptions::new(ground.dir().join("postgres"))).await?;
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(&database.url()).await?;
        migrate(&pool, &[]).await?;
        let kek = KeyEncryptionKey::new(&Zeroizing::new(rand::random()))?;
        let secrets = SecretStore::open(pool.clone(), kek).await?;
        let projection = Arc::new(Identity::new(secrets.clone()));
        migrate(&pool, &[&*projection]).await?;
        let keys = fixed_keys(ground.keys.as_ref().clone());
        let options = ProjectorOptions::new(pool.clone(), jetstream::new(ground.connect().await?), keys);
        let projector = options.build(projection).start();
        let worker = ground.worker(Handlers::all()).await?;

        let nats = ground.connect().await?;
        let reader = ReadPool::new(database.url().parse()?, CONNECTIONS);
        let unlimited = Quota::per_minute(1_000_000_000);
        let rates = RatePolicy { auth: unlimited, verify: unlimited, standard: unlimited, ..RatePolicy::default() };
        let bus = CommandBus::open(nats.clone()).await?;
        bus.decide_here(worker.decider.here(Share::All));
        let platform = Platform::new(Parts {
            bus,
            positions: Positions::follow(nats.clone(), reader.clone()),
            tokens: Tokens::new(SigningKeys::generate()?, "symbia-bench", time::Duration::days(7)),
            keys: Arc::clone(&ground.keys),
            nats,
            reader,
            secrets,
            settings: Settings { bcrypt_cost: BCRYPT_COST, rates, ..Settings::default() },
        });
        let health = Health::new(Service::Identity, "bench");
        health.set_ready(true);
        let stop = CancellationToken::new();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let ours = format!("http://{}", listener.local_addr()?);
        let service = identity::service(platform, health, ServerConfig::default()).build();
        tokio::spawn(service.serve(listener, stop.clone()));

        let http = Client::builder().pool_max_idle_per_host(LANES * 2).build()?;
        let body = json!({ "email": "ada@example.test", "password": PASSWORD, "name": "Ada", "orgName": "Ada" });
        let registered: Value =
            http.post(format!("{ours}/api/auth/register")).json(&body).send().await?.error_for_status()?.json().await?;
        let token = registered["token"].as_str().context("no token")?.to_owned();
        let id = registered["user"]["id"].as_str().context("no id")?.to_owned();
        let bare = bare(pool, id, stop.clone()).await?;
        Ok(House { http, ours, bare, token, stop, projector, worker, _database: database })
    }

    // With all of the answer read.
    async fn ask(self: Arc<Self>, method: Method, url: String, body: Option<Arc<Value>>) -> Result<()> {
        let mut request = self.http.request(method, &url).bearer_auth(&self.token);
        if let Some(body) = &body {
            request = request.json(&**body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let bytes = answer.bytes().await?;
        ensure!(status == StatusCode::OK && !bytes.is_empty(), "{url}: {status} {}", String::from_utf8_lossy(&bytes));
        Ok(())
    }
}

/// A handler that reads one row by its key, as the owner of the table, and answers with it.
async fn bare(pool: PgPool, id: String, stop: CancellationToken) -> Result<String> {
    sqlx::query("CREATE TABLE bare (id text PRIMARY KEY, email text NOT NULL, name text NOT NULL)")
        .execute(&pool)
        .await?;
    sqlx::query("INSERT INTO bare VALUES ($1, 'ada@example.test', 'Ada')").bind(&id).execute(&pool).await?;
    let read = async |State((pool, id)): State<(PgPool, String)>| {
        let select = "SELECT id, email, name FROM bare WHERE id = $1";
        let row: Result<(String, String, String), _> = sqlx::query_as(select).bind(id).fetch_one(&pool).await;
        let (id, email, name) = row.map_err(|_| axum::http::StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok::<_, axum::http::StatusCode>(Json(json!({ "id": id, "email": email, "name": name })))
    };
    let app = Router::new().route("/", get(read)).with_state((pool, id));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let serve = axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await });
    tokio::spawn(async move { serve.await });
    Ok(url)
}

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let ground = Ground::open(Durability::Interval).await?;
    let house = Arc::new(House::open(&ground).await?);
    let introspected = Arc::new(json!({ "token": house.token }));
    for (row, what, method, path, body) in [
        (ROWS[0], "GET /api/auth/me against a bare one-row read", Method::GET, "/api/auth/me", None),
        (ROWS[1], "introspection against the same", Method::POST, "/api/auth/introspect", Some(introspected)),
    ] {
        if bench.wants(&[row]) {
            let (mut ours, mut raw) = (Lanes::deal(0..LANES, LANES), Lanes::deal(0..LANES, LANES));
            let (round, url) = (bench.scale.round, format!("{}{path}", house.ours));
            let asking = {
                let house = Arc::clone(&house);
                move |lane: usize| {
                    let (house, method, url, body) = (Arc::clone(&house), method.clone(), url.clone(), body.clone());
                    async move { house.ask(method, url, body).await.map(|()| lane) }
                }
            };
            let bare = {
                let house = Arc::clone(&house);
                move |lane: usize| {
                    let house = Arc::clone(&house);
                    let url = house.bare.clone();
                    async move { house.ask(Method::GET, url, None).await.map(|()| lane) }
                }
            };
            let pairs = Pairs::take(
                &bench.scale,
                async || Ok(ours.run(round, asking.clone()).await?.rate),
                async || Ok(raw.run(round, bare.clone()).await?.rate),
            );
            bench.table.push(pairs.await?.row(row, what, "/s", Target::Ratio(0.8)));
        }
    }
    if bench.wants(&ROWS[2..]) {
        storm(bench, &house).await?;
    }
    house.stop.cancel();
    let house = Arc::into_inner(house).context("somebody still asks")?;
    house.projector.stop().await;
    house.worker.stop().await
}

// Log-ins from many sides, and one who asks for something else in between.
async fn storm(bench: &mut Bench, house: &Arc<House>) -> Result<()> {
    let round = bench.scale.round.max(Duration::from_secs(2));
    let cores = std::thread::available_parallelism()?.get();
    let hash = bcrypt::hash(PASSWORD, BCRYPT_COST)?;
    let mut lanes = Lanes::deal(0..LANES, LANES);
    let body = Arc::new(json!({ "email": "ada@example.test", "password": PASSWORD }));
    let mut pairs = Pairs::default();
    let mut slowest = Vec::new();
    for _ in 0..bench.scale.rounds {
        // Every core at once, as in the storm: they may share a clock.
        let began = std::time::Instant::now();
        let threads: Vec<_> = (0..cores)
            .map(|_| {
                std::thread::spawn({
                    let hash = hash.clone();
                    move || (0..4).all(|_| bcrypt::verify(PASSWORD, &hash).unwrap_or(false))
                })
            })
            .collect();
        let right = tokio::task::spawn_blocking(move || threads.into_iter().all(|t| t.join().unwrap_or(false))).await?;
        ensure!(right, "bcrypt does not know its own hash");
        let most = (4 * cores) as f64 / began.elapsed().as_secs_f64();

        let url = format!("{}/api/auth/login", house.ours);
        let login = {
            let (house, body) = (Arc::clone(house), Arc::clone(&body));
            move |lane: usize| {
                let (house, url, body) = (Arc::clone(&house), url.clone(), Arc::clone(&body));
                async move { house.ask(Method::POST, url, Some(body)).await.map(|()| lane) }
            }
        };
        let mut looker = Lanes::deal(0..1usize, 1);
        let look = {
            let house = Arc::clone(house);
            move |lane: usize| {
                let house = Arc::clone(&house);
                let url = format!("{}/api/auth/me", house.ours);
                async move { house.ask(Method::GET, url, None).await.map(|()| lane) }
            }
        };
        let (logins, looks) = tokio::join!(lanes.run(round, login), looker.run_paced(round, LOOK, look));
        pairs.push(logins?.rate, most);
        slowest.push(looks?.micros(0.99) / 1000.0);
    }
    if bench.wants(&[ROWS[2]]) {
        let what = format!("log-ins, {LANES} at once, against bcrypt alone on {cores} cores");
        bench.table.push(pairs.row(ROWS[2], what, "/s", Target::Ratio(0.9)));
    }
    if bench.wants(&[ROWS[3]]) {
        bench.table.push(Row {
            name: ROWS[3],
            what: "GET /api/auth/me during it, p99".to_owned(),
            ours: super::measure::median(&slowest),
            raw: None,
            ratio: None,
            unit: "ms",
            target: Target::AtMost(20.0),
        });
    }
    Ok(())
}
