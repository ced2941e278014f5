//! Stored files: folding their events, and reading them.

use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{DomainEvent, Personal, integrations::StoredFileEvent};
use time::OffsetDateTime;

use super::completions::int;
use crate::{FoldError, FoldEvent, columns::text};

/// A file that is kept.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct StoredFile {
    pub id: String,
    pub purpose: String,
    pub filename: Json<Personal>,
    pub bytes: i64,
    pub owner: String,
    pub batch_id: Option<String>,
    pub created_at: OffsetDateTime,
}

/// One of an owner's by its id.
pub async fn stored_file(
    conn: &mut PgConnection,
    (org, owner): (&str, &str),
    id: &str,
) -> Result<Option<StoredFile>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.stored_files WHERE org_id = $1 AND owner = $2 AND id = $3")
        .bind(org)
        .bind(owner)
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// An owner's, the latest first or, when `ascending`, the earliest; those behind `after`, where that is given.
pub async fn stored_files(
    conn: &mut PgConnection,
    (org, owner): (&str, &str),
    purpose: Option<&str>,
    after: Option<&StoredFile>,
    ascending: bool,
    limit: i64,
) -> Result<Vec<StoredFile>, sqlx::Error> {
    let sql = if ascending {
        "SELECT * FROM integrations.stored_files WHERE org_id = $1 AND owner = $2 AND ($3::text IS NULL OR purpose = $3)
             AND ($4::timestamptz IS NULL OR (created_at, id) > ($4, $5)) ORDER BY created_at, id LIMIT $6"
    } else {
        "SELECT * FROM integrations.stored_files WHERE org_id = $1 AND owner = $2 AND ($3::text IS NULL OR purpose = $3)
             AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5)) ORDER BY created_at DESC, id DESC LIMIT $6"
    };
    sqlx::query_as(sql)
        .bind(org)
        .bind(owner)
        .bind(purpose)
        .bind(after.map(|file| file.created_at))
        .bind(after.map(|file| file.id.as_str()))
        .bind(limit)
        .fetch_all(conn)
        .await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    for FoldEvent { event, .. } in events {
        if event.aggregatetype != StoredFileEvent::AGGREGATE {
            continue;
        }
        let row = |sql: &'static str| sqlx::query(sql).bind(event.orgid.as_str()).bind(event.aggregateid.as_str());
        let change = match event.decode()? {
            StoredFileEvent::FileStored(e) => {
                row("INSERT INTO stored_files (org_id, id, purpose, filename, bytes, owner, batch_id, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING")
                .bind(e.purpose.name())
                .bind(Json(e.filename))
                .bind(int(e.bytes))
                .bind(text(e.owner))
                .bind(e.batch_id.map(text))
                .bind(event.time)
            }
            StoredFileEvent::FileDeleted(_) => row("DELETE FROM stored_files WHERE org_id = $1 AND id = $2"),
        };
        change.execute(&mut *conn).await?;
    }
    Ok(())
}
