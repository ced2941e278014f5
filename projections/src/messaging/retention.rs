//! For how long organizations keep what is said, and what has been kept for long enough.

use sqlx::{FromRow, PgConnection};
use symbia_events::{Event, messaging::RetentionPolicyEvent};
use time::OffsetDateTime;

use crate::{FoldError, columns::text};

/// Most conversations that one look gives.
const MOST: i64 = 500;

/// An organization's policy.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the names say it")]
pub struct RetentionPolicy {
    pub org_id: String,
    /// 0: what is said is kept for ever.
    pub days: i32,
    pub changed_by: String,
    pub changed_at: OffsetDateTime,
}

pub(super) async fn fold(
    conn: &mut PgConnection,
    event: &Event,
    change: RetentionPolicyEvent,
) -> Result<(), FoldError> {
    let RetentionPolicyEvent::RetentionPolicyChanged(e) = change else { return Ok(()) };
    sqlx::query(
        "INSERT INTO retention_policies (org_id, days, changed_by, changed_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (org_id) DO UPDATE SET days = excluded.days, changed_by = excluded.changed_by,
             changed_at = excluded.changed_at",
    )
    .bind(event.orgid.as_str())
    .bind(i32::try_from(e.days).unwrap_or(i32::MAX))
    .bind(text(e.by))
    .bind(event.time)
    .execute(conn)
    .await?;
    Ok(())
}

/// The policy of an organization that has set one.
pub async fn retention_policy(conn: &mut PgConnection, org: &str) -> Result<Option<RetentionPolicy>, sqlx::Error> {
    let select = "SELECT * FROM messaging.retention_policies WHERE org_id = $1";
    sqlx::query_as(select).bind(org).fetch_optional(conn).await
}

/// Conversations of an organization to which nobody has added since a time, with the sequence of the last message, in the order
/// of their ids, behind one.
pub async fn quiet_conversations(
    conn: &mut PgConnection,
    org: &str,
    since: OffsetDateTime,
    behind: &str,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, last_sequence FROM messaging.conversations
         WHERE org_id = $1 AND updated_at < $2 AND id > $3 AND erased_at IS NULL ORDER BY id LIMIT $4",
    )
    .bind(org)
    .bind(since)
    .bind(behind)
    .bind(MOST)
    .fetch_all(conn)
    .await
}
