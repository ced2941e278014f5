//! Accounts that the caller linked: listing them, and giving one up.

use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{OauthConnectionCommand, RevokeOauth},
};
use symbia_events::{AggregateRef, Personal, Service, SubjectKey};
use symbia_projections::{Scope, identity::credentials_of, integrations as model};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, Reader};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    iso,
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(providers)).routes(routes!(list)).routes(routes!(revoke))
}

/// An account at another provider.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Connection {
    id: String,
    provider: String,
    oauth_user_id: Option<String>,
    oauth_user_email: Option<String>,
    oauth_user_name: Option<String>,
    oauth_avatar_url: Option<String>,
    /// Its tokens in the vault.
    credential_id: String,
    scopes: Vec<String>,
    /// `active`, `expired` or `revoked`.
    status: String,
    expires_at: Option<String>,
    connected_at: String,
    revoked_at: Option<String>,
    /// When its token was last lent for a call.
    last_used_at: Option<String>,
    updated_at: String,
}

impl Connection {
    fn opened(row: model::OauthConnection, key: Option<&SubjectKey>, used: Option<OffsetDateTime>) -> Self {
        let open = |sealed: Option<Personal>| key.zip(sealed).and_then(|(key, sealed)| key.open(&sealed).ok());
        let account = row.account.0;
        Connection {
            id: row.id,
            provider: row.provider,
            oauth_user_id: open(account.id),
            oauth_user_email: open(account.email),
            oauth_user_name: open(account.name),
            oauth_avatar_url: open(account.avatar_url),
            credential_id: row.credential_id,
            scopes: row.scopes.0,
            status: row.status,
            expires_at: row.expires_at.map(iso),
            connected_at: iso(row.connected_at),
            revoked_at: row.revoked_at.map(iso),
            last_used_at: used.map(iso),
            updated_at: iso(row.updated_at),
        }
    }
}

/// List where the caller can link an account, and where they have
#[utoipa::path(get, path = "/oauth/providers", tag = "Accounts",
    responses((status = 200, description = "`{providers: [{provider, displayName, connected, connectionId?}]}`", body = Object)))]
async fn providers(State(service): State<Integrations>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    let reader = Reader::new(&caller, &scope)?;
    let linked = service.oauth_connections(&reader).await?;
    let mut tx = service.platform.read(&Scope::member(reader.org.clone(), &reader.user)).await?;
    let mut all = model::oauth_clients(&mut tx, reader.org.as_str()).await?;
    drop(tx);
    let theirs = |provider: &str| all.iter().any(|client| client.id == provider);
    let own: Vec<_> = service.linking.own.all(reader.org.as_str()).filter(|client| !theirs(&client.id)).collect();
    all.extend(own);
    let shown = |client: &model::OauthClient| {
        let connection = linked.iter().find(|c| c.provider == client.id && c.status == "active");
        json!({ "provider": client.id, "displayName": client.display_name, "description": client.description,
            "iconUrl": client.icon_url, "connected": connection.is_some(),
            "connectionId": connection.map(|connection| &connection.id) })
    };
    let providers: Vec<Value> = all.iter().filter(|client| client.enabled).map(shown).collect();
    Ok(Json(json!({ "providers": providers })))
}

/// List the accounts that the caller linked, the newest first
#[utoipa::path(get, path = "/oauth/connections", tag = "Accounts",
    responses((status = 200, description = "`{connections}`", body = Object)))]
async fn list(State(service): State<Integrations>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    let reader = Reader::new(&caller, &scope)?;
    let rows = service.oauth_connections(&reader).await?;
    let key = service.platform.secrets.subject_key(&reader.user).await?;
    let mut tx = service.platform.read(&Scope::platform()).await?;
    let kept = credentials_of(&mut tx, &reader.user).await?;
    drop(tx);
    let used = |id: &str| kept.iter().find(|credential| credential.id == id)?.last_used_at;
    let opened = |row: model::OauthConnection| {
        let used = used(&row.credential_id);
        Connection::opened(row, key.as_ref(), used)
    };
    let connections: Vec<Connection> = rows.into_iter().map(opened).collect();
    Ok(Json(json!({ "connections": connections })))
}

/// Give a linked account up
///
/// Its tokens are given back to the provider and destroyed here.
#[utoipa::path(delete, path = "/oauth/connections/{id}", tag = "Accounts",
    params(("id" = String, Path, description = "Id of the connection")),
    responses((status = 200, description = "`{success, message}`", body = Object),
        (status = 404, description = "There is none of the caller's")))]
async fn revoke(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let reader = Reader::new(&caller, &scope)?;
    let known = service.oauth_connections(&reader).await?.into_iter().any(|connection| connection.id == id);
    if !known {
        return Err(ApiError::not_found("Connection"));
    }
    let address = AggregateRef::new(Service::Integrations, reader.org.clone(), "oauth-connection", &id);
    let address = address.map_err(|_| ApiError::not_found("Connection"))?;
    let command = OauthConnectionCommand::from(RevokeOauth { connection_id: id });
    service.platform.submit(&address, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(json!({ "success": true, "message": "The account is linked no longer" })))
}
