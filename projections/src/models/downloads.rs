//! Models that are being got, and what became of that.

use sqlx::{FromRow, PgConnection};
use symbia_events::{Event, models::DownloadEvent};
use time::OffsetDateTime;

use super::{int, json};
use crate::{FoldError, columns::text};

/// A download.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Download {
    pub id: String,
    /// The source as JSON.
    pub source: String,
    /// `requested`, `started`, `completed`, `failed` or `cancelled`.
    pub status: String,
    pub filename: Option<String>,
    pub bytes: Option<i64>,
    pub sha256: Option<String>,
    pub license: Option<String>,
    pub reason: Option<String>,
    pub error: Option<String>,
    pub created_by: String,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

impl Download {
    /// Whether nothing of it will change any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        !matches!(self.status.as_str(), "requested" | "started")
    }
}

/// The downloads that were asked for last, the latest first.
pub async fn downloads(conn: &mut PgConnection, most: i64) -> Result<Vec<Download>, sqlx::Error> {
    let select = "SELECT * FROM models.downloads ORDER BY created_at DESC, id LIMIT $1";
    sqlx::query_as(select).bind(most).fetch_all(conn).await
}

/// A download.
pub async fn download(conn: &mut PgConnection, id: &str) -> Result<Option<Download>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM models.downloads WHERE id = $1").bind(id).fetch_optional(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, event: &Event, change: DownloadEvent) -> Result<(), FoldError> {
    let (org, id, at) = (event.orgid.to_string(), &event.aggregateid, event.time);
    match change {
        DownloadEvent::DownloadRequested(e) => {
            let insert = "INSERT INTO downloads (org_id, id, source, status, created_by, created_at, updated_at)
                VALUES ($1, $2, $3, 'requested', $4, $5, $5) ON CONFLICT (org_id, id) DO NOTHING";
            let row = sqlx::query(insert).bind(org).bind(id).bind(json(&e.from)?);
            row.bind(text(e.by)).bind(at).execute(conn).await?;
        }
        DownloadEvent::DownloadStarted(e) => {
            let update = "UPDATE downloads SET status = 'started', filename = $3, bytes = $4, updated_at = $5
                WHERE org_id = $1 AND id = $2";
            let row = sqlx::query(update).bind(org).bind(id).bind(text(e.filename)).bind(e.bytes.map(int));
            row.bind(at).execute(conn).await?;
        }
        DownloadEvent::DownloadCompleted(e) => {
            let update =
                "UPDATE downloads SET status = 'completed', filename = $3, bytes = $4, sha256 = $5, license = $6,
                updated_at = $7 WHERE org_id = $1 AND id = $2";
            let row = sqlx::query(update).bind(org).bind(id).bind(text(e.filename)).bind(int(e.bytes));
            let row = row.bind(text(e.sha256)).bind(e.license.map(text));
            row.bind(at).execute(conn).await?;
        }
        DownloadEvent::DownloadFailed(e) => ended(conn, event, "failed", Some((e.reason, e.message))).await?,
        DownloadEvent::DownloadCancelled(_) => ended(conn, event, "cancelled", None).await?,
    }
    Ok(())
}

async fn ended(
    conn: &mut PgConnection,
    event: &Event,
    status: &str,
    why: Option<(String, String)>,
) -> Result<(), FoldError> {
    let update = "UPDATE downloads SET status = $3, reason = $4, error = $5, updated_at = $6
        WHERE org_id = $1 AND id = $2";
    let (reason, error) = why.unzip();
    let row = sqlx::query(update).bind(event.orgid.to_string()).bind(&event.aggregateid).bind(status);
    row.bind(reason.map(text)).bind(error.map(text)).bind(event.time).execute(conn).await?;
    Ok(())
}
