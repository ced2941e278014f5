//! What is not stored: token deltas, typing, presence, as they pass on core NATS. It cannot be read again, so a follower that
//! takes it too slowly is cut rather than given a silent gap.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_nats::{Client, Message, SubscribeError};
use bytes::Bytes;
use futures::StreamExt;
use symbia_events::OrgId;
use tokio::{sync::mpsc, task::JoinHandle};

/// The queue holds so many messages and bytes.
const MESSAGES: usize = 256;
const BYTES: usize = 1 << 20;

/// The live messages of one tenant, all or those below one subject. Dropping it ends the subscription.
pub(super) struct Live {
    prefix: usize,
    messages: mpsc::Receiver<Message>,
    queued: Arc<AtomicUsize>,
    pump: JoinHandle<()>,
}

impl Live {
    pub async fn subscribe(client: &Client, tenant: &OrgId, which: &str) -> Result<Self, SubscribeError> {
        let prefix = format!("symbia.live.{tenant}.");
        let mut subscription = client.subscribe(format!("{prefix}{which}")).await?;
        let (sender, messages) = mpsc::channel(MESSAGES);
        let queued = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&queued);
        let pump = tokio::spawn(async move {
            while let Some(message) = subscription.next().await {
                let bytes = message.payload.len();
                let full = count.fetch_add(bytes, Ordering::Relaxed) + bytes > BYTES;
                if full || sender.try_send(message).is_err() {
                    return;
                }
            }
        });
        Ok(Self { prefix: prefix.len(), messages, queued, pump })
    }

    /// Subject behind `symbia.live.<tenant>.`, and payload. `None`: the queue was full. Cancel-safe.
    pub async fn next(&mut self) -> Option<(String, Bytes)> {
        let message = self.messages.recv().await?;
        self.queued.fetch_sub(message.payload.len(), Ordering::Relaxed);
        Some((message.subject.get(self.prefix..).unwrap_or_default().to_owned(), message.payload))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.pump.abort();
    }
}
