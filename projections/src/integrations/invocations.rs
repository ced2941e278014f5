//! Invocations: folding their events, and reading them. What was sent and answered stays in the log, sealed.

use sqlx::{FromRow, PgConnection};
use symbia_events::{DomainEvent, integrations::InvocationEvent};
use time::OffsetDateTime;

use super::{Filter, completions::int};
use crate::{
    FoldError, FoldEvent,
    columns::{name_of, text},
};

/// One call of an operation.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Invocation {
    pub id: String,
    pub user_id: String,
    pub integration_key: String,
    pub operation: String,
    /// `requested`, `running`, `completed` or `failed`.
    pub status: String,
    pub attempts: i32,
    /// HTTP status of what was called.
    pub status_code: Option<i32>,
    pub success: bool,
    pub error_category: Option<String>,
    pub error_code: Option<String>,
    pub host: Option<String>,
    pub credential_id: Option<String>,
    /// `personal`, `org-wide` or `none`.
    pub credential_source: Option<String>,
    pub duration_ms: Option<i64>,
    pub requested_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
}

/// The invocations that are asked for, the newest first.
pub async fn invocations(
    conn: &mut PgConnection,
    filter: &Filter<'_>,
    limit: i64,
    offset: i64,
) -> Result<Vec<Invocation>, sqlx::Error> {
    let select = "SELECT * FROM integrations.invocations WHERE org_id = $1 AND requested_at >= $2
             AND ($3::text IS NULL OR user_id = $3) AND ($4::text IS NULL OR integration_key = $4)
         ORDER BY requested_at DESC, id LIMIT $5 OFFSET $6";
    filter.bind(sqlx::query_as(select)).bind(limit).bind(offset).fetch_all(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    for FoldEvent { event, .. } in events.iter().filter(|e| e.event.aggregatetype == InvocationEvent::AGGREGATE) {
        let row = |sql: &'static str| sqlx::query(sql).bind(event.orgid.as_str()).bind(&event.aggregateid);
        let change = match event.decode()? {
            InvocationEvent::InvocationRequested(e) => {
                let insert =
                    "INSERT INTO invocations (org_id, id, user_id, integration_key, operation, status, attempts,
                                  success, requested_at)
                              VALUES ($1, $2, $3, $4, $5, 'requested', 0, false, $6) ON CONFLICT DO NOTHING";
                let user = text(e.user_id.unwrap_or(e.requested_by));
                row(insert).bind(user).bind(text(e.integration_key)).bind(text(e.operation_id)).bind(event.time)
            }
            InvocationEvent::InvocationAttemptStarted(e) => {
                let update = "UPDATE invocations SET status = 'running', attempts = $3, host = $4, credential_id = $5,
                                  credential_source = $6
                              WHERE org_id = $1 AND id = $2";
                let attempt = i32::try_from(e.attempt).unwrap_or(i32::MAX);
                row(update)
                    .bind(attempt)
                    .bind(text(e.host))
                    .bind(e.credential_id.map(text))
                    .bind(text(e.credential_source))
            }
            InvocationEvent::InvocationCompleted(e) => {
                let update = "UPDATE invocations SET status = 'completed', success = $3, status_code = $4,
                                  duration_ms = $5, ended_at = $6
                              WHERE org_id = $1 AND id = $2";
                row(update).bind(e.success).bind(e.status_code.map(i32::from)).bind(int(e.duration_ms)).bind(event.time)
            }
            InvocationEvent::InvocationFailed(e) => {
                let update = "UPDATE invocations SET status = 'failed', error_category = $3, error_code = $4,
                                  duration_ms = $5, ended_at = $6
                              WHERE org_id = $1 AND id = $2";
                let category = name_of(e.category);
                row(update).bind(category).bind(text(e.code)).bind(int(e.duration_ms)).bind(event.time)
            }
        };
        change.execute(&mut *conn).await?;
    }
    Ok(())
}
