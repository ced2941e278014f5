//! Who takes part in a conversation (messaging.md §6.4).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::messaging::{
    AddParticipant, ChangeParticipantRole, JoinConversation, LeaveConversation, RemoveParticipant, TransferOwnership,
};
use symbia_events::messaging::{ParticipantRole, ParticipantType};
use symbia_projections::messaging as model;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Messaging,
    access::Place,
    conversations::{new_participant, people},
    shapes::ParticipantRow,
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, principal::PrincipalKind, routes};

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(remove, change_role))
        .routes(routes!(join))
        .routes(routes!(leave))
        .routes(routes!(transfer))
}

impl Messaging {
    async fn participant(&self, place: &Place, caller: &Caller, user: &str) -> ApiResult<ParticipantRow> {
        let mut tx = self.platform.read(&Self::scope(place, caller)).await?;
        let found = model::participant(&mut tx, place.tenant.as_str(), &place.conversation.id, user).await?;
        Ok(found.ok_or_else(|| ApiError::not_found("Participant"))?.into())
    }
}

/// Who takes part.
#[derive(Serialize, ToSchema)]
struct Participants {
    participants: Vec<ParticipantRow>,
}

/// List who takes part
#[utoipa::path(get, path = "/conversations/{id}/participants", tag = "Participants",
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 200, description = "In the order of joining", body = Participants)))]
async fn list(
    State(messaging): State<Messaging>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Participants>> {
    let place = messaging.place(&caller, &id).await?;
    let participants = messaging.with_participants(&place, &caller).await?.participants;
    Ok(Json(Participants { participants }))
}

/// Somebody to add.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewMember {
    /// A user's id, or `assistant:<key>`.
    user_id: String,
    /// `user` or `agent`; inferred from the id when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    user_type: Option<ParticipantType>,
}

/// Add a member (owners and admins of the conversation); adding one twice changes nothing
#[utoipa::path(post, path = "/conversations/{id}/participants", tag = "Participants", request_body = NewMember,
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 201, description = "The participant", body = ParticipantRow),
        (status = 400, description = "A private conversation is full"),
        (status = 403, description = "The caller may not add anyone")))]
async fn add(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<NewMember>,
) -> ApiResult<(StatusCode, Json<ParticipantRow>)> {
    let place = messaging.place(&caller, &id).await?;
    let participant = new_participant(scope.command_id(&caller.id), new.user_id.clone(), new.user_type);
    messaging.admits(place.tenant.as_str(), &people(std::slice::from_ref(&participant))).await?;
    messaging.submit(&place.address, AddParticipant { participant, role: None }, &caller, &scope).await?;
    Ok((StatusCode::CREATED, Json(messaging.participant(&place, &caller, &new.user_id).await?)))
}

/// Remove a member (owners and admins of the conversation)
#[utoipa::path(delete, path = "/conversations/{id}/participants/{user_id}", tag = "Participants",
    params(("id" = String, Path, description = "Id of the conversation"),
        ("user_id" = String, Path, description = "The participant's user id, or `assistant:<key>`")),
    responses((status = 204, description = "Removed"), (status = 400, description = "It is the owner"),
        (status = 403, description = "The caller may not remove anyone"), (status = 404, description = "Not a participant")))]
async fn remove(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path((id, user_id)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let place = messaging.place(&caller, &id).await?;
    let command = RemoveParticipant { principal_id: user_id, even_owner: false };
    messaging.submit(&place.address, command, &caller, &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Leave a conversation; its owner stays
#[utoipa::path(post, path = "/conversations/{id}/leave", tag = "Participants",
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 204, description = "Left"), (status = 400, description = "The caller owns it")))]
async fn leave(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    let place = messaging.place(&caller, &id).await?;
    messaging.submit(&place.address, LeaveConversation {}, &caller, &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A new role.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewRole {
    /// `admin` or `member`.
    #[schema(value_type = String)]
    role: ParticipantRole,
}

/// Make a member an admin, or an admin a member (the owner, admins of the organization)
#[utoipa::path(patch, path = "/conversations/{id}/participants/{user_id}", tag = "Participants", request_body = NewRole,
    params(("id" = String, Path, description = "Id of the conversation"),
        ("user_id" = String, Path, description = "The participant's user id, or `assistant:<key>`")),
    responses((status = 200, description = "The participant", body = ParticipantRow),
        (status = 400, description = "It is the owner, or no role that is given"),
        (status = 403, description = "The caller may not"), (status = 404, description = "Not a participant")))]
async fn change_role(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path((id, user_id)): Path<(String, String)>,
    Json(new): Json<NewRole>,
) -> ApiResult<Json<ParticipantRow>> {
    let place = messaging.place(&caller, &id).await?;
    let command = ChangeParticipantRole { principal_id: user_id.clone(), role: new.role };
    messaging.submit(&place.address, command, &caller, &scope).await?;
    Ok(Json(messaging.participant(&place, &caller, &user_id).await?))
}

/// The next owner.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewOwner {
    /// Id of a person who takes part.
    user_id: String,
}

/// Make another person the owner; the owner so far becomes an admin (the owner, admins of the organization)
#[utoipa::path(post, path = "/conversations/{id}/transfer", tag = "Participants", request_body = NewOwner,
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 200, description = "The new owner", body = ParticipantRow),
        (status = 403, description = "The caller may not"), (status = 404, description = "Not a participant")))]
async fn transfer(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<NewOwner>,
) -> ApiResult<Json<ParticipantRow>> {
    let place = messaging.place(&caller, &id).await?;
    let command = TransferOwnership { to_principal_id: new.user_id.clone() };
    messaging.submit(&place.address, command, &caller, &scope).await?;
    Ok(Json(messaging.participant(&place, &caller, &new.user_id).await?))
}

/// Join a group of one's organization; who takes part already stays what they are
#[utoipa::path(post, path = "/conversations/{id}/join", tag = "Participants",
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 201, description = "The participant", body = ParticipantRow),
        (status = 400, description = "It is private"), (status = 404, description = "There is none")))]
async fn join(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<(StatusCode, Json<ParticipantRow>)> {
    let place = messaging.found(&caller, &id).await?;
    let kind = if caller.kind == PrincipalKind::User { ParticipantType::User } else { ParticipantType::Agent };
    let participant = new_participant(scope.command_id(&caller.id), caller.id.clone(), Some(kind));
    messaging.submit(&place.address, JoinConversation { participant }, &caller, &scope).await?;
    Ok((StatusCode::CREATED, Json(messaging.participant(&place, &caller, &caller.id).await?)))
}
