//! The requests that this process works on: who stops one, or waits until it is over, finds it here; other processes ask for it
//! over the connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{Client, SubscribeError};
use futures::StreamExt;
use moka::sync::Cache;
use symbia_events::{KeyRing, Signed, check_token, commit};
use tokio_util::sync::CancellationToken;

/// Where a running completion can be cancelled at once: `symbia.live.<tenant>.cancel.<requestId>`.
const CANCEL: &str = "symbia.live.*.cancel.*";
const EVENTS: &str = "symbia.stored.integrations.*.completion.*";
const CANCELLED: &[u8] = b"symbia.integrations.completion.completion-cancelled.v1";
/// Where a router says whether it works on a request, behind its name.
const WORKS_ON: &str = "symbia.gateway.router.";
const YES: &[u8] = b"yes";
/// How long another router may take to say so.
const SAYS_WITHIN: Duration = Duration::from_secs(2);
/// Those that are over are remembered until the log has told of them.
const REMEMBERED: Duration = Duration::from_secs(120);
const MOST_REMEMBERED: u64 = 200_000;

/// The requests. Cheap to clone.
#[derive(Clone)]
pub(super) struct Running {
    client: Client,
    tasks: Arc<Mutex<HashMap<String, Task>>>,
    done: Cache<String, ()>,
}

#[derive(Clone, Default)]
struct Task {
    cancelled: CancellationToken,
    over: CancellationToken,
}

/// A request that is worked on until this is dropped.
pub(super) struct Registered {
    running: Running,
    id: String,
    task: Task,
}

impl Running {
    /// Hears from now on what is cancelled, and who asks for this worker's requests.
    pub async fn open(client: &Client, keys: &Arc<KeyRing>, worker: &str) -> Result<Self, SubscribeError> {
        let done = Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED).build();
        let running = Running { client: client.clone(), tasks: Arc::default(), done };
        // Events are told when they are stored, beside any consumer: the quickest notice there is.
        for subject in [CANCEL, EVENTS] {
            let (mut notices, running) = (client.subscribe(subject).await?, running.clone());
            let keys = Arc::clone(keys);
            tokio::spawn(async move {
                while let Some(notice) = notices.next().await {
                    if subject == EVENTS && !is_cancellation(&keys, &notice.payload) {
                        continue;
                    }
                    if let Some(task) = running.task(notice.subject.rsplit('.').next().unwrap_or_default()) {
                        task.cancelled.cancel();
                    }
                }
            });
        }
        let (mut questions, answering) = (client.subscribe(format!("{WORKS_ON}{worker}")).await?, running.clone());
        tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                let Some(reply) = question.reply else { continue };
                let here = std::str::from_utf8(&question.payload).is_ok_and(|id| answering.task(id).is_some());
                let answer = if here { YES } else { b"no" };
                let _ = answering.client.publish(reply, answer.into()).await;
            }
        });
        Ok(running)
    }

    fn task(&self, id: &str) -> Option<Task> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Begins with a request; none when it is worked on here already.
    pub fn begin(&self, id: &str) -> Option<Registered> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.contains_key(id) {
            return None;
        }
        let task = Task::default();
        tasks.insert(id.to_owned(), task.clone());
        Some(Registered { running: self.clone(), id: id.to_owned(), task })
    }

    /// Begins with a request when nobody here works on it any more; none when it came to its end here.
    pub async fn begin_after(&self, id: &str) -> Option<Registered> {
        loop {
            if self.done.contains_key(id) {
                return None;
            }
            match (self.begin(id), self.task(id)) {
                (Some(registered), _) => return Some(registered),
                (None, Some(task)) => task.over.cancelled().await,
                (None, None) => {}
            }
        }
    }

    /// Whether another worker is there, and works on a request.
    pub async fn works_elsewhere(&self, worker: &str, id: &str) -> bool {
        if check_token(worker).is_err() {
            return false;
        }
        let question = self.client.request(format!("{WORKS_ON}{worker}"), id.to_owned().into());
        matches!(tokio::time::timeout(SAYS_WITHIN, question).await, Ok(Ok(answer)) if answer.payload.as_ref() == YES)
    }
}

impl Registered {
    /// Cancelled when somebody stops it.
    pub fn cancelled(&self) -> CancellationToken {
        self.task.cancelled.clone()
    }

    /// It came to its end, or needs nothing more.
    pub fn done(self) {
        self.running.done.insert(self.id.clone(), ());
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.running.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.task.over.cancel();
    }
}

// A look at the bytes first: of most events nothing is wanted here.
fn is_cancellation(keys: &KeyRing, payload: &[u8]) -> bool {
    let named = memchr::memmem::find(payload, CANCELLED).is_some();
    let is_it = |signed: &Signed| signed.event.event_type.as_bytes() == CANCELLED;
    named && commit::decode(keys, payload).is_ok_and(|events| events.iter().any(is_it))
}
