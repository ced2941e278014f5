//! What was done for an organization in an hour, by model and inference process.

use sqlx::{FromRow, PgConnection};
use symbia_events::{Event, models::UsageEvent};
use time::OffsetDateTime;

use super::int;
use crate::{FoldError, columns::text};

/// Sums of an hour.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct InferenceStats {
    pub hour: OffsetDateTime,
    pub model_id: String,
    pub worker_id: String,
    pub requests: i64,
    pub errors: i64,
    pub tokens_in: i64,
    pub tokens_cached: i64,
    pub tokens_out: i64,
    pub ttft_ms_p50: Option<f64>,
    pub ttft_ms_p95: Option<f64>,
    pub tokens_per_sec_p50: Option<f64>,
    pub queue_ms_p95: Option<f64>,
}

/// An organization's sums since a time, the latest hour first.
pub async fn inference_stats(
    conn: &mut PgConnection,
    org: &str,
    since: OffsetDateTime,
) -> Result<Vec<InferenceStats>, sqlx::Error> {
    let select = "SELECT * FROM models.inference_stats WHERE org_id = $1 AND hour >= $2
        ORDER BY hour DESC, model_id, worker_id";
    sqlx::query_as(select).bind(org).bind(since).fetch_all(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, event: &Event, change: UsageEvent) -> Result<(), FoldError> {
    let UsageEvent::UsageCounted(e) = change;
    let hour = OffsetDateTime::from_unix_timestamp(int(e.hour))
        .map_err(|_| FoldError::Event(format!("{} is no time", e.hour)))?;
    let insert = "INSERT INTO inference_stats (org_id, id, hour, model_id, worker_id, requests, errors, tokens_in,
            tokens_cached, tokens_out, ttft_ms_p50, ttft_ms_p95, tokens_per_sec_p50, queue_ms_p95)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        ON CONFLICT (org_id, id) DO UPDATE SET requests = excluded.requests, errors = excluded.errors,
            tokens_in = excluded.tokens_in, tokens_cached = excluded.tokens_cached, tokens_out = excluded.tokens_out,
            ttft_ms_p50 = excluded.ttft_ms_p50, ttft_ms_p95 = excluded.ttft_ms_p95,
            tokens_per_sec_p50 = excluded.tokens_per_sec_p50, queue_ms_p95 = excluded.queue_ms_p95";
    let row = sqlx::query(insert).bind(event.orgid.to_string()).bind(&event.aggregateid).bind(hour);
    let row = row.bind(text(e.model_id)).bind(text(e.worker_id)).bind(int(e.requests)).bind(int(e.errors));
    let row = row.bind(int(e.tokens_in)).bind(int(e.tokens_cached)).bind(int(e.tokens_out));
    let row = row.bind(e.ttft_ms_p50).bind(e.ttft_ms_p95).bind(e.tokens_per_sec_p50).bind(e.queue_ms_p95);
    row.execute(conn).await?;
    Ok(())
}
