//! The queue of jobs (DESIGN §3): work that follows from an event, for workers that do nothing else. A job holds its event's place in
//! the log, and no more: whoever takes it reads the event itself, and verifies it.

use async_nats::{
    HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{Context, context::PublishError},
};
use symbia_events::{AggregateRef, Position};

/// Lines of batches that a model is to be asked for.
pub const BATCH_LINE: &str = "batch-line";

/// Subjects of all jobs of a kind.
#[must_use]
pub fn subjects(kind: &str) -> String {
    format!("symbia.job.{kind}.>")
}

/// Puts a job for an event of an aggregate into the queue; once, though it is handed on several times within two minutes.
///
/// # Errors
/// The broker has not stored it.
pub async fn hand_on(js: &Context, kind: &str, of: &AggregateRef, at: Position) -> Result<(), PublishError> {
    let subject = format!("symbia.job.{kind}.{}.{}", of.tenant, of.id);
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, format!("{kind}/{at}"));
    js.publish_with_headers(subject, headers, at.to_string().into()).await?.await.map(|_| ())
}
