//! Reading single subjects of a stream by JetStream's direct get: the last message, or the tail from a sequence.

use async_nats::{Client, HeaderMap, StatusCode};
use bytes::Bytes;
use futures::StreamExt;

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

/// The last message of a subject.
pub async fn last(client: &Client, stream: &str, subject: &str) -> Result<Option<Stored>, ReadError> {
    let api = format!("$JS.API.DIRECT.GET.{stream}.{subject}");
    let fail = |reason: String| ReadError { stream: stream.to_owned(), reason };
    let reply = client.request(api, Bytes::new()).await.map_err(|e| fail(e.to_string()))?;
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
    let fail = |reason: String| ReadError { stream: stream.to_owned(), reason };
    let mut messages: Vec<Stored> = Vec::new();
    let mut next = from.max(1);
    loop {
        let query = serde_json::json!({ "seq": next, "next_by_subj": subject, "batch": BATCH });
        let inbox = client.new_inbox();
        let mut replies = client.subscribe(inbox.clone()).await.map_err(|e| fail(e.to_string()))?;
        let api = format!("$JS.API.DIRECT.GET.{stream}");
        client.publish_with_reply(api, inbox, query.to_string().into()).await.map_err(|e| fail(e.to_string()))?;
        let mut pending = 0;
        loop {
            let wait = tokio::time::timeout(std::time::Duration::from_secs(5), replies.next());
            let reply = wait.await.map_err(|_| fail("no answer within 5 s".to_owned()))?;
            let reply = reply.ok_or_else(|| fail("the connection closed".to_owned()))?;
            match reply.status {
                None | Some(StatusCode::OK) => {
                    pending = number(reply.headers.as_ref(), "Nats-Num-Pending").unwrap_or(0);
                    let message = stored(reply.headers.as_ref(), reply.payload);
                    let message = message.ok_or_else(|| fail("no sequence in the answer".to_owned()))?;
                    next = message.sequence + 1;
                    messages.push(message);
                }
                // 204 ends a batch, 404 says that there is nothing from `next` on.
                Some(StatusCode::NO_RESPONDERS) => return Err(fail("the broker has no JetStream".to_owned())),
                Some(status) if status.as_u16() == 204 || status == StatusCode::NOT_FOUND => break,
                Some(status) => return Err(fail(status.to_string())),
            }
        }
        if pending == 0 {
            return Ok(messages);
        }
    }
}

fn stored(headers: Option<&HeaderMap>, payload: Bytes) -> Option<Stored> {
    let subject = headers?.get("Nats-Subject")?.to_string();
    Some(Stored { sequence: number(headers, "Nats-Sequence")?, subject, payload })
}

fn number(headers: Option<&HeaderMap>, name: &str) -> Option<u64> {
    headers?.get(name)?.as_str().parse().ok()
}
