//! The events that wait for a target, in the order in which it is to have them: by source, target and run (network.md §8.9).

use sqlx::PgConnection;

/// What an event waits with when an earlier one of its order waits.
pub const EARLIER_WAITS: &str = "earlier_waits";
/// Most events that one look gives.
const MOST: i64 = 1000;

/// Whether a target has yet to get, or to be refused, an earlier event of the same source and run.
pub async fn comes_after_another(
    conn: &mut PgConnection,
    org: &str,
    event: &str,
    target: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT 1 FROM network.events mine JOIN network.events e USING (org_id, run_id, source)
             WHERE mine.org_id = $1 AND mine.id = $2 AND e.place < mine.place AND e.settled_at IS NULL
               AND e.deliveries -> $3 ->> 'status' NOT IN ('delivered', 'dead'))",
    )
    .bind(org)
    .bind(event)
    .bind(target)
    .fetch_one(conn)
    .await
}

/// The event that a target gets next, of those that wait for `event`.
pub async fn next_in_order(
    conn: &mut PgConnection,
    org: &str,
    event: &str,
    target: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT e.id FROM network.events mine JOIN network.events e USING (org_id, run_id, source)
         WHERE mine.org_id = $1 AND mine.id = $2 AND e.place > mine.place AND e.settled_at IS NULL
           AND e.deliveries -> $3 ->> 'status' = 'held' AND e.deliveries -> $3 ->> 'errorCode' = $4
         ORDER BY e.place LIMIT 1",
    )
    .bind(org)
    .bind(event)
    .bind(target)
    .bind(EARLIER_WAITS)
    .fetch_optional(conn)
    .await
}

/// The events that wait until a target is there, or until a pause is over, in the order they came.
pub async fn waiting_for(conn: &mut PgConnection, org: &str, target: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT id FROM network.events
         WHERE org_id = $1 AND settled_at IS NULL AND deliveries -> $2 ->> 'status' IN ('held', 'retrying')
           AND deliveries -> $2 ->> 'errorCode' <> $3
         ORDER BY place LIMIT $4",
    )
    .bind(org)
    .bind(target)
    .bind(EARLIER_WAITS)
    .bind(MOST)
    .fetch_all(conn)
    .await
}
