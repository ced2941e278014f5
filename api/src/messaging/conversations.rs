//! Conversations (messaging.md §6.3).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_commands::messaging::{
    ASSISTANT_PREFIX, CreateConversation, DeleteConversation, EraseConversation, NewParticipant,
    UpdateConversationSettings,
};
use symbia_events::messaging::{ConversationType, ParticipantType};
use symbia_projections::{Scope, messaging as model};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Messaging,
    access::{Place, address, seal_object, unknown},
    channels::Chat,
    shapes::{ConversationRow, ListedConversation, ParticipantRow, WithParticipants},
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, Validation, routes};

const NAME_MAX: usize = 255;
const LARGEST_PAGE: i64 = 200;

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, update, delete))
        .routes(routes!(erase))
        .routes(routes!(stats))
}

/// What kind of principal an id names, when nobody says.
pub(super) fn kind_of(id: &str) -> ParticipantType {
    let agent = id.starts_with(ASSISTANT_PREFIX) || id.starts_with("agent:");
    if agent { ParticipantType::Agent } else { ParticipantType::User }
}

/// Somebody who is to take part.
pub(super) fn new_participant(request: Uuid, user_id: String, kind: Option<ParticipantType>) -> NewParticipant {
    NewParticipant {
        participant_id: Uuid::new_v5(&request, format!("participant:{user_id}").as_bytes()).to_string(),
        principal_type: kind.unwrap_or_else(|| kind_of(&user_id)),
        principal_id: user_id,
        entity_id: None,
    }
}

/// Ids of the people among them.
pub(super) fn people(participants: &[NewParticipant]) -> Vec<String> {
    let people = participants.iter().filter(|p| p.principal_type == ParticipantType::User);
    people.map(|p| p.principal_id.clone()).collect()
}

impl Messaging {
    pub(super) async fn with_participants(&self, place: &Place, caller: &Caller) -> ApiResult<WithParticipants> {
        let mut tx = self.platform.read(&Self::scope(place, caller)).await?;
        let (org, id) = (place.tenant.as_str(), &place.conversation.id);
        let conversation = model::conversation(&mut tx, org, id).await?.ok_or_else(unknown)?;
        let participants = model::participants(&mut tx, org, id).await?;
        Ok(WithParticipants {
            conversation: conversation.into(),
            participants: participants.into_iter().map(ParticipantRow::from).collect(),
        })
    }
}

/// Which conversations.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only those of this organization; the header X-Org-Id does as well.
    org_id: Option<String>,
    /// Only `private` or `group` ones.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// At most so many, 1 to 200 (default).
    limit: Option<i64>,
    /// Without the first so many.
    offset: Option<i64>,
}

/// List the conversations that the caller takes part in, the last changed first
#[utoipa::path(get, path = "/conversations", tag = "Conversations", params(Filter),
    responses((status = 200, description = "The conversations", body = Vec<ListedConversation>),
        (status = 400, description = "A parameter is not valid"), (status = 403, description = "The caller does not belong to the organization")))]
async fn list(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Query(filter): Query<Filter>,
) -> ApiResult<Json<Vec<ListedConversation>>> {
    let (limit, offset) = (filter.limit.unwrap_or(LARGEST_PAGE), filter.offset.unwrap_or(0));
    let kind = filter.kind.as_deref();
    let mut rules = Validation::new();
    rules.check(
        kind.is_none_or(|kind| ["private", "group"].contains(&kind)),
        "type",
        "enum",
        "must be private or group",
    );
    rules.check((1..=LARGEST_PAGE).contains(&limit), "limit", "range", "must be 1 to 200");
    rules.check(offset >= 0, "offset", "range", "must not be negative").finish()?;
    let orgs: Vec<String> = match filter.org_id.or_else(|| scope.org_id.clone()) {
        Some(org) if caller.belongs_to(&org) => vec![org],
        Some(_) => return Err(ApiError::org_access_denied()),
        None => caller.organizations.iter().map(|org| org.id.clone()).collect(),
    };
    let mut tx = messaging.platform.read(&Scope::user(&caller.id)).await?;
    let listing = model::Listing { orgs, kind: filter.kind, limit, offset };
    let found = model::conversations_of(&mut tx, &caller.id, &listing).await?;
    Ok(Json(found.into_iter().map(ListedConversation::from).collect()))
}

/// Somebody who is to take part.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Invited {
    /// A user's id, or `assistant:<key>`.
    #[serde(default)]
    user_id: Option<String>,
    /// `user` or `agent`; an id that begins with `assistant:` or `agent:` is an agent's.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    user_type: Option<ParticipantType>,
}

/// A new conversation.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewConversation {
    /// `private` or `group`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: ConversationType,
    /// A group has one.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    /// An object.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// The organization; the header X-Org-Id does as well.
    #[serde(default)]
    org_id: Option<String>,
    /// Who else takes part.
    #[serde(default)]
    participants: Vec<Invited>,
    /// The same, by ids alone.
    #[serde(default)]
    participant_ids: Vec<String>,
}

/// Open a conversation; the caller becomes its owner
///
/// Where an admin of the organization names a chat as `channel` in the metadata, the conversation stands for it.
#[utoipa::path(post, path = "/conversations", tag = "Conversations", request_body = NewConversation,
    responses((status = 201, description = "The conversation", body = WithParticipants),
        (status = 400, description = "A field is not valid"),
        (status = 403, description = "The caller does not belong to the organization"),
        (status = 409, description = "Another conversation stands for the chat that the metadata name")))]
async fn create(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewConversation>,
) -> ApiResult<(StatusCode, Json<WithParticipants>)> {
    let org = match &new.org_id {
        Some(org) if caller.belongs_to(org) => org.clone(),
        Some(_) => return Err(ApiError::org_access_denied()),
        None => caller.org(&scope)?,
    };
    let name = new.name.as_deref().map(str::trim).filter(|name| !name.is_empty());
    let group = new.kind == ConversationType::Group;
    let mut rules = Validation::new();
    rules.check(name.is_some() || !group, "name", "required", "is required for a group");
    rules.check(name.is_none_or(|n| n.len() <= NAME_MAX), "name", "length", "must have at most 255 bytes").finish()?;

    let chat = Chat::of(&new.metadata).filter(|_| caller.is_super_admin || caller.role_in(&org) == Some("admin"));
    if let Some(chat) = &chat {
        messaging.is_free(&org, chat).await?;
    }

    let request = scope.command_id(&caller.id);
    let id = Uuid::new_v5(&request, b"conversation").to_string();
    let (tenant, address) = address(&org, &id)?;
    let key = messaging.make_key(&tenant, &id).await?;
    let invited = new.participants.into_iter().filter_map(|i| i.user_id.map(|id| (id, i.user_type)));
    let invited = invited.chain(new.participant_ids.into_iter().map(|id| (id, None)));
    let invited = invited.filter(|(id, _)| !id.is_empty() && *id != caller.id);
    let participants: Vec<_> = invited.map(|(id, kind)| new_participant(request, id, kind)).collect();
    messaging.admits(&org, &people(&participants)).await?;
    let command = CreateConversation {
        conversation_id: id.clone(),
        conversation_type: new.kind,
        name: name.map(|name| key.seal(name)),
        description: new.description.filter(|text| !text.is_empty()).map(|text| key.seal(&text)),
        org_id: org,
        metadata: seal_object(&key, &new.metadata)?,
        content_key_id: key.kid().to_owned(),
        owner: new_participant(request, caller.id.clone(), None),
        participants,
    };
    messaging.submit(&address, command, &caller, &scope).await?;
    let place = messaging.place(&caller, &id).await?;
    if let Some(chat) = &chat {
        messaging.link(&place, chat, &caller, &scope).await?;
    }
    Ok((StatusCode::CREATED, Json(messaging.with_participants(&place, &caller).await?)))
}

/// Read a conversation with its participants
#[utoipa::path(get, path = "/conversations/{id}", tag = "Conversations",
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 200, description = "The conversation", body = WithParticipants),
        (status = 403, description = "The caller takes no part in it"), (status = 404, description = "There is none")))]
async fn read(
    State(messaging): State<Messaging>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<WithParticipants>> {
    let place = messaging.place(&caller, &id).await?;
    Ok(Json(messaging.with_participants(&place, &caller).await?))
}

/// New settings: what is absent stays, an empty text takes it away.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Settings {
    /// A group keeps one.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    /// An object; it replaces the old one whole.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// Change name, description or metadata (owners and admins of the conversation)
#[utoipa::path(patch, path = "/conversations/{id}", tag = "Conversations", request_body = Settings,
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 200, description = "The conversation", body = ConversationRow),
        (status = 400, description = "A field is not valid"), (status = 403, description = "The caller may not"),
        (status = 404, description = "There is none"), (status = 410, description = "It was erased")))]
async fn update(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<Settings>,
) -> ApiResult<Json<ConversationRow>> {
    let place = messaging.place(&caller, &id).await?;
    let name = new.name.as_deref().map(str::trim);
    let group = place.conversation.kind == "group";
    let mut rules = Validation::new();
    rules.check(name.is_none_or(|n| !(group && n.is_empty())), "name", "required", "is required for a group");
    rules.check(name.is_none_or(|n| n.len() <= NAME_MAX), "name", "length", "must have at most 255 bytes").finish()?;
    let key = messaging.key(&place.address).await?;
    let metadata = match &new.metadata {
        Some(object) => Some(seal_object(&key, object)?.unwrap_or_else(|| key.seal("{}"))),
        None => None,
    };
    let command = UpdateConversationSettings {
        name: name.map(|name| key.seal(name)),
        description: new.description.map(|text| key.seal(&text)),
        metadata,
    };
    messaging.submit(&place.address, command, &caller, &scope).await?;
    Ok(Json(messaging.with_participants(&place, &caller).await?.conversation))
}

/// End a conversation for everybody (its owner, admins of the organization)
#[utoipa::path(delete, path = "/conversations/{id}", tag = "Conversations",
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 204, description = "Ended"), (status = 403, description = "The caller may not"),
        (status = 404, description = "There is none")))]
async fn delete(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    let place = messaging.found(&caller, &id).await?;
    messaging.submit(&place.address, DeleteConversation { reason: None }, &caller, &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Erase what was said, for ever: the conversation's key is destroyed (its owner, admins of the organization)
///
/// Everything that was ever sealed under the key becomes unreadable: in the log, in its backups, and wherever it was copied.
/// The conversation stays, with who said something when.
#[utoipa::path(post, path = "/conversations/{id}/erase", tag = "Conversations",
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 204, description = "Erased"), (status = 403, description = "The caller may not"),
        (status = 404, description = "There is none")))]
async fn erase(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    let place = messaging.found(&caller, &id).await?;
    messaging.submit(&place.address, EraseConversation {}, &caller, &scope).await?;
    // Decided first: who may not erase destroys nothing. The eraser does the same, should this process die here.
    messaging.platform.secrets.destroy_conversation_keys(&place.conversation.content_key_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How much there is in the caller's organizations.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Stats {
    total_conversations: i64,
    total_messages: i64,
    unique_participants: i64,
}

/// Count what is in the caller's organizations
#[utoipa::path(get, path = "/stats", tag = "Conversations",
    responses((status = 200, description = "Counters; deleted messages count", body = Stats)))]
async fn stats(State(messaging): State<Messaging>, caller: Caller) -> ApiResult<Json<Stats>> {
    let orgs: Vec<String> = caller.organizations.iter().map(|org| org.id.clone()).collect();
    let mut tx = messaging.platform.read(&Scope::platform()).await?;
    let counts = model::counts(&mut tx, &orgs).await?;
    Ok(Json(Stats {
        total_conversations: counts.conversations,
        total_messages: counts.messages,
        unique_participants: counts.participants,
    }))
}
