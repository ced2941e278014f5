//! An organization's connections: listing them, how they are doing, and ending them.

use std::time::Duration;

use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{ChannelConnectionCommand, DisconnectChannel, RemoveChannel},
};
use symbia_nats::channels::{Question, Said, What};
use symbia_projections::{Scope, integrations as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, Kind, Reader, command};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    iso,
};

/// Longest time for a look at the other side.
const PATIENCE: Duration = Duration::from_secs(45);

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(status))
        .routes(routes!(disconnect))
        .routes(routes!(remove))
}

/// A connection to a messenger.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Connection {
    id: String,
    channel_type: String,
    channel_account_id: Option<String>,
    channel_account_name: Option<String>,
    /// `connecting`, `connected`, `disconnected` or `error`.
    status: String,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Too much went wrong: it is used no more until it is connected anew.
    disabled: bool,
    /// `webhook`, `polling` or `gateway`.
    mode: String,
    assistants: Vec<String>,
    last_message_at: Option<String>,
    messages_received: i64,
    messages_sent: i64,
    /// What was said there and not taken in, since it was too much at once.
    messages_refused: i64,
    /// Files that came along and were not kept, since so much was kept lately.
    files_refused: i64,
    created_at: String,
    connected_at: Option<String>,
}

impl From<model::ChannelConnection> for Connection {
    fn from(row: model::ChannelConnection) -> Self {
        Connection {
            id: row.id,
            channel_type: row.channel_type,
            channel_account_id: row.account_id,
            channel_account_name: row.account_name,
            status: row.status,
            error: row.last_error,
            disabled: row.disabled,
            mode: row.mode,
            assistants: row.assistants.0,
            last_message_at: row.last_message_at.map(iso),
            messages_received: row.messages_received,
            messages_sent: row.messages_sent,
            messages_refused: row.messages_refused,
            files_refused: row.files_refused,
            created_at: iso(row.created_at),
            connected_at: row.connected_at.map(iso),
        }
    }
}

/// The connections to a messenger.
#[derive(Serialize, ToSchema)]
struct Connections {
    connections: Vec<Connection>,
}

/// List the organization's connections to a messenger
#[utoipa::path(get, path = "/integrations/channels/{channelType}/connections", tag = "Channels",
    params(("channelType" = String, Path, description = "Which messenger: `telegram`, `slack`, …")),
    responses((status = 200, description = "The oldest first", body = Connections),
        (status = 400, description = "No messenger")))]
async fn list(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(kind): Path<String>,
) -> ApiResult<Json<Connections>> {
    let (kind, reader) = (Kind::named(&kind)?, Reader::new(&caller, &scope)?);
    let mut tx = service.platform.read(&Scope::member(reader.org.clone(), &reader.user)).await?;
    let found = model::channel_connections(&mut tx, reader.org.as_str(), kind.name()).await?;
    Ok(Json(Connections { connections: found.into_iter().map(Connection::from).collect() }))
}

/// How a connection is doing, as the other side says.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Doing {
    connection_id: String,
    channel_type: String,
    status: String,
    channel_account_id: Option<String>,
    channel_account_name: Option<String>,
    last_ping_at: Option<String>,
    last_message_at: Option<String>,
    messages_received: i64,
    messages_sent: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Ask the other side how a connection is doing
#[utoipa::path(get, path = "/integrations/channels/{channelType}/connections/{id}/status", tag = "Channels",
    params(("channelType" = String, Path, description = "Which messenger: `telegram`, `slack`, …"),
        ("id" = String, Path, description = "Id of the connection")),
    responses((status = 200, description = "What it says", body = Doing),
        (status = 404, description = "There is none"), (status = 503, description = "No worker could ask")))]
async fn status(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path((kind, id)): Path<(String, String)>,
) -> ApiResult<Json<Doing>> {
    let (kind, reader) = (Kind::named(&kind)?, Reader::new(&caller, &scope)?);
    let found = service.channel(&reader, kind, &id).await?;
    // One that is not used is not asked.
    let asked = if found.is_used() { Some(service.look_at(&id).await?) } else { None };
    let (status, error) = match &asked {
        Some(None) => ("connected".to_owned(), None),
        Some(Some(error)) => ("error".to_owned(), Some(error.clone())),
        None => (found.status, found.last_error),
    };
    Ok(Json(Doing {
        connection_id: found.id,
        channel_type: found.channel_type,
        status,
        channel_account_id: found.account_id,
        channel_account_name: found.account_name,
        last_ping_at: asked.map(|_| iso(time::OffsetDateTime::now_utc())),
        last_message_at: found.last_message_at.map(iso),
        messages_received: found.messages_received,
        messages_sent: found.messages_sent,
        error,
    }))
}

impl Integrations {
    /// Sends a connection of the caller's organization a command, made of its id and the organization's.
    async fn order(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        (kind, id): (&str, &str),
        command: impl FnOnce(String, String) -> ChannelConnectionCommand,
    ) -> ApiResult<()> {
        let (kind, reader) = (Kind::named(kind)?, Reader::configuring(caller, scope)?);
        self.channel(&reader, kind, id).await?;
        let command = command(id.to_owned(), reader.org.to_string());
        let address = Integrations::channel_address(&reader, id)?;
        self.platform.submit(&address, &command, &Actor::from(&**caller), scope).await.map(drop)
    }

    async fn look_at(&self, id: &str) -> ApiResult<Option<String>> {
        let question = Question { connection_id: id.to_owned(), what: What::Status };
        match question.ask(&self.platform.nats, PATIENCE).await {
            Ok(Said::Status { error }) => Ok(error),
            Ok(_) => Err(ApiError::unavailable("The channel worker", 2)),
            Err(error) => {
                tracing::warn!(%error, "a channel is not looked at");
                Err(ApiError::unavailable("The channel worker", 2))
            }
        }
    }
}

/// End a connection (admins of the organization, and who has `cap:integrations.configure`)
///
/// It can be connected again.
#[utoipa::path(post, path = "/integrations/channels/{channelType}/connections/{id}/disconnect", tag = "Channels",
    params(("channelType" = String, Path, description = "Which messenger: `telegram`, `slack`, …"),
        ("id" = String, Path, description = "Id of the connection")),
    responses((status = 200, description = "`{success, connectionId, status}`", body = Object),
        (status = 403, description = "The caller may not"), (status = 404, description = "There is none")))]
async fn disconnect(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path((kind, id)): Path<(String, String)>,
) -> ApiResult<Json<Value>> {
    let end = |connection_id, org_id| command(DisconnectChannel { connection_id, org_id });
    service.order(&caller, &scope, (&kind, &id), end).await?;
    Ok(Json(json!({ "success": true, "connectionId": id, "status": "disconnected" })))
}

/// End a connection, and forget it (admins of the organization, and who has `cap:integrations.configure`)
///
/// The conversations stay.
#[utoipa::path(delete, path = "/integrations/channels/{channelType}/connections/{id}", tag = "Channels",
    params(("channelType" = String, Path, description = "Which messenger: `telegram`, `slack`, …"),
        ("id" = String, Path, description = "Id of the connection")),
    responses((status = 200, description = "`{success, connectionId}`", body = Object),
        (status = 403, description = "The caller may not"), (status = 404, description = "There is none")))]
async fn remove(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path((kind, id)): Path<(String, String)>,
) -> ApiResult<Json<Value>> {
    let remove = |connection_id, org_id| command(RemoveChannel { connection_id, org_id });
    service.order(&caller, &scope, (&kind, &id), remove).await?;
    Ok(Json(json!({ "success": true, "connectionId": id })))
}
