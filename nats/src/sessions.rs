//! Sessions of the Model Context Protocol that have ended. Nothing is kept of one that goes on; of one that was ended, a digest for
//! as long as it might have lasted, so that no process goes on with it.

use std::sync::Arc;

use async_nats::{Client, SubscribeError, Subscriber, jetstream, jetstream::kv};
use tokio::sync::OnceCell;

use crate::{limits::subject_of, topology::SESSIONS_BUCKET};

/// The broker does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the sessions that have ended cannot be told: {0}")]
pub struct SessionsError(String);

/// The sessions that have ended. Cheap to clone.
#[derive(Clone)]
pub struct EndedSessions(Arc<Inner>);

struct Inner {
    client: Client,
    store: OnceCell<kv::Store>,
}

fn failed(error: impl std::fmt::Display) -> SessionsError {
    SessionsError(error.to_string())
}

impl EndedSessions {
    /// Over a connection; the KV bucket is made with the streams.
    #[must_use]
    pub fn new(client: Client) -> Self {
        EndedSessions(Arc::new(Inner { client, store: OnceCell::new() }))
    }

    async fn store(&self) -> Result<&kv::Store, SessionsError> {
        let open = || async { jetstream::new(self.0.client.clone()).get_key_value(SESSIONS_BUCKET).await };
        self.0.store.get_or_try_init(open).await.map_err(failed)
    }

    /// Ends a session, for every process.
    ///
    /// # Errors
    /// [`SessionsError`].
    pub async fn end(&self, id: &str) -> Result<(), SessionsError> {
        self.store().await?.put(subject_of(id), Vec::new().into()).await.map_err(failed)?;
        Ok(())
    }

    /// Whether it was ended.
    ///
    /// # Errors
    /// [`SessionsError`].
    pub async fn has_ended(&self, id: &str) -> Result<bool, SessionsError> {
        Ok(self.store().await?.entry(subject_of(id)).await.map_err(failed)?.is_some())
    }

    /// Hears when it is ended, from now on.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn hear_of(&self, id: &str) -> Result<Subscriber, SubscribeError> {
        self.0.client.subscribe(format!("$KV.{SESSIONS_BUCKET}.{}", subject_of(id))).await
    }
}
