//! How far each projection is behind the log, and what it has put aside.

use async_nats::jetstream::Context;
use sqlx::PgPool;
use symbia_events::Service;
use symbia_nats::log;

use crate::{Projection, RebuildError, projector::checkpoints};

/// How far the live schema of each projection is, against the log.
pub async fn list(
    pool: &PgPool,
    jetstream: &Context,
    projections: &[&dyn Projection],
) -> Result<Vec<ProjectionStatus>, RebuildError> {
    let mut all = Vec::with_capacity(projections.len());
    for projection in projections {
        let name = projection.name();
        let mut streams = Vec::new();
        for (service, position) in checkpoints(pool, *projection, name).await? {
            let head = log::head(jetstream, service).await?.1;
            streams.push(StreamStatus { service, position, head, lag: head.saturating_sub(position) });
        }
        let mut conn = pool.acquire().await?;
        let mut tx = crate::commit::begin(&mut conn, name).await?;
        let quarantined: i64 = sqlx::query_scalar("SELECT count(*) FROM quarantine").fetch_one(&mut *tx).await?;
        all.push(ProjectionStatus { name, streams, quarantined: quarantined.unsigned_abs() });
    }
    Ok(all)
}

/// A projection in [`list`].
#[derive(Clone, Debug)]
pub struct ProjectionStatus {
    /// Its name.
    pub name: &'static str,
    /// Each stream it folds.
    pub streams: Vec<StreamStatus>,
    /// Messages and events put aside.
    pub quarantined: u64,
}

/// A stream of a projection in [`list`].
#[derive(Clone, Debug)]
pub struct StreamStatus {
    /// Whose stream.
    pub service: Service,
    /// Last sequence folded.
    pub position: u64,
    /// Last sequence of the stream.
    pub head: u64,
    /// Messages between the two.
    pub lag: u64,
}
