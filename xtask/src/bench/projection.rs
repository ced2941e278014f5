//! Projecting: a rebuild, catching up in batches of 500, and the time from commit to visible; against plain UNNEST.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use async_nats::jetstream;
use async_trait::async_trait;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, postgres::PgPoolOptions};
use symbia_commands::OutcomeStatus;
use symbia_events::{Position, Service};
use symbia_projections::{
    FoldError, FoldEvent, Keys, Migration, Projection, Projector, ProjectorOptions, Rebuilder, fixed_keys, migrate,
    server::{DatabaseServer, DatabaseServerOptions},
};
use time::OffsetDateTime;

use super::{
    Bench,
    ground::Ground,
    ledger::{self, Ledger, LedgerEvent},
    measure::{Pairs, percentile},
    table::{Row, Target},
};

/// Rows of this group.
pub const ROWS: [&str; 4] = ["rebuild", "projecting_500", "visible_p50", "visible_p99"];
const BATCH: usize = 500;
/// Events that one round of catching up folds.
const ROUND: u64 = 50_000;
const PATIENCE: Duration = Duration::from_secs(120);

const SQL: &str = "
    CREATE TABLE note (
        ledger text NOT NULL, version bigint NOT NULL, org_id text NOT NULL, text text NOT NULL, at timestamptz NOT NULL,
        PRIMARY KEY (ledger, version)
    );
    CREATE POLICY reader ON note FOR SELECT TO symbia_reader USING (org_id = symbia.org());";
const INSERT: &str = "INSERT INTO note SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[],
    $5::timestamptz[])";

/// One row for each note.
struct Notes;

#[async_trait]
impl Projection for Notes {
    fn name(&self) -> &'static str {
        "notes"
    }

    fn services(&self) -> &'static [Service] {
        &[Service::Logging]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["note"]
    }

    fn migrations(&self) -> &'static [Migration] {
        &[Migration { version: 1, name: "notes", sql: SQL }]
    }

    async fn fold(&self, conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
        let mut rows = Columns::default();
        for FoldEvent { event, .. } in events {
            let LedgerEvent::Noted(note) = event.decode()?;
            rows.push(&event.aggregateid, event.aggregateversion.into(), event.orgid.as_str(), note.text, event.time);
        }
        rows.insert(conn).await?;
        Ok(())
    }
}

/// Rows by column, as UNNEST takes them.
#[derive(Default)]
struct Columns {
    ledgers: Vec<String>,
    versions: Vec<i64>,
    orgs: Vec<String>,
    texts: Vec<String>,
    times: Vec<OffsetDateTime>,
}

impl Columns {
    fn push(&mut self, ledger: &str, version: i64, org: &str, text: String, at: OffsetDateTime) {
        self.ledgers.push(ledger.to_owned());
        self.versions.push(version);
        self.orgs.push(org.to_owned());
        self.texts.push(text);
        self.times.push(at);
    }

    async fn insert(self, conn: &mut PgConnection) -> sqlx::Result<()> {
        let insert = sqlx::query(INSERT).bind(self.ledgers).bind(self.versions).bind(self.orgs);
        insert.bind(self.texts).bind(self.times).execute(conn).await.map(|_| ())
    }
}

/// What the rows share.
struct House {
    database: DatabaseServer,
    pool: PgPool,
    jetstream: jetstream::Context,
    keys: Keys,
}

impl House {
    async fn open(ground: &Ground) -> Result<Self> {
        let database = DatabaseServer::start(DatabaseServerOptions::new(ground.dir().join("postgres"))).await?;
        let pool = PgPoolOptions::new().max_connections(8).connect(&database.url()).await?;
        migrate(&pool, &[&Notes]).await?;
        let jetstream = jetstream::new(ground.connect().await?);
        Ok(House { database, pool, jetstream, keys: fixed_keys(ground.keys.as_ref().clone()) })
    }

    fn projector(&self) -> Projector {
        let options = ProjectorOptions::new(self.pool.clone(), self.jetstream.clone(), self.keys.clone());
        ProjectorOptions { batch: BATCH, ..options }.build(Arc::new(Notes))
    }

    /// Empties the projection and sets it back to a position.
    async fn reset(&self, sequence: u64) -> Result<()> {
        let reset = format!("TRUNCATE notes.note; UPDATE notes.checkpoint SET sequence = {sequence}");
        sqlx::raw_sql(AssertSqlSafe(reset)).execute(&self.pool).await?;
        Ok(())
    }

    /// Events per second from `from` to `to`.
    async fn catch_up(&self, from: u64, to: u64) -> Result<f64> {
        self.reset(from).await?;
        let began = Instant::now();
        let handle = self.projector().start();
        let passed = handle.wait_for(Position { service: Service::Logging, sequence: to }, PATIENCE).await;
        let took = began.elapsed();
        handle.stop().await;
        ensure!(passed, "the projector did not catch up in {PATIENCE:?}");
        Ok((to - from) as f64 / took.as_secs_f64())
    }

    /// Rows per second of plain batches with a checkpoint.
    async fn unnest(&self, rows: u64) -> Result<f64> {
        self.reset(0).await?;
        let mut conn = self.pool.acquire().await?;
        let (began, text) = (Instant::now(), "x".repeat(250));
        for batch in 0..rows / BATCH as u64 {
            let mut columns = Columns::default();
            for row in 0..BATCH as i64 {
                columns.push(
                    &format!("l{row}"),
                    i64::try_from(batch)?,
                    "global",
                    text.clone(),
                    OffsetDateTime::now_utc(),
                );
            }
            sqlx::raw_sql("BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL search_path TO notes")
                .execute(&mut *conn)
                .await?;
            columns.insert(&mut conn).await?;
            sqlx::raw_sql("UPDATE checkpoint SET sequence = sequence + 500; COMMIT").execute(&mut *conn).await?;
        }
        Ok(rows as f64 / began.elapsed().as_secs_f64())
    }
}

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let stocked = bench.stocked().await?;
    let house = House::open(&stocked.ground).await?;
    let events = stocked.events().await?;
    if bench.wants(&["rebuild"]) {
        let rebuilder =
            Rebuilder { pool: house.pool.clone(), jetstream: house.jetstream.clone(), keys: house.keys.clone() };
        let began = Instant::now();
        let rebuilt = rebuilder.rebuild(&Notes, &|_| {}).await?;
        let rate = rebuilt.events as f64 / began.elapsed().as_secs_f64();
        ensure!(rebuilt.quarantined == 0 && rebuilt.events >= events, "not rebuilt: {rebuilt:?}");
        let what = format!("rebuild a projection from {} events, verified", rebuilt.events);
        push(bench, "rebuild", what, rate, "/s", Target::AtLeast(30_000.0));
    }
    if bench.wants(&["projecting_500"]) {
        let round = ROUND.min(events);
        let pairs = Pairs::take(
            &bench.scale,
            async || house.catch_up(events - round, events).await,
            async || house.unnest(round).await,
        );
        let what = "projecting in batches of 500, from the log (raw: UNNEST)";
        bench.table.push(pairs.await?.row("projecting_500", what, "/s", Target::Ratio(0.5)));
    }
    if bench.wants(&["visible_p50", "visible_p99"]) {
        house.reset(events).await?;
        let mut millis = follow(bench.scale.samples, &stocked.ground, &house).await?;
        millis.sort_unstable();
        for (name, share, most) in [("visible_p50", 0.5, 3.0), ("visible_p99", 0.99, 15.0)] {
            let what = format!("commit to visible in the projection, {}", name.trim_start_matches("visible_"));
            push(bench, name, what, percentile(&millis, share).as_secs_f64() * 1e3, "ms", Target::AtMost(most));
        }
    }
    house.pool.close().await;
    house.database.stop().await;
    bench.stocked = Some(stocked);
    Ok(())
}

/// How long each of `count` commits took from its acknowledgement until its row could be read.
async fn follow(count: usize, ground: &Ground, house: &House) -> Result<Vec<Duration>> {
    let (store, handle, mut times) = (ground.store().await?, house.projector().start(), Vec::new());
    let (actor, ledger) = (ledger::actor(), ledger::address(0));
    for _ in 0..count {
        let command = ledger::command(&ground.keys, &ledger, "followed", 1)?;
        let outcome = store.execute::<Ledger>(&ledger, &command, &actor).await?;
        let began = Instant::now();
        ensure!(outcome.status == OutcomeStatus::Accepted, "a command was refused: {outcome:?}");
        let Some(position) = outcome.position else { anyhow::bail!("a commit without a position") };
        ensure!(handle.wait_for(position, PATIENCE).await, "not visible after {PATIENCE:?}");
        times.push(began.elapsed());
    }
    handle.stop().await;
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM notes.note WHERE text = 'followed'").fetch_one(&house.pool).await?;
    ensure!(usize::try_from(rows)? == count, "{rows} of {count} rows are visible");
    Ok(times)
}

fn push(bench: &mut Bench, name: &'static str, what: String, ours: f64, unit: &'static str, target: Target) {
    bench.table.push(Row { name, what, ours, raw: None, ratio: None, unit, target });
}
