//! What sessions of the Model Context Protocol want to be told of: the resources that a session has subscribed to, each with the
//! digest of what was in it then, so that no change is missed whichever process tells of it. Kept as long as a session lasts.

use std::{collections::BTreeMap, sync::Arc};

use async_nats::{
    Client, SubscribeError, Subscriber,
    jetstream::{self, kv},
};
use tokio::sync::OnceCell;

use crate::{limits::subject_of, topology::SESSIONS_BUCKET};

/// How often a compare-and-set is repeated when others were faster.
const ATTEMPTS: usize = 8;

/// Resources by address, with their digests.
pub type Subscribed = BTreeMap<String, u64>;

/// What a session has subscribed to cannot be told.
#[derive(Debug, thiserror::Error)]
#[error("the subscriptions of a session cannot be told: {0}")]
pub struct SubscriptionsError(String);

/// The subscriptions. Cheap to clone.
#[derive(Clone)]
pub struct Subscriptions(Arc<Inner>);

struct Inner {
    client: Client,
    store: OnceCell<kv::Store>,
}

fn failed(error: impl std::fmt::Display) -> SubscriptionsError {
    SubscriptionsError(error.to_string())
}

fn key(session: &str) -> String {
    format!("{}.resources", subject_of(session))
}

fn read(value: &[u8]) -> Subscribed {
    serde_json::from_slice(value).unwrap_or_default()
}

impl Subscriptions {
    /// Over a connection; the KV bucket is made with the streams.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Subscriptions(Arc::new(Inner { client, store: OnceCell::new() }))
    }

    async fn store(&self) -> Result<&kv::Store, SubscriptionsError> {
        let open = || async { jetstream::new(self.0.client.clone()).get_key_value(SESSIONS_BUCKET).await };
        self.0.store.get_or_try_init(open).await.map_err(failed)
    }

    /// Those of a session.
    ///
    /// # Errors
    /// [`SubscriptionsError`].
    pub async fn of(&self, session: &str) -> Result<Subscribed, SubscriptionsError> {
        let entry = self.store().await?.entry(key(session)).await.map_err(failed)?;
        Ok(entry.map(|entry| read(&entry.value)).unwrap_or_default())
    }

    /// Changes those of a session to what `step` makes of them, unless it says that they stay.
    ///
    /// # Errors
    /// [`SubscriptionsError`].
    pub async fn change(
        &self,
        session: &str,
        mut step: impl FnMut(&mut Subscribed) -> bool,
    ) -> Result<(), SubscriptionsError> {
        let (store, key) = (self.store().await?, key(session));
        for _ in 0..ATTEMPTS {
            let entry = store.entry(&key).await.map_err(failed)?;
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let mut subscribed = entry.map(|entry| read(&entry.value)).unwrap_or_default();
            if !step(&mut subscribed) {
                return Ok(());
            }
            let stored = serde_json::to_vec(&subscribed).map_err(failed)?;
            match store.update(&key, stored.into(), revision).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed("others change them all the time"))
    }

    /// Hears when those of a session change, from now on.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn hear_of(&self, session: &str) -> Result<Subscriber, SubscribeError> {
        self.0.client.subscribe(format!("$KV.{SESSIONS_BUCKET}.{}", key(session))).await
    }
}
