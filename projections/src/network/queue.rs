//! The events that wait for a target, in the order in which it is to have them: by source, target and run (network.md §8.9).

use std::collections::BTreeMap;

use sqlx::{PgConnection, types::Json};

use super::rows::Delivery;

/// What an event waits with when an earlier one of its order waits.
pub const EARLIER_WAITS: &str = "earlier_waits";
/// Most events that one look gives.
const MOST: i64 = 1000;

/// An event that some of its targets have yet to get, or to be refused.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Unsettled {
    pub org_id: String,
    pub id: String,
    /// Where in the log it is.
    pub place: i64,
    pub run_id: String,
    pub source: String,
    /// By the target that gets it.
    pub deliveries: BTreeMap<String, Delivery>,
}

type Row = (i64, Option<String>, Option<String>, Option<i64>, Option<String>, Option<String>, Option<Json<Deliveries>>);
type Deliveries = BTreeMap<String, Delivery>;

/// What is not settled, and the place in the log that this belongs to; no place while the model is being replaced.
pub async fn unsettled(conn: &mut PgConnection) -> Result<(Option<u64>, Vec<Unsettled>), sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT c.sequence, e.org_id, e.id, e.place, e.run_id, e.source, e.deliveries
         FROM network.checkpoint c LEFT JOIN network.events e ON e.settled_at IS NULL WHERE c.service = 'network'",
    )
    .fetch_all(conn)
    .await?;
    let at = rows.first().and_then(|row| u64::try_from(row.0).ok());
    let open = |(_, org_id, id, place, run_id, source, deliveries): Row| {
        let (org_id, id, place, run_id, source) = (org_id?, id?, place?, run_id?, source?);
        Some(Unsettled { org_id, id, place, run_id, source, deliveries: deliveries?.0 })
    };
    Ok((at, rows.into_iter().filter_map(open).collect()))
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
