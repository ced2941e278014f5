//! Services that a project depends on: its databases, queues, foreign APIs (identity.md §6.6).

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_commands::identity::{
    DeleteProjectService, ProjectServiceCommand, RegisterProjectService, UpdateProjectService, present,
};
use symbia_projections::identity as model;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    access::Wants,
    accounts::Ids,
    owned::{Entered, Owned},
    scoped_entitlements::ScopedEntitlement,
    shapes::{Msg, iso},
};
use crate::http::{ApiResult, Caller, Json, Path, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, change, delete))
}

/// A service that a project depends on.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Service {
    id: String,
    project_id: String,
    org_id: String,
    name: String,
    /// `database`, `api`, `auth`, `storage`, `messaging` or `analytics`.
    service_type: String,
    provider: Option<String>,
    endpoint_url: Option<String>,
    external_id: Option<String>,
    /// `active`, `inactive` or `error`.
    status: String,
    /// Always empty, as in the original.
    #[schema(value_type = Object)]
    metadata_json: Map<String, Value>,
    created_at: String,
}

impl From<model::ProjectService> for Service {
    fn from(s: model::ProjectService) -> Self {
        Service {
            id: s.id,
            project_id: s.project_id,
            org_id: s.org_id,
            name: s.name,
            service_type: s.service_type,
            provider: s.provider,
            endpoint_url: s.endpoint_url,
            external_id: s.external_id,
            status: s.status,
            metadata_json: Map::new(),
            created_at: iso(s.created_at),
        }
    }
}

/// An address without user and password: those are secrets, and no command carries any. The empty text is none.
pub(super) fn bare_url(url: String) -> Option<String> {
    if url.trim().is_empty() {
        return None;
    }
    let Some((scheme, rest)) = url.split_once("://") else { return Some(url) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => Some(format!("{scheme}://{}", &rest[at + 1..])),
        None => Some(url),
    }
}

/// Services.
#[derive(Serialize, ToSchema)]
struct Services {
    services: Vec<Service>,
}

/// List the services of a project
#[utoipa::path(get, path = "/projects/{projectId}/services", tag = "Projects",
    params(("projectId" = String, Path, description = "Id of the project")),
    responses((status = 200, description = "The oldest first", body = Services)))]
async fn list(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(project): Path<String>,
) -> ApiResult<Json<Services>> {
    let Entered::<model::Project> { reading, .. } = identity.owned(&caller, &scope, &project, Wants::Read).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let found = model::project_services(&mut tx, &project).await?;
    Ok(Json(Services { services: found.into_iter().map(Service::from).collect() }))
}

/// A new service.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewService {
    name: String,
    /// `database`, `api`, `auth`, `storage`, `messaging` or `analytics`.
    service_type: String,
    #[serde(default)]
    provider: Option<String>,
    /// User and password are left out of it: keep them in the vault.
    #[serde(default)]
    endpoint_url: Option<String>,
    #[serde(default)]
    external_id: Option<String>,
}

/// Name a service that a project depends on (not viewers)
#[utoipa::path(post, path = "/projects/{projectId}/services", tag = "Projects", request_body = NewService,
    params(("projectId" = String, Path, description = "Id of the project")),
    responses((status = 200, description = "The service", body = Service)))]
async fn create(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(project): Path<String>,
    Json(new): Json<NewService>,
) -> ApiResult<Json<Service>> {
    let Entered::<model::Project> { row: project, to, reading } =
        identity.owned(&caller, &scope, &project, Wants::Write).await?;
    let id = Ids(scope.command_id(&caller.id)).of("service");
    let to = model::ProjectService::address(&to.tenant, &id)?;
    let command = ProjectServiceCommand::from(RegisterProjectService {
        service_id: id,
        project_id: project.id,
        org_id: project.org_id,
        name: new.name.trim().to_owned(),
        service_type: new.service_type,
        provider: new.provider,
        endpoint_url: new.endpoint_url.and_then(bare_url),
        external_id: new.external_id,
    });
    let now: model::ProjectService = identity.changed((&to, &reading), &command, &caller, &scope).await?;
    Ok(Json(now.into()))
}

/// A service with its entitlements.
#[derive(Serialize, ToSchema)]
struct ServiceDetails {
    service: Service,
    entitlements: Vec<ScopedEntitlement>,
}

/// Read a service
#[utoipa::path(get, path = "/services/{serviceId}", tag = "Projects",
    params(("serviceId" = String, Path, description = "Id of the service")),
    responses((status = 200, description = "The service", body = ServiceDetails)))]
async fn read(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<ServiceDetails>> {
    let Entered::<model::ProjectService> { row, reading, .. } =
        identity.owned(&caller, &scope, &id, Wants::Read).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let entitlements = model::scoped_entitlements(&mut tx, "service", &id).await?;
    let entitlements = entitlements.into_iter().map(ScopedEntitlement::from).collect();
    Ok(Json(ServiceDetails { service: row.into(), entitlements }))
}

/// Changes of a service; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ServiceChanges {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    service_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    provider: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    endpoint_url: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    external_id: Option<Option<String>>,
    /// `active`, `inactive` or `error`.
    #[serde(default)]
    status: Option<String>,
}

/// Change a service (not viewers)
#[utoipa::path(patch, path = "/services/{serviceId}", tag = "Projects", request_body = ServiceChanges,
    params(("serviceId" = String, Path, description = "Id of the service")),
    responses((status = 200, description = "The service", body = Service)))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(changes): Json<ServiceChanges>,
) -> ApiResult<Json<Service>> {
    let Entered::<model::ProjectService> { to, reading, .. } =
        identity.owned(&caller, &scope, &id, Wants::Write).await?;
    let command = ProjectServiceCommand::from(UpdateProjectService {
        service_id: id,
        name: changes.name,
        service_type: changes.service_type,
        provider: changes.provider,
        endpoint_url: changes.endpoint_url.map(|url| url.and_then(bare_url)),
        external_id: changes.external_id,
        status: changes.status,
    });
    let now: model::ProjectService = identity.changed((&to, &reading), &command, &caller, &scope).await?;
    Ok(Json(now.into()))
}

/// Delete a service (admins of its organization)
#[utoipa::path(delete, path = "/services/{serviceId}", tag = "Projects",
    params(("serviceId" = String, Path, description = "Id of the service")),
    responses((status = 200, description = "Deleted", body = Msg)))]
async fn delete(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    let Entered::<model::ProjectService> { to, .. } = identity.owned(&caller, &scope, &id, Wants::Administer).await?;
    let command = ProjectServiceCommand::from(DeleteProjectService { service_id: id });
    identity.carry_out(&to, &command, &caller, &scope).await?;
    Ok(Json(Msg { message: "Service deleted" }))
}

#[cfg(test)]
mod tests {
    use super::bare_url;

    #[test]
    fn passwords_are_left_out_of_addresses() {
        for (url, bare) in [
            ("postgres://ada:pw@db:5432/x?y=a@b", Some("postgres://db:5432/x?y=a@b")),
            ("https://a:b@c@host/p", Some("https://host/p")),
            ("https://host/@p", Some("https://host/@p")),
            ("nonsense", Some("nonsense")),
            (" ", None),
        ] {
            assert_eq!(bare_url(url.to_owned()).as_deref(), bare, "{url}");
        }
    }
}
