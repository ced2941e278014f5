//! Reading from a stream by JetStream's direct get: a message, the last of a subject, or the tail from a sequence.

use async_nats::{Client, HeaderMap, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A stored message.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Stream sequence.
    pub sequence: u64,
    /// Subject.
    pub subject: String,
    /// Body.
    pub payload: Bytes,
}

/// The stream could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the stream {stream} cannot be read: {reason}")]
pub struct ReadError {
    stream: String,
    reason: String,
}

/// Messages per batched get.
const BATCH: usize = 256;

/// The message with a sequence; a replica that is behind has none yet.
pub async fn at(client: &Client, stream: &str, sequence: u64) -> Result<Option<Stored>, ReadError> {
    let query = json!({ "seq": sequence }).to_string();
    one(client, stream, format!("$JS.API.DIRECT.GET.{stream}"), query.into()).await
}

/// The last message of a subject.
pub async fn last(client: &Client, stream: &str, subject: &str) -> Result<Option<Stored>, ReadError> {
    one(client, stream, format!("$JS.API.DIRECT.GET.{stream}.{subject}"), Bytes::new()).await
}

async fn one(client: &Client, stream: &str, api: String, query: Bytes) -> Result<Option<Stored>, ReadError> {
    let fail = |reason: String| ReadError { stream: stream.to_owned(), reason };
    let reply = client.request(api, query).await.map_err(|e| fail(e.to_string()))?;
    match reply.status {
        None | Some(StatusCode::OK) => stored(reply.headers.as_ref(), reply.payload)
            .map(Some)
            .ok_or_else(|| fail("no sequence in the answer".to_owned())),
        Some(StatusCode::NOT_FOUND) => Ok(None),
        Some(status) => Err(fail(status.to_string())),
    }
}

/// All messages of a subject from stream sequence `from` on, in order.
pub async fn tail(client: &Client, stream: &str, subject: &str, from: u64) -> Result<Vec<Stored>, ReadError> {
    let mut messages = Vec::new();
    let mut next = Some(json!({ "seq": from.max(1) }));
    while let Some(start) = next {
        next = page(client, stream, subject, start, &mut messages).await?;
    }
    Ok(messages)
}

/// The first message of a subject, stored at `since` or later, that satisfies.
pub async fn find(
    client: &Client,
    stream: &str,
    subject: &str,
    since: OffsetDateTime,
    satisfies: impl Fn(&Stored) -> bool,
) -> Result<Option<Stored>, ReadError> {
    let since = since.format(&Rfc3339).map_err(|e| ReadError { stream: stream.to_owned(), reason: e.to_string() })?;
    let mut next = Some(json!({ "start_time": since }));
    while let Some(start) = next {
        let mut messages = Vec::new();
        next = page(client, stream, subject, start, &mut messages).await?;
        if let Some(found) = messages.into_iter().find(&satisfies) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

// Adds the messages of one batch; where the next begins, when there is one.
async fn page(
    client: &Client,
    stream: &str,
    subject: &str,
    start: Value,
    messages: &mut Vec<Stored>,
) -> Result<Option<Value>, ReadError> {
    let fail = |reason: String| ReadError { stream: stream.to_owned(), reason };
    let mut query = start;
    query["next_by_subj"] = subject.into();
    query["batch"] = BATCH.into();
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.map_err(|e| fail(e.to_string()))?;
    let api = format!("$JS.API.DIRECT.GET.{stream}");
    client.publish_with_reply(api, inbox, query.to_string().into()).await.map_err(|e| fail(e.to_string()))?;
    let (mut pending, mut next) = (0, None);
    loop {
        let wait = tokio::time::timeout(std::time::Duration::from_secs(5), replies.next());
        let reply = wait.await.map_err(|_| fail("no answer within 5 s".to_owned()))?;
        let reply = reply.ok_or_else(|| fail("the connection closed".to_owned()))?;
        match reply.status {
            None | Some(StatusCode::OK) => {
                pending = number(reply.headers.as_ref(), "Nats-Num-Pending").unwrap_or(0);
                let message = stored(reply.headers.as_ref(), reply.payload);
                let message = message.ok_or_else(|| fail("no sequence in the answer".to_owned()))?;
                next = Some(json!({ "seq": message.sequence + 1 }));
                messages.push(message);
            }
            // 204 ends a batch, 404 says that there is nothing from there on.
            Some(StatusCode::NO_RESPONDERS) => return Err(fail("the broker has no JetStream".to_owned())),
            Some(status) if status.as_u16() == 204 || status == StatusCode::NOT_FOUND => break,
            Some(status) => return Err(fail(status.to_string())),
        }
    }
    Ok(next.filter(|_| pending > 0))
}

fn stored(headers: Option<&HeaderMap>, payload: Bytes) -> Option<Stored> {
    let subject = headers?.get("Nats-Subject")?.to_string();
    Some(Stored { sequence: number(headers, "Nats-Sequence")?, subject, payload })
}

fn number(headers: Option<&HeaderMap>, name: &str) -> Option<u64> {
    headers?.get(name)?.as_str().parse().ok()
}
