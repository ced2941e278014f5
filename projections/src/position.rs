//! Read-your-writes: waiting until a projection has passed a place in the log (DESIGN §5).

use std::{collections::HashMap, time::Duration};

use futures::StreamExt;
use sqlx::AssertSqlSafe;
use symbia_events::{Position, Service};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::ReadPool;

/// Subject on which a projection tells its positions, as `<service>:<sequence>`.
#[must_use]
pub fn subject(projection: &str) -> String {
    format!("symbia.pos.{projection}")
}

/// Shortest and longest pause between looks at the checkpoint, when no news comes over the bus.
const POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

type Known = HashMap<(String, Service), u64>;

/// What is known of the positions of all projections, in whichever process they run.
#[derive(Debug)]
pub struct Positions {
    reader: ReadPool,
    known: watch::Receiver<Known>,
    listener: JoinHandle<()>,
}

impl Positions {
    /// Listens to the projections' news; the checkpoints are asked where news does not come.
    #[must_use]
    pub fn follow(client: async_nats::Client, reader: ReadPool) -> Self {
        let (sender, known) = watch::channel(Known::new());
        let listener = tokio::spawn(async move {
            let Ok(mut news) = client.subscribe("symbia.pos.>").await else { return };
            while let Some(message) = news.next().await {
                let projection = message.subject.strip_prefix("symbia.pos.").map(str::to_owned);
                let position = str::from_utf8(&message.payload).ok().and_then(|text| text.parse::<Position>().ok());
                if let (Some(projection), Some(position)) = (projection, position) {
                    // Not the maximum: after a log was replaced, sequences start again.
                    sender.send_modify(|known| _ = known.insert((projection, position.service), position.sequence));
                }
            }
        });
        Positions { reader, known, listener }
    }

    /// What a projection told last, if it told anything yet.
    #[must_use]
    pub fn latest(&self, projection: &str, service: Service) -> Option<u64> {
        self.known.borrow().get(&(projection.to_owned(), service)).copied()
    }

    /// Waits until a projection has folded `position`; false when it has not within `timeout`.
    pub async fn wait_for(&self, projection: &str, position: Position, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let key = (projection.to_owned(), position.service);
        let passed = |known: &Known| known.get(&key).is_some_and(|sequence| *sequence >= position.sequence);
        let mut known = self.known.clone();
        let mut pause = POLL.0;
        loop {
            let until = deadline.min(Instant::now() + pause);
            // Without the guard of what is known, which must not be held while waiting.
            let waited = tokio::time::timeout_at(until, known.wait_for(passed)).await.map(|known| known.is_ok());
            match waited {
                Ok(true) => return true,
                // Nobody listens any more: the checkpoints remain.
                Ok(false) => tokio::time::sleep_until(until).await,
                Err(_) => {}
            }
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

    async fn checkpoint(&self, projection: &str, service: Service) -> Option<u64> {
        let select = format!("SELECT sequence FROM {projection}.checkpoint WHERE service = $1");
        let asked = sqlx::query_scalar(AssertSqlSafe(select)).bind(service.name()).fetch_optional(self.reader.pool());
        match asked.await {
            Ok(sequence) => sequence.map(|sequence: i64| sequence.unsigned_abs()),
            Err(error) => {
                tracing::debug!(projection, %error, "the checkpoint cannot be read");
                None
            }
        }
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
