//! API keys: how their events change the rows, and reading them.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};
use symbia_events::{DomainEvent, Event, identity::ApiKeyEvent};
use time::{OffsetDateTime, serde::rfc3339};

use super::fold::instant;
use super::table::{Row, Table, deletes_organization, deletes_user};
use crate::{FoldError, FoldEvent};

/// An API key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Id.
    pub id: String,
    /// Its organization, or `global`.
    pub org_id: String,
    /// Display name.
    pub name: String,
    /// `sk_` and the first eight digits.
    pub key_prefix: String,
    /// Keyed hash of the whole key.
    pub key_hash: String,
    /// Whose rights it has.
    pub created_by: String,
    /// What it is limited to; empty = nothing.
    pub scopes: Vec<String>,
    /// When it ends by itself.
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// From when on it is not accepted: that may lie ahead after a rotation.
    #[serde(with = "rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// When it was last used, to the minute.
    #[serde(with = "rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// How often it was used, about.
    pub uses: i64,
    /// When it was minted.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

impl ApiKey {
    /// Its organization; `None` for one of all its creator's.
    #[must_use]
    pub fn organization(&self) -> Option<&str> {
        Some(self.org_id.as_str()).filter(|org| *org != "global")
    }

    /// Whether it was revoked at a time.
    #[must_use]
    pub fn is_revoked(&self, at: OffsetDateTime) -> bool {
        self.revoked_at.is_some_and(|end| end <= at)
    }

    /// Whether it had ended by itself at a time.
    #[must_use]
    pub fn is_expired(&self, at: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|end| end <= at)
    }
}

impl Row for ApiKey {
    const TABLE: &'static str = "api_keys";
    fn id(&self) -> &str {
        &self.id
    }
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    let (mut changes, mut ids, mut orgs, mut users) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for FoldEvent { event, .. } in events {
        let id = event.aggregateid.clone();
        if event.aggregatetype == ApiKeyEvent::AGGREGATE {
            ids.push(id);
            changes.push((event, Some(event.decode()?)));
        } else if deletes_organization(event) {
            orgs.push(id);
            changes.push((event, None));
        } else if deletes_user(event) {
            users.push(id);
            changes.push((event, None));
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    let mut keys = Table::<ApiKey>::load(conn, &[("id", ids), ("org_id", orgs), ("created_by", users)]).await?;
    for (event, change) in changes {
        match change {
            Some(change) => apply(&mut keys, event, change)?,
            // Its organization or its creator is gone.
            None => {
                let gone = &event.aggregateid;
                keys.remove(|key| key.org_id == *gone || key.created_by == *gone);
            }
        }
    }
    keys.save(conn).await
}

fn apply(keys: &mut Table<ApiKey>, event: &Event, change: ApiKeyEvent) -> Result<(), FoldError> {
    if let ApiKeyEvent::ApiKeyCreated(e) = change {
        let org_id = e.org_id.unwrap_or_else(|| "global".to_owned());
        if org_id != event.orgid.as_str() {
            return Err(FoldError::Event(format!("a key of {} that names organization {org_id}", event.orgid)));
        }
        keys.add(ApiKey {
            id: event.aggregateid.clone(),
            org_id,
            name: e.name,
            key_prefix: e.key_prefix,
            key_hash: e.key_hash,
            created_by: e.created_by,
            scopes: e.scopes,
            expires_at: e.expires_at.as_deref().and_then(instant),
            revoked_at: None,
            last_used_at: None,
            uses: 0,
            created_at: event.time,
        });
        return Ok(());
    }
    let Some(key) = keys.get_mut(&event.aggregateid) else { return Ok(()) };
    match change {
        ApiKeyEvent::ApiKeyCreated(_) => {}
        ApiKeyEvent::ApiKeyRotated(e) => {
            key.revoked_at = Some(e.grace_until.as_deref().and_then(instant).unwrap_or(event.time));
        }
        ApiKeyEvent::ApiKeyRevoked(_) => key.revoked_at = Some(event.time),
        ApiKeyEvent::ApiKeyUsed(e) => {
            key.last_used_at = instant(&e.used_at);
            key.uses = key.uses.saturating_add(i64::from(e.count));
        }
        ApiKeyEvent::ApiKeyDeleted(_) => _ = keys.remove(|key| key.id == event.aggregateid),
    }
    Ok(())
}

/// A key by its id.
pub async fn api_key(conn: &mut PgConnection, id: &str) -> Result<Option<ApiKey>, sqlx::Error> {
    one(conn, "SELECT to_jsonb(k) FROM identity.api_keys k WHERE id = $1", id).await
}

/// A key by the keyed hash of its text.
pub async fn api_key_by_hash(conn: &mut PgConnection, hash: &str) -> Result<Option<ApiKey>, sqlx::Error> {
    one(conn, "SELECT to_jsonb(k) FROM identity.api_keys k WHERE key_hash = $1", hash).await
}

async fn one(conn: &mut PgConnection, select: &'static str, value: &str) -> Result<Option<ApiKey>, sqlx::Error> {
    let found: Option<Json<ApiKey>> = sqlx::query_scalar(select).bind(value).fetch_optional(conn).await?;
    Ok(found.map(|Json(key)| key))
}

/// The keys that a user made, the oldest first.
pub async fn api_keys_of(conn: &mut PgConnection, user_id: &str) -> Result<Vec<ApiKey>, sqlx::Error> {
    let select = "SELECT to_jsonb(k) FROM identity.api_keys k WHERE created_by = $1 ORDER BY created_at, id LIMIT 500";
    let found: Vec<Json<ApiKey>> = sqlx::query_scalar(select).bind(user_id).fetch_all(conn).await?;
    Ok(found.into_iter().map(|Json(key)| key).collect())
}
