//! Leases of nodes: a heartbeat is an entry in a KV bucket that expires by itself. The log holds none of them; that one ran out
//! is told by the marker that the server leaves in its place, and becomes a command.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_nats::{Client, HeaderMap, jetstream};
use futures::StreamExt;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::task::JoinHandle;

use crate::topology::LEASES_BUCKET;

/// How long a node may be silent (network.md §8.3).
pub const LEASE: Duration = Duration::from_secs(90);

/// The lease could not be renewed.
#[derive(Debug, thiserror::Error)]
#[error("the lease of {node} was not renewed: {reason}")]
pub struct LeaseError {
    node: String,
    reason: String,
}

/// Organization and node.
type Key = (String, String);
type Seen = Arc<RwLock<HashMap<Key, Sign>>>;

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// When it was given.
    pub at: OffsetDateTime,
    /// The socket that the node is connected by.
    pub socket: Option<String>,
}

impl Sign {
    // As it is stored: the time, and the socket behind it.
    fn text(&self) -> Result<String, time::error::Format> {
        let at = self.at.format(&Rfc3339)?;
        Ok(self.socket.as_ref().map_or_else(|| at.clone(), |socket| format!("{at} {socket}")))
    }

    fn read(text: &str) -> Option<Self> {
        let (at, socket) = text.split_once(' ').map_or((text, None), |(at, socket)| (at, Some(socket.to_owned())));
        Some(Sign { at: OffsetDateTime::parse(at, &Rfc3339).ok()?, socket })
    }
}

/// The subject of a lease. Ids hold `:` and `@`, which keys of a bucket do not, and neither `/` nor `.`, which they do.
#[must_use]
pub fn subject(org: &str, node: &str) -> String {
    format!("$KV.{LEASES_BUCKET}.{org}.{}", node.replace(':', "/").replace('@', "."))
}

/// Whose lease a subject is: organization and node.
#[must_use]
pub fn of_subject(subject: &str) -> Option<(String, String)> {
    let (org, node) = subject.strip_prefix("$KV.")?.strip_prefix(LEASES_BUCKET)?.strip_prefix('.')?.split_once('.')?;
    Some((org.to_owned(), node.replace('/', ":").replace('.', "@")))
}

/// Renews leases and knows when each was last renewed, in whichever process. Cheap to clone.
#[derive(Clone)]
pub struct Leases {
    js: jetstream::Context,
    lease: Duration,
    seen: Seen,
    _listener: Arc<Listener>,
}

struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Leases {
    /// Leases of a length over a connection; follows the bucket from now on.
    #[must_use]
    pub fn follow(client: Client, lease: Duration) -> Self {
        let (js, seen) = (jetstream::new(client), Seen::default());
        let listener = tokio::spawn(listen(js.clone(), Arc::clone(&seen)));
        Leases { js, lease, seen, _listener: Arc::new(Listener(listener)) }
    }

    /// Renews a node's lease.
    ///
    /// # Errors
    /// The broker is away or does not store it.
    pub async fn renew(&self, org: &str, node: &str, sign: Sign) -> Result<(), LeaseError> {
        let fail = |reason: String| LeaseError { node: node.to_owned(), reason };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-TTL", self.lease.as_secs().max(1).to_string());
        let told = sign.text().map_err(|e| fail(e.to_string()))?;
        let sent = self.js.publish_with_headers(subject(org, node), headers, told.into()).await;
        sent.map_err(|e| fail(e.to_string()))?.await.map_err(|e| fail(e.to_string()))?;
        note(&self.seen, (org.to_owned(), node.to_owned()), sign);
        Ok(())
    }

    /// Length of a lease.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.lease
    }

    /// A node's last sign of life, if this is known here.
    #[must_use]
    pub fn last(&self, org: &str, node: &str) -> Option<Sign> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.get(&(org.to_owned(), node.to_owned())).cloned()
    }
}

fn note(seen: &Seen, key: Key, sign: Sign) {
    let mut seen = seen.write().unwrap_or_else(PoisonError::into_inner);
    match seen.get(&key) {
        Some(known) if known.at > sign.at => {}
        _ => _ = seen.insert(key, sign),
    }
}

async fn listen(js: jetstream::Context, seen: Seen) {
    loop {
        if let Err(error) = watch(&js, &seen).await {
            tracing::debug!(%error, "leases are not followed, trying again");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn watch(js: &jetstream::Context, seen: &Seen) -> Result<(), async_nats::Error> {
    let bucket = js.get_key_value(LEASES_BUCKET).await?;
    let mut entries = bucket.watch_with_history(">").await?;
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        let key = of_subject(&format!("$KV.{LEASES_BUCKET}.{}", entry.key));
        let sign = std::str::from_utf8(&entry.value).ok().and_then(Sign::read);
        if let (Some(key), Some(sign)) = (key, sign) {
            note(seen, key, sign);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_is_read_as_it_was_written() {
        for socket in [None, Some("sid-1".to_owned())] {
            let sign = Sign { at: OffsetDateTime::UNIX_EPOCH, socket };
            assert_eq!(Sign::read(&sign.text().unwrap()), Some(sign));
        }
        assert_eq!(Sign::read("soon"), None);
    }

    #[test]
    fn a_lease_is_found_by_its_subject_whatever_its_node_is_called() {
        for node in ["messaging", "assistant:billing", "client:console:ada@home", "a=b_c-d"] {
            assert_eq!(of_subject(&subject("org-1", node)), Some(("org-1".into(), node.into())), "{node}");
        }
        assert_eq!(of_subject("$KV.OTHER.org.node"), None);
    }
}
