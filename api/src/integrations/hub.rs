//! Hears of what becomes of the requests that this process asked for: one subscription for all of them, so that a request
//! costs the broker nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{Client, Message};
use futures::{StreamExt, stream::select_all};
use serde_json::Value;
use symbia_events::{AggregateRef, Event, KeyRing, commit};
use symbia_nats::read;
use tokio::sync::mpsc;

/// Pause before subscribing is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// What is heard may get lost on the way: the log is looked at this often.
const LOOK: Duration = Duration::from_secs(2);

/// What is heard of a request.
pub(super) enum Heard {
    /// A live message: a piece of the answer, or that it begins anew.
    Live(Value),
    /// An event.
    Event(Box<Event>),
}

type Waiting = Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Heard>>>>;

/// Those who wait. Cheap to clone.
#[derive(Clone)]
pub(super) struct Hub {
    client: Client,
    keys: Arc<KeyRing>,
    waiting: Waiting,
}

/// Somebody who waits for one request.
pub(super) struct Ear {
    hub: Hub,
    address: AggregateRef,
    name: String,
    heard: mpsc::UnboundedReceiver<Heard>,
    // Of the log, in the order of looking.
    looked: std::collections::VecDeque<Event>,
}

impl Hub {
    /// Subscribes in the background; until that is done, waiting takes longer.
    pub fn open(client: Client, keys: Arc<KeyRing>) -> Self {
        let hub = Hub { client, keys, waiting: Waiting::default() };
        tokio::spawn(hub.clone().listen());
        hub
    }

    /// Listens for one request from now on.
    pub fn listen_for(&self, address: AggregateRef) -> Ear {
        let name = format!("{}.{}.{}", address.tenant, address.kind, address.id);
        let (sender, heard) = mpsc::unbounded_channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), sender);
        Ear { hub: self.clone(), address, name, heard, looked: std::collections::VecDeque::new() }
    }

    async fn listen(self) {
        const LIVE: &str = "symbia.live.*.completion.*";
        const EVENTS: [&str; 2] = ["symbia.evt.integrations.*.completion.*", "symbia.evt.integrations.*.embedding.*"];
        loop {
            let subscribed = async {
                let live = self.client.subscribe(LIVE).await?;
                let events = [self.client.subscribe(EVENTS[0]).await?, self.client.subscribe(EVENTS[1]).await?];
                Ok::<_, async_nats::SubscribeError>((live, select_all(events)))
            };
            if let Ok((mut live, mut events)) = subscribed.await {
                loop {
                    // The pieces of an answer were sent before its end: they are passed on before it.
                    tokio::select! {
                        biased;
                        Some(message) = live.next() => self.live(&message),
                        Some(message) = events.next() => self.event(&message),
                        else => break,
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn waits(&self, subject: &str, skip: usize) -> Option<mpsc::UnboundedSender<Heard>> {
        let name = subject.splitn(skip + 1, '.').nth(skip)?;
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn live(&self, message: &Message) {
        let Some(ear) = self.waits(&message.subject, 2) else { return };
        if let Ok(piece) = serde_json::from_slice(&message.payload) {
            let _ = ear.send(Heard::Live(piece));
        }
    }

    fn event(&self, message: &Message) {
        let Some(ear) = self.waits(&message.subject, 3) else { return };
        match commit::decode(&self.keys, &message.payload) {
            Ok(events) => {
                for signed in events {
                    let _ = ear.send(Heard::Event(Box::new(signed.event)));
                }
            }
            Err(error) => tracing::error!(subject = %message.subject, %error, "event not believed"),
        }
    }
}

impl Ear {
    /// The next thing that is heard. An event may be heard twice.
    pub async fn next(&mut self) -> Heard {
        loop {
            if let Some(event) = self.looked.pop_front() {
                return Heard::Event(Box::new(event));
            }
            match tokio::time::timeout(LOOK, self.heard.recv()).await {
                Ok(Some(heard)) => return heard,
                // The sender lives as long as the ear.
                Ok(None) | Err(_) => self.look().await,
            }
        }
    }

    /// Looks at what the log has.
    pub async fn look(&mut self) {
        let (stream, subject) = (self.address.service.event_stream(), self.address.event_subject());
        match read::tail(&self.hub.client, &stream, &subject, 1).await {
            Ok(stored) => {
                for message in stored {
                    let events = commit::decode(&self.hub.keys, &message.payload).unwrap_or_default();
                    self.looked.extend(events.into_iter().map(|signed| signed.event));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the log cannot be looked at");
                // Without a connection this would go round and round.
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.hub.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}
