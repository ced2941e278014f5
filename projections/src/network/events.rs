//! Reading the calls over an organization's mesh.

use sqlx::{PgConnection, types::Json};
use time::OffsetDateTime;

use super::{registry::one, rows::RoutedEvent};

/// Which calls.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct EventFilter {
    pub run_id: Option<String>,
    pub source: Option<String>,
    /// One of those it was decided for.
    pub target: Option<String>,
    pub event_type: Option<String>,
    pub status: Option<String>,
    pub since: Option<OffsetDateTime>,
    pub until: Option<OffsetDateTime>,
    /// Only those before this place in the log.
    pub before: Option<i64>,
    /// At most so many: the newest.
    pub limit: i64,
}

/// The newest calls of an organization, in the order they came.
pub async fn events(conn: &mut PgConnection, org: &str, filter: &EventFilter) -> Result<Vec<RoutedEvent>, sqlx::Error> {
    let rows: Vec<Json<RoutedEvent>> = sqlx::query_scalar(
        "SELECT to_jsonb(e) FROM network.events e
         WHERE org_id = $1 AND ($2::text IS NULL OR run_id = $2) AND ($3::text IS NULL OR source = $3)
           AND ($4::text IS NULL OR candidates @> jsonb_build_array(jsonb_build_object('target', $4::text)))
           AND ($5::text IS NULL OR type = $5) AND ($6::text IS NULL OR status = $6)
           AND ($7::timestamptz IS NULL OR routed_at >= $7) AND ($8::timestamptz IS NULL OR routed_at < $8)
           AND ($9::bigint IS NULL OR place < $9)
         ORDER BY place DESC LIMIT $10",
    )
    .bind(org)
    .bind(&filter.run_id)
    .bind(&filter.source)
    .bind(&filter.target)
    .bind(&filter.event_type)
    .bind(&filter.status)
    .bind(filter.since)
    .bind(filter.until)
    .bind(filter.before)
    .bind(filter.limit)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().rev().map(|Json(row)| row).collect())
}

/// A call.
pub async fn event(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<RoutedEvent>, sqlx::Error> {
    one(conn, org, id).await
}

/// The calls of a run, in the order they came.
pub async fn traces_of_run(
    conn: &mut PgConnection,
    org: &str,
    run: &str,
    limit: i64,
) -> Result<Vec<RoutedEvent>, sqlx::Error> {
    let filter = EventFilter { run_id: Some(run.to_owned()), limit, ..EventFilter::default() };
    events(conn, org, &filter).await
}

/// What an organization's calls add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Totals {
    pub events: i64,
    pub delivered: i64,
    pub dropped: i64,
    pub error: i64,
    pub pending: i64,
    pub unrouted: i64,
    /// From acceptance to the first delivery, of all that were delivered together.
    pub latency_ms: i64,
}

/// The counters of an organization.
pub async fn totals(conn: &mut PgConnection, org: &str) -> Result<Totals, sqlx::Error> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT id, value FROM network.totals WHERE org_id = $1").bind(org).fetch_all(conn).await?;
    let of = |name: &str| rows.iter().find(|(id, _)| id == name).map_or(0, |(_, value)| *value);
    Ok(Totals {
        events: of("events"),
        delivered: of("delivered"),
        dropped: of("dropped"),
        error: of("error"),
        pending: of("pending"),
        unrouted: of("unrouted"),
        latency_ms: of("latency_ms"),
    })
}
