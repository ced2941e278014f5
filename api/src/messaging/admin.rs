//! What operators and admins see and do of conversations (messaging.md §6.7): those of the organizations that they administer.

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::messaging::{AddParticipant, DeleteConversation, RemoveParticipant};
use symbia_events::{
    OrgId,
    messaging::{ParticipantRole, ParticipantType},
};
use symbia_projections::{Scope, messaging as model};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Messaging,
    access::{address, unknown},
    conversations::{new_participant, people},
    shapes::{ConversationRow, MessageRow, ParticipantRow},
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, Validation, routes};

/// Any of them opens these routes, within the organizations that the caller administers.
const ADMIN: [&str; 3] = ["cap:messaging.admin", "messaging:admin", "collaborate:admin"];
const DEFAULT_PAGE: i64 = 50;
const LARGEST_PAGE: i64 = 200;
const RECENT: i64 = 100;

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(read, delete))
        .routes(routes!(of_user))
        .routes(routes!(add))
        .routes(routes!(remove))
        .routes(routes!(stats))
}

/// The organizations asked about; `None` = all of them, for operators.
pub(super) fn administered(caller: &Caller, scope: &RequestScope, org: Option<&str>) -> ApiResult<Option<Vec<String>>> {
    let orgs = ruled(caller, org)?;
    if caller.is_super_admin {
        caller.enters(org.unwrap_or(OrgId::GLOBAL), scope)?;
    }
    Ok(orgs)
}

fn ruled(caller: &Caller, org: Option<&str>) -> ApiResult<Option<Vec<String>>> {
    if !caller.has_role("admin") {
        caller.require_capability(&ADMIN)?;
    }
    if caller.is_super_admin {
        return Ok(org.map(|org| vec![org.to_owned()]));
    }
    let theirs = caller.organizations.iter().filter(|o| o.role == "admin").map(|o| o.id.clone());
    match org {
        None => Ok(Some(theirs.collect())),
        Some(org) if theirs.into_iter().any(|o| o == org) => Ok(Some(vec![org.to_owned()])),
        Some(_) => Err(ApiError::org_access_denied()),
    }
}

impl Messaging {
    async fn administered(&self, caller: &Caller, scope: &RequestScope, id: &str) -> ApiResult<model::Conversation> {
        let orgs = ruled(caller, None)?;
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::conversation_of_orgs(&mut tx, orgs.as_deref(), id).await?.ok_or_else(unknown)?;
        caller.enters(&found.org_id, scope)?;
        tracing::info!(principal = %caller.id, org = %found.org_id, conversation = id, "an admin looks at a conversation");
        Ok(found)
    }
}

/// Which conversations.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only those of this organization.
    org_id: Option<String>,
    /// Only `private` or `group` ones.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// At most so many, 1 to 200; default 50.
    limit: Option<i64>,
    /// Without the first so many.
    offset: Option<i64>,
}

/// A page of conversations.
#[derive(Serialize, ToSchema)]
struct Conversations {
    conversations: Vec<ConversationRow>,
    /// How many there are on all pages.
    total: i64,
    limit: i64,
    offset: i64,
}

/// List the conversations of the organizations that the caller administers, the last changed first
#[utoipa::path(get, path = "/admin/conversations", tag = "Administration", params(Filter),
    responses((status = 200, description = "A page of them", body = Conversations),
        (status = 400, description = "A parameter is not valid"),
        (status = 403, description = "The caller administers nothing of it")))]
async fn list(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Query(filter): Query<Filter>,
) -> ApiResult<Json<Conversations>> {
    let orgs = administered(&caller, &scope, filter.org_id.as_deref())?;
    let (limit, offset) = (filter.limit.unwrap_or(DEFAULT_PAGE), filter.offset.unwrap_or(0));
    let kind = filter.kind.as_deref();
    let mut rules = Validation::new();
    rules.check(kind.is_none_or(|k| ["private", "group"].contains(&k)), "type", "enum", "must be private or group");
    rules.check((1..=LARGEST_PAGE).contains(&limit), "limit", "range", "must be 1 to 200");
    rules.check(offset >= 0, "offset", "range", "must not be negative").finish()?;
    let mut tx = messaging.platform.read(&Scope::platform()).await?;
    let (found, total) = model::conversations_of_orgs(&mut tx, orgs.as_deref(), kind, limit, offset).await?;
    let conversations = found.into_iter().map(ConversationRow::from).collect();
    Ok(Json(Conversations { conversations, total, limit, offset }))
}

/// A conversation as an admin sees it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Overview {
    #[serde(flatten)]
    conversation: ConversationRow,
    participants: Vec<ParticipantRow>,
    /// The latest 100, in ascending order.
    recent_messages: Vec<MessageRow>,
}

/// Read a conversation of an organization that the caller administers
#[utoipa::path(get, path = "/admin/conversations/{id}", tag = "Administration",
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 200, description = "The conversation", body = Overview),
        (status = 403, description = "The caller is no admin"), (status = 404, description = "There is none")))]
async fn read(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Overview>> {
    let found = messaging.administered(&caller, &scope, &id).await?;
    let mut tx = messaging.platform.read(&Scope::platform()).await?;
    let participants = model::participants(&mut tx, &found.org_id, &id).await?;
    let page = model::Page { limit: RECENT, ..model::Page::default() };
    let messages = model::messages(&mut tx, &found.org_id, &id, &page).await?.unwrap_or_default();
    Ok(Json(Overview {
        conversation: found.into(),
        participants: participants.into_iter().map(ParticipantRow::from).collect(),
        recent_messages: messages.into_iter().map(MessageRow::from).collect(),
    }))
}

/// End a conversation of an organization that the caller administers
#[utoipa::path(delete, path = "/admin/conversations/{id}", tag = "Administration",
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 204, description = "Ended"), (status = 403, description = "The caller is no admin"),
        (status = 404, description = "There is none")))]
async fn delete(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    let found = messaging.administered(&caller, &scope, &id).await?;
    let (_, address) = address(&found.org_id, &id)?;
    messaging.submit(&address, DeleteConversation { reason: None }, &caller, &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List a user's conversations in the organizations that the caller administers
#[utoipa::path(get, path = "/admin/users/{user_id}/conversations", tag = "Administration",
    params(("user_id" = String, Path, description = "The user's id, or `assistant:<key>`")),
    responses((status = 200, description = "The conversations", body = Vec<ConversationRow>),
        (status = 403, description = "The caller is no admin")))]
async fn of_user(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(user_id): Path<String>,
) -> ApiResult<Json<Vec<ConversationRow>>> {
    let orgs = administered(&caller, &scope, None)?;
    let mut tx = messaging.platform.read(&Scope::platform()).await?;
    let found = model::conversations_of_user(&mut tx, orgs.as_deref(), &user_id).await?;
    Ok(Json(found.into_iter().map(ConversationRow::from).collect()))
}

/// Somebody to add, and as what.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Added {
    /// A user's id, or `assistant:<key>`.
    user_id: String,
    /// `user` or `agent`; inferred from the id when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    user_type: Option<ParticipantType>,
    /// `owner`, `admin` or `member`; a new one is a member when absent, others stay what they are.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    role: Option<ParticipantRole>,
}

/// Add somebody to a conversation of an organization that the caller administers, or give them another role
#[utoipa::path(post, path = "/admin/conversations/{id}/participants", tag = "Administration", request_body = Added,
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 201, description = "The participant", body = ParticipantRow),
        (status = 400, description = "A private conversation is full, or it is nobody of the organization"),
        (status = 403, description = "The caller is no admin"), (status = 404, description = "There is none")))]
async fn add(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<Added>,
) -> ApiResult<(StatusCode, Json<ParticipantRow>)> {
    let found = messaging.administered(&caller, &scope, &id).await?;
    let (_, address) = address(&found.org_id, &id)?;
    let participant = new_participant(scope.command_id(&caller.id), new.user_id.clone(), new.user_type);
    messaging.admits(&found.org_id, &people(std::slice::from_ref(&participant))).await?;
    messaging.submit(&address, AddParticipant { participant, role: new.role }, &caller, &scope).await?;
    let mut tx = messaging.platform.read(&Scope::platform()).await?;
    let row = model::participant(&mut tx, &found.org_id, &id, &new.user_id).await?;
    let row = row.ok_or_else(|| ApiError::not_found("Participant"))?;
    Ok((StatusCode::CREATED, Json(row.into())))
}

/// Remove somebody from a conversation of an organization that the caller administers
///
/// When it is the owner, somebody who stays owns the conversation from then on: one of its admins, else whoever has taken part
/// the longest.
#[utoipa::path(delete, path = "/admin/conversations/{id}/participants/{user_id}", tag = "Administration",
    params(("id" = String, Path, description = "Id of the conversation"),
        ("user_id" = String, Path, description = "The participant's user id, or `assistant:<key>`")),
    responses((status = 204, description = "Removed"), (status = 403, description = "The caller is no admin"),
        (status = 404, description = "There is no such conversation or participant")))]
async fn remove(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path((id, user_id)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let found = messaging.administered(&caller, &scope, &id).await?;
    let (_, address) = address(&found.org_id, &id)?;
    let command = RemoveParticipant { principal_id: user_id, even_owner: true };
    messaging.submit(&address, command, &caller, &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which conversations are counted.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Counted {
    /// Only those of this organization.
    org_id: Option<String>,
    /// Only `private` or `group` ones.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// How much there is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AdminStats {
    total_conversations: i64,
    total_messages: i64,
    unique_participants: i64,
    /// Those that changed within 24 hours.
    #[serde(rename = "activeConversations24h")]
    active_conversations: i64,
    filters: Filters,
}

/// What was counted.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Filters {
    org_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Count what is in the organizations that the caller administers
#[utoipa::path(get, path = "/admin/stats", tag = "Administration", params(Counted),
    responses((status = 200, description = "Counters", body = AdminStats),
        (status = 403, description = "The caller administers nothing of it")))]
async fn stats(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Query(counted): Query<Counted>,
) -> ApiResult<Json<AdminStats>> {
    let orgs = administered(&caller, &scope, counted.org_id.as_deref())?;
    let mut tx = messaging.platform.read(&Scope::platform()).await?;
    let counts = model::counts_of_orgs(&mut tx, orgs.as_deref(), counted.kind.as_deref()).await?;
    Ok(Json(AdminStats {
        total_conversations: counts.conversations,
        total_messages: counts.messages,
        unique_participants: counts.participants,
        active_conversations: counts.active,
        filters: Filters { org_id: counted.org_id, kind: counted.kind },
    }))
}
