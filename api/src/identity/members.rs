//! Members of an organization: adding registered users, roles, removal, leaving (identity.md §6.5, 6.14).

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use symbia_commands::{
    Actor, Role,
    identity::{AddMember, ChangeMemberRole, OrganizationCommand, RemoveMember},
};
use symbia_events::OrgId;
use symbia_projections::{Scope, identity as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    access::Wants,
    accounts::Ids,
    email,
    orgs::aggregate,
    shapes::{Membership, Msg},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, Validation, routes},
    platform::Consistency,
};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(invite)).routes(routes!(leave)).routes(routes!(change, remove))
}

/// Whom to add.
#[derive(Deserialize, ToSchema)]
struct Invitation {
    /// Address of a registered user.
    email: String,
    /// `admin`, `member` or `viewer`.
    #[schema(value_type = String)]
    role: Role,
}

/// Add a registered user to an organization (its admins)
#[utoipa::path(post, path = "/orgs/{id}/members/invite", tag = "Members", request_body = Invitation,
    params(("id" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "The membership", body = Membership),
        (status = 400, description = "No such user, or a member already")))]
async fn invite(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(invitation): Json<Invitation>,
) -> ApiResult<Json<Membership>> {
    identity.enter(&caller, &scope, &id, Wants::Administer).await?;
    let mut rules = Validation::new();
    email::check(&mut rules, "email", &invitation.email);
    rules.finish()?;
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let user = model::user_by_email_key(&mut tx, &email::key(&identity.platform.keys, &invitation.email)).await?;
    drop(tx);
    let user = user.ok_or_else(|| {
        ApiError::new(StatusCode::BAD_REQUEST, "USER_UNKNOWN", "No user has this e-mail address")
            .with_hint("They register first; then add them.")
    })?;
    let ids = Ids(scope.command_id(&caller.id));
    let membership_id = ids.of("membership");
    let command = OrganizationCommand::from(AddMember {
        org_id: id.clone(),
        membership_id: membership_id.clone(),
        user_id: user.id,
        role: text(invitation.role),
    });
    let (command_id, address, actor) = (ids.command("membership"), aggregate(&id)?, Actor::from(&*caller));
    identity.platform.submit_as(command_id, &address, &command, &actor, &scope, Consistency::Visible).await?;
    Ok(Json(identity.membership(&caller, &id, &membership_id).await?.into()))
}

pub(super) fn text(role: Role) -> String {
    match role {
        Role::Viewer => "viewer",
        Role::Member => "member",
        Role::Admin => "admin",
    }
    .to_owned()
}

impl Identity {
    async fn membership(&self, caller: &Caller, org: &str, id: &str) -> ApiResult<model::Membership> {
        let unknown = || ApiError::not_found("Member");
        let tenant: OrgId = org.parse().map_err(|_| unknown())?;
        let mut tx = self.platform.read(&Scope::member(tenant, &caller.id)).await?;
        model::member(&mut tx, org, id).await?.ok_or_else(unknown)
    }
}

/// Another role.
#[derive(Deserialize, ToSchema)]
struct NewRole {
    /// `admin`, `member` or `viewer`.
    #[schema(value_type = String)]
    role: Role,
}

/// Give a member another role (admins of the organization)
#[utoipa::path(patch, path = "/orgs/{id}/members/{memberId}", tag = "Members", request_body = NewRole,
    params(("id" = String, Path, description = "Id of the organization"),
        ("memberId" = String, Path, description = "Id of the membership")),
    responses((status = 200, description = "The membership", body = Membership),
        (status = 409, description = "The last admin keeps the role")))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path((id, member_id)): Path<(String, String)>,
    Json(new): Json<NewRole>,
) -> ApiResult<Json<Membership>> {
    identity.enter(&caller, &scope, &id, Wants::Administer).await?;
    let membership_id = identity.membership(&caller, &id, &member_id).await?.id;
    let command =
        OrganizationCommand::from(ChangeMemberRole { org_id: id.clone(), membership_id, role: text(new.role) });
    identity.platform.submit(&aggregate(&id)?, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(identity.membership(&caller, &id, &member_id).await?.into()))
}

/// Remove a member (admins of the organization)
#[utoipa::path(delete, path = "/orgs/{id}/members/{memberId}", tag = "Members",
    params(("id" = String, Path, description = "Id of the organization"),
        ("memberId" = String, Path, description = "Id of the membership")),
    responses((status = 200, description = "Removed", body = Msg),
        (status = 409, description = "The last admin stays")))]
async fn remove(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path((id, member_id)): Path<(String, String)>,
) -> ApiResult<Json<Msg>> {
    identity.enter(&caller, &scope, &id, Wants::Administer).await?;
    let membership_id = identity.membership(&caller, &id, &member_id).await?.id;
    let command = OrganizationCommand::from(RemoveMember { org_id: id.clone(), membership_id });
    identity.platform.submit(&aggregate(&id)?, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(Msg { message: "Member removed" }))
}

/// Leave an organization
#[utoipa::path(delete, path = "/orgs/{id}/members/me", tag = "Members",
    params(("id" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "Left", body = Msg),
        (status = 409, description = "The last admin stays")))]
async fn leave(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    identity.role_in(&caller, &id).await?;
    let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
    let membership = model::membership_of(&mut tx, &id, &caller.id).await?;
    drop(tx);
    let membership_id = membership.ok_or_else(|| ApiError::not_found("Member"))?.id;
    let command = OrganizationCommand::from(RemoveMember { org_id: id.clone(), membership_id });
    identity.platform.submit(&aggregate(&id)?, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(Msg { message: "You left the organization" }))
}
