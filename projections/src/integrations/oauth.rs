//! Linked accounts, where they can be linked, and the ways there: folding their events, and reading them.

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{
    DomainEvent, Event, Personal,
    integrations::{OauthClientEvent, OauthConnectionEvent, OauthEndpoints, OauthFlowEvent, OauthLinked},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{completions::int, registry::storable};
use crate::{FoldError, FoldEvent, columns::text, vault::ItemContext};

/// An organization's registration at a provider of accounts.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct OauthClient {
    pub org_id: String,
    /// The provider.
    pub id: String,
    pub display_name: String,
    pub description: Option<String>,
    pub icon_url: Option<String>,
    pub endpoints: Json<OauthEndpoints>,
    pub client_id: String,
    pub secret_ref: Option<String>,
    pub redirect_uris: Json<Vec<String>>,
    pub enabled: bool,
    pub version: i64,
    pub updated_at: OffsetDateTime,
}

/// A person's way to a provider and back.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct OauthFlow {
    pub org_id: String,
    /// SHA-256 of its state.
    pub id: String,
    pub user_id: String,
    pub provider: String,
    pub redirect_uri: Option<String>,
    pub client_state: Option<Json<Personal>>,
    /// `started`, `answered`, `completed` or `failed`.
    pub status: String,
    pub error_code: Option<String>,
    pub connection_id: Option<String>,
    pub started_at: OffsetDateTime,
}

/// Who an account belongs to, sealed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct SealedAccount {
    pub id: Option<Personal>,
    pub email: Option<Personal>,
    pub name: Option<Personal>,
    pub avatar_url: Option<Personal>,
}

/// A linked account.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct OauthConnection {
    pub org_id: String,
    pub id: String,
    pub user_id: String,
    pub provider: String,
    pub credential_id: String,
    pub account: Json<SealedAccount>,
    pub scopes: Json<Vec<String>>,
    /// `active`, `expired` or `revoked`.
    pub status: String,
    pub expires_at: Option<OffsetDateTime>,
    pub connected_at: OffsetDateTime,
    pub revoked_at: Option<OffsetDateTime>,
    pub updated_at: OffsetDateTime,
}

/// What a client's secret is sealed for.
#[must_use]
pub fn oauth_secret_context<'a>(org: &'a str, provider: &'a str) -> ItemContext<'a> {
    ItemContext { credential_id: provider, owner_id: org, org_id: Some(org), provider, version: 1 }
}

/// What a code on its way to the worker is sealed for.
#[must_use]
pub fn oauth_code_context<'a>(org: &'a str, user: &'a str, state_hash: &'a str, provider: &'a str) -> ItemContext<'a> {
    ItemContext { credential_id: state_hash, owner_id: user, org_id: Some(org), provider, version: 1 }
}

/// Where an organization's members can link accounts, by provider.
pub async fn oauth_clients(conn: &mut PgConnection, org: &str) -> Result<Vec<OauthClient>, sqlx::Error> {
    let select = "SELECT * FROM integrations.oauth_clients WHERE org_id = $1 ORDER BY id LIMIT 500";
    sqlx::query_as(select).bind(org).fetch_all(conn).await
}

/// One of them.
pub async fn oauth_client(
    conn: &mut PgConnection,
    org: &str,
    provider: &str,
) -> Result<Option<OauthClient>, sqlx::Error> {
    let select = "SELECT * FROM integrations.oauth_clients WHERE org_id = $1 AND id = $2";
    sqlx::query_as(select).bind(org).bind(provider).fetch_optional(conn).await
}

/// A way to a provider, whoever's: who asks holds its state.
pub async fn oauth_flow(conn: &mut PgConnection, state_hash: &str) -> Result<Option<OauthFlow>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.oauth_flows WHERE id = $1").bind(state_hash).fetch_optional(conn).await
}

/// A user's linked accounts in an organization, the newest first.
pub async fn oauth_connections(
    conn: &mut PgConnection,
    org: &str,
    user: &str,
) -> Result<Vec<OauthConnection>, sqlx::Error> {
    let select = "SELECT * FROM integrations.oauth_connections WHERE org_id = $1 AND user_id = $2
                  ORDER BY connected_at DESC, id LIMIT 500";
    sqlx::query_as(select).bind(org).bind(user).fetch_all(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    for FoldEvent { event, .. } in events {
        match event.aggregatetype.as_str() {
            OauthClientEvent::AGGREGATE => client(conn, event).await?,
            OauthFlowEvent::AGGREGATE => flow(conn, event).await?,
            OauthConnectionEvent::AGGREGATE => connection(conn, event).await?,
            _ => {}
        }
    }
    Ok(())
}

async fn client(conn: &mut PgConnection, event: &Event) -> Result<(), FoldError> {
    let row = |sql: &'static str| sqlx::query(sql).bind(event.orgid.as_str()).bind(&event.aggregateid);
    let change = match event.decode()? {
        OauthClientEvent::OauthProviderConfigSet(e) => {
            row("INSERT INTO oauth_clients (org_id, id, display_name, description, icon_url, endpoints, client_id,
                     secret_ref, redirect_uris, enabled, version, updated_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                 ON CONFLICT (org_id, id) DO UPDATE SET display_name = excluded.display_name,
                     description = excluded.description, icon_url = excluded.icon_url,
                     endpoints = excluded.endpoints, client_id = excluded.client_id,
                     secret_ref = excluded.secret_ref, redirect_uris = excluded.redirect_uris,
                     enabled = excluded.enabled, version = excluded.version, updated_at = excluded.updated_at")
            .bind(text(e.display_name))
            .bind(e.description.map(text))
            .bind(e.icon_url.map(text))
            .bind(storable(&e.endpoints))
            .bind(text(e.client_id))
            .bind(e.secret_ref.map(text))
            .bind(storable(&e.redirect_uris))
            .bind(e.enabled)
            .bind(int(e.version))
            .bind(event.time)
        }
        OauthClientEvent::OauthProviderConfigRemoved(_) => {
            row("DELETE FROM oauth_clients WHERE org_id = $1 AND id = $2")
        }
    };
    change.execute(conn).await?;
    Ok(())
}

async fn flow(conn: &mut PgConnection, event: &Event) -> Result<(), FoldError> {
    let row = |sql: &'static str| sqlx::query(sql).bind(event.orgid.as_str()).bind(&event.aggregateid);
    let change = match event.decode()? {
        OauthFlowEvent::OauthStarted(e) => row(
            "INSERT INTO oauth_flows (org_id, id, user_id, provider, redirect_uri, client_state, status, started_at)
                 VALUES ($1, $2, $3, $4, $5, $6, 'started', $7) ON CONFLICT DO NOTHING",
        )
        .bind(text(e.user_id))
        .bind(text(e.provider))
        .bind(e.redirect_uri.map(text))
        .bind(e.client_state.map(Json))
        .bind(event.time),
        OauthFlowEvent::OauthAnswered(_) => {
            row("UPDATE oauth_flows SET status = 'answered' WHERE org_id = $1 AND id = $2")
        }
        OauthFlowEvent::OauthCompleted(e) => {
            let done = "UPDATE oauth_flows SET status = 'completed', connection_id = $3 WHERE org_id = $1 AND id = $2";
            row(done).bind(text(e.connection_id))
        }
        OauthFlowEvent::OauthFailed(e) => {
            let failed = "UPDATE oauth_flows SET status = 'failed', error_code = $3 WHERE org_id = $1 AND id = $2";
            row(failed).bind(text(e.code))
        }
    };
    change.execute(conn).await?;
    Ok(())
}

fn instant(at: Option<&String>) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(at?, &Rfc3339).ok()
}

async fn connection(conn: &mut PgConnection, event: &Event) -> Result<(), FoldError> {
    let row = |sql: &'static str| sqlx::query(sql).bind(event.orgid.as_str()).bind(&event.aggregateid).bind(event.time);
    let change = match event.decode()? {
        OauthConnectionEvent::OauthLinked(e) => return Ok(linked(conn, event, e).await?),
        OauthConnectionEvent::OauthRefreshRequested(_) => return Ok(()),
        OauthConnectionEvent::OauthTokenRefreshed(e) => {
            let update = "UPDATE oauth_connections SET expires_at = $4, updated_at = $3 WHERE org_id = $1 AND id = $2";
            row(update).bind(instant(e.expires_at.as_ref()))
        }
        OauthConnectionEvent::OauthExpired(_) => {
            row("UPDATE oauth_connections SET status = 'expired', updated_at = $3 WHERE org_id = $1 AND id = $2")
        }
        OauthConnectionEvent::OauthRevoked(_) => row(
            "UPDATE oauth_connections SET status = 'revoked', revoked_at = $3, updated_at = $3 WHERE org_id = $1 AND id = $2",
        ),
    };
    change.execute(conn).await?;
    Ok(())
}

async fn linked(conn: &mut PgConnection, event: &Event, e: OauthLinked) -> Result<(), sqlx::Error> {
    let upsert = "INSERT INTO oauth_connections (org_id, id, user_id, provider, credential_id, account, scopes, status,
                      expires_at, connected_at, updated_at)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, 'active', $8, $9, $9)
                  ON CONFLICT (org_id, id) DO UPDATE SET credential_id = excluded.credential_id,
                      account = excluded.account, scopes = excluded.scopes, status = 'active',
                      expires_at = excluded.expires_at, connected_at = excluded.connected_at, revoked_at = NULL,
                      updated_at = excluded.updated_at";
    let account = SealedAccount {
        id: e.oauth_user_id,
        email: e.oauth_user_email,
        name: e.oauth_user_name,
        avatar_url: e.oauth_avatar_url,
    };
    sqlx::query(upsert)
        .bind(event.orgid.as_str())
        .bind(&event.aggregateid)
        .bind(text(e.user_id))
        .bind(text(e.provider))
        .bind(text(e.credential_id))
        .bind(storable(&account))
        .bind(storable(&e.scopes))
        .bind(instant(e.expires_at.as_ref()))
        .bind(event.time)
        .execute(conn)
        .await
        .map(|_| ())
}
