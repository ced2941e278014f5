//! Who takes part in a conversation (messaging.md §6.4).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::messaging::{AddParticipant, LeaveConversation, RemoveParticipant};
use symbia_events::messaging::ParticipantType;
use symbia_projections::messaging as model;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Messaging, conversations::new_participant, shapes::ParticipantRow};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope};

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(remove)).routes(routes!(leave))
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
    messaging.submit(&place.address, AddParticipant { participant }, &caller, &scope).await?;
    let mut tx = messaging.platform.read(&Messaging::scope(&place, &caller)).await?;
    let found = model::participant(&mut tx, place.tenant.as_str(), &id, &new.user_id).await?;
    let found = found.ok_or_else(|| ApiError::not_found("Participant"))?;
    Ok((StatusCode::CREATED, Json(found.into())))
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
    let command = RemoveParticipant { principal_id: user_id };
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
