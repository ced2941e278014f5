//! Accounts, for operators and, within their organization, for its admins: lists, changes, erasure
//! (identity.md §6.9, 6.14).

use axum::extract::State;
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    identity::{
        ChangeEmail, ConfirmErasure, DeleteUser, GrantSuperAdmin, OrganizationCommand, RemoveMember, RenameUser,
        RevokeSuperAdmin, UserCommand,
    },
};
use symbia_events::{AggregateRef, OrgId};
use symbia_projections::{Scope, identity as model};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    access::{Wants, address, edge_for},
    email, orgs,
    paging::{Listed, Page, cursor, listed},
    shapes::{Msg, iso},
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, Validation, routes};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(directory)).routes(routes!(list)).routes(routes!(change, delete))
}

/// An account.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdminUser {
    id: String,
    email: Option<String>,
    name: Option<String>,
    is_super_admin: bool,
    created_at: String,
    updated_at: String,
    /// Its role, where an organization is asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
}

impl From<model::User> for AdminUser {
    fn from(u: model::User) -> Self {
        AdminUser {
            id: u.id,
            email: u.email,
            name: u.name,
            is_super_admin: u.is_super_admin,
            created_at: iso(u.created_at),
            updated_at: iso(u.updated_at),
            role: None,
        }
    }
}

impl From<(model::User, model::Membership)> for AdminUser {
    fn from((user, membership): (model::User, model::Membership)) -> Self {
        AdminUser { role: Some(membership.role), ..user.into() }
    }
}

/// Whom to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
struct Filter {
    /// The members of this organization. Super admins may leave it out and see all users.
    #[serde(default)]
    org_id: Option<String>,
    /// Where the page before ended.
    #[serde(default)]
    cursor: Option<String>,
    /// 1 to 500.
    #[serde(default)]
    limit: Option<i64>,
}

/// Users.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Users {
    users: Vec<AdminUser>,
    /// For the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// List users: all (super admins), or those of an organization (its admins)
#[utoipa::path(get, path = "/users", tag = "Users", params(Filter),
    responses((status = 200, description = "The oldest first", body = Users)))]
async fn directory(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Query(filter): Query<Filter>,
) -> ApiResult<Json<Users>> {
    caller.require_user()?;
    let page = Page { cursor: filter.cursor, limit: filter.limit };
    let full = |count: usize| i64::try_from(count).is_ok_and(|count| count >= page.limit());
    let Some(org) = filter.org_id.or_else(|| scope.org_id.clone()) else {
        caller.require_super_admin()?;
        let mut tx = identity.platform.read(&Scope::platform()).await?;
        let found = model::users(&mut tx, page.after(), page.limit()).await?;
        let next_cursor = found.last().filter(|_| full(found.len())).map(|u| cursor(u.created_at, &u.id));
        return Ok(Json(Users { users: found.into_iter().map(AdminUser::from).collect(), next_cursor }));
    };
    let (_, reading) = identity.enter(&caller, &scope, &org, Wants::Administer).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let found = model::member_users(&mut tx, &org, page.after(), page.limit()).await?;
    let next_cursor = found.last().filter(|_| full(found.len())).map(|(_, m)| cursor(m.created_at, &m.id));
    Ok(Json(Users { users: found.into_iter().map(AdminUser::from).collect(), next_cursor }))
}

/// List all users (super admins)
#[utoipa::path(get, path = "/admin/users", tag = "Administration", params(Page),
    responses((status = 200, description = "The oldest first", body = Vec<AdminUser>)))]
async fn list(
    State(identity): State<Identity>,
    caller: Caller,
    Query(page): Query<Page>,
) -> ApiResult<Listed<AdminUser>> {
    caller.require_super_admin()?;
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let found = model::users(&mut tx, page.after(), page.limit()).await?;
    Ok(listed(found, page.limit(), |user| cursor(user.created_at, &user.id)))
}

fn user_address(id: &str) -> ApiResult<AggregateRef> {
    address(&OrgId::global(), "user", id, "User")
}

impl Identity {
    /// A user that lives.
    pub(super) async fn account(&self, id: &str) -> ApiResult<model::User> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        model::user(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("User"))
    }
}

/// Changes of an account; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UserChanges {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    is_super_admin: Option<bool>,
}

/// Change an account (super admins)
#[utoipa::path(patch, path = "/admin/users/{id}", tag = "Administration", request_body = UserChanges,
    params(("id" = String, Path, description = "Id of the user")),
    responses((status = 200, description = "The account", body = AdminUser),
        (status = 400, description = "A field is not valid, the address is taken, or one's own right would go")))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(changes): Json<UserChanges>,
) -> ApiResult<Json<AdminUser>> {
    caller.require_super_admin()?;
    let now = identity.account(&id).await?;
    let mut rules = Validation::new();
    if let Some(name) = &changes.name {
        rules.required("name", name).length("name", name, 1, 200);
    }
    if let Some(address) = &changes.email {
        email::check(&mut rules, "email", address);
    }
    rules.finish()?;
    if changes.is_super_admin == Some(false) && now.is_super_admin && id == caller.id {
        let own = "Another super admin has to take this right away";
        return Err(ApiError::new(axum::http::StatusCode::BAD_REQUEST, "SELF_PROTECTION", own));
    }
    let name = changes.name.map(|name| name.trim().to_owned()).filter(|name| now.name.as_ref() != Some(name));
    let address = changes.email.map(|text| text.trim().to_owned()).filter(|text| now.email.as_ref() != Some(text));
    let mut commands = Vec::new();
    if name.is_some() || address.is_some() {
        let key = identity.platform.secrets.subject_key(&id).await?.ok_or_else(|| ApiError::not_found("User"))?;
        if let Some(address) = address {
            let email_key = email::key(&identity.platform.keys, &address);
            let mut tx = identity.platform.read(&Scope::platform()).await?;
            let holder = model::user_by_email_key(&mut tx, &email_key).await?;
            if holder.is_some_and(|user| user.id != id) {
                return Err(ApiError::email_taken());
            }
            let email = key.seal(&address);
            commands.push(UserCommand::from(ChangeEmail { user_id: id.clone(), email, email_key }));
        }
        if let Some(name) = name {
            commands.push(RenameUser { user_id: id.clone(), name: key.seal(&name) }.into());
        }
    }
    match changes.is_super_admin {
        Some(true) => commands.push(GrantSuperAdmin { user_id: id.clone() }.into()),
        Some(false) => commands.push(RevokeSuperAdmin { user_id: id.clone() }.into()),
        None => {}
    }
    let to = user_address(&id)?;
    for command in commands {
        let done = identity.carry_out(&to, &command, &caller, &scope).await;
        done.map_err(|error| if error.code() == "EMAIL_TAKEN" { ApiError::email_taken() } else { error })?;
    }
    Ok(Json(identity.account(&id).await?.into()))
}

/// Close an account and erase the person (super admins)
///
/// Memberships end, sessions end, and the key of what is personal in the log is destroyed. What the user did stays, under
/// an id that means nobody.
#[utoipa::path(delete, path = "/admin/users/{id}", tag = "Administration",
    params(("id" = String, Path, description = "Id of the user")),
    responses((status = 200, description = "Erased", body = Msg),
        (status = 400, description = "One's own account")))]
async fn delete(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    caller.require_super_admin()?;
    if id == caller.id {
        let own = "A super admin's account is closed by another super admin";
        return Err(ApiError::new(axum::http::StatusCode::BAD_REQUEST, "SELF_PROTECTION", own));
    }
    let secrets = &identity.platform.secrets;
    match identity.account(&id).await {
        Ok(_) => {
            let mut tx = identity.platform.read(&Scope::platform()).await?;
            let password = model::credentials(&mut tx, &id).await?.map(|credentials| credentials.password_ref);
            let factor = model::security(&mut tx, &id).await?.mfa_secret_ref;
            drop(tx);
            identity.leave_all(&id, &caller, &scope).await?;
            let command = UserCommand::from(DeleteUser { user_id: id.clone() });
            identity.carry_out(&user_address(&id)?, &command, &caller, &scope).await?;
            for secret in password.iter().chain(&factor) {
                secrets.destroy_secret(secret).await?;
            }
        }
        // A request before this one may have got no further.
        Err(error) if error.code() == "NOT_FOUND" && secrets.subject_key(&id).await?.is_some() => {}
        Err(error) => return Err(error),
    }
    secrets.destroy_subject_key(&id).await?;
    let command = UserCommand::from(ConfirmErasure { user_id: id.clone(), subject_key_id: id.clone() });
    identity.carry_out_as(&user_address(&id)?, &command, &edge_for(&caller), &caller, &scope).await?;
    Ok(Json(Msg { message: "User deleted" }))
}

impl Identity {
    /// Ends a user's memberships.
    async fn leave_all(&self, user: &str, caller: &Caller, scope: &RequestScope) -> ApiResult<()> {
        let edge: Actor = edge_for(caller);
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let mut memberships = Vec::new();
        for org in model::organizations_of(&mut tx, user).await? {
            memberships.extend(model::membership_of(&mut tx, &org.id, user).await?);
        }
        drop(tx);
        for membership in memberships {
            let model::Membership { id, org_id, .. } = membership;
            let to = orgs::aggregate(&org_id)?;
            let command = OrganizationCommand::from(RemoveMember { org_id, membership_id: id });
            match self.carry_out_as(&to, &command, &edge, caller, scope).await {
                Ok(_) => {}
                Err(error) if error.code() == "NOT_FOUND" => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
