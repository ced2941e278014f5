//! What the service tells without being asked: a stream of notifications, each a line for the program.

use std::{sync::Arc, time::Duration};

use reqwest::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;

use super::Door;

/// Pause before the stream is opened again, and until there is a session.
const AGAIN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// Longest notification.
const MOST: usize = 1024 * 1024;

/// Why nothing more is heard.
enum Over {
    /// The stream ended, or was not opened: it is opened again.
    Stream,
    /// The session has.
    Session,
    /// The program has gone.
    Program,
}

impl Door {
    /// Passes notifications on until the program has gone. Where the stream is not to be had, the program hears nothing and is
    /// answered all the same.
    pub(super) async fn hear(self: Arc<Self>, told: mpsc::Sender<String>) {
        loop {
            let Some(session) = self.session() else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            match self.hear_in(&session, &told).await {
                Over::Program => return,
                Over::Session => {
                    if let Err(error) = self.begin_anew(&session).await {
                        tracing::debug!(%error, "no other session begins");
                    }
                }
                Over::Stream => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn hear_in(&self, session: &str, told: &mpsc::Sender<String>) -> Over {
        let request = self.dressed(self.http.get(&self.url), Some(session)).header("accept", "text/event-stream");
        match request.send().await {
            Ok(stream) if stream.status().is_success() => pass(stream, told).await,
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => Over::Session,
            Ok(answer) => {
                tracing::debug!(status = answer.status().as_u16(), "notifications are not heard");
                Over::Stream
            }
            Err(error) => {
                tracing::debug!(%error, "notifications are not heard");
                Over::Stream
            }
        }
    }
}

async fn pass(mut stream: Response, told: &mpsc::Sender<String>) -> Over {
    let mut rest = Vec::new();
    while let Ok(Some(piece)) = stream.chunk().await {
        rest.extend_from_slice(&piece);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let Some(message) = message(&line) else { continue };
            if told.send(message).await.is_err() {
                return Over::Program;
            }
        }
        if rest.len() > MOST {
            return Over::Stream;
        }
    }
    Over::Stream
}

// The service's events have one line of data each; what is none is a comment or a name.
fn message(line: &[u8]) -> Option<String> {
    let data = line.strip_prefix(b"data:")?;
    let message: Value = serde_json::from_slice(data.trim_ascii()).ok()?;
    (message["jsonrpc"] == "2.0").then(|| message.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_data_is_a_message_and_nothing_else_is() {
        let told = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
        assert_eq!(message(format!("data: {told}\r\n").as_bytes()).as_deref(), Some(told));
        for line in ["event: message\n", ": alive\n", "\n", "data: {}\n", "data: x\n"] {
            assert_eq!(message(line.as_bytes()), None, "{line}");
        }
    }
}
