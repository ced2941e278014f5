//! Vault items without their secrets: how their events change the rows, and reading them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::{PgConnection, types::Json};
use symbia_events::{DomainEvent, Event, Personal, SubjectKey, identity::CredentialEvent};
use time::{OffsetDateTime, serde::rfc3339};

use super::fold::instant;
use super::table::{Row, Table, deletes_organization, deletes_user};
use crate::{FoldError, FoldEvent, secrets::SecretStore, vault::ItemContext};

/// A vault item. Where the secret is kept is in it, the secret is not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Credential {
    /// Id.
    pub id: String,
    /// The organization it is kept for, or `global`.
    pub org_id: String,
    /// Whose it is.
    pub owner_id: String,
    /// Whom it is for.
    pub provider: String,
    /// Display name.
    pub name: String,
    /// `api_key` or `oauth_token`.
    pub credential_type: String,
    /// Whether the members of its organization may use it.
    pub is_org_wide: bool,
    /// Where the secret is kept.
    pub secret_ref: String,
    /// Where the refresh token is kept.
    pub refresh_ref: Option<String>,
    /// The last characters of a long secret.
    pub masked_hint: Option<String>,
    /// Free data.
    pub metadata: Map<String, Value>,
    /// When the secret ends by itself.
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// Keyed hash of the account at the provider.
    pub account_key: Option<String>,
    /// The account; `None` when the person's key was destroyed.
    pub oauth_user_id: Option<String>,
    /// Its address.
    pub oauth_user_email: Option<String>,
    /// Its name.
    pub oauth_user_name: Option<String>,
    /// Counts replacements of the secret, from 1.
    pub version: i32,
    /// When a service was last given it.
    #[serde(with = "rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// Since when it is kept.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Credential {
    /// The organization it is kept for.
    #[must_use]
    pub fn organization(&self) -> Option<&str> {
        Some(self.org_id.as_str()).filter(|org| *org != "global")
    }

    /// What its secret is sealed for.
    #[must_use]
    pub fn context(&self) -> ItemContext<'_> {
        ItemContext {
            credential_id: &self.id,
            owner_id: &self.owner_id,
            org_id: self.organization(),
            provider: &self.provider,
            version: self.version.unsigned_abs(),
        }
    }
}

impl Row for Credential {
    const TABLE: &'static str = "credentials";
    fn id(&self) -> &str {
        &self.id
    }
}

type Keys = HashMap<String, SubjectKey>;

pub(super) async fn fold(
    secrets: &SecretStore,
    conn: &mut PgConnection,
    events: &[FoldEvent],
) -> Result<(), FoldError> {
    let (mut changes, mut ids, mut orgs, mut users) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for FoldEvent { event, .. } in events {
        let id = event.aggregateid.clone();
        if event.aggregatetype == CredentialEvent::AGGREGATE {
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
    let kids: Vec<String> = changes.iter().filter_map(|(_, change)| kid(change.as_ref()?)).collect();
    let keys = secrets.subject_keys(&kids).await?;
    let mut rows = Table::<Credential>::load(conn, &[("id", ids), ("org_id", orgs), ("owner_id", users)]).await?;
    for (event, change) in changes {
        match change {
            Some(change) => apply(&mut rows, event, change, &keys)?,
            // Its organization or its owner is gone.
            None => {
                let gone = &event.aggregateid;
                rows.remove(|row| row.org_id == *gone || row.owner_id == *gone);
            }
        }
    }
    rows.save(conn).await
}

fn kid(change: &CredentialEvent) -> Option<String> {
    let CredentialEvent::CredentialStored(e) = change else { return None };
    e.oauth_user_id.as_ref().or(e.oauth_user_email.as_ref()).or(e.oauth_user_name.as_ref()).map(|p| p.kid.clone())
}

fn apply(rows: &mut Table<Credential>, event: &Event, change: CredentialEvent, keys: &Keys) -> Result<(), FoldError> {
    let open = |sealed: Option<Personal>| sealed.and_then(|sealed| keys.get(&sealed.kid)?.open(&sealed).ok());
    if let CredentialEvent::CredentialStored(e) = change {
        let org_id = e.org_id.unwrap_or_else(|| "global".to_owned());
        if org_id != event.orgid.as_str() {
            return Err(FoldError::Event(format!("a credential of {} that names organization {org_id}", event.orgid)));
        }
        rows.add(Credential {
            id: event.aggregateid.clone(),
            org_id,
            owner_id: e.owner_id,
            provider: e.provider,
            name: e.name,
            credential_type: e.credential_type,
            is_org_wide: e.is_org_wide,
            secret_ref: e.secret_ref,
            refresh_ref: e.refresh_ref,
            masked_hint: e.masked_hint,
            metadata: e.metadata,
            expires_at: e.expires_at.as_deref().and_then(instant),
            account_key: e.account_key,
            oauth_user_id: open(e.oauth_user_id),
            oauth_user_email: open(e.oauth_user_email),
            oauth_user_name: open(e.oauth_user_name),
            version: 1,
            last_used_at: None,
            created_at: event.time,
        });
        return Ok(());
    }
    let Some(row) = rows.get_mut(&event.aggregateid) else { return Ok(()) };
    match change {
        CredentialEvent::CredentialUpdated(e) => {
            row.name = e.name.unwrap_or_else(|| std::mem::take(&mut row.name));
            row.metadata = e.metadata.unwrap_or_else(|| std::mem::take(&mut row.metadata));
        }
        CredentialEvent::CredentialSecretReplaced(e) => {
            (row.secret_ref, row.refresh_ref, row.masked_hint) = (e.secret_ref, e.refresh_ref, e.masked_hint);
            row.expires_at = e.expires_at.as_deref().and_then(instant);
            row.version = i32::try_from(e.version).unwrap_or(i32::MAX);
        }
        CredentialEvent::CredentialShared(_) => row.is_org_wide = true,
        CredentialEvent::CredentialUnshared(_) => row.is_org_wide = false,
        CredentialEvent::CredentialReleased(_) => row.last_used_at = Some(event.time),
        CredentialEvent::CredentialDeleted(_) => _ = rows.remove(|row| row.id == event.aggregateid),
        CredentialEvent::CredentialStored(_)
        | CredentialEvent::CredentialReleaseDenied(_)
        | CredentialEvent::SecretDestroyed(_) => {}
    }
    Ok(())
}

/// A vault item by its id.
pub async fn credential(conn: &mut PgConnection, id: &str) -> Result<Option<Credential>, sqlx::Error> {
    let select = "SELECT to_jsonb(c) FROM identity.credentials c WHERE id = $1";
    let found: Option<Json<Credential>> = sqlx::query_scalar(select).bind(id).fetch_optional(conn).await?;
    Ok(found.map(|Json(credential)| credential))
}

/// The items that a user keeps, the oldest first.
pub async fn credentials_of(conn: &mut PgConnection, owner_id: &str) -> Result<Vec<Credential>, sqlx::Error> {
    many(
        conn,
        "SELECT to_jsonb(c) FROM identity.credentials c WHERE owner_id = $1 ORDER BY created_at, id LIMIT 500",
        owner_id,
    )
    .await
}

/// The items that are shared with an organization, the oldest first.
pub async fn credentials_of_org(conn: &mut PgConnection, org_id: &str) -> Result<Vec<Credential>, sqlx::Error> {
    let select = "SELECT to_jsonb(c) FROM identity.credentials c
                  WHERE org_id = $1 AND is_org_wide AND org_id <> 'global' ORDER BY created_at, id LIMIT 500";
    many(conn, select, org_id).await
}

async fn many(conn: &mut PgConnection, select: &'static str, key: &str) -> Result<Vec<Credential>, sqlx::Error> {
    let found: Vec<Json<Credential>> = sqlx::query_scalar(select).bind(key).fetch_all(conn).await?;
    Ok(found.into_iter().map(|Json(credential)| credential).collect())
}

/// The item for a provider: the user's own, else, where an organization is given, one that is shared with it (§8.1).
pub async fn credential_for(
    conn: &mut PgConnection,
    owner_id: &str,
    org_id: Option<&str>,
    provider: &str,
) -> Result<Option<Credential>, sqlx::Error> {
    let found: Option<Json<Credential>> = sqlx::query_scalar(
        "SELECT to_jsonb(c) FROM identity.credentials c
         WHERE provider = $3 AND (owner_id = $1 OR (is_org_wide AND org_id = $2))
         ORDER BY (owner_id = $1) DESC, created_at, id LIMIT 1",
    )
    .bind(owner_id)
    .bind(org_id)
    .bind(provider)
    .fetch_optional(conn)
    .await?;
    Ok(found.map(|Json(credential)| credential))
}
