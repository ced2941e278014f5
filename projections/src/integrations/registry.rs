//! Registered integrations: folding their events, and reading them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{
    DomainEvent, Event,
    integrations::{
        IntegrationAuth, IntegrationDiscovered, IntegrationEvent, IntegrationRateLimit, IntegrationRegistered,
        IntegrationRetry, Operation,
    },
};
use time::OffsetDateTime;

use super::completions::int;
use crate::{
    FoldError, FoldEvent,
    columns::{name_of, text},
};

/// An integration that an organization registered.
#[derive(Clone, Debug, PartialEq, FromRow, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Integration {
    pub org_id: String,
    pub key: String,
    pub name: String,
    pub description: Option<String>,
    /// `openapi`, `mcp` or `custom`.
    pub kind: String,
    pub spec_url: Option<String>,
    /// Where it is called.
    pub server_url: Option<String>,
    pub auth: Json<IntegrationAuth>,
    pub retry: Option<Json<IntegrationRetry>>,
    pub rate_limit: Option<Json<IntegrationRateLimit>>,
    pub operations: Json<Vec<Operation>>,
    pub tags: Json<Vec<String>>,
    pub metadata: Json<Map<String, Value>>,
    /// `pending`, `active` or `error`.
    pub status: String,
    pub sync_error: Option<String>,
    pub spec_digest: Option<String>,
    pub version: i64,
    pub last_synced_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// The integrations of an organization, by key.
pub async fn integrations(conn: &mut PgConnection, org: &str) -> Result<Vec<Integration>, sqlx::Error> {
    let select = "SELECT * FROM integrations.integrations WHERE org_id = $1 ORDER BY key LIMIT 1000";
    sqlx::query_as(select).bind(org).fetch_all(conn).await
}

/// An integration by its key.
pub async fn integration(conn: &mut PgConnection, org: &str, key: &str) -> Result<Option<Integration>, sqlx::Error> {
    let select = "SELECT * FROM integrations.integrations WHERE org_id = $1 AND key = $2";
    sqlx::query_as(select).bind(org).bind(key).fetch_optional(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    // Few, and each with all of an integration's operations: one after the other.
    for FoldEvent { event, .. } in events.iter().filter(|e| e.event.aggregatetype == IntegrationEvent::AGGREGATE) {
        match event.decode()? {
            IntegrationEvent::IntegrationRegistered(e) => registered(conn, event, e).await?,
            IntegrationEvent::IntegrationRefreshRequested(e) => {
                let update = "UPDATE integrations SET status = 'pending', version = $3, updated_at = $4
                              WHERE org_id = $1 AND key = $2";
                let update = sqlx::query(update).bind(event.orgid.as_str()).bind(&event.aggregateid);
                update.bind(int(e.version)).bind(event.time).execute(&mut *conn).await?;
            }
            IntegrationEvent::IntegrationDiscovered(e) => discovered(conn, event, e).await?,
            IntegrationEvent::IntegrationDiscoveryFailed(e) => {
                let update = "UPDATE integrations SET status = 'error', sync_error = $3, updated_at = $4
                              WHERE org_id = $1 AND key = $2";
                let update = sqlx::query(update).bind(event.orgid.as_str()).bind(&event.aggregateid);
                update.bind(text(e.error)).bind(event.time).execute(&mut *conn).await?;
            }
            IntegrationEvent::IntegrationRemoved(_) => {
                let delete = sqlx::query("DELETE FROM integrations WHERE org_id = $1 AND key = $2");
                delete.bind(event.orgid.as_str()).bind(&event.aggregateid).execute(&mut *conn).await?;
            }
        }
    }
    Ok(())
}

async fn registered(conn: &mut PgConnection, event: &Event, e: IntegrationRegistered) -> Result<(), sqlx::Error> {
    let known = e.operations.is_some();
    let upsert = "INSERT INTO integrations (org_id, key, name, description, kind, spec_url, server_url, auth, retry,
                      operations, tags, metadata, status, version, last_synced_at, created_at, updated_at, rate_limit)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, $17)
                  ON CONFLICT (org_id, key) DO UPDATE SET name = excluded.name, description = excluded.description,
                      kind = excluded.kind, spec_url = excluded.spec_url, server_url = excluded.server_url,
                      auth = excluded.auth, retry = excluded.retry, rate_limit = excluded.rate_limit, operations = excluded.operations,
                      tags = excluded.tags, metadata = excluded.metadata, status = excluded.status,
                      sync_error = NULL, spec_digest = NULL, version = excluded.version,
                      last_synced_at = excluded.last_synced_at, updated_at = excluded.updated_at";
    sqlx::query(upsert)
        .bind(event.orgid.as_str())
        .bind(&event.aggregateid)
        .bind(text(e.name))
        .bind(e.description.map(text))
        .bind(name_of(e.kind))
        .bind(e.spec_url.map(text))
        .bind(e.server_url.map(text))
        .bind(storable(&e.auth))
        .bind(e.retry.map(Json))
        .bind(storable(&e.operations.unwrap_or_default()))
        .bind(storable(&e.tags))
        .bind(storable(&e.metadata))
        .bind(if known { "active" } else { "pending" })
        .bind(int(e.version))
        .bind(known.then_some(event.time))
        .bind(event.time)
        .bind(e.rate_limit.as_ref().map(storable))
        .execute(conn)
        .await
        .map(|_| ())
}

async fn discovered(conn: &mut PgConnection, event: &Event, e: IntegrationDiscovered) -> Result<(), sqlx::Error> {
    let update = "UPDATE integrations SET status = 'active', sync_error = NULL, operations = $3, spec_digest = $4,
                      server_url = coalesce($5, server_url), version = $6, last_synced_at = $7, updated_at = $7
                  WHERE org_id = $1 AND key = $2";
    sqlx::query(update)
        .bind(event.orgid.as_str())
        .bind(&event.aggregateid)
        .bind(storable(&e.operations))
        .bind(e.spec_digest)
        .bind(e.server_url.map(text))
        .bind(int(e.version))
        .bind(event.time)
        .execute(conn)
        .await
        .map(|_| ())
}

// As PostgreSQL can hold it: every character but NUL.
pub(super) fn storable(value: &impl Serialize) -> Json<Value> {
    fn clean(value: Value) -> Value {
        match value {
            Value::String(words) => Value::String(text(words)),
            Value::Array(items) => items.into_iter().map(clean).collect(),
            Value::Object(members) => members.into_iter().map(|(name, value)| (text(name), clean(value))).collect(),
            other => other,
        }
    }
    Json(clean(serde_json::to_value(value).unwrap_or_default()))
}
