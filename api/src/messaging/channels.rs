//! Chats elsewhere that a conversation stands for (messaging.md §6.8, 8.14).

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_commands::{
    Actor,
    integrations::chat_name,
    messaging::{ChannelLinkCommand, LinkChannel, UnlinkChannel},
};
use symbia_events::{AggregateRef, CommandId, Service};
use symbia_projections::{Scope, messaging as model};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Messaging,
    access::{Place, with_status},
    shapes::ConversationRow,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, OptionalCaller, Path, Query, RequestScope, routes},
    identity::service_of,
    iso,
    platform::Consistency,
};

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new().routes(routes!(by_channel)).routes(routes!(list, link)).routes(routes!(unlink))
}

/// A chat elsewhere.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Chat {
    /// `telegram` and the like.
    #[serde(alias = "type")]
    channel_type: String,
    /// The connection to it.
    connection_id: String,
    /// Its id there.
    chat_id: String,
}

impl Chat {
    /// What the metadata of a conversation say of its chat.
    pub fn of(metadata: &Map<String, Value>) -> Option<Self> {
        serde_json::from_value(metadata.get("channel")?.clone()).ok()
    }

    fn check(&self) -> ApiResult<()> {
        for (name, text) in
            [("channelType", &self.channel_type), ("connectionId", &self.connection_id), ("chatId", &self.chat_id)]
        {
            if text.is_empty() || text.len() > 255 {
                return Err(ApiError::invalid(name, "length", "must have 1 to 255 bytes"));
            }
        }
        Ok(())
    }
}

/// A chat that a conversation stands for. Its id there is told to nobody.
#[derive(Serialize, ToSchema)]
pub(super) struct ChannelLinkRow {
    /// Id of the link.
    id: String,
    conversation_id: String,
    /// `telegram` and the like.
    channel_type: String,
    /// The connection to it.
    connection_id: String,
    linked_by: String,
    linked_at: String,
}

impl From<model::ChannelLink> for ChannelLinkRow {
    fn from(row: model::ChannelLink) -> Self {
        ChannelLinkRow {
            id: row.id,
            conversation_id: row.conversation_id,
            channel_type: row.channel_type,
            connection_id: row.connection_id,
            linked_by: row.linked_by,
            linked_at: iso(row.linked_at),
        }
    }
}

fn taken() -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "CHANNEL_LINKED", "Another conversation stands for this chat already")
        .with_hint("Unlink it there first: DELETE /api/conversations/{id}/channels/{linkId}.")
}

impl Messaging {
    // A keyed hash: who has the read model does not learn whose chat it is.
    fn link_id(&self, chat: &Chat) -> String {
        let named = chat_name(&chat.channel_type, &chat.connection_id, &chat.chat_id);
        self.platform.keys.lookup_hash("channel", &named)
    }

    /// Refuses a chat that a conversation of the organization stands for.
    ///
    /// # Errors
    /// 409 CHANNEL_LINKED.
    pub(super) async fn is_free(&self, org: &str, chat: &Chat) -> ApiResult<()> {
        chat.check()?;
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let links = model::channel_links(&mut tx, &self.link_id(chat), Some(org)).await?;
        if links.iter().any(|link| link.alive) { Err(taken()) } else { Ok(()) }
    }

    /// Lets a conversation stand for a chat.
    ///
    /// # Errors
    /// 403 for whoever does not administer the organization, 409 CHANNEL_LINKED.
    pub(super) async fn link(
        &self,
        place: &Place,
        chat: &Chat,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<String> {
        chat.check()?;
        let (link_id, key) = (self.link_id(chat), self.key(&place.address).await?);
        let link = LinkChannel {
            link_id: link_id.clone(),
            org_id: place.tenant.to_string(),
            channel_type: chat.channel_type.clone(),
            connection_id: chat.connection_id.clone(),
            chat_id: key.seal(&chat.chat_id),
            conversation_id: place.conversation.id.clone(),
        };
        let actor = Actor::from(&**caller);
        match self.change_link(place, &link_id, link.clone(), &actor, scope).await {
            Err(error) if error.code() == "CHANNEL_LINKED" => {}
            done => return done.map(|()| link_id),
        }
        // A conversation that was deleted holds no chat any more; its link did not hear of that.
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let former = model::channel_links(&mut tx, &link_id, Some(place.tenant.as_str())).await?.pop();
        drop(tx);
        let conversation_id = former.filter(|link| !link.alive).ok_or_else(taken)?.conversation_id;
        let unlink = UnlinkChannel { link_id: link_id.clone(), conversation_id };
        self.change_link(place, &link_id, unlink, &actor, scope).await?;
        self.change_link(place, &link_id, link, &actor, scope).await.map(|()| link_id)
    }

    async fn change_link(
        &self,
        place: &Place,
        link_id: &str,
        command: impl Into<ChannelLinkCommand>,
        actor: &Actor,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let address = AggregateRef::new(Service::Messaging, place.tenant.clone(), "channel-link", link_id);
        let address = address.map_err(|_| ApiError::not_found("Channel link"))?;
        let id = CommandId::random();
        let done = self.platform.submit_as(id, &address, &command.into(), actor, scope, Consistency::Visible).await;
        done.map(drop).map_err(with_status)
    }
}

/// Which chat, and of which organization.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// `telegram` and the like.
    channel_type: String,
    /// The connection to it.
    connection_id: String,
    /// Its id there.
    chat_id: String,
    /// The organization whose connection it is; the header X-Org-Id does as well.
    org_id: Option<String>,
}

/// The conversation of a chat.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OfChannel {
    /// Null when no conversation stands for the chat.
    conversation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<ConversationRow>,
}

/// Find the conversation that stands for a chat (services)
#[utoipa::path(get, path = "/internal/conversations/by-channel", tag = "Internal",
    params(Wanted, ("X-Service-Auth" = String, Header, description = "The service's signed token")),
    responses((status = 200, description = "The conversation, or null", body = OfChannel),
        (status = 400, description = "A parameter is missing, or several organizations link the chat"),
        (status = 403, description = "Not a service")))]
async fn by_channel(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    headers: HeaderMap,
    caller: Result<OptionalCaller, ApiError>,
    wanted: ApiResult<Query<Wanted>>,
) -> ApiResult<Json<OfChannel>> {
    service_of(&messaging.platform.keys, Service::Messaging, &headers, caller?.0.as_ref())?;
    let Query(Wanted { channel_type, connection_id, chat_id, org_id }) = wanted?;
    let chat = Chat { channel_type, connection_id, chat_id };
    chat.check()?;
    let org = org_id.or_else(|| scope.org_id.clone());
    let mut tx = messaging.platform.read(&Scope::platform()).await?;
    let mut links = model::channel_links(&mut tx, &messaging.link_id(&chat), org.as_deref()).await?;
    links.retain(|link| link.alive);
    let link = match links.as_slice() {
        [] => return Ok(Json(OfChannel { conversation_id: None, conversation: None })),
        [link] => link,
        _ => return Err(ApiError::invalid("orgId", "required", "several organizations link this chat: name one")),
    };
    let found = model::conversation(&mut tx, &link.org_id, &link.conversation_id).await?;
    Ok(Json(OfChannel {
        conversation_id: found.as_ref().map(|c| c.id.clone()),
        conversation: found.map(ConversationRow::from),
    }))
}

/// The chats of a conversation.
#[derive(Serialize, ToSchema)]
struct Channels {
    channels: Vec<ChannelLinkRow>,
}

/// List the chats that a conversation stands for
#[utoipa::path(get, path = "/conversations/{id}/channels", tag = "Channels",
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 200, description = "The oldest first", body = Channels),
        (status = 403, description = "The caller takes no part in it"), (status = 404, description = "There is none")))]
async fn list(State(messaging): State<Messaging>, caller: Caller, Path(id): Path<String>) -> ApiResult<Json<Channels>> {
    let place = messaging.place(&caller, &id).await?;
    let mut tx = messaging.platform.read(&Messaging::scope(&place, &caller)).await?;
    let channels = model::channels_of(&mut tx, place.tenant.as_str(), &id).await?;
    Ok(Json(Channels { channels: channels.into_iter().map(ChannelLinkRow::from).collect() }))
}

/// Let a conversation stand for a chat elsewhere (admins of the organization)
#[utoipa::path(post, path = "/conversations/{id}/channels", tag = "Channels", request_body = Chat,
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 201, description = "The link", body = ChannelLinkRow),
        (status = 403, description = "The caller does not administer the organization"),
        (status = 404, description = "There is none"),
        (status = 409, description = "Another conversation stands for the chat")))]
async fn link(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(chat): Json<Chat>,
) -> ApiResult<(StatusCode, Json<ChannelLinkRow>)> {
    let place = messaging.found(&caller, &id).await?;
    let link_id = messaging.link(&place, &chat, &caller, &scope).await?;
    let mut tx = messaging.platform.read(&Scope::platform()).await?;
    let found = model::channel_links(&mut tx, &link_id, Some(place.tenant.as_str())).await?.pop();
    let found = found.ok_or_else(|| ApiError::not_found("Channel link"))?;
    Ok((StatusCode::CREATED, Json(found.into())))
}

/// Untie a chat from its conversation (admins of the organization)
#[utoipa::path(delete, path = "/conversations/{id}/channels/{link_id}", tag = "Channels",
    params(("id" = String, Path, description = "Id of the conversation"),
        ("link_id" = String, Path, description = "Id of the link")),
    responses((status = 204, description = "Untied"),
        (status = 403, description = "The caller does not administer the organization"),
        (status = 404, description = "There is none")))]
async fn unlink(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path((id, link_id)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let place = messaging.found(&caller, &id).await?;
    let command = UnlinkChannel { link_id: link_id.clone(), conversation_id: place.conversation.id.clone() };
    messaging.change_link(&place, &link_id, command, &Actor::from(&*caller), &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}
