//! Acknowledges commands together and a moment late. The broker then takes a burst in one go, and its queue does not run
//! empty between two commands: each time it does, it removes a file and makes a new one, in the way of the next command.

use std::time::Duration;

use async_nats::{Client, Subject};
use tokio::sync::mpsc;

/// What is done within this time is acknowledged together.
const TOGETHER: Duration = Duration::from_millis(10);
/// The last command is acknowledged after this time without another.
const ALONE: Duration = Duration::from_millis(200);

/// Takes the reply subjects of commands that are done.
pub(super) type Done = mpsc::UnboundedSender<Subject>;

/// Acknowledges what comes, and all that is left when nobody sends any more. An acknowledgement that gets lost costs a
/// redelivery, which is recognised.
pub(super) async fn run(client: Client, mut done: mpsc::UnboundedReceiver<Subject>) {
    let mut held = Vec::new();
    loop {
        let next = if held.is_empty() {
            done.recv().await
        } else if let Ok(next) = tokio::time::timeout(ALONE, done.recv()).await {
            next
        } else {
            acknowledge(&client, held.drain(..)).await;
            continue;
        };
        let Some(next) = next else { break };
        held.push(next);
        tokio::time::sleep(TOGETHER).await;
        while let Ok(next) = done.try_recv() {
            held.push(next);
        }
        acknowledge(&client, held.drain(..held.len() - 1)).await;
    }
    acknowledge(&client, held.drain(..)).await;
}

async fn acknowledge(client: &Client, held: impl Iterator<Item = Subject>) {
    for reply in held {
        if let Err(error) = client.publish(reply, bytes::Bytes::new()).await {
            tracing::warn!(%error, "command not acknowledged; it will come again and be recognised");
        }
    }
}
