//! Batches: folding their events, and reading them. What lines of a batch came to is summed up before it is written, since there
//! are many.

use std::collections::BTreeMap;

use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{
    DomainEvent, Event, Personal,
    integrations::{BatchError, BatchEvent, BatchStop, LineOutcome},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::completions::int;
use crate::{FoldError, FoldEvent, columns::text};

/// A batch.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Batch {
    pub id: String,
    pub endpoint: String,
    pub input_file_id: String,
    pub completion_window: String,
    /// As OpenAI's API calls it.
    pub status: String,
    pub metadata: Option<Json<Personal>>,
    pub errors: Option<Json<Vec<BatchError>>>,
    pub output_file_id: Option<String>,
    pub error_file_id: Option<String>,
    pub lines: i64,
    pub succeeded: i64,
    pub failed: i64,
    pub created_by: String,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    pub in_progress_at: Option<OffsetDateTime>,
    pub finalizing_at: Option<OffsetDateTime>,
    pub cancelling_at: Option<OffsetDateTime>,
    pub ended_at: Option<OffsetDateTime>,
}

/// One of somebody's by its id.
pub async fn batch(
    conn: &mut PgConnection,
    (org, created_by): (&str, &str),
    id: &str,
) -> Result<Option<Batch>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.batches WHERE org_id = $1 AND created_by = $2 AND id = $3")
        .bind(org)
        .bind(created_by)
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// Somebody's, the latest first; those behind `after`, where that is given.
pub async fn batches(
    conn: &mut PgConnection,
    (org, created_by): (&str, &str),
    after: Option<&Batch>,
    limit: i64,
) -> Result<Vec<Batch>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM integrations.batches WHERE org_id = $1 AND created_by = $2
             AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4)) ORDER BY created_at DESC, id DESC LIMIT $5",
    )
    .bind(org)
    .bind(created_by)
    .bind(after.map(|batch| batch.created_at))
    .bind(after.map(|batch| batch.id.as_str()))
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// How many batches of an organization are under way.
pub async fn batches_under_way(conn: &mut PgConnection, org: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM integrations.batches WHERE org_id = $1 AND ended_at IS NULL")
        .bind(org)
        .fetch_one(conn)
        .await
}

/// The batch under way that reads a file of somebody's, if one does.
pub async fn batch_reading(
    conn: &mut PgConnection,
    (org, created_by): (&str, &str),
    file: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT id FROM integrations.batches WHERE org_id = $1 AND created_by = $2 AND input_file_id = $3
             AND ended_at IS NULL LIMIT 1",
    )
    .bind(org)
    .bind(created_by)
    .bind(file)
    .fetch_optional(conn)
    .await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    let mut counted: BTreeMap<(&str, &str), (i64, i64)> = BTreeMap::new();
    for FoldEvent { event, .. } in events {
        if event.aggregatetype != BatchEvent::AGGREGATE {
            continue;
        }
        match event.decode()? {
            BatchEvent::BatchLineEnded(e) => {
                let counts = counted.entry((event.orgid.as_str(), event.aggregateid.as_str())).or_default();
                match e.outcome {
                    LineOutcome::Succeeded => counts.0 += 1,
                    LineOutcome::Failed => counts.1 += 1,
                    LineOutcome::Dropped => {}
                }
            }
            change => became(conn, event, change).await?,
        }
    }
    for ((org, id), (succeeded, failed)) in counted {
        sqlx::query(
            "UPDATE batches SET succeeded = succeeded + $3, failed = failed + $4 WHERE org_id = $1 AND id = $2",
        )
        .bind(org)
        .bind(id)
        .bind(succeeded)
        .bind(failed)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

async fn became(conn: &mut PgConnection, event: &Event, change: BatchEvent) -> Result<(), FoldError> {
    let row = |sql: &'static str| {
        sqlx::query(sql).bind(event.orgid.as_str()).bind(event.aggregateid.as_str()).bind(event.time)
    };
    let ended = |status: &'static str, output: Option<String>, error: Option<String>| {
        row("UPDATE batches SET ended_at = $3, status = $4, output_file_id = $5, error_file_id = $6
             WHERE org_id = $1 AND id = $2")
        .bind(status)
        .bind(output.map(text))
        .bind(error.map(text))
    };
    let change = match change {
        BatchEvent::BatchCreated(e) => row(
            "INSERT INTO batches (org_id, id, created_at, endpoint, input_file_id, completion_window, status, metadata,
                 lines, succeeded, failed, created_by, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, 'validating', $7, 0, 0, 0, $8, $9) ON CONFLICT DO NOTHING",
        )
        .bind(e.endpoint.path())
        .bind(text(e.input_file_id))
        .bind(text(e.completion_window))
        .bind(e.metadata.map(Json))
        .bind(text(e.created_by))
        .bind(OffsetDateTime::parse(&e.expires_at, &Rfc3339).ok()),
        BatchEvent::BatchStarted(e) => row(
            "UPDATE batches SET in_progress_at = $3, status = 'in_progress', lines = $4 WHERE org_id = $1 AND id = $2",
        )
        .bind(int(e.lines.into())),
        BatchEvent::BatchFailed(e) => row(
            "UPDATE batches SET ended_at = $3, status = 'failed', errors = $4 WHERE org_id = $1 AND id = $2",
        )
        .bind(Json(e.errors)),
        // It is on the way to `expired` without a name of its own.
        BatchEvent::BatchStopping(e) if e.reason == BatchStop::Expired => return Ok(()),
        BatchEvent::BatchStopping(_) => {
            row("UPDATE batches SET cancelling_at = $3, status = 'cancelling' WHERE org_id = $1 AND id = $2")
        }
        BatchEvent::BatchFinalizing(_) => row(
            "UPDATE batches SET finalizing_at = $3, status = CASE status WHEN 'cancelling' THEN status ELSE 'finalizing' END
             WHERE org_id = $1 AND id = $2",
        ),
        BatchEvent::BatchCompleted(e) => ended("completed", e.output_file_id, e.error_file_id),
        BatchEvent::BatchCancelled(e) => ended("cancelled", e.output_file_id, e.error_file_id),
        BatchEvent::BatchExpired(e) => ended("expired", e.output_file_id, e.error_file_id),
        BatchEvent::BatchAdmitted(_)
        | BatchEvent::BatchLineDeferred(_)
        | BatchEvent::BatchLineDue(_)
        | BatchEvent::BatchLineEnded(_) => return Ok(()),
    };
    change.execute(&mut *conn).await?;
    Ok(())
}
