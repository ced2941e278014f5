//! Circuits: folding their events, and reading them.

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use symbia_events::{DomainEvent, integrations::CircuitEvent};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::completions::int;
use crate::{
    FoldError, FoldEvent,
    columns::{name_of, text},
};

/// A model that was left alone.
#[derive(Clone, Debug, PartialEq, FromRow, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Circuit {
    /// `global` where the installation's own key is concerned.
    pub org_id: String,
    pub id: String,
    pub provider: String,
    pub model: String,
    pub credential_id: Option<String>,
    pub is_open: bool,
    pub failures: i64,
    pub last_category: String,
    pub open_until: OffsetDateTime,
    pub changed_at: OffsetDateTime,
}

/// The circuits of an organization and of the installation.
pub async fn circuits(conn: &mut PgConnection, org: &str) -> Result<Vec<Circuit>, sqlx::Error> {
    let select = "SELECT * FROM integrations.circuits WHERE org_id IN ('global', $1)
                  ORDER BY provider, model, id LIMIT 1000";
    sqlx::query_as(select).bind(org).fetch_all(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    for FoldEvent { event, .. } in events.iter().filter(|e| e.event.aggregatetype == CircuitEvent::AGGREGATE) {
        let CircuitEvent::ProviderCircuitOpened(e) = event.decode()? else {
            let close = "UPDATE circuits SET is_open = false, failures = 0, changed_at = $3
                         WHERE org_id = $1 AND id = $2";
            let close = sqlx::query(close).bind(event.orgid.as_str()).bind(&event.aggregateid).bind(event.time);
            close.execute(&mut *conn).await?;
            continue;
        };
        let upsert =
            "INSERT INTO circuits (org_id, id, provider, model, credential_id, is_open, failures, last_category,
                                            open_until, changed_at)
                      VALUES ($1, $2, $3, $4, $5, true, $6, $7, $8, $9)
                      ON CONFLICT (org_id, id) DO UPDATE SET is_open = true, failures = excluded.failures,
                          last_category = excluded.last_category, open_until = excluded.open_until,
                          changed_at = excluded.changed_at";
        sqlx::query(upsert)
            .bind(event.orgid.as_str())
            .bind(&event.aggregateid)
            .bind(text(e.provider))
            .bind(text(e.model))
            .bind(e.credential_id.map(text))
            .bind(int(e.failures.into()))
            .bind(name_of(e.last_category))
            .bind(OffsetDateTime::parse(&e.open_until, &Rfc3339).unwrap_or(event.time))
            .bind(event.time)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
