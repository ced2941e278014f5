//! Which providers are asked whether they are there: folding their events, and reading them.

use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{DomainEvent, integrations::ProviderProbesEvent};
use time::OffsetDateTime;

use super::completions::int;
use crate::{FoldError, FoldEvent, columns::text};

/// The probes of an organization.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct ProviderProbes {
    pub org_id: String,
    pub version: i64,
    pub providers: Json<Vec<String>>,
    pub every_seconds: i32,
    pub set_by: String,
    pub set_at: OffsetDateTime,
}

/// Those of an organization, if it has set any.
pub async fn provider_probes(conn: &mut PgConnection, org: &str) -> Result<Option<ProviderProbes>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.provider_probes WHERE org_id = $1 AND id = $1")
        .bind(org)
        .fetch_optional(conn)
        .await
}

/// Those of all organizations that have some asked.
pub async fn all_provider_probes(conn: &mut PgConnection) -> Result<Vec<ProviderProbes>, sqlx::Error> {
    let select = "SELECT * FROM integrations.provider_probes WHERE providers <> '[]' ORDER BY org_id LIMIT 10000";
    sqlx::query_as(select).fetch_all(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    for FoldEvent { event, .. } in events.iter().filter(|e| e.event.aggregatetype == ProviderProbesEvent::AGGREGATE) {
        let ProviderProbesEvent::ProviderProbesSet(e) = event.decode()?;
        sqlx::query(
            "INSERT INTO provider_probes (org_id, id, version, providers, every_seconds, set_by, set_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (org_id, id) DO UPDATE SET version = excluded.version, providers = excluded.providers,
                 every_seconds = excluded.every_seconds, set_by = excluded.set_by, set_at = excluded.set_at",
        )
        .bind(event.orgid.as_str())
        .bind(&event.aggregateid)
        .bind(int(e.version))
        .bind(Json(e.providers.into_iter().map(text).collect::<Vec<_>>()))
        .bind(i32::try_from(e.every_seconds).unwrap_or(i32::MAX))
        .bind(text(e.by))
        .bind(event.time)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
