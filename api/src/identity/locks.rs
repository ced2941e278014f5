//! Locking and unlocking accounts (identity.md §16.2).

use axum::extract::State;
use serde::Deserialize;
use symbia_commands::{
    Actor,
    identity::{LockUser, UnlockUser, UserCommand},
};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Identity, shapes::Msg};
use crate::http::{ApiResult, Caller, Json, Path, RequestScope, Validation, routes};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(lock)).routes(routes!(unlock))
}

/// Why.
#[derive(Deserialize, ToSchema)]
struct Reason {
    reason: String,
}

impl Reason {
    fn check(&self) -> ApiResult<()> {
        let mut rules = Validation::new();
        rules.required("reason", &self.reason).length("reason", &self.reason, 1, 500);
        rules.finish()
    }
}

/// Lock an account: its sessions end, and nobody signs in to it until it is unlocked (super admin)
#[utoipa::path(post, path = "/admin/users/{id}/lock", tag = "Administration", request_body = Reason,
    params(("id" = String, Path, description = "Id of the user")),
    responses((status = 200, description = "Locked", body = Msg)))]
async fn lock(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Reason>,
) -> ApiResult<Json<Msg>> {
    caller.require_super_admin()?;
    body.check()?;
    let command = UserCommand::from(LockUser { user_id: id.clone(), reason: body.reason, until: None });
    identity.platform.submit(&identity.user(&id)?, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(Msg { message: "Account locked" }))
}

/// Unlock an account (super admin)
#[utoipa::path(post, path = "/admin/users/{id}/unlock", tag = "Administration", request_body = Reason,
    params(("id" = String, Path, description = "Id of the user")),
    responses((status = 200, description = "Unlocked", body = Msg)))]
async fn unlock(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Reason>,
) -> ApiResult<Json<Msg>> {
    caller.require_super_admin()?;
    body.check()?;
    let command = UserCommand::from(UnlockUser { user_id: id.clone(), reason: body.reason });
    identity.platform.submit(&identity.user(&id)?, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(Msg { message: "Account unlocked" }))
}
