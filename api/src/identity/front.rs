//! Signing in at another service's door: clients of the original talk to one service alone (platform.md §12). The session is the
//! platform's, whichever service gave it.

use axum::Extension;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Directory, Identity, discovery, limits, login, passwords::Passwords, sessions};
use crate::{
    http::{
        ApiError, ApiResult, Caller, Json, OptionalCaller,
        principal::{Membership, PrincipalKind},
        routes,
    },
    platform::Platform,
};

/// `/auth/config`, `/auth/me`, `/auth/login`, `/auth/logout` and `/auth/session`, to be served under `/api`.
pub(crate) fn front(platform: &Platform, directory: &Directory) -> OpenApiRouter {
    let passwords = Passwords::new(platform.settings.bcrypt_cost);
    // Attempts at an account are counted together, at whichever door they are made.
    let limits = limits(platform);
    OpenApiRouter::new()
        .merge(discovery::addresses())
        .merge(login::routes())
        .merge(sessions::ending())
        .layer(Extension(limits))
        .routes(routes!(me))
        .routes(routes!(session))
        .with_state(Identity { platform: platform.clone(), directory: directory.clone(), passwords })
}

/// A principal as other services show it (messaging.md §3.5).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Person {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// `user`, `agent` or `service`.
    #[serde(rename = "type")]
    kind: PrincipalKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<String>,
    organizations: Vec<Membership>,
    entitlements: Vec<String>,
    roles: Vec<String>,
    is_super_admin: bool,
}

impl From<&Caller> for Person {
    fn from(caller: &Caller) -> Self {
        Person {
            id: caller.id.clone(),
            email: caller.email.clone(),
            name: caller.name.clone(),
            kind: caller.kind,
            agent_id: caller.agent_id.clone(),
            org_id: caller.org_id.clone(),
            organizations: caller.organizations.clone(),
            entitlements: caller.entitlements.clone(),
            roles: caller.roles.clone(),
            is_super_admin: caller.is_super_admin,
        }
    }
}

/// The caller.
#[derive(Serialize, ToSchema)]
struct Me {
    user: Person,
    organizations: Vec<Membership>,
}

/// Read who the caller is
#[utoipa::path(get, path = "/auth/me", tag = "Authentication",
    responses((status = 200, description = "The caller, a person or an agent", body = Me)))]
async fn me(caller: Caller) -> Json<Me> {
    Json(Me { user: Person::from(&caller), organizations: caller.organizations.clone() })
}

/// Whether somebody is signed in.
#[derive(Serialize, ToSchema)]
struct Session {
    authenticated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Person>,
}

/// Read whether somebody is signed in, and who
#[utoipa::path(get, path = "/auth/session", tag = "Authentication", security(()),
    responses((status = 200, description = "Whoever holds no good credential is not signed in", body = Session)))]
async fn session(caller: Result<OptionalCaller, ApiError>) -> ApiResult<Json<Session>> {
    let user = match caller {
        Ok(OptionalCaller(caller)) => caller.as_ref().map(Person::from),
        Err(error) if error.status().is_server_error() => return Err(error),
        Err(_) => None,
    };
    Ok(Json(Session { authenticated: user.is_some(), user }))
}
