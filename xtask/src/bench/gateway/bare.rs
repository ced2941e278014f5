//! A gateway that does what a durable record costs at the least: it appends the question to a stream, asks the provider, appends
//! the answer, writes a row of both, and answers. No caller, no rights, no signature, no limits.

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, Context};
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use reqwest::Client;
use sqlx::PgPool;
use symbia_nats::broker::Durability;
use symbia_projections::server::{DatabaseServer, DatabaseServerOptions};
use tokio::net::TcpListener;

use super::super::ground::Ground;

/// The running gateway.
pub struct Bare {
    /// Where it is.
    pub url: String,
    pool: PgPool,
    database: DatabaseServer,
    _ground: Ground,
}

#[derive(Clone)]
struct Parts {
    jetstream: Context,
    pool: PgPool,
    http: Client,
    provider: String,
}

impl Bare {
    /// Starts it, with servers of its own.
    pub async fn start(provider: &str, durability: Durability) -> Result<Self> {
        let ground = Ground::open(durability).await?;
        let jetstream = jetstream::new(ground.connect().await?);
        let config = jetstream::stream::Config {
            name: "BARE".to_owned(),
            subjects: vec!["bare".to_owned()],
            ..Default::default()
        };
        jetstream.create_stream(config).await?;
        let database = DatabaseServer::start(DatabaseServerOptions::new(ground.dir().join("postgres"))).await?;
        let pool = PgPool::connect(&database.url()).await?;
        let table = "CREATE TABLE bare (id bigserial PRIMARY KEY, asked text NOT NULL, answered text NOT NULL)";
        sqlx::query(table).execute(&pool).await?;
        let parts = Parts {
            jetstream,
            pool: pool.clone(),
            http: Client::new(),
            provider: format!("{provider}/chat/completions"),
        };
        let app = Router::new().route("/", post(ask)).with_state(parts);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}/", listener.local_addr().context("no address")?);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Bare { url, pool, database, _ground: ground })
    }

    /// Ends its servers.
    pub async fn stop(self) {
        self.pool.close().await;
        self.database.stop().await;
    }
}

async fn ask(State(parts): State<Parts>, question: Bytes) -> Result<Bytes, StatusCode> {
    let answered = async {
        parts.jetstream.publish("bare", question.clone()).await?.await?;
        let asked = parts.http.post(&parts.provider).header("content-type", "application/json").body(question.clone());
        let answer = asked.send().await?.error_for_status()?.bytes().await?;
        parts.jetstream.publish("bare", answer.clone()).await?.await?;
        let (asked, answered) = (str::from_utf8(&question)?, str::from_utf8(&answer)?);
        let insert = "INSERT INTO bare (asked, answered) VALUES ($1, $2)";
        sqlx::query(insert).bind(asked).bind(answered).execute(&parts.pool).await?;
        anyhow::Ok(answer)
    };
    answered.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
