//! Reading a service's event stream in order: projections, replay, audit and live feeds stand on this.

use std::{fmt, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, Context, Message,
        consumer::{AckPolicy, DeliverPolicy, pull},
        context::GetStreamErrorKind,
    },
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use symbia_events::Service;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{task::coop::unconstrained, time::Instant};

/// Header of a message that was brought in from an export: when the broker that it came from stored it (RFC 3339).
pub const STORED_AT_HEADER: &str = "Symbia-Stored-At";

/// Messages that one pull asks the broker for; the next pull goes out when half of them are here.
const PULL: usize = 4096;
/// Bytes that one pull asks for, so that a run of large messages does not fill the memory.
const PULL_BYTES: usize = 16 << 20;
/// A lost broker is noticed after two of these.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Shortest and longest pause before the broker is asked again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A stored message of an event stream: one commit (DESIGN §3).
#[derive(Clone, Debug)]
pub struct LogMessage {
    /// Its place in the stream, from 1.
    pub sequence: u64,
    /// Subject it was stored under.
    pub subject: String,
    /// The commit, as [`symbia_events::commit::encode`] wrote it; not verified.
    pub payload: Bytes,
    /// When the broker stored it, wherever it was then.
    pub stored_at: OffsetDateTime,
    /// `Nats-Msg-Id`: the commit id.
    pub message_id: Option<String>,
}

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The stream does not exist (yet).
    #[error("there is no stream {0}: has `symbia up` or `symbia migrate` created the streams on this broker?")]
    NoStream(String),
    /// The broker does not answer; reading again continues where it stopped.
    #[error("the log cannot be read: {0}; it is read on as soon as the broker answers")]
    Unavailable(String),
    /// Messages that the stream once held are gone. Reading again continues behind the gap.
    #[error("{stream} has a gap: {expected} to {} are missing; run `symbia audit verify`", found - 1)]
    Gap {
        /// The stream.
        stream: String,
        /// First missing sequence.
        expected: u64,
        /// First sequence behind the gap.
        found: u64,
    },
    /// The stream ends before the position to read from: it is another log, or its tail was lost.
    #[error("{stream} ends at {last}, before position {after}: this broker holds an older or another log")]
    Ahead {
        /// The stream.
        stream: String,
        /// Where reading was to continue.
        after: u64,
        /// Last sequence of the stream.
        last: u64,
    },
}

/// First and last sequence of a service's event stream; (1, 0) or (n+1, n) when it is empty.
pub async fn head(jetstream: &Context, service: Service) -> Result<(u64, u64), LogError> {
    let stream = stream(jetstream, service).await?;
    let state = &stream.cached_info().state;
    Ok((state.first_sequence, state.last_sequence))
}

async fn stream(jetstream: &Context, service: Service) -> Result<jetstream::stream::Stream, LogError> {
    let name = service.event_stream();
    jetstream.get_stream(&name).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(e) if e.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND => {
            LogError::NoStream(name)
        }
        _ => LogError::Unavailable(error.to_string()),
    })
}

/// Reads one service's event stream in order, each message once, across reconnects and broker restarts.
#[derive(Debug)]
pub struct LogReader {
    jetstream: Context,
    service: Service,
    filters: Vec<String>,
    after: u64,
    pending: u64,
    feed: Option<Feed>,
    held: Held,
}

struct Feed {
    messages: Box<pull::Stream>,
    delivered: u64,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("delivered", &self.delivered).finish_non_exhaustive()
    }
}

/// A message behind a gap waits until the gap has been told.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Gap(LogMessage),
    Told(LogMessage),
}

impl LogReader {
    /// Reads what stands behind sequence `after` (0 = from the start), of the given subjects or of all when there are none.
    /// Gaps are detected when all subjects are read.
    pub async fn open(
        jetstream: Context,
        service: Service,
        after: u64,
        filter_subjects: Vec<String>,
    ) -> Result<Self, LogError> {
        let filters = filter_subjects;
        let mut reader = LogReader { jetstream, service, filters, after, pending: 0, feed: None, held: Held::Nothing };
        reader.connect().await?;
        Ok(reader)
    }

    /// Sequence of the last message given.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.after
    }

    /// How many messages stood behind the last one given when the broker sent it; at first, how many there are to read.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// What has arrived, at most `max` messages: waits up to `wait` for the first and for no other. Empty = nothing came.
    ///
    /// A lost broker is waited for; [`LogError::Unavailable`] says that it was away for all of `wait`. After any error the
    /// next call continues where this one stopped.
    pub async fn next_batch(&mut self, max: usize, wait: Duration) -> Result<Vec<LogMessage>, LogError> {
        let deadline = Instant::now() + wait;
        let mut pause = BACKOFF.0;
        loop {
            if let Some(batch) = self.take_held()? {
                return Ok(batch);
            }
            let failed = match self.connected(deadline).await {
                Ok(()) => self.receive(max, deadline).await,
                Err(LogError::Unavailable(reason)) => Err(reason),
                Err(error) => return Err(error),
            };
            match failed {
                Ok(Some(batch)) => return Ok(batch),
                Ok(None) => {}
                Err(reason) => {
                    self.feed = None;
                    if Instant::now() + pause >= deadline {
                        tokio::time::sleep_until(deadline).await;
                        return Err(LogError::Unavailable(reason));
                    }
                    tracing::debug!(service = %self.service, after = self.after, reason, "reading the log again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    fn take_held(&mut self) -> Result<Option<Vec<LogMessage>>, LogError> {
        match std::mem::take(&mut self.held) {
            Held::Nothing => Ok(None),
            Held::Gap(message) => {
                let (expected, found) = (self.after + 1, message.sequence);
                self.held = Held::Told(message);
                Err(LogError::Gap { stream: self.service.event_stream(), expected, found })
            }
            Held::Told(message) => {
                self.after = message.sequence;
                Ok(Some(vec![message]))
            }
        }
    }

    async fn connected(&mut self, deadline: Instant) -> Result<(), LogError> {
        if self.feed.is_some() {
            return Ok(());
        }
        let late = |_| LogError::Unavailable("the broker does not answer".to_owned());
        tokio::time::timeout_at(deadline, self.connect()).await.map_err(late)?
    }

    async fn connect(&mut self) -> Result<(), LogError> {
        let stream = stream(&self.jetstream, self.service).await?;
        let last = stream.cached_info().state.last_sequence;
        if last < self.after {
            return Err(LogError::Ahead { stream: self.service.event_stream(), after: self.after, last });
        }
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.after + 1 },
            ack_policy: AckPolicy::None,
            filter_subjects: self.filters.clone(),
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let unavailable = |e: &dyn std::fmt::Display| LogError::Unavailable(e.to_string());
        let consumer = stream.create_consumer(config).await.map_err(|e| unavailable(&e))?;
        self.pending = consumer.cached_info().num_pending;
        let messages = consumer
            .stream()
            .max_messages_per_batch(PULL)
            .max_bytes_per_batch(PULL_BYTES)
            .expires(HEARTBEAT * 10)
            .heartbeat(HEARTBEAT)
            .messages();
        let messages = Box::new(messages.await.map_err(|e| unavailable(&e))?);
        self.feed = Some(Feed { messages, delivered: 0 });
        Ok(())
    }

    /// `Ok(None)`: look at what is held. The error is the reason why the feed must be made anew.
    async fn receive(&mut self, max: usize, deadline: Instant) -> Result<Option<Vec<LogMessage>>, String> {
        let Some(feed) = &mut self.feed else { return Ok(None) };
        let mut batch = Vec::new();
        let Ok(first) = tokio::time::timeout_at(deadline, feed.messages.next()).await else {
            return Ok(Some(batch));
        };
        let mut next = Some(first);
        while let Some(item) = next {
            let message = match item.transpose().map_err(|e| e.to_string()).and_then(|m| m.ok_or_else(ended)) {
                Ok(message) => message,
                Err(reason) if batch.is_empty() => return Err(reason),
                Err(_) => {
                    self.feed = None;
                    break;
                }
            };
            let info = message.info().map_err(|e| e.to_string())?;
            let (sequence, delivered) = (info.stream_sequence, info.consumer_sequence);
            if delivered != feed.delivered + 1 || sequence <= self.after {
                // The connection dropped something; the log itself is whole.
                self.feed = None;
                if batch.is_empty() {
                    return Err("the connection dropped messages".to_owned());
                }
                break;
            }
            let (pending, stored_at) = (info.pending, info.published);
            feed.delivered = delivered;
            self.pending = pending;
            let message = stored(message, sequence, stored_at);
            if self.filters.is_empty() && sequence != self.after + 1 {
                self.held = Held::Gap(message);
                break;
            }
            self.after = sequence;
            batch.push(message);
            if batch.len() >= max {
                break;
            }
            // Without a budget: the drain stops by itself at what has arrived.
            next = unconstrained(feed.messages.next()).now_or_never();
        }
        Ok((!batch.is_empty()).then_some(batch))
    }
}

fn ended() -> String {
    "the broker ended the subscription".to_owned()
}

fn stored(message: Message, sequence: u64, stored_at: OffsetDateTime) -> LogMessage {
    let (message, _) = message.split();
    let message_id = message.headers.as_ref().and_then(|h| h.get(async_nats::header::NATS_MESSAGE_ID));
    LogMessage {
        sequence,
        message_id: message_id.map(ToString::to_string),
        subject: message.subject.to_string(),
        payload: message.payload,
        stored_at: message.headers.as_ref().and_then(first_stored).unwrap_or(stored_at),
    }
}

/// When a message was first stored, where it was brought in from elsewhere.
#[must_use]
pub fn first_stored(headers: &HeaderMap) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(headers.get(STORED_AT_HEADER)?.as_str(), &Rfc3339).ok()
}
