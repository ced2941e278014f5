//! Features of organizations, entitlements with a quota, and grants of principals.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};
use symbia_events::{
    Event,
    identity::{EntitlementGranted, GrantsEvent, OrgEntitlementSet, RoleGranted, ScopedEntitlementEvent},
};
use time::{OffsetDateTime, serde::rfc3339};
use uuid::Uuid;

use super::{
    super::table::{Row, Table},
    instant,
};

/// A feature of an organization.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct OrgEntitlement {
    pub id: String,
    pub org_id: String,
    pub feature_key: String,
    pub enabled: bool,
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

/// An entitlement with a quota.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct ScopedEntitlement {
    pub id: String,
    pub org_id: String,
    pub scope_type: String,
    pub scope_id: String,
    pub feature_key: String,
    /// `None` = no limit.
    pub quota: Option<i64>,
    pub consumed: i64,
    pub enabled: bool,
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What a principal was granted; its time may be over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Grant {
    pub id: String,
    pub org_id: String,
    pub principal_id: String,
    /// `entitlement` or `role`.
    pub kind: String,
    pub key: String,
    pub granted_by: String,
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

macro_rules! row {
    ($row:ty, $table:literal) => {
        impl Row for $row {
            const TABLE: &'static str = $table;
            fn id(&self) -> &str {
                &self.id
            }
        }
    };
}

row!(OrgEntitlement, "org_entitlements");
row!(ScopedEntitlement, "scoped_entitlements");
row!(Grant, "grants");

impl OrgEntitlement {
    /// Whether it counts at a time.
    #[must_use]
    pub fn is_effective(&self, at: OffsetDateTime) -> bool {
        self.enabled && self.expires_at.is_none_or(|end| end > at)
    }
}

impl Grant {
    /// Whether it counts at a time.
    #[must_use]
    pub fn is_live(&self, at: OffsetDateTime) -> bool {
        self.expires_at.is_none_or(|end| end > at)
    }
}

/// The id of an organization's feature: the same whenever it is set.
pub(super) fn feature_id(org: &str, feature: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("org-entitlement {org} {feature}").as_bytes()).to_string()
}

pub(super) fn set(entitlements: &mut Table<OrgEntitlement>, e: OrgEntitlementSet) {
    let id = feature_id(&e.org_id, &e.feature_key);
    let expires_at = instant(e.expires_at.as_deref());
    match entitlements.get_mut(&id) {
        Some(row) => (row.enabled, row.expires_at) = (e.enabled, expires_at),
        None => {
            let OrgEntitlementSet { org_id, feature_key, enabled, .. } = e;
            entitlements.add(OrgEntitlement { id, org_id, feature_key, enabled, expires_at });
        }
    }
}

// Aggregates keep counts where JSON and SQL agree on them.
fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn scoped(entitlements: &mut Table<ScopedEntitlement>, event: &Event, change: ScopedEntitlementEvent) {
    let id = &event.aggregateid;
    if let ScopedEntitlementEvent::ScopedEntitlementCreated(e) = change {
        entitlements.add(ScopedEntitlement {
            id: id.clone(),
            org_id: event.orgid.to_string(),
            scope_type: e.scope_type,
            scope_id: e.scope_id,
            feature_key: e.feature_key,
            quota: e.quota.map(count),
            consumed: 0,
            enabled: e.enabled,
            expires_at: instant(e.expires_at.as_deref()),
            created_at: event.time,
        });
        return;
    }
    let Some(row) = entitlements.get_mut(id) else { return };
    match change {
        ScopedEntitlementEvent::ScopedEntitlementUpdated(e) => {
            (row.quota, row.consumed) = (e.quota.map(count), count(e.consumed));
            (row.enabled, row.expires_at) = (e.enabled, instant(e.expires_at.as_deref()));
        }
        ScopedEntitlementEvent::EntitlementConsumed(e) => row.consumed = count(e.consumed),
        ScopedEntitlementEvent::EntitlementUsageReset(_) => row.consumed = 0,
        ScopedEntitlementEvent::ScopedEntitlementDeleted(_) => _ = entitlements.remove(|row| row.id == *id),
        ScopedEntitlementEvent::ScopedEntitlementCreated(_) | ScopedEntitlementEvent::EntitlementExhausted(_) => {}
    }
}

pub(super) fn granted(grants: &mut Table<Grant>, event: &Event, change: GrantsEvent) {
    let (kind, id, key, granted_by, end) = match change {
        GrantsEvent::EntitlementGranted(EntitlementGranted { grant_id, key, expires_at, by, .. }) => {
            ("entitlement", grant_id, key, by, expires_at)
        }
        GrantsEvent::RoleGranted(RoleGranted { grant_id, key, expires_at, by, .. }) => {
            ("role", grant_id, key, by, expires_at)
        }
        GrantsEvent::EntitlementRevoked(e) => return forget(grants, &e.grant_id),
        GrantsEvent::RoleRevoked(e) => return forget(grants, &e.grant_id),
        GrantsEvent::GrantExpired(e) => return forget(grants, &e.grant_id),
    };
    grants.add(Grant {
        id,
        org_id: event.orgid.to_string(),
        principal_id: event.aggregateid.clone(),
        kind: kind.to_owned(),
        key,
        granted_by,
        expires_at: instant(end.as_deref()),
        created_at: event.time,
    });
}

fn forget(grants: &mut Table<Grant>, id: &str) {
    grants.remove(|grant| grant.id == id);
}

/// The features of an organization, by key.
pub async fn org_entitlements(conn: &mut PgConnection, org_id: &str) -> Result<Vec<OrgEntitlement>, sqlx::Error> {
    let select = "SELECT to_jsonb(e) FROM identity.org_entitlements e WHERE org_id = $1 ORDER BY feature_key";
    let found: Vec<Json<OrgEntitlement>> = sqlx::query_scalar(select).bind(org_id).fetch_all(conn).await?;
    Ok(found.into_iter().map(|Json(row)| row).collect())
}

/// The entitlements of a scope, the oldest first.
pub async fn scoped_entitlements(
    conn: &mut PgConnection,
    scope_type: &str,
    scope_id: &str,
) -> Result<Vec<ScopedEntitlement>, sqlx::Error> {
    let select = "SELECT to_jsonb(e) FROM identity.scoped_entitlements e WHERE scope_type = $1 AND scope_id = $2
                  ORDER BY created_at, id";
    let found: Vec<Json<ScopedEntitlement>> =
        sqlx::query_scalar(select).bind(scope_type).bind(scope_id).fetch_all(conn).await?;
    Ok(found.into_iter().map(|Json(row)| row).collect())
}

/// An entitlement with a quota, by id.
pub async fn scoped_entitlement(conn: &mut PgConnection, id: &str) -> Result<Option<ScopedEntitlement>, sqlx::Error> {
    let select = "SELECT to_jsonb(e) FROM identity.scoped_entitlements e WHERE id = $1";
    let found: Option<Json<ScopedEntitlement>> = sqlx::query_scalar(select).bind(id).fetch_optional(conn).await?;
    Ok(found.map(|Json(row)| row))
}

/// The grants of a principal of a kind (`entitlement` or `role`), the oldest first.
pub async fn grants(conn: &mut PgConnection, principal_id: &str, kind: &str) -> Result<Vec<Grant>, sqlx::Error> {
    let select = "SELECT to_jsonb(g) FROM identity.grants g WHERE principal_id = $1 AND kind = $2
                  ORDER BY created_at, id";
    let found: Vec<Json<Grant>> = sqlx::query_scalar(select).bind(principal_id).bind(kind).fetch_all(conn).await?;
    Ok(found.into_iter().map(|Json(row)| row).collect())
}
