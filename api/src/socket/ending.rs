//! Sending to a client, and ending its connection from our side.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use socketioxide::{SendError, SocketError, extract::SocketRef};

/// Pause before a client that takes nothing is asked again to go.
const AGAIN: Duration = Duration::from_millis(100);

/// Why something was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The client takes things too slowly: its queue is full.
    #[error("the client's queue is full")]
    Slow,
    /// There is no connection any more.
    #[error("the client has gone")]
    Gone,
}

/// Puts an event into a client's queue. A tuple stands for several arguments.
///
/// # Errors
/// The queue is full, or the client has gone.
pub fn emit<T: Serialize + ?Sized>(socket: &SocketRef, event: &str, data: &T) -> Result<(), NotSent> {
    match socket.emit(event, data) {
        Ok(()) => Ok(()),
        Err(SendError::Socket(SocketError::InternalChannelFull)) => Err(NotSent::Slow),
        Err(SendError::Socket(SocketError::Closed)) => Err(NotSent::Gone),
        Err(SendError::Serialize(error)) => {
            tracing::error!(event, %error, "an event cannot be written");
            Ok(())
        }
    }
}

/// Ends a connection. What waits for the client goes first, then a `close` event that says why, so that it knows all it was
/// sent and where to go on. One that takes nothing more is ended by the missing sign of life.
pub fn end(socket: SocketRef, code: u16, reason: &'static str) {
    tokio::spawn(async move {
        let mut told = false;
        while socket.connected() {
            told = told || emit(&socket, "close", &json!({ "code": code, "reason": reason })).is_ok();
            if told && socket.clone().disconnect().is_ok() {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
    });
}
