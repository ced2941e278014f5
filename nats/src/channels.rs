//! What the API asks the channel workers, who have the tokens: to take in what a messenger has just told, and how a connection
//! is doing. A request over core NATS with one reply; what is taken in is in the log before the reply is given.

use std::time::Duration;

use async_nats::Client;
use serde::{Deserialize, Serialize};

/// Where it is asked; the workers share it as one queue group.
pub const ASKED: &str = "symbia.channels.ask";
/// The queue group.
pub const GROUP: &str = "channels";

/// A question about a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// The connection.
    pub connection_id: String,
    /// What.
    pub what: What,
}

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The other side told this: a body, and its id where the body has none.
    Told {
        /// The body.
        body: String,
        /// Its id.
        id: Option<String>,
    },
    /// How the other side says that it is doing.
    Status,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It is taken in, or was before, or is nothing that is taken in.
    Taken,
    /// It is no body that such a messenger sends.
    Malformed,
    /// So much was told lately that it is not taken in.
    Flooded {
        /// Until something is taken in again, in seconds.
        seconds: u64,
    },
    /// How the connection is doing now.
    Status {
        /// What is wrong, as a code.
        error: Option<String>,
    },
    /// It could not be found out, or taken in: ask again.
    Unavailable,
}

/// No worker answered.
#[derive(Debug, thiserror::Error)]
#[error("no channel worker answers: {0}; start one with `symbia work --roles channels`")]
pub struct Unanswered(String);

impl Question {
    /// Asks, and waits for so long.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn ask(&self, client: &Client, within: Duration) -> Result<Said, Unanswered> {
        let payload = serde_json::to_vec(self).map_err(|e| Unanswered(e.to_string()))?;
        let request = async_nats::Request::new().payload(payload.into()).timeout(Some(within));
        let reply = client.send_request(ASKED, request).await.map_err(|e| Unanswered(e.to_string()))?;
        serde_json::from_slice(&reply.payload).map_err(|e| Unanswered(e.to_string()))
    }
}
