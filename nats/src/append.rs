//! Appending commits to an event stream: each on its own as long as few are under way, as one atomic batch of different
//! aggregates when commits queue up behind a broker that syncs (group commit, DESIGN §3).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use serde::Deserialize;
use symbia_events::Service;
use tokio::sync::{Semaphore, mpsc, oneshot};
use uuid::Uuid;

use crate::telemetry::{self, metrics::Histogram};

/// Most messages of one group: beyond it the gain is small and a conflict costs more (notes: 64 → 16 600 events/s).
const GROUP: usize = 128;

/// Commits that are under way on their own at most, and from how many that wait they go together: a batch costs the broker as
/// much as syncing some ten messages, and a busy machine more.
const ALONE: usize = 16;
const TOGETHER: usize = 32;

/// How long a group waits for more while commits come side by side: each costs the broker the same few milliseconds,
/// whatever its size.
const GATHER: Duration = Duration::from_millis(3);

/// One message to append.
#[derive(Clone, Debug)]
pub struct Append {
    /// Subject.
    pub subject: String,
    /// `Nats-Msg-Id`.
    pub message_id: String,
    /// Sequence of the subject's last message as the decider saw it; 0 = there is none.
    pub expected: u64,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Body.
    pub payload: Bytes,
}

/// Why an append did not happen, or may not have.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The subject has a newer message than expected. Nothing was stored, or this very message had been before.
    #[error("the aggregate has moved on")]
    Conflict,
    /// No answer: it may or may not be stored. Repeat it with the same message id.
    #[error("the event log does not answer: {0}")]
    Unavailable(String),
    /// The broker refused for good.
    #[error("the event log refused the append: {description} ({code})")]
    Refused {
        /// JetStream error code.
        code: u64,
        /// Its text.
        description: String,
    },
}

/// When the broker acknowledges an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// Group concurrent commits: right where each acknowledged write is synced.
    Group,
    /// Append each on its own, many in flight: right where syncing is by interval.
    Single,
}

struct Metrics {
    groups: Histogram<u64>,
    seconds: Histogram<f64>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    groups: telemetry::meter()
        .u64_histogram("symbia.append.group.size")
        .with_description("Commits that were appended together")
        .with_boundaries(vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
        .build(),
    seconds: telemetry::seconds("symbia.append.duration", "Time of an append, from the broker's receipt"),
});

// Counts an append of so many commits.
fn measured(commits: usize, since: Instant) {
    METRICS.groups.record(commits as u64, &[]);
    METRICS.seconds.record(since.elapsed().as_secs_f64(), &[]);
}

type Reply = oneshot::Sender<Result<u64, AppendError>>;

struct Pending {
    messages: Vec<Append>,
    reply: Reply,
}

/// Appends commits. Cheap to clone.
#[derive(Clone)]
pub struct Appender {
    client: Client,
    grouping: Grouping,
    lanes: Arc<Mutex<HashMap<Service, mpsc::UnboundedSender<Pending>>>>,
}

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

const WRONG_LAST_SEQUENCE: u64 = 10071;
const REUSED_MESSAGE_ID: u64 = 10201;
const INSUFFICIENT_RESOURCES: [u64; 4] = [10023, 10047, 10077, 10210];

impl Appender {
    /// An appender over a connection.
    #[must_use]
    pub fn new(client: Client, grouping: Grouping) -> Self {
        Appender { client, grouping, lanes: Arc::default() }
    }

    /// Appends one commit, of one message or of several that stand or fall together. Returns the stream sequence of the
    /// first message.
    pub async fn append(&self, service: Service, messages: Vec<Append>) -> Result<u64, AppendError> {
        if let ([message], Grouping::Single) = (&messages[..], self.grouping) {
            let since = Instant::now();
            let appended = request(&self.client, message, headers(message)).await;
            measured(1, since);
            return appended;
        }
        let (reply, outcome) = oneshot::channel();
        let pending = Pending { messages, reply };
        if self.lane(service).send(pending).is_err() {
            return Err(AppendError::Unavailable("the appender has stopped".to_owned()));
        }
        outcome.await.unwrap_or_else(|_| Err(AppendError::Unavailable("the appender has stopped".to_owned())))
    }

    fn lane(&self, service: Service) -> mpsc::UnboundedSender<Pending> {
        let mut lanes = self.lanes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lane = lanes.entry(service).or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(run_lane(self.client.clone(), self.grouping, receiver));
            sender
        });
        lane.clone()
    }
}

// Few commits are appended side by side, each on its own. When more wait than that, they go together, one batch at a time, and
// what arrives meanwhile forms the next.
async fn run_lane(client: Client, grouping: Grouping, mut arrivals: mpsc::UnboundedReceiver<Pending>) {
    let (mut waiting, mut side_by_side) = (VecDeque::new(), false);
    let (limit, alone) = match grouping {
        Grouping::Group => (GROUP, Arc::new(Semaphore::new(ALONE))),
        Grouping::Single => (1, Arc::new(Semaphore::new(0))),
    };
    loop {
        if waiting.is_empty() {
            let Some(first) = arrivals.recv().await else { return };
            waiting.push_back(first);
        }
        if side_by_side && waiting.len() + arrivals.len() < limit {
            tokio::time::sleep(GATHER).await;
        }
        while let Ok(more) = arrivals.try_recv() {
            waiting.push_back(more);
        }
        side_by_side = waiting.len() >= TOGETHER;
        let several = grouping == Grouping::Single || waiting.iter().any(|pending| pending.messages.len() > 1);
        if side_by_side || several {
            commit_group(&client, take_group(&mut waiting, limit)).await;
            continue;
        }
        tokio::select! {
            biased;
            place = Arc::clone(&alone).acquire_owned() => {
                let (client, one) = (client.clone(), Vec::from_iter(waiting.pop_front()));
                tokio::spawn(async move {
                    commit_group(&client, one).await;
                    drop(place);
                });
            }
            Some(more) = arrivals.recv() => waiting.push_back(more),
        }
    }
}

// The longest run of commits that touch different subjects; a second commit of an aggregate waits for the next group.
fn take_group(waiting: &mut VecDeque<Pending>, limit: usize) -> Vec<Pending> {
    let (mut group, mut subjects, mut count): (Vec<Pending>, HashSet<String>, usize) = (Vec::new(), HashSet::new(), 0);
    while let Some(next) = waiting.front() {
        let full = count + next.messages.len() > limit && !group.is_empty();
        if full || next.messages.iter().any(|m| subjects.contains(&m.subject)) {
            break;
        }
        if let Some(next) = waiting.pop_front() {
            count += next.messages.len();
            subjects.extend(next.messages.iter().map(|m| m.subject.clone()));
            group.push(next);
        }
    }
    group
}

// One commit out of date rejects a whole group: halves are tried until it is alone.
async fn commit_group(client: &Client, group: Vec<Pending>) {
    let mut groups = vec![group];
    while let Some(mut group) = groups.pop() {
        let messages: Vec<&Append> = group.iter().flat_map(|pending| &pending.messages).collect();
        let since = Instant::now();
        match append_batch(client, &messages).await {
            Ok(mut first) => {
                measured(group.len(), since);
                for pending in group {
                    let next = first + pending.messages.len() as u64;
                    let _ = pending.reply.send(Ok(first));
                    first = next;
                }
            }
            Err(AppendError::Conflict | AppendError::Refused { .. }) if group.len() > 1 => {
                let second = group.split_off(group.len() / 2);
                groups.extend([second, group]);
            }
            Err(error) => {
                for pending in group {
                    let _ = pending.reply.send(Err(error.clone()));
                }
            }
        }
    }
}

async fn append_batch(client: &Client, messages: &[&Append]) -> Result<u64, AppendError> {
    let Some((last, before)) = messages.split_last() else {
        return Err(AppendError::Refused { code: 0, description: "an empty commit".to_owned() });
    };
    if before.is_empty() {
        return request(client, last, headers(last)).await;
    }
    let batch = Uuid::now_v7().to_string();
    for (index, message) in before.iter().enumerate() {
        let mut headers = headers(message);
        headers.insert("Nats-Batch-Id", batch.as_str());
        headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
        let sent = client.publish_with_headers(message.subject.clone(), headers, message.payload.clone()).await;
        sent.map_err(|e| AppendError::Unavailable(e.to_string()))?;
    }
    let count = messages.len() as u64;
    let mut headers = headers(last);
    headers.insert("Nats-Batch-Id", batch.as_str());
    headers.insert("Nats-Batch-Sequence", count.to_string());
    headers.insert("Nats-Batch-Commit", "1");
    Ok(request(client, last, headers).await? + 1 - count)
}

fn headers(message: &Append) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", message.message_id.as_str());
    headers.insert("Nats-Expected-Last-Subject-Sequence", message.expected.to_string());
    headers.insert("Content-Type", message.content_type);
    headers
}

async fn request(client: &Client, message: &Append, headers: HeaderMap) -> Result<u64, AppendError> {
    let reply = client.request_with_headers(message.subject.clone(), headers, message.payload.clone()).await;
    let reply = reply.map_err(|e| AppendError::Unavailable(e.to_string()))?;
    let ack: Ack = serde_json::from_slice(&reply.payload).map_err(|e| AppendError::Unavailable(e.to_string()))?;
    match ack.error {
        None => Ok(ack.seq),
        Some(e) if e.err_code == WRONG_LAST_SEQUENCE || e.err_code == REUSED_MESSAGE_ID => Err(AppendError::Conflict),
        Some(e) if INSUFFICIENT_RESOURCES.contains(&e.err_code) => {
            Err(AppendError::Unavailable(format!("{} ({})", e.description, e.err_code)))
        }
        Some(e) => Err(AppendError::Refused { code: e.err_code, description: e.description }),
    }
}
