//! Schedules of evaluations: folding their events, and reading them.

use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{
    DomainEvent,
    integrations::{EvalScheduleEvent, EvaluationEvent, Trial},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::completions::int;
use crate::{FoldError, FoldEvent, columns::text};

/// A model that is tried again and again.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct EvalSchedule {
    pub id: String,
    pub name: String,
    pub version: i64,
    pub trial: Json<Trial>,
    pub cron: Option<String>,
    pub interval_hours: Option<i32>,
    pub enabled: bool,
    pub next_run_at: Option<OffsetDateTime>,
    pub last_run_at: Option<OffsetDateTime>,
    pub last_evaluation_id: Option<String>,
    /// Why it stopped, or what the last evaluation failed at.
    pub last_error: Option<String>,
    pub set_by: String,
    pub set_at: OffsetDateTime,
}

/// The schedules of an organization, by their names.
pub async fn eval_schedules(conn: &mut PgConnection, org: &str) -> Result<Vec<EvalSchedule>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.eval_schedules WHERE org_id = $1 ORDER BY name LIMIT 1000")
        .bind(org)
        .fetch_all(conn)
        .await
}

/// One by its id.
pub async fn eval_schedule(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<EvalSchedule>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.eval_schedules WHERE org_id = $1 AND id = $2")
        .bind(org)
        .bind(id)
        .fetch_optional(conn)
        .await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    for FoldEvent { event, .. } in events {
        let row = |sql: &'static str| sqlx::query(sql).bind(event.orgid.as_str()).bind(event.aggregateid.as_str());
        let change = match event.aggregatetype.as_str() {
            EvalScheduleEvent::AGGREGATE => match event.decode()? {
                EvalScheduleEvent::EvalScheduleSet(e) => row(
                    "INSERT INTO eval_schedules (org_id, id, name, version, trial, cron, interval_hours, enabled,
                         next_run_at, set_by, set_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                     ON CONFLICT (org_id, id) DO UPDATE SET version = excluded.version, trial = excluded.trial,
                         cron = excluded.cron, interval_hours = excluded.interval_hours, enabled = excluded.enabled,
                         next_run_at = excluded.next_run_at, last_error = NULL, set_by = excluded.set_by,
                         set_at = excluded.set_at",
                )
                .bind(text(e.name))
                .bind(int(e.version))
                .bind(Json(e.trial))
                .bind(e.cron.map(text))
                .bind(e.interval_hours.map(|hours| i32::try_from(hours).unwrap_or(i32::MAX)))
                .bind(e.enabled)
                .bind(at(e.next_run_at.as_deref()))
                .bind(text(e.by))
                .bind(event.time),
                EvalScheduleEvent::EvalScheduleDue(e) => row(
                    "UPDATE eval_schedules SET next_run_at = $3, last_run_at = $4, last_evaluation_id = $5, last_error = NULL
                     WHERE org_id = $1 AND id = $2",
                )
                .bind(at(e.next_run_at.as_deref()))
                .bind(event.time)
                .bind(text(e.evaluation_id)),
                EvalScheduleEvent::EvalScheduleStopped(e) => row(
                    "UPDATE eval_schedules SET enabled = false, next_run_at = NULL, last_error = $3
                     WHERE org_id = $1 AND id = $2",
                )
                .bind(text(e.reason)),
                EvalScheduleEvent::EvalScheduleRemoved(_) => {
                    row("DELETE FROM eval_schedules WHERE org_id = $1 AND id = $2")
                }
            },
            EvaluationEvent::AGGREGATE => match event.decode()? {
                EvaluationEvent::EvaluationFailed(e) => {
                    row("UPDATE eval_schedules SET last_error = $3 WHERE org_id = $1 AND last_evaluation_id = $2")
                        .bind(text(e.message))
                }
                _ => continue,
            },
            _ => continue,
        };
        change.execute(&mut *conn).await?;
    }
    Ok(())
}

fn at(time: Option<&str>) -> Option<OffsetDateTime> {
    time.and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok())
}
