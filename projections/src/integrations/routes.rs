//! Routes: folding their events, and reading them.

use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{
    DomainEvent,
    integrations::{Hedge, RouteEvent, RouteFallback, RouteTarget},
};
use time::OffsetDateTime;

use super::completions::int;
use crate::{
    FoldError, FoldEvent,
    columns::{name_of, text},
};

/// A name for several models.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Route {
    pub id: String,
    pub alias: String,
    pub version: i64,
    pub strategy: String,
    pub targets: Json<Vec<RouteTarget>>,
    pub fallbacks: Json<Vec<RouteFallback>>,
    pub hedge: Option<Json<Hedge>>,
    pub set_by: String,
    pub set_at: OffsetDateTime,
}

/// The routes of an organization, by their names.
pub async fn routes(conn: &mut PgConnection, org: &str) -> Result<Vec<Route>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.routes WHERE org_id = $1 ORDER BY alias LIMIT 1000")
        .bind(org)
        .fetch_all(conn)
        .await
}

/// One by its name.
pub async fn route(conn: &mut PgConnection, org: &str, alias: &str) -> Result<Option<Route>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.routes WHERE org_id = $1 AND alias = $2")
        .bind(org)
        .bind(alias)
        .fetch_optional(conn)
        .await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    for FoldEvent { event, .. } in events.iter().filter(|e| e.event.aggregatetype == RouteEvent::AGGREGATE) {
        let row = |sql: &'static str| sqlx::query(sql).bind(event.orgid.as_str()).bind(&event.aggregateid);
        let change = match event.decode()? {
            RouteEvent::RoutePolicySet(e) => row(
                "INSERT INTO routes (org_id, id, alias, version, strategy, targets, fallbacks, set_by, set_at, hedge)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
                 ON CONFLICT (org_id, id) DO UPDATE SET version = excluded.version, strategy = excluded.strategy,
                     targets = excluded.targets, fallbacks = excluded.fallbacks, set_by = excluded.set_by,
                     set_at = excluded.set_at, hedge = excluded.hedge",
            )
            .bind(text(e.alias))
            .bind(int(e.version))
            .bind(name_of(e.strategy))
            .bind(Json(e.targets))
            .bind(Json(e.fallbacks))
            .bind(text(e.by))
            .bind(event.time)
            .bind(e.hedge.map(Json)),
            RouteEvent::RoutePolicyRemoved(_) => row("DELETE FROM routes WHERE org_id = $1 AND id = $2"),
        };
        change.execute(&mut *conn).await?;
    }
    Ok(())
}
