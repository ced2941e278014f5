//! What a projection is: a schema of tables that events are folded into.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::PgConnection;
use symbia_events::{DecodeError, Event, Position, Service};

use crate::secrets::SecretError;

/// A verified event with its place in the log.
#[derive(Clone, Debug)]
pub struct FoldEvent {
    /// The message that holds it.
    pub position: Position,
    /// The event; its signature is verified and its subject is that of its aggregate.
    pub event: Arc<Event>,
    /// Its hash, the `prevhash` of the aggregate's next event.
    pub hash: String,
}

/// One step of a schema, embedded from `migrations/<name>/NNNN_*.sql`. Names in it are unqualified.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// From 1, without gaps.
    pub version: i32,
    /// What it does, the rest of the file's name.
    pub name: &'static str,
    /// The statements.
    pub sql: &'static str,
}

/// A read model. Its rows are a function of the events alone, whatever the sizes of the batches they come in; events of
/// different services reach it in no defined order.
#[async_trait]
pub trait Projection: Send + Sync + 'static {
    /// Its name, which is that of its schema.
    fn name(&self) -> &'static str;
    /// The services whose event streams it folds.
    fn services(&self) -> &'static [Service];
    /// Its tables, which a rebuild gives back and [`verify`](crate::Rebuilder::verify) compares.
    fn tables(&self) -> &'static [&'static str];
    /// Its schema, step by step. Every table has a policy `reader`.
    fn migrations(&self) -> &'static [Migration];
    /// How long events are gathered after a batch of several: longer where many come and hardly anybody waits for them.
    fn gathers(&self) -> Duration {
        Duration::ZERO
    }
    /// Folds events, in order, within the caller's transaction: names are unqualified, the search path leads to the live
    /// schema or to a shadow.
    async fn fold(&self, conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError>;
}

/// Why events could not be folded.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// The database refused or was away.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// An event cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An event contradicts its own address or type.
    #[error("{0}")]
    Event(String),
    /// The secret store refused or was away.
    #[error(transparent)]
    Secrets(#[from] SecretError),
}

impl FoldError {
    /// Whether an event is at fault, so that it is quarantined. Everything else is retried until it heals: a wrong verdict
    /// here must cost time and not data.
    #[must_use]
    pub fn is_poison(&self) -> bool {
        match self {
            FoldError::Decode(_) | FoldError::Event(_) => true,
            FoldError::Secrets(_) => false,
            // Data exceptions, integrity violations and exceeded limits (PostgreSQL, appendix A).
            FoldError::Database(sqlx::Error::Database(e)) => {
                e.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
            }
            FoldError::Database(_) => false,
        }
    }
}
