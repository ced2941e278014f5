//! Read-your-writes: waiting until a projection has passed a place in the log (DESIGN §5).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use sqlx::AssertSqlSafe;
use symbia_events::{Position, Service};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};

use crate::{ReadPool, Scope};

/// Subject on which a projection tells its positions, as `<service>:<sequence>`.
#[must_use]
pub fn subject(projection: &str) -> String {
    format!("symbia.pos.{projection}")
}

/// Shortest and longest pause between looks at the checkpoint, when no news comes over the bus. News gets lost with a
/// connection alone; who looks sooner takes from the database what the projection needs.
const POLL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(400));

/// How far a projection is with a service's events, and who waits for it, by sequence.
#[derive(Debug, Default)]
struct Lane {
    passed: Option<u64>,
    waiting: BTreeMap<(u64, u64), oneshot::Sender<()>>,
}

/// By projection and service.
#[derive(Debug, Default)]
struct Lanes(Mutex<HashMap<(String, Service), Lane>>);

impl Lanes {
    fn with<T>(&self, projection: &str, service: Service, act: impl FnOnce(&mut Lane) -> T) -> T {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(lanes.entry((projection.to_owned(), service)).or_default())
    }
}

/// What is known of the positions of all projections, in whichever process they run.
#[derive(Debug)]
pub struct Positions {
    reader: ReadPool,
    lanes: Arc<Lanes>,
    asked: AtomicU64,
    listener: JoinHandle<()>,
}

impl Positions {
    /// Listens to the projections' news; the checkpoints are asked where news does not come.
    #[must_use]
    pub fn follow(client: async_nats::Client, reader: ReadPool) -> Self {
        let lanes = Arc::new(Lanes::default());
        let told = Arc::clone(&lanes);
        let listener = tokio::spawn(async move {
            let Ok(mut news) = client.subscribe("symbia.pos.>").await else { return };
            while let Some(message) = news.next().await {
                let projection = message.subject.strip_prefix("symbia.pos.");
                let position = str::from_utf8(&message.payload).ok().and_then(|text| text.parse::<Position>().ok());
                if let (Some(projection), Some(position)) = (projection, position) {
                    told.with(projection, position.service, |lane| lane.pass(position));
                }
            }
        });
        Positions { reader, lanes, asked: AtomicU64::new(0), listener }
    }

    /// What a projection told last, if it told anything yet.
    #[must_use]
    pub fn latest(&self, projection: &str, service: Service) -> Option<u64> {
        self.lanes.with(projection, service, |lane| lane.passed)
    }

    /// Waits until a projection has folded `position`; false when it has not within `timeout`.
    pub async fn wait_for(&self, projection: &str, position: Position, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut pause = POLL.0;
        loop {
            let Some((told, key)) = self.wait(projection, position) else { return true };
            let until = deadline.min(Instant::now() + pause);
            if matches!(tokio::time::timeout_at(until, told).await, Ok(Ok(()))) {
                return true;
            }
            self.lanes.with(projection, position.service, |lane| lane.waiting.remove(&key));
            let asked = tokio::time::timeout_at(deadline, self.checkpoint(projection, position.service)).await;
            if asked.is_ok_and(|sequence| sequence >= Some(position.sequence)) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// A place among those who wait, with its key; `None` when there is nothing to wait for.
    fn wait(&self, projection: &str, position: Position) -> Option<(oneshot::Receiver<()>, (u64, u64))> {
        let key = (position.sequence, self.asked.fetch_add(1, Ordering::Relaxed));
        self.lanes.with(projection, position.service, |lane| {
            if lane.passed >= Some(position.sequence) {
                return None;
            }
            let (sender, told) = oneshot::channel();
            lane.waiting.insert(key, sender);
            Some((told, key))
        })
    }

    async fn checkpoint(&self, projection: &str, service: Service) -> Option<u64> {
        let select = format!("SELECT sequence FROM {projection}.checkpoint WHERE service = $1");
        let unread =
            |error: &dyn std::fmt::Display| tracing::debug!(projection, %error, "the checkpoint cannot be read");
        let mut connection = self.reader.read(&Scope::default()).await.inspect_err(|error| unread(error)).ok()?;
        let asked = sqlx::query_scalar(AssertSqlSafe(select)).bind(service.name()).fetch_optional(&mut *connection);
        asked.await.inspect_err(|error| unread(error)).ok()?.map(|sequence: i64| sequence.unsigned_abs())
    }
}

impl Lane {
    // Not the maximum: after a log was replaced, sequences start again.
    fn pass(&mut self, position: Position) {
        self.passed = Some(position.sequence);
        let behind = self.waiting.split_off(&(position.sequence.saturating_add(1), 0));
        for (_, waiter) in std::mem::replace(&mut self.waiting, behind) {
            // Whoever does not wait any more needs no news.
            _ = waiter.send(());
        }
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
