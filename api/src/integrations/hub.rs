//! Hears of what becomes of the requests that this process asked for: one subscription for all of them, so that a request
//! costs the broker nothing.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{Client, Message};
use futures::{StreamExt, future::try_join_all, stream::select_all};
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
    Live(Arc<Value>),
    /// An event.
    Event(Arc<Event>),
}

// Those who wait for a request, by its name.
type Waiting = Arc<Mutex<HashMap<String, Vec<mpsc::UnboundedSender<Heard>>>>>;

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
    looked: std::collections::VecDeque<Arc<Event>>,
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
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().push(sender);
        Ear { hub: self.clone(), address, name, heard, looked: std::collections::VecDeque::new() }
    }

    async fn listen(self) {
        const LIVE: &str = "symbia.live.*.completion.*";
        // Nobody is told of an end that is not in the log.
        const EVENTS: [&str; 6] = [
            "symbia.stored.integrations.*.completion.*",
            "symbia.stored.integrations.*.embedding.*",
            "symbia.stored.integrations.*.image.*",
            "symbia.stored.integrations.*.task.*",
            "symbia.stored.integrations.*.invocation.*",
            "symbia.stored.integrations.*.passthrough.*",
        ];
        loop {
            let subscribed = async {
                let live = self.client.subscribe(LIVE).await?;
                let events = try_join_all(EVENTS.map(|subject| self.client.subscribe(subject))).await?;
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

    // Whoever waits for what a subject names behind so many tokens.
    fn waits(&self, subject: &str, skip: usize) -> Vec<mpsc::UnboundedSender<Heard>> {
        let Some(name) = subject.splitn(skip + 1, '.').nth(skip) else { return Vec::new() };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or_default()
    }

    fn live(&self, message: &Message) {
        let ears = self.waits(&message.subject, 2);
        if ears.is_empty() {
            return;
        }
        if let Ok(piece) = serde_json::from_slice::<Value>(&message.payload).map(Arc::new) {
            for ear in ears {
                let _ = ear.send(Heard::Live(Arc::clone(&piece)));
            }
        }
    }

    fn event(&self, message: &Message) {
        let ears = self.waits(&message.subject, 3);
        if ears.is_empty() {
            return;
        }
        match commit::decode(&self.keys, &message.payload) {
            Ok(events) => {
                for event in events.into_iter().map(|signed| signed.event) {
                    for ear in &ears {
                        let _ = ear.send(Heard::Event(Arc::clone(&event)));
                    }
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
                return Heard::Event(event);
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
        self.heard.close();
        let mut waiting = self.hub.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut ears) = waiting.entry(std::mem::take(&mut self.name)) {
            ears.get_mut().retain(|ear| !ear.is_closed());
            if ears.get().is_empty() {
                ears.remove();
            }
        }
    }
}
