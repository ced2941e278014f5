//! Saying something in a chat.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    integrations::{ChannelChatCommand, ChannelContent, ChannelFormat, SendChannelMessage, chat_name},
};
use symbia_events::{AggregateRef, Service};
use symbia_projections::{Scope, integrations as model};
use time::OffsetDateTime;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{Integrations, Kind, Reader, no_connection};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, Validation, routes},
    iso,
};

/// How long the other side may take, and how often it is looked whether it is done.
const PATIENCE: Duration = Duration::from_secs(25);
const LOOK: Duration = Duration::from_millis(50);
const MAX_TEXT: usize = 64 * 1024;
const MAX_LABEL: usize = 200;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(send))
}

/// What is to be said.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Saying {
    /// The chat's id there.
    #[serde(default)]
    chat_id: String,
    /// At most 64 kB; what is too long for one message there becomes several.
    #[serde(default)]
    text: String,
    /// The message there that it answers.
    #[serde(default)]
    reply_to_message_id: Option<String>,
    #[serde(default)]
    formatting: Formatting,
}

/// How.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Formatting {
    /// `markdown` (default) or `plain`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    parse_mode: ChannelFormat,
    #[serde(default)]
    disable_preview: bool,
    #[serde(default)]
    silent: bool,
}

/// It was said.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SaidThere {
    success: bool,
    /// Its id there: of the first of its parts.
    message_id: String,
    message_ids: Vec<String>,
    timestamp: String,
}

impl Integrations {
    async fn said_there(&self, reader: &Reader, chat_key: &str, delivery: &str) -> ApiResult<SaidThere> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut tx = self.platform.read(&Scope::member(reader.org.clone(), &reader.user)).await?;
            let found = model::channel_delivery(&mut tx, reader.org.as_str(), chat_key, delivery).await?;
            drop(tx);
            let found = found.ok_or_else(no_connection)?;
            match found.status.as_str() {
                "delivered" => {
                    let message_ids = found.vendor_message_ids.0;
                    return Ok(SaidThere {
                        success: true,
                        message_id: message_ids.first().cloned().unwrap_or_default(),
                        message_ids,
                        timestamp: iso(found.ended_at.unwrap_or_else(OffsetDateTime::now_utc)),
                    });
                }
                "failed" => {
                    let code = found.error_code.unwrap_or_default();
                    let error = ApiError::new(StatusCode::BAD_REQUEST, "NOT_SAID", format!("It was not said: {code}"));
                    return Err(error.with_extra("success", false).with_extra("reason", code));
                }
                _ if Instant::now() > until => {
                    let text = "The other side takes long; it will be said when it can";
                    return Err(ApiError::new(StatusCode::ACCEPTED, "PENDING", text));
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

/// Say something in a chat (admins of the organization, and who has `cap:integrations.configure`)
#[utoipa::path(post, path = "/integrations/channels/{channelType}/connections/{id}/send", tag = "Channels",
    request_body = Saying,
    params(("channelType" = String, Path, description = "Which messenger: `telegram`, `slack`, …"),
        ("id" = String, Path, description = "Id of the connection")),
    responses((status = 200, description = "It was said", body = SaidThere),
        (status = 202, description = "The other side takes long"),
        (status = 400, description = "A field is missing, it is not connected, or the other side refuses"),
        (status = 403, description = "The caller may not"), (status = 404, description = "There is none")))]
async fn send(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path((kind, id)): Path<(String, String)>,
    Json(saying): Json<Saying>,
) -> ApiResult<Json<SaidThere>> {
    let (kind, reader) = (Kind::named(&kind)?, Reader::configuring(&caller, &scope)?);
    let connection = service.channel(&reader, kind, &id).await?;
    let mut rules = Validation::new();
    rules.check((1..=MAX_LABEL).contains(&saying.chat_id.len()), "chatId", "required", "must have 1 to 200 bytes");
    rules.check(!saying.text.trim().is_empty(), "text", "required", "is required");
    rules.check(saying.text.len() <= MAX_TEXT, "text", "length", "must have at most 64 kB").finish()?;
    if !connection.is_used() {
        let text = "The channel is not connected";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "CHANNEL_NOT_CONNECTED", text));
    }
    let chat_key = service.platform.keys.lookup_hash("channel", &chat_name(kind.name(), &id, &saying.chat_id));
    let actor = Actor::from(&*caller);
    let content = ChannelContent {
        chat_id: saying.chat_id,
        text: saying.text,
        format: saying.formatting.parse_mode,
        reply_to_message_id: saying.reply_to_message_id,
        disable_preview: saying.formatting.disable_preview,
        silent: saying.formatting.silent,
    };
    let content = serde_json::to_string(&content).map_err(ApiError::internal)?;
    let delivery_id = Uuid::new_v5(&scope.command_id(&caller.id), b"delivery").to_string();
    let command = ChannelChatCommand::from(SendChannelMessage {
        chat_key: chat_key.clone(),
        org_id: reader.org.to_string(),
        connection_id: id,
        delivery_id: delivery_id.clone(),
        conversation_id: None,
        message_id: None,
        content: service.key_of(&actor).await?.seal(&content),
    });
    let address = AggregateRef::new(Service::Integrations, reader.org.clone(), "channel-chat", &chat_key);
    let address = address.map_err(ApiError::internal)?;
    service.platform.submit(&address, &command, &actor, &scope).await?;
    Ok(Json(service.said_there(&reader, &chat_key, &delivery_id).await?))
}
