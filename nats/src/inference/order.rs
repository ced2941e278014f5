//! What every inference process is told to do with its models, and answers for itself.

use std::time::Duration;

use async_nats::{StatusCode, SubscribeError};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::{Census, ORDERS};

/// Something to do with the models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Order {
    /// Look at it anew, and forget which files could not be used.
    Rescan,
    /// Delete a model's file, if it is this one.
    Remove {
        /// The model's id.
        model: String,
        /// SHA-256 of the file, hexadecimal.
        digest: String,
        /// Seconds since 1970: a file that was changed later stays.
        before: u64,
    },
    /// Leave these models in memory, and no others, however long nobody asks and whatever needs the room.
    Pin {
        /// Their ids, sorted.
        models: Vec<String>,
    },
}

/// How an order was carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The process.
    pub worker: String,
    /// Models of its directory.
    pub models: usize,
    /// Why it could not be.
    pub error: Option<String>,
}

impl Census {
    /// Orders every process, and gives what they answer within a time.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn order(&self, order: &Order, within: Duration) -> Result<Vec<Done>, SubscribeError> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await?;
        let payload = serde_json::to_vec(order).unwrap_or_default();
        if self.client.publish_with_reply(ORDERS, inbox, payload.into()).await.is_err() {
            return Ok(Vec::new());
        }
        let mut done: Vec<Done> = Vec::new();
        let hear = async {
            while let Some(answer) = answers.next().await {
                if answer.status == Some(StatusCode::NO_RESPONDERS) {
                    return;
                }
                done.extend(serde_json::from_slice::<Done>(&answer.payload));
                let has_answered = |worker: &String| done.iter().any(|done| done.worker == *worker);
                if self.workers().iter().all(|status| has_answered(&status.worker)) {
                    return;
                }
            }
        };
        // Who has not answered by then is left out.
        let _ = tokio::time::timeout(within, hear).await;
        Ok(done)
    }
}
