//! The projector: keeps one projection behind the log's head, exactly once, and heals by itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use async_nats::jetstream::Context;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use symbia_events::{Position, Service};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{Mutex, Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    FoldError, Keys, Projection,
    commit::{Batch, Committed, Rejected, commit},
    feed, observed, position,
    statistics::{self, Statistics},
};

/// Shortest and longest pause before a database that failed is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long a projector may be without a batch before it looks whether its checkpoint still stands: a database that
/// crashed has lost its last moments, and while nothing new is folded nothing else would tell.
const LOOK: Duration = Duration::from_secs(1);

/// Up to so many events are what one writer does, who may wait for them.
const FEW: usize = 8;

/// What a projector needs.
#[derive(Clone, Debug)]
pub struct ProjectorOptions {
    /// The database, as a user that may take the projector's role. At least two connections.
    pub pool: PgPool,
    /// The log.
    pub jetstream: Context,
    /// Keys that events are verified with.
    pub keys: Keys,
    /// Most messages that one transaction folds.
    pub batch: usize,
}

impl ProjectorOptions {
    /// Batches of 500, where PostgreSQL's throughput levels off.
    #[must_use]
    pub fn new(pool: PgPool, jetstream: Context, keys: Keys) -> Self {
        ProjectorOptions { pool, jetstream, keys, batch: 500 }
    }

    /// A projector of a projection whose schema has been migrated.
    #[must_use]
    pub fn build(self, projection: Arc<dyn Projection>) -> Projector {
        Projector { options: self, projection }
    }
}

/// How a projector stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectorStatus {
    /// Last sequence folded, per stream.
    pub positions: BTreeMap<Service, u64>,
    /// What keeps it from going on, per service (`None` = the database); it is tried again all the time.
    pub trouble: BTreeMap<Option<Service>, String>,
}

/// One projection's projector, to be started.
pub struct Projector {
    options: ProjectorOptions,
    projection: Arc<dyn Projection>,
}

/// A running projector. It stops when it is told to, or dropped.
#[derive(Debug)]
pub struct ProjectorHandle {
    status: watch::Receiver<ProjectorStatus>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl ProjectorHandle {
    /// How it stands, now and from now on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ProjectorStatus> {
        self.status.clone()
    }

    /// Waits until it has folded `position`; false when it has not within `timeout`.
    pub async fn wait_for(&self, position: Position, timeout: Duration) -> bool {
        let mut status = self.status.clone();
        let passed = |s: &ProjectorStatus| s.positions.get(&position.service) >= Some(&position.sequence);
        matches!(tokio::time::timeout(timeout, status.wait_for(passed)).await, Ok(Ok(_)))
    }

    /// Lets it finish the batch at hand and end.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            _ = task.await;
        }
    }
}

impl Drop for ProjectorHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Projector {
    /// Starts it.
    #[must_use]
    pub fn start(self) -> ProjectorHandle {
        let (sender, status) = watch::channel(ProjectorStatus::default());
        let stop = CancellationToken::new();
        let run = Run {
            options: self.options,
            projection: self.projection,
            status: Arc::new(sender),
            stop: stop.clone(),
            connection: Mutex::default(),
        };
        ProjectorHandle { status, stop, task: Some(thread().spawn(run.run())) }
    }
}

/// Where projectors run: on a thread of their own. Whoever has written waits for them, so that those must not stand in line
/// with all who wait.
fn thread() -> Handle {
    static THREAD: OnceLock<Option<Runtime>> = OnceLock::new();
    let start = || {
        let thread = Builder::new_multi_thread().worker_threads(1).thread_name("projector").enable_all().build();
        thread.inspect_err(|error| tracing::warn!(%error, "projectors have no thread of their own")).ok()
    };
    THREAD.get_or_init(start).as_ref().map_or_else(Handle::current, |thread| thread.handle().clone())
}

struct Run {
    options: ProjectorOptions,
    projection: Arc<dyn Projection>,
    status: Arc<watch::Sender<ProjectorStatus>>,
    stop: CancellationToken,
    /// What it folds with: its own, so that no batch waits for one of the pool; given up when anything failed on it.
    connection: Mutex<Option<PgConnection>>,
}

impl Run {
    async fn run(self) {
        while !self.stop.is_cancelled() {
            let Some(positions) = self.persist("read its checkpoint", || self.checkpoints()).await else { break };
            self.status.send_modify(|status| status.positions.clone_from(&positions));
            self.follow(positions).await;
        }
        if let Some(connection) = self.connection.into_inner() {
            _ = connection.close().await;
        }
    }

    /// Folds until it is stopped, or the checkpoint is found elsewhere.
    async fn follow(&self, positions: BTreeMap<Service, u64>) {
        // What arrives while one batch is folded comes together in the next.
        let (sender, mut batches) = mpsc::channel(1);
        let turn = Arc::new(Semaphore::new(1));
        let mut feeds = JoinSet::new();
        for (service, after) in positions {
            let log = (self.options.jetstream.clone(), self.options.keys.clone(), service);
            let (status, name) = (self.status.clone(), self.projection.name());
            let trouble = move |error: Option<symbia_nats::log::LogError>| {
                report(&status, name, Some(service), error.map(|e| e.to_string()));
            };
            feeds.spawn(feed::run(log, after, self.options.batch, (sender.clone(), Arc::clone(&turn)), trouble));
        }
        drop(sender);
        let mut statistics = Statistics::default();
        loop {
            let batch = tokio::select! {
                () = self.stop.cancelled() => return,
                _ = feeds.join_next() => return,
                batch = batches.recv() => batch,
                () = tokio::time::sleep(LOOK) => {
                    if self.is_set_back().await {
                        return;
                    }
                    continue;
                }
            };
            let Some(batch) = batch else { return };
            let since = SystemTime::now();
            match self.persist("fold", || self.fold(&batch)).await {
                Some(Committed::Advanced(rejected)) => {
                    observed::folded(self.projection.name(), &batch, rejected.len(), since);
                    self.advanced(&batch, &rejected).await;
                    if statistics.are_due(batch.events.len()) {
                        self.gather_statistics().await;
                    }
                    if batch.events.len() > FEW {
                        tokio::time::sleep(self.projection.gathers()).await;
                    }
                    turn.add_permits(1);
                }
                Some(Committed::Elsewhere) => {
                    tracing::debug!(projection = self.projection.name(), "the checkpoint stands elsewhere");
                    return;
                }
                None => return,
            }
        }
    }

    async fn fold(&self, batch: &Batch) -> Result<Committed, FoldError> {
        let mut kept = self.connection.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => PgConnection::connect_with(&self.options.pool.connect_options()).await?,
        };
        let committed = commit(&mut connection, &*self.projection, self.projection.name(), batch).await?;
        *kept = Some(connection);
        Ok(committed)
    }

    async fn gather_statistics(&self) {
        let gathered = async {
            let mut conn = self.options.pool.acquire().await?;
            // Keys come with what they seal.
            statistics::gather(&mut conn, &[self.projection.name(), "vault"]).await
        };
        if let Err(error) = gathered.await {
            tracing::debug!(projection = self.projection.name(), %error, "no statistics gathered: the server will");
        }
    }

    async fn advanced(&self, batch: &Batch, rejected: &[Rejected]) {
        let client = self.options.jetstream.client();
        let name = self.projection.name();
        for entry in rejected {
            tracing::error!(
                projection = name, service = %entry.service, sequence = entry.sequence, subject = entry.subject,
                reason = entry.reason, "quarantined: `symbia audit verify` tells more"
            );
            let notice = serde_json::json!({
                "projection": name, "position": Position { service: entry.service, sequence: entry.sequence }.to_string(),
                "subject": entry.subject, "reason": entry.reason,
            });
            _ = client.publish(format!("symbia.notice.quarantine.{name}"), notice.to_string().into()).await;
        }
        self.status.send_modify(|status| _ = status.positions.insert(batch.service, batch.last));
        let position = Position { service: batch.service, sequence: batch.last };
        _ = client.publish(position::subject(name), position.to_string().into()).await;
    }

    /// Repeats until it succeeds; `None` when it is stopped first.
    async fn persist<T, F: Future<Output = Result<T, FoldError>>>(
        &self,
        what: &str,
        attempt: impl Fn() -> F,
    ) -> Option<T> {
        let mut pause = BACKOFF.0;
        loop {
            match attempt().await {
                Ok(value) => {
                    report(&self.status, self.projection.name(), None, None);
                    return Some(value);
                }
                Err(error) => {
                    let reason = format!("cannot {what}: {error}");
                    report(&self.status, self.projection.name(), None, Some(reason));
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACKOFF.1),
            }
        }
    }

    // Ahead is no matter: another projector was faster, and its batch comes here as well.
    async fn is_set_back(&self) -> bool {
        // A database that is away cannot tell; it is asked again.
        let Ok(stored) = self.checkpoints().await else { return false };
        let folded = self.status.borrow().positions.clone();
        let behind = stored.iter().any(|(service, sequence)| folded.get(service) > Some(sequence));
        if behind {
            tracing::warn!(
                projection = self.projection.name(),
                "the database lost its last moments, folding them again"
            );
        }
        behind
    }

    async fn checkpoints(&self) -> Result<BTreeMap<Service, u64>, FoldError> {
        Ok(checkpoints(&self.options.pool, &*self.projection, self.projection.name()).await?)
    }
}

/// How far a schema is folded, for each of its projection's services.
pub(crate) async fn checkpoints(
    pool: &PgPool,
    projection: &dyn Projection,
    schema: &str,
) -> Result<BTreeMap<Service, u64>, sqlx::Error> {
    let mut conn = pool.acquire().await?;
    let mut tx = crate::commit::begin(&mut conn, schema).await?;
    let rows: Vec<(String, i64)> =
        sqlx::query_as(AssertSqlSafe("SELECT service, sequence FROM checkpoint")).fetch_all(&mut *tx).await?;
    let of = |service: &Service| rows.iter().find(|(name, _)| name == service.name()).map_or(0, |row| row.1);
    Ok(projection.services().iter().map(|s| (*s, u64::try_from(of(s)).unwrap_or(0))).collect())
}

/// Tells trouble once when it begins or changes, and once when it is over.
fn report(status: &watch::Sender<ProjectorStatus>, projection: &str, of: Option<Service>, reason: Option<String>) {
    status.send_if_modified(|status| {
        let changed = status.trouble.get(&of) != reason.as_ref();
        match reason {
            Some(reason) => {
                if changed {
                    tracing::warn!(projection, reason, "waiting to go on");
                }
                status.trouble.insert(of, reason);
            }
            None => {
                if status.trouble.remove(&of).is_some() {
                    tracing::info!(projection, "going on");
                }
            }
        }
        changed
    });
}
