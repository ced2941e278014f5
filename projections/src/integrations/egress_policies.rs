//! Egress policies: folding their events, and reading them.

use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{
    DomainEvent,
    integrations::{EgressPolicyEvent, EgressTerms},
};
use time::OffsetDateTime;

use super::completions::int;
use crate::{FoldError, FoldEvent, columns::text};

/// Where an organization lets its calls go.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct EgressPolicy {
    pub version: i64,
    pub terms: Json<EgressTerms>,
    pub set_by: String,
    pub set_at: OffsetDateTime,
}

/// That of an organization, if it has set one.
pub async fn egress_policy(conn: &mut PgConnection, org: &str) -> Result<Option<EgressPolicy>, sqlx::Error> {
    let select =
        "SELECT version, terms, set_by, set_at FROM integrations.egress_policies WHERE org_id = $1 AND id = $1";
    sqlx::query_as(select).bind(org).fetch_optional(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    for FoldEvent { event, .. } in events.iter().filter(|e| e.event.aggregatetype == EgressPolicyEvent::AGGREGATE) {
        let EgressPolicyEvent::EgressPolicySet(e) = event.decode()?;
        sqlx::query(
            "INSERT INTO egress_policies (org_id, id, version, terms, set_by, set_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (org_id, id) DO UPDATE SET version = excluded.version, terms = excluded.terms,
                 set_by = excluded.set_by, set_at = excluded.set_at",
        )
        .bind(event.orgid.as_str())
        .bind(&event.aggregateid)
        .bind(int(e.version))
        .bind(Json(e.terms))
        .bind(text(e.by))
        .bind(event.time)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
