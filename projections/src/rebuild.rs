//! Rebuilding a projection from the log beside the live one, swapping it in, and proving that both are equal.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::jetstream::Context;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, raw_sql};
use symbia_events::Service;
use symbia_nats::log::{self, LogError};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    FoldError, Keys, Projection,
    commit::{Batch, Committed, commit},
    feed,
    schema::create_shadow,
    state::{TableState, state_hash, table_states},
    statistics::{self, Statistics},
};

/// Messages per transaction: with nobody waiting for a single one, more than a projector takes.
const BATCH: usize = 2000;
/// How far the shadow may be behind when the swap begins.
const NEAR: u64 = 2000;
/// How long the log may be silent, while messages are known to be there, before a rebuild gives up.
const SILENCE: Duration = Duration::from_secs(60);

/// Why a projection cannot be rebuilt or verified. The live one is untouched.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Another rebuild or verification of the same projection runs.
    #[error("projection '{0}' is being rebuilt or verified already; wait for that to end")]
    Running(String),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log stopped giving messages that it has.
    #[error("the log of {0} gave nothing for a minute; check the broker and start again")]
    Silent(Service),
    /// Events could not be folded.
    #[error("the events cannot be folded: {0}")]
    Fold(#[from] FoldError),
    /// The database refused or was away.
    #[error("the database gave up: {0}; start again")]
    Database(#[from] sqlx::Error),
    /// Somebody else folds into the shadow.
    #[error("schema '{0}' is changed by somebody else at the same time")]
    Shared(String),
}

/// How far long work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Messages folded.
    pub done: u64,
    /// Messages to fold, as far as is known.
    pub total: u64,
}

/// Hears of progress, about ten times a second at most as often as batches end.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// What a rebuild or replay did.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// Events folded.
    pub events: u64,
    /// Messages and events put aside.
    pub quarantined: u64,
    /// How far, per stream.
    pub positions: BTreeMap<Service, u64>,
    /// Time taken.
    pub took: Duration,
}

/// What a verification found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The positions compared.
    pub positions: BTreeMap<Service, u64>,
    /// Each table, as it is and as the log gives it.
    pub tables: Vec<TableCheck>,
    /// Events replayed.
    pub events: u64,
    /// Hash of the live state.
    pub live_hash: String,
    /// Hash of the state that the log gives.
    pub replayed_hash: String,
}

/// One table of a verification.
#[derive(Clone, Debug)]
pub struct TableCheck {
    /// The table.
    pub table: String,
    /// As it is.
    pub live: TableState,
    /// As the log gives it.
    pub replayed: TableState,
}

impl Verified {
    /// The tables that are not what the log says.
    pub fn differing(&self) -> impl Iterator<Item = &TableCheck> {
        self.tables.iter().filter(|t| t.live != t.replayed)
    }
}

/// Rebuilds projections from the log.
#[derive(Clone, Debug)]
pub struct Rebuilder {
    /// The database, as the owner of the schemas. At least four connections.
    pub pool: PgPool,
    /// The log.
    pub jetstream: Context,
    /// Keys that events are verified with.
    pub keys: Keys,
}

impl Rebuilder {
    /// Builds the projection anew in a shadow schema while the live one goes on, catches up, and swaps the two in one
    /// transaction: readers see the old rows or the new ones, and no position that they have seen is taken back.
    pub async fn rebuild(&self, projection: &dyn Projection, on: OnProgress<'_>) -> Result<Rebuilt, RebuildError> {
        let (live, shadow) = (projection.name(), format!("{}_shadow", projection.name()));
        let mut owner = self.lock(live).await?;
        let result = self.rebuild_into(&mut owner, projection, &shadow, on).await;
        if result.is_err() {
            _ = drop_schema(&mut owner, &shadow).await;
        }
        unlock(owner).await;
        result
    }

    async fn rebuild_into(
        &self,
        owner: &mut PgConnection,
        projection: &dyn Projection,
        shadow: &str,
        on: OnProgress<'_>,
    ) -> Result<Rebuilt, RebuildError> {
        let retired = format!("{}_retired", projection.name());
        drop_schema(owner, &retired).await?;
        create_shadow(owner, projection, shadow).await?;
        let mut build = Build::new(self, projection, shadow, on);
        loop {
            let heads = self.heads(projection).await?;
            if build.behind(&heads) <= NEAR {
                break;
            }
            build.fold_to(&heads).await?;
        }
        for table in projection.tables() {
            raw_sql(AssertSqlSafe(format!("ANALYZE {shadow}.{table}"))).execute(&mut *owner).await?;
        }
        self.swap(owner, projection, &mut build, &retired).await?;
        drop_schema(owner, &retired).await?;
        Ok(build.done())
    }

    async fn swap(
        &self,
        owner: &mut PgConnection,
        projection: &dyn Projection,
        build: &mut Build<'_>,
        retired: &str,
    ) -> Result<(), RebuildError> {
        let (live, shadow) = (projection.name(), build.schema.to_owned());
        // Nearly all of the rest is folded before the projector has to wait for the last of it.
        build.fold_to(&self.heads(projection).await?).await?;
        let mut tx = owner.begin().await?;
        raw_sql("SET LOCAL ROLE symbia_projector").execute(&mut *tx).await?;
        let hold = format!("SELECT service, sequence FROM {live}.checkpoint ORDER BY service FOR UPDATE");
        let held: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(hold)).fetch_all(&mut *tx).await?;
        let mut target = self.heads(projection).await?;
        for (service, sequence) in held {
            if let Some((_, head)) = target.iter_mut().find(|(s, _)| s.name() == service) {
                // Not beyond the head: a live schema ahead of a log that lost its tail is exactly what a rebuild mends.
                *head = (*head).min(u64::try_from(sequence).unwrap_or(0));
            }
        }
        build.fold_to(&target).await?;
        // A projector that waits for the old row must not take it for its own.
        raw_sql(AssertSqlSafe(format!("UPDATE {live}.checkpoint SET sequence = -1"))).execute(&mut *tx).await?;
        let swap = format!(
            "SET LOCAL ROLE NONE; ALTER SCHEMA {live} RENAME TO {retired}; ALTER SCHEMA {shadow} RENAME TO {live}"
        );
        raw_sql(AssertSqlSafe(swap)).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Folds the log into a schema of its own, from the start up to the given positions (or the heads), and leaves it there.
    pub async fn replay(
        &self,
        projection: &dyn Projection,
        schema: &str,
        until: Option<&BTreeMap<Service, u64>>,
        on: OnProgress<'_>,
    ) -> Result<Rebuilt, RebuildError> {
        let mut owner = self.pool.acquire().await?;
        create_shadow(&mut owner, projection, schema).await?;
        let mut build = Build::new(self, projection, schema, on);
        let heads = self.heads(projection).await?;
        build.fold_to(until.unwrap_or(&heads)).await?;
        Ok(build.done())
    }

    /// Folds the log beside the live schema up to exactly its position, and compares every table.
    pub async fn verify(&self, projection: &dyn Projection, on: OnProgress<'_>) -> Result<Verified, RebuildError> {
        let check = format!("{}_check", projection.name());
        let mut owner = self.lock(projection.name()).await?;
        let result = self.verify_against(&mut owner, projection, &check, on).await;
        _ = drop_schema(&mut owner, &check).await;
        unlock(owner).await;
        result
    }

    async fn verify_against(
        &self,
        owner: &mut PgConnection,
        projection: &dyn Projection,
        check: &str,
        on: OnProgress<'_>,
    ) -> Result<Verified, RebuildError> {
        let (positions, live) = table_states(&self.pool, projection, projection.name()).await?;
        create_shadow(owner, projection, check).await?;
        let mut build = Build::new(self, projection, check, on);
        build.fold_to(&positions).await?;
        let events = build.done().events;
        let (_, replayed) = table_states(&self.pool, projection, check).await?;
        let (live_hash, replayed_hash) = (state_hash(&live), state_hash(&replayed));
        let tables = live.into_iter().zip(replayed);
        let tables = tables.map(|((table, live), (_, replayed))| TableCheck { table, live, replayed }).collect();
        Ok(Verified { positions, tables, events, live_hash, replayed_hash })
    }

    async fn heads(&self, projection: &dyn Projection) -> Result<BTreeMap<Service, u64>, LogError> {
        let mut heads = BTreeMap::new();
        for service in projection.services() {
            heads.insert(*service, log::head(&self.jetstream, *service).await?.1);
        }
        Ok(heads)
    }

    /// A connection that holds the projection's lock until it is closed.
    async fn lock(&self, name: &str) -> Result<PgConnection, RebuildError> {
        let mut owner = self.pool.acquire().await?.detach();
        let locked: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('symbia:rebuild:' || $1, 0))")
                .bind(name)
                .fetch_one(&mut owner)
                .await?;
        if locked { Ok(owner) } else { Err(RebuildError::Running(name.to_owned())) }
    }
}

/// Gives the lock back at once: the server notices a closed connection only after a while.
async fn unlock(mut owner: PgConnection) {
    _ = sqlx::query("SELECT pg_advisory_unlock_all()").execute(&mut owner).await;
    _ = owner.close().await;
}

async fn drop_schema(conn: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    raw_sql(AssertSqlSafe(format!("DROP SCHEMA IF EXISTS {schema} CASCADE"))).execute(conn).await.map(|_| ())
}

/// A schema that is being filled.
struct Build<'a> {
    rebuilder: &'a Rebuilder,
    projection: &'a dyn Projection,
    schema: &'a str,
    on: OnProgress<'a>,
    positions: BTreeMap<Service, u64>,
    events: u64,
    quarantined: u64,
    statistics: Statistics,
    began: Instant,
}

impl<'a> Build<'a> {
    fn new(rebuilder: &'a Rebuilder, projection: &'a dyn Projection, schema: &'a str, on: OnProgress<'a>) -> Self {
        let positions = projection.services().iter().map(|service| (*service, 0)).collect();
        let (statistics, began) = (Statistics::default(), Instant::now());
        Build { rebuilder, projection, schema, on, positions, events: 0, quarantined: 0, statistics, began }
    }

    fn behind(&self, target: &BTreeMap<Service, u64>) -> u64 {
        target.iter().map(|(service, sequence)| sequence.saturating_sub(self.at(*service))).sum()
    }

    fn at(&self, service: Service) -> u64 {
        self.positions.get(&service).copied().unwrap_or(0)
    }

    fn done(self) -> Rebuilt {
        let Build { events, quarantined, positions, began, .. } = self;
        Rebuilt { events, quarantined, positions, took: began.elapsed() }
    }

    /// Folds up to exactly these positions; streams that are further already stay.
    async fn fold_to(&mut self, target: &BTreeMap<Service, u64>) -> Result<(), RebuildError> {
        for (service, target) in target {
            if self.at(*service) < *target {
                self.fold_stream(*service, *target).await?;
            }
        }
        Ok(())
    }

    async fn fold_stream(&mut self, service: Service, target: u64) -> Result<(), RebuildError> {
        let (_, last) = log::head(&self.rebuilder.jetstream, service).await?;
        if last < target {
            return Err(LogError::Ahead { stream: service.event_stream(), after: target, last }.into());
        }
        let (sender, mut batches) = mpsc::channel(1);
        let mut reading = JoinSet::new();
        let log = (self.rebuilder.jetstream.clone(), self.rebuilder.keys.clone(), service);
        let trouble = move |error: Option<LogError>| {
            if let Some(error) = error {
                tracing::warn!(%service, %error, "waiting for the log");
            }
        };
        let turn = Arc::new(Semaphore::new(1));
        reading.spawn(feed::run(log, self.at(service), BATCH, (sender, Arc::clone(&turn)), trouble));
        let mut conn = self.rebuilder.pool.acquire().await?;
        while self.at(service) < target {
            let received = timeout(SILENCE, batches.recv()).await;
            let mut batch = received.ok().flatten().ok_or(RebuildError::Silent(service))?;
            turn.add_permits(1);
            batch.truncate(target);
            match commit(&mut conn, self.projection, self.schema, &batch).await? {
                Committed::Advanced(rejected) => {
                    for entry in &rejected {
                        tracing::warn!(
                            schema = self.schema, %service, sequence = entry.sequence, reason = entry.reason, "quarantined"
                        );
                    }
                    self.quarantined += rejected.len() as u64;
                }
                Committed::Elsewhere => return Err(RebuildError::Shared(self.schema.to_owned())),
            }
            self.events += batch.events.len() as u64;
            self.positions.insert(service, batch.last);
            if self.statistics.are_due(batch.events.len()) {
                statistics::gather(&mut conn, &[self.schema]).await?;
            }
            let done = self.positions.values().sum();
            (self.on)(Progress { done, total: done + target.saturating_sub(batch.last) });
        }
        Ok(())
    }
}

impl Batch {
    /// Leaves out what stands behind a position.
    fn truncate(&mut self, last: u64) {
        if self.last > last {
            self.last = last;
            self.events.retain(|event| event.position.sequence <= last);
            self.rejected.retain(|entry| entry.sequence <= last);
        }
    }
}
