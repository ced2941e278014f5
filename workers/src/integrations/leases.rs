//! Keys that were lent a moment ago, and that there is none: what happens to a key is heard from the log, and counts at once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::Client;
use futures::{StreamExt, stream::select};
use moka::sync::Cache;

use super::accounts::{Asker, Lease};

/// Longest time for which one is kept.
const KEPT: Duration = Duration::from_secs(30);
const MOST: u64 = 10_000;
/// How long after a change the read models may lie behind it.
const SETTLES: Duration = Duration::from_secs(2);
/// Pause before listening is tried again.
const AGAIN: Duration = Duration::from_millis(500);
const EVENTS: [&str; 2] = ["symbia.stored.identity.*.credential.*", "symbia.stored.identity.*.organization.*"];
/// That a key is lent, or is not, changes nothing.
const LENDING: &[u8] = b"symbia.identity.credential.credential-release";

type Key = (String, String, String, Option<String>);

/// The keys. Cheap to clone.
#[derive(Clone)]
pub(super) struct Leases {
    kept: Cache<Key, Option<Lease>>,
    // Since when nothing has changed; none while nobody listens.
    quiet: Arc<Mutex<Option<Instant>>>,
}

impl Leases {
    /// Keeps nothing until [`Leases::listen`].
    pub fn new() -> Self {
        Leases { kept: Cache::builder().max_capacity(MOST).time_to_live(KEPT).build(), quiet: Arc::default() }
    }

    /// Hears of changes, and keeps keys while it does.
    pub async fn listen(self, client: Client) {
        loop {
            let subscribed = async {
                Ok::<_, async_nats::SubscribeError>((
                    client.subscribe(EVENTS[0]).await?,
                    client.subscribe(EVENTS[1]).await?,
                ))
            };
            if let Ok((credentials, organizations)) = subscribed.await {
                self.changed(Some(Instant::now()));
                let mut changes = select(credentials, organizations);
                while let Some(change) = changes.next().await {
                    if memchr::memmem::find(&change.payload, LENDING).is_none() {
                        self.changed(Some(Instant::now()));
                    }
                }
            }
            self.changed(None);
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn changed(&self, quiet: Option<Instant>) {
        *self.quiet.lock().unwrap_or_else(PoisonError::into_inner) = quiet;
        self.kept.invalidate_all();
    }

    /// Since when nothing has changed.
    pub fn quiet(&self) -> Option<Instant> {
        *self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was lent; none: it is to be asked for.
    pub fn find(&self, asker: &Asker<'_>, provider: &str, named: Option<&str>) -> Option<Option<Lease>> {
        self.kept.get(&key(asker, provider, named))
    }

    /// Keeps it, unless something has changed since `quiet`.
    pub fn keep(
        &self,
        asker: &Asker<'_>,
        provider: &str,
        named: Option<&str>,
        quiet: Option<Instant>,
        lease: &Option<Lease>,
    ) {
        let since = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        if *since == quiet && quiet.is_some_and(|quiet| quiet.elapsed() > SETTLES) {
            self.kept.insert(key(asker, provider, named), lease.clone());
        }
    }
}

fn key(asker: &Asker<'_>, provider: &str, named: Option<&str>) -> Key {
    (asker.org.to_owned(), asker.principal.to_owned(), provider.to_owned(), named.map(str::to_owned))
}
