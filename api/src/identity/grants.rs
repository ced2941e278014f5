//! What operators grant to users beyond their memberships: capabilities and global roles (identity.md §6.9).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::identity::{GrantEntitlement, GrantRole, GrantsCommand, RevokeEntitlement, RevokeRole};
use symbia_events::{AggregateRef, OrgId};
use symbia_projections::{Scope, identity as model};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    access::address,
    accounts::Ids,
    shapes::{Msg, iso},
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(entitlements, grant_entitlement))
        .routes(routes!(revoke_entitlement))
        .routes(routes!(roles, grant_role))
        .routes(routes!(revoke_role))
}

/// A capability of a user.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UserEntitlement {
    id: String,
    user_id: String,
    entitlement_key: String,
    granted_by: String,
    expires_at: Option<String>,
    /// Its time is over.
    expired: bool,
    created_at: String,
}

/// A global role of a user.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UserRole {
    id: String,
    user_id: String,
    role_key: String,
    granted_by: String,
    expires_at: Option<String>,
    /// Its time is over.
    expired: bool,
    created_at: String,
}

impl From<model::Grant> for UserEntitlement {
    fn from(g: model::Grant) -> Self {
        UserEntitlement {
            expired: !g.is_live(OffsetDateTime::now_utc()),
            id: g.id,
            user_id: g.principal_id,
            entitlement_key: g.key,
            granted_by: g.granted_by,
            expires_at: g.expires_at.map(iso),
            created_at: iso(g.created_at),
        }
    }
}

impl From<model::Grant> for UserRole {
    fn from(g: model::Grant) -> Self {
        let UserEntitlement { id, user_id, entitlement_key: role_key, granted_by, expires_at, expired, created_at } =
            g.into();
        UserRole { id, user_id, role_key, granted_by, expires_at, expired, created_at }
    }
}

impl Identity {
    /// The grants of a user of a kind; 404 when there is no such user.
    async fn grants(&self, caller: &Caller, user: &str, kind: &str) -> ApiResult<Vec<model::Grant>> {
        caller.require_super_admin()?;
        self.account(user).await?;
        let mut tx = self.platform.read(&Scope::platform()).await?;
        Ok(model::grants(&mut tx, user, kind).await?)
    }

    async fn change_grants(
        &self,
        user: &str,
        command: GrantsCommand,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        caller.require_super_admin()?;
        self.account(user).await?;
        let to: AggregateRef = address(&OrgId::global(), "grants", user, "User")?;
        self.carry_out(&to, &command, caller, scope).await?;
        Ok(())
    }

    async fn grant(&self, user: &str, kind: &str, id: &str) -> ApiResult<model::Grant> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::grants(&mut tx, user, kind).await?.into_iter().find(|grant| grant.id == id);
        found.ok_or_else(|| ApiError::not_found("Grant"))
    }
}

fn required(field: &str, key: Option<String>) -> ApiResult<String> {
    let key = key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
    key.ok_or_else(|| ApiError::invalid(field, "required", "is required").with_status(StatusCode::BAD_REQUEST))
}

/// Capabilities.
#[derive(Serialize, ToSchema)]
struct Entitlements {
    entitlements: Vec<UserEntitlement>,
}

/// List the capabilities of a user (super admins)
#[utoipa::path(get, path = "/admin/users/{userId}/entitlements", tag = "Administration",
    params(("userId" = String, Path, description = "Id of the user")),
    responses((status = 200, description = "The oldest first, those whose time is over included", body = Entitlements)))]
async fn entitlements(
    State(identity): State<Identity>,
    caller: Caller,
    Path(user): Path<String>,
) -> ApiResult<Json<Entitlements>> {
    let found = identity.grants(&caller, &user, "entitlement").await?;
    Ok(Json(Entitlements { entitlements: found.into_iter().map(UserEntitlement::from).collect() }))
}

/// A capability to grant.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewEntitlement {
    /// E.g. `cap:catalog.write`.
    #[serde(default)]
    entitlement_key: Option<String>,
    /// RFC 3339; never, when absent.
    #[serde(default)]
    expires_at: Option<String>,
}

/// Grant a user a capability (super admins)
#[utoipa::path(post, path = "/admin/users/{userId}/entitlements", tag = "Administration", request_body = NewEntitlement,
    params(("userId" = String, Path, description = "Id of the user")),
    responses((status = 200, description = "The grant", body = UserEntitlement),
        (status = 400, description = "A field is not valid, or the user has it already")))]
async fn grant_entitlement(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(user): Path<String>,
    Json(new): Json<NewEntitlement>,
) -> ApiResult<Json<UserEntitlement>> {
    caller.require_super_admin()?;
    let key = required("entitlementKey", new.entitlement_key)?;
    let grant_id = Ids(scope.command_id(&caller.id)).of("grant");
    let (principal_id, expires_at) = (user.clone(), new.expires_at);
    let command = GrantEntitlement { principal_id, grant_id: grant_id.clone(), key, expires_at };
    identity.change_grants(&user, command.into(), &caller, &scope).await?;
    Ok(Json(identity.grant(&user, "entitlement", &grant_id).await?.into()))
}

/// Take a capability from a user (super admins)
#[utoipa::path(delete, path = "/admin/users/{userId}/entitlements/{entitlementKey}", tag = "Administration",
    params(("userId" = String, Path, description = "Id of the user"),
        ("entitlementKey" = String, Path, description = "The capability")),
    responses((status = 200, description = "Taken, also if the user had none", body = Msg)))]
async fn revoke_entitlement(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path((user, key)): Path<(String, String)>,
) -> ApiResult<Json<Msg>> {
    let command = RevokeEntitlement { principal_id: user.clone(), key };
    identity.change_grants(&user, command.into(), &caller, &scope).await?;
    Ok(Json(Msg { message: "Entitlement revoked" }))
}

/// Global roles.
#[derive(Serialize, ToSchema)]
struct Roles {
    roles: Vec<UserRole>,
}

/// List the global roles of a user (super admins)
#[utoipa::path(get, path = "/admin/users/{userId}/roles", tag = "Administration",
    params(("userId" = String, Path, description = "Id of the user")),
    responses((status = 200, description = "The oldest first, those whose time is over included", body = Roles)))]
async fn roles(State(identity): State<Identity>, caller: Caller, Path(user): Path<String>) -> ApiResult<Json<Roles>> {
    let found = identity.grants(&caller, &user, "role").await?;
    Ok(Json(Roles { roles: found.into_iter().map(UserRole::from).collect() }))
}

/// A role to grant.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewRole {
    /// E.g. `role:publisher`.
    #[serde(default)]
    role_key: Option<String>,
    /// RFC 3339; never, when absent.
    #[serde(default)]
    expires_at: Option<String>,
}

/// Grant a user a global role (super admins)
#[utoipa::path(post, path = "/admin/users/{userId}/roles", tag = "Administration", request_body = NewRole,
    params(("userId" = String, Path, description = "Id of the user")),
    responses((status = 200, description = "The grant", body = UserRole),
        (status = 400, description = "A field is not valid, or the user has it already")))]
async fn grant_role(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(user): Path<String>,
    Json(new): Json<NewRole>,
) -> ApiResult<Json<UserRole>> {
    caller.require_super_admin()?;
    let role_key = required("roleKey", new.role_key)?;
    let grant_id = Ids(scope.command_id(&caller.id)).of("grant");
    let (principal_id, expires_at) = (user.clone(), new.expires_at);
    let command = GrantRole { principal_id, grant_id: grant_id.clone(), role_key, expires_at };
    identity.change_grants(&user, command.into(), &caller, &scope).await?;
    Ok(Json(identity.grant(&user, "role", &grant_id).await?.into()))
}

/// Take a global role from a user (super admins)
#[utoipa::path(delete, path = "/admin/users/{userId}/roles/{roleKey}", tag = "Administration",
    params(("userId" = String, Path, description = "Id of the user"),
        ("roleKey" = String, Path, description = "The role")),
    responses((status = 200, description = "Taken, also if the user had none", body = Msg)))]
async fn revoke_role(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path((user, role_key)): Path<(String, String)>,
) -> ApiResult<Json<Msg>> {
    let command = RevokeRole { principal_id: user.clone(), role_key };
    identity.change_grants(&user, command.into(), &caller, &scope).await?;
    Ok(Json(Msg { message: "Role revoked" }))
}
