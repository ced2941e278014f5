//! Messages over REST: writing them, beside what axum, JetStream and PostgreSQL do with the same text alone, and reading the last
//! fifty against axum and PostgreSQL alone.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, Context};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    routing::{get, post as posted},
};
use memchr::memmem;
use reqwest::Method;
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, PgPool, Row as _};
use symbia_nats::broker::Durability;
use tokio::net::TcpListener;

use super::{
    Bench,
    api::{Apis, Person, register, say, talk},
    measure::Pairs,
    table::{Row, Target},
    wire::{Lane, Prepared, Wire, exchange, lanes},
};

/// Rows of this group.
pub const ROWS: [&str; 5] =
    ["post_message_1", "post_message_64", "fsync_post_message_1", "fsync_post_message_64", "get_50_messages"];
const CLIENTS: usize = 64;
const PAGE: usize = 50;
const ALONE: &str = "raw: axum, JetStream and PostgreSQL alone";
const TEXT: &str = "A message of ordinary length: what somebody would write to a colleague in one breath, and no more.";

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    // Rate at 64 connections, median in milliseconds at one.
    for (durability, rows, least, most) in
        [(Durability::Interval, &ROWS[..2], 7500.0, 2.0), (Durability::Fsync, &ROWS[2..4], 4000.0, 4.0)]
    {
        let reads = durability == Durability::Interval && bench.wants(&ROWS[4..]);
        if !bench.wants(rows) && !reads {
            continue;
        }
        let apis = Apis::open(durability).await?;
        let ada = register(&apis.http, &apis.identity).await?;
        if bench.wants(rows) {
            post(bench, &apis, &ada, rows, (least, most)).await?;
        }
        if reads {
            read(bench, &apis, &ada).await?;
        }
        apis.close().await?;
    }
    Ok(())
}

async fn post(
    bench: &mut Bench,
    apis: &Apis,
    ada: &Person,
    rows: &'static [&'static str],
    (least, most): (f64, f64),
) -> Result<()> {
    let mut talks = Vec::new();
    for _ in 0..CLIENTS {
        talks.push(talk(&apis.http, &apis.messaging, ada).await?);
    }
    let body = json!({ "content": TEXT });
    let written = |talk: &String| {
        let url = format!("{}/api/conversations/{talk}/messages", apis.messaging);
        Ok(Prepared::new(Method::POST, &url, Some(&ada.token), Some(&body))?.answered(StatusCode::CREATED))
    };
    let ours = talks.iter().map(written).collect::<Result<Vec<_>>>()?;
    let bare = bare_writes(apis).await?;
    let how = if rows[0].starts_with("fsync") { "fsync: " } else { "" };
    let (warm, round) = (Duration::from_millis(500), bench.scale.round);

    let run = async |ours: &[Prepared]| {
        let (mut ours, mut raw) = (lanes(ours.to_vec()).await?, lanes(vec![bare.clone(); ours.len()]).await?);
        ours.run(warm, exchange).await?;
        raw.run(warm, exchange).await?;
        anyhow::Ok((ours.run(round, exchange).await?, raw.run(round, exchange).await?))
    };
    let (one, raw) = run(ours.get(..1).context("no lane")?).await?;
    let what = format!("{how}write a message over REST, 1 connection, p50 ({ALONE})");
    push(bench, rows[0], what, (one.micros(0.5) / 1e3, raw.micros(0.5) / 1e3), "ms", Target::AtMost(most));
    let (many, raw) = run(&ours).await?;
    let what = format!("{how}write messages over REST, {CLIENTS} connections ({ALONE})");
    push(bench, rows[1], what, (many.rate, raw.rate), "/s", Target::AtLeast(least));
    Ok(())
}

/// Takes the same text, appends it to a stream, writes a row of it, and answers: no caller, no rights, no signature, nothing
/// read. Gives what is sent to it.
pub async fn bare_writes(apis: &Apis) -> Result<Prepared> {
    let jetstream = jetstream::new(apis.connect().await?);
    let config =
        jetstream::stream::Config { name: "BARE".to_owned(), subjects: vec!["bare".to_owned()], ..Default::default() };
    jetstream.create_stream(config).await?;
    let table = "CREATE TABLE bare_messages (id bigserial PRIMARY KEY, content text NOT NULL)";
    sqlx::query(table).execute(&apis.pool).await?;
    let write = async |State((jetstream, pool)): State<(Context, PgPool)>, body: Bytes| {
        let written = async {
            jetstream.publish("bare", body.clone()).await?.await?;
            let text: Value = serde_json::from_slice(&body)?;
            let insert = "INSERT INTO bare_messages (content) VALUES ($1) RETURNING id";
            let id: i64 = sqlx::query_scalar(insert).bind(text["content"].as_str()).fetch_one(&pool).await?;
            anyhow::Ok(Json(json!({ "id": id, "content": text["content"] })))
        };
        written.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    };
    let app = Router::new().route("/", posted(write)).with_state((jetstream, apis.pool.clone()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr().context("no address")?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Prepared::new(Method::POST, &format!("http://{address}/"), None, Some(&json!({ "content": TEXT })))
}

async fn read(bench: &mut Bench, apis: &Apis, ada: &Person) -> Result<()> {
    let talk = talk(&apis.http, &apis.messaging, ada).await?;
    for _ in 0..PAGE {
        say(&apis.http, &apis.messaging, ada, &talk, TEXT).await?;
    }
    let bare = bare(apis.pool.clone(), talk.clone()).await?;
    let ours = format!("{}/api/conversations/{talk}/messages?limit={PAGE}", apis.messaging);
    let prepared = |url: &str| Prepared::new(Method::GET, url, Some(&ada.token), None);
    let (ours, bare) = (prepared(&ours)?, prepared(&bare)?);
    for request in [&ours, &bare] {
        let rows: Vec<Value> = serde_json::from_slice(Wire::open(request).await?.send(request).await?)?;
        anyhow::ensure!(rows.len() == PAGE, "{} rows", rows.len());
    }
    // In passing: reading all of each answer would be a part of what is measured.
    let fetch = async |(mut wire, request): Lane| {
        let rows = memmem::find_iter(wire.send(&request).await?, b"\"sequence\":").count();
        anyhow::ensure!(rows == PAGE, "{rows} rows");
        Ok((wire, request))
    };
    let (mut ours, mut raw) = (lanes(vec![ours; CLIENTS]).await?, lanes(vec![bare; CLIENTS]).await?);
    let round = bench.scale.round;
    let pairs = Pairs::take(
        &bench.scale,
        async || Ok(ours.run(round, fetch).await?.rate),
        async || Ok(raw.run(round, fetch).await?.rate),
    );
    let what = format!("read the last {PAGE} messages, {CLIENTS} connections (raw: axum and PostgreSQL alone)");
    bench.table.push(pairs.await?.row(ROWS[4], what, "/s", Target::Ratio(0.8)));
    Ok(())
}

/// Serves the same rows with nothing around them: no caller, no rights, no limits. Gives their address.
async fn bare(pool: PgPool, talk: String) -> Result<String> {
    let route = get(|State((pool, talk)): State<(PgPool, String)>| async move {
        Json(rows(&pool, &talk).await.unwrap_or_default())
    });
    let app = Router::new().route("/messages", route).with_state((pool, talk));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr().context("no address")?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(format!("http://{address}/messages"))
}

const TEXTS: [&str; 13] = [
    "id",
    "conversation_id",
    "sender_id",
    "sender_type",
    "content",
    "content_type",
    "reply_to",
    "org_id",
    "run_id",
    "trace_id",
    "priority",
    "preempted_by",
    "metadata",
];

async fn rows(pool: &PgPool, talk: &str) -> Result<Vec<Value>> {
    let select = format!(
        "SELECT {}, sequence, created_at::text AS created FROM messaging.messages
         WHERE conversation_id = $1 AND org_id = (SELECT org_id FROM messaging.conversations WHERE id = $1)
         ORDER BY sequence DESC LIMIT {PAGE}",
        TEXTS.join(", ")
    );
    let found = sqlx::query(AssertSqlSafe(select)).bind(talk).fetch_all(pool).await?;
    found
        .into_iter()
        .rev()
        .map(|row| {
            let mut object = Map::new();
            for name in TEXTS {
                object.insert(name.to_owned(), json!(row.try_get::<Option<String>, _>(name)?));
            }
            object.insert("sequence".to_owned(), json!(row.try_get::<i64, _>("sequence")?));
            object.insert("created_at".to_owned(), json!(row.try_get::<String, _>("created")?));
            Ok(Value::Object(object))
        })
        .collect()
}

fn push(
    bench: &mut Bench,
    name: &'static str,
    what: String,
    (ours, raw): (f64, f64),
    unit: &'static str,
    target: Target,
) {
    bench.table.push(Row { name, what, ours, raw: Some(raw), ratio: Some(ours / raw), unit, target });
}
