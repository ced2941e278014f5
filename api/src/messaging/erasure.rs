//! Erasing what somebody said, in all conversations of an organization; and what nobody added to, after its time
//! (messaging.md §14.3).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    messaging::{AuthorCommand, EraseAuthor, RetentionPolicyCommand, SetRetention, SetRetentionPolicy},
};
use symbia_events::{AggregateRef, OrgId, Service, messaging::author_id};
use symbia_projections::{Scope, messaging as model};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{Messaging, admin::administered, shapes::ConversationRow};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes},
    iso,
};

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new()
        .routes(routes!(erase_own))
        .routes(routes!(erase_of))
        .routes(routes!(retain))
        .routes(routes!(policy, set_policy))
}

impl Messaging {
    async fn erase(&self, author: &str, org: &str, caller: &Caller, scope: &RequestScope) -> ApiResult<()> {
        let tenant: OrgId = org.parse().map_err(|_| ApiError::org_access_denied())?;
        let to = AggregateRef::new(Service::Messaging, tenant, "author", author_id(author));
        let to = to.map_err(ApiError::internal)?;
        let command = EraseAuthor { principal_id: author.to_owned(), org_id: org.to_owned() };
        self.platform.submit(&to, &AuthorCommand::from(command), &Actor::from(&**caller), scope).await?;
        // Decided first: who may not erase destroys nothing. The eraser does the same, should this process die here.
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let generation = model::generation_of(&mut tx, org, author).await?;
        drop(tx);
        self.platform.secrets.destroy_author_keys(org, author, generation).await?;
        Ok(())
    }
}

/// Erase everything that the caller has said in an organization, for ever
///
/// The keys of the caller's words are destroyed, in every conversation of the organization: in the log, in its backups, and
/// in what models were asked with them. That something was said, when and where, stays, and so do other people's words.
#[utoipa::path(post, path = "/messages/erase", tag = "Messages",
    responses((status = 204, description = "Erased"),
        (status = 403, description = "The caller does not belong to the organization")))]
async fn erase_own(State(messaging): State<Messaging>, scope: RequestScope, caller: Caller) -> ApiResult<StatusCode> {
    caller.require_itself()?;
    let org = caller.org(&scope)?;
    messaging.erase(&caller.id, &org, &caller, &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// In which organization.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Where {
    /// The organization.
    org_id: String,
}

/// Erase everything that somebody has said in an organization that the caller administers, for ever
#[utoipa::path(post, path = "/admin/users/{user_id}/erase", tag = "Administration",
    params(("user_id" = String, Path, description = "The user's id, or that of an agent"), Where),
    responses((status = 204, description = "Erased"), (status = 403, description = "The caller is no admin")))]
async fn erase_of(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(user_id): Path<String>,
    Query(Where { org_id }): Query<Where>,
) -> ApiResult<StatusCode> {
    administered(&caller, &scope, Some(&org_id))?;
    messaging.erase(&user_id, &org_id, &caller, &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How long what is said is kept.
#[derive(Deserialize, ToSchema)]
struct Retention {
    /// Days without a word after which everything is erased, 1 to 36500; 0 keeps it for ever.
    days: u32,
}

/// Have what is said erased when nothing was said for so many days (the conversation's owner, admins of the organization)
///
/// The keys are destroyed, as by `erase`. It happens between that many days and twice as many after the last message.
#[utoipa::path(put, path = "/conversations/{id}/retention", tag = "Conversations", request_body = Retention,
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 200, description = "The conversation", body = ConversationRow),
        (status = 403, description = "The caller may not"), (status = 404, description = "There is none"),
        (status = 410, description = "It was erased")))]
async fn retain(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(Retention { days }): Json<Retention>,
) -> ApiResult<Json<ConversationRow>> {
    let place = messaging.found(&caller, &id).await?;
    messaging.submit(&place.address, SetRetention { days }, &caller, &scope).await?;
    Ok(Json(messaging.found(&caller, &id).await?.conversation.into()))
}

/// For how long an organization keeps what is said.
#[derive(Serialize, ToSchema)]
struct RetentionPolicy {
    org_id: String,
    /// 0: for ever.
    days: i32,
    changed_by: Option<String>,
    changed_at: Option<String>,
}

impl Messaging {
    async fn retention_policy(&self, org: String) -> ApiResult<Json<RetentionPolicy>> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let set = model::retention_policy(&mut tx, &org).await?;
        Ok(Json(RetentionPolicy {
            org_id: org,
            days: set.as_ref().map_or(0, |policy| policy.days),
            changed_at: set.as_ref().map(|policy| iso(policy.changed_at)),
            changed_by: set.map(|policy| policy.changed_by),
        }))
    }
}

/// Read for how long an organization that the caller administers keeps what is said
#[utoipa::path(get, path = "/admin/retention", tag = "Administration", params(Where),
    responses((status = 200, description = "The policy", body = RetentionPolicy),
        (status = 403, description = "The caller is no admin")))]
async fn policy(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Query(Where { org_id }): Query<Where>,
) -> ApiResult<Json<RetentionPolicy>> {
    administered(&caller, &scope, Some(&org_id))?;
    messaging.retention_policy(org_id).await
}

/// Have what nobody adds to for so many days erased, in all conversations of an organization that the caller administers
///
/// It is looked for once a day. What a conversation says itself counts when it is shorter.
#[utoipa::path(put, path = "/admin/retention", tag = "Administration", params(Where), request_body = Retention,
    responses((status = 200, description = "The policy", body = RetentionPolicy),
        (status = 400, description = "Too long a time"), (status = 403, description = "The caller is no admin")))]
async fn set_policy(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Query(Where { org_id }): Query<Where>,
    Json(Retention { days }): Json<Retention>,
) -> ApiResult<Json<RetentionPolicy>> {
    administered(&caller, &scope, Some(&org_id))?;
    let tenant: OrgId = org_id.parse().map_err(|_| ApiError::org_access_denied())?;
    let to = AggregateRef::new(Service::Messaging, tenant, "retention-policy", &org_id).map_err(ApiError::internal)?;
    let command = RetentionPolicyCommand::from(SetRetentionPolicy { org_id: org_id.clone(), days });
    messaging.platform.submit(&to, &command, &Actor::from(&*caller), &scope).await?;
    messaging.retention_policy(org_id).await
}
