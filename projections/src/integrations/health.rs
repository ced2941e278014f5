//! How the providers fared in an organization's own requests of the last minutes.

use sqlx::{FromRow, PgConnection, types::Json};
use time::OffsetDateTime;

/// How a model of a provider fared.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ModelHealth {
    pub provider: String,
    pub model: Option<String>,
    /// Requests that have their end.
    pub requests: i64,
    pub succeeded: i64,
    pub cancelled: i64,
    /// All attempts at them.
    pub attempts: i64,
    /// Requests that failed, by the category of the last failure.
    pub failures: Json<std::collections::BTreeMap<String, i64>>,
    /// From the request to the end, milliseconds, of those that succeeded.
    pub latencies_ms: Vec<f64>,
    pub last_at: OffsetDateTime,
}

/// Since a moment; of one user, or of all. Latencies are those of the last thousand of each model.
pub async fn model_health(
    conn: &mut PgConnection,
    org: &str,
    user: Option<&str>,
    since: OffsetDateTime,
) -> Result<Vec<ModelHealth>, sqlx::Error> {
    let select = "
        WITH ended AS (
            SELECT provider, model, status, attempts, coalesce(error_category, 'internal') AS category, ended_at,
                   extract(epoch FROM ended_at - requested_at)::float8 * 1000 AS ms,
                   row_number() OVER (PARTITION BY provider, model, status ORDER BY ended_at DESC) AS nth
            FROM integrations.completions
            WHERE org_id = $1 AND requested_at >= $3 AND ended_at IS NOT NULL AND provider IS NOT NULL
              AND ($2::text IS NULL OR user_id = $2)
        ), failed AS (
            SELECT provider, model, jsonb_object_agg(category, count) AS failures
            FROM (SELECT provider, model, category, count(*) AS count FROM ended WHERE status = 'failed'
                  GROUP BY provider, model, category) AS by_category
            GROUP BY provider, model
        )
        SELECT e.provider, e.model, count(*) AS requests,
               count(*) FILTER (WHERE status = 'completed') AS succeeded,
               count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
               sum(attempts)::bigint AS attempts, coalesce(f.failures, '{}') AS failures,
               coalesce(array_agg(ms) FILTER (WHERE status = 'completed' AND nth <= 1000), '{}') AS latencies_ms,
               max(ended_at) AS last_at
        FROM ended e LEFT JOIN failed f ON f.provider = e.provider AND f.model IS NOT DISTINCT FROM e.model
        GROUP BY e.provider, e.model, f.failures ORDER BY e.provider, e.model LIMIT 1000";
    sqlx::query_as(select).bind(org).bind(user).bind(since).fetch_all(conn).await
}
