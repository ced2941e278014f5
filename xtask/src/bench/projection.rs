//! Projecting: a rebuild, folding in batches of 500 against plain UNNEST, and the time from commit to visible.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use async_nats::jetstream;
use async_trait::async_trait;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, postgres::PgPoolOptions};
use symbia_commands::OutcomeStatus;
use symbia_events::{DecodeError, Position, Service, commit};
use symbia_nats::log::LogReader;
use symbia_projections::{
    FoldError, FoldEvent, Keys, Migration, Projection, Projector, ProjectorOptions, Rebuilder, fixed_keys, fold_batch,
    migrate,
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
        Ok(Columns::of(events)?.insert(conn).await?)
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
    fn of(events: &[FoldEvent]) -> Result<Self, DecodeError> {
        let mut rows = Columns::default();
        for FoldEvent { event, .. } in events {
            let LedgerEvent::Noted(note) = event.decode()?;
            rows.ledgers.push(event.aggregateid.clone());
            rows.versions.push(event.aggregateversion.into());
            rows.orgs.push(event.orgid.as_str().to_owned());
            rows.texts.push(note.text);
            rows.times.push(event.time);
        }
        Ok(rows)
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

    /// The events of the log's messages `from + 1 ..= to`, verified, in batches.
    async fn verified(&self, from: u64, to: u64) -> Result<Vec<Vec<FoldEvent>>> {
        let mut reader = LogReader::open(self.jetstream.clone(), Service::Logging, from, Vec::new()).await?;
        let (keys, mut batches) = (Arc::clone(&self.keys.borrow()), Vec::new());
        while reader.position() < to {
            let end = to.min(reader.position() + BATCH as u64);
            let mut batch = Vec::with_capacity(BATCH);
            while reader.position() < end {
                let left = usize::try_from(end - reader.position())?;
                for message in reader.next_batch(left, PATIENCE).await? {
                    let position = Position { service: Service::Logging, sequence: message.sequence };
                    let events = commit::decode(&keys, &message.payload)?.into_iter();
                    batch.extend(events.map(|one| FoldEvent { position, event: one.event, hash: one.hash }));
                }
            }
            batches.push(batch);
        }
        Ok(batches)
    }

    /// Events per second of folding batches that were read and verified before, checkpoint included.
    async fn fold(&self, from: u64, batches: &[Vec<FoldEvent>]) -> Result<f64> {
        self.reset(from).await?;
        let (mut after, batches) = (from, batches.to_vec());
        let (began, rows) = (Instant::now(), batches.iter().map(Vec::len).sum::<usize>());
        for batch in batches {
            let last = batch.last().map_or(after, |event| event.position.sequence);
            let folded = fold_batch(&self.pool, &Notes, (Service::Logging, after, last), batch).await?;
            ensure!(folded, "somebody else moved the checkpoint");
            after = last;
        }
        Ok(rows as f64 / began.elapsed().as_secs_f64())
    }

    /// Rows per second of plain batches with a checkpoint: the same rows, ready to be sent.
    async fn unnest(&self, batches: &[Vec<FoldEvent>]) -> Result<f64> {
        self.reset(0).await?;
        let mut conn = self.pool.acquire().await?;
        let ready: Vec<Columns> = batches.iter().map(|batch| Columns::of(batch)).collect::<Result<_, _>>()?;
        let (began, rows) = (Instant::now(), batches.iter().map(Vec::len).sum::<usize>());
        for columns in ready {
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
        let from = events - ROUND.min(events);
        let batches = house.verified(from, events).await?;
        let pairs =
            Pairs::take(&bench.scale, async || house.fold(from, &batches).await, async || house.unnest(&batches).await);
        let what = "projecting a batch of 500, verified before (raw: UNNEST of the same rows)";
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
