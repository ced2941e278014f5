//! Applications of a project and the services that they depend on (identity.md §6.6).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_commands::identity::{
    ApplicationCommand, CreateApplication, DeleteApplication, LinkService, UnlinkService, UpdateApplication, present,
};
use symbia_projections::{Scope, identity as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    access::Wants,
    accounts::Ids,
    owned::{Entered, Owned},
    project_services::{Service, bare_url},
    scoped_entitlements::ScopedEntitlement,
    shapes::{Msg, iso},
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, change, delete))
        .routes(routes!(link, unlink))
}

/// An application.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Application {
    id: String,
    project_id: String,
    org_id: String,
    name: String,
    slug: String,
    /// `development`, `staging` or `production`.
    environment: String,
    /// `web`, `mobile`, `api` or `cli`.
    app_type: String,
    repo_url: Option<String>,
    /// Always empty, as in the original.
    #[schema(value_type = Object)]
    metadata_json: Map<String, Value>,
    created_at: String,
}

impl From<model::Application> for Application {
    fn from(a: model::Application) -> Self {
        Application {
            id: a.id,
            project_id: a.project_id,
            org_id: a.org_id,
            name: a.name,
            slug: a.slug,
            environment: a.environment,
            app_type: a.app_type,
            repo_url: a.repo_url,
            metadata_json: Map::new(),
            created_at: iso(a.created_at),
        }
    }
}

/// Applications.
#[derive(Serialize, ToSchema)]
struct Applications {
    applications: Vec<Application>,
}

/// List the applications of a project
#[utoipa::path(get, path = "/projects/{projectId}/applications", tag = "Projects",
    params(("projectId" = String, Path, description = "Id of the project")),
    responses((status = 200, description = "The oldest first", body = Applications)))]
async fn list(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(project): Path<String>,
) -> ApiResult<Json<Applications>> {
    let Entered::<model::Project> { reading, .. } = identity.owned(&caller, &scope, &project, Wants::Read).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let found = model::applications(&mut tx, &project).await?;
    Ok(Json(Applications { applications: found.into_iter().map(Application::from).collect() }))
}

/// A new application.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewApplication {
    name: String,
    slug: String,
    /// `development` (default), `staging` or `production`.
    #[serde(default)]
    environment: Option<String>,
    /// `web` (default), `mobile`, `api` or `cli`.
    #[serde(default)]
    app_type: Option<String>,
    /// User and password are left out of it.
    #[serde(default)]
    repo_url: Option<String>,
}

/// Make an application (not viewers)
#[utoipa::path(post, path = "/projects/{projectId}/applications", tag = "Projects", request_body = NewApplication,
    params(("projectId" = String, Path, description = "Id of the project")),
    responses((status = 200, description = "The application", body = Application)))]
async fn create(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(project): Path<String>,
    Json(new): Json<NewApplication>,
) -> ApiResult<Json<Application>> {
    let Entered::<model::Project> { row: project, to, reading } =
        identity.owned(&caller, &scope, &project, Wants::Write).await?;
    let id = Ids(scope.command_id(&caller.id)).of("application");
    let to = model::Application::address(&to.tenant, &id)?;
    let command = ApplicationCommand::from(CreateApplication {
        app_id: id,
        project_id: project.id,
        org_id: project.org_id,
        name: new.name.trim().to_owned(),
        slug: new.slug,
        environment: new.environment.unwrap_or_else(|| "development".to_owned()),
        app_type: new.app_type.unwrap_or_else(|| "web".to_owned()),
        repo_url: new.repo_url.and_then(bare_url),
    });
    let now: model::Application = identity.changed((&to, &reading), &command, &caller, &scope).await?;
    Ok(Json(now.into()))
}

/// An application with what it depends on.
#[derive(Serialize, ToSchema)]
struct ApplicationDetails {
    application: Application,
    /// The services that it is linked to.
    services: Vec<Service>,
    entitlements: Vec<ScopedEntitlement>,
}

/// Read an application with the services it depends on
#[utoipa::path(get, path = "/applications/{appId}", tag = "Projects",
    params(("appId" = String, Path, description = "Id of the application")),
    responses((status = 200, description = "The application", body = ApplicationDetails)))]
async fn read(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<ApplicationDetails>> {
    let Entered::<model::Application> { row, reading, .. } = identity.owned(&caller, &scope, &id, Wants::Read).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let services = model::linked_services(&mut tx, &id).await?;
    let entitlements = model::scoped_entitlements(&mut tx, "application", &id).await?;
    Ok(Json(ApplicationDetails {
        application: row.into(),
        services: services.into_iter().map(Service::from).collect(),
        entitlements: entitlements.into_iter().map(ScopedEntitlement::from).collect(),
    }))
}

/// Changes of an application; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ApplicationChanges {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    environment: Option<String>,
    #[serde(default)]
    app_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    repo_url: Option<Option<String>>,
}

/// Change an application (not viewers)
#[utoipa::path(patch, path = "/applications/{appId}", tag = "Projects", request_body = ApplicationChanges,
    params(("appId" = String, Path, description = "Id of the application")),
    responses((status = 200, description = "The application", body = Application)))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(changes): Json<ApplicationChanges>,
) -> ApiResult<Json<Application>> {
    let Entered::<model::Application> { to, reading, .. } = identity.owned(&caller, &scope, &id, Wants::Write).await?;
    let ApplicationChanges { name, environment, app_type, repo_url } = changes;
    let repo_url = repo_url.map(|url| url.and_then(bare_url));
    let command = UpdateApplication { app_id: id, name, environment, app_type, repo_url };
    let command = ApplicationCommand::from(command);
    let now: model::Application = identity.changed((&to, &reading), &command, &caller, &scope).await?;
    Ok(Json(now.into()))
}

/// Delete an application (admins of its organization)
#[utoipa::path(delete, path = "/applications/{appId}", tag = "Projects",
    params(("appId" = String, Path, description = "Id of the application")),
    responses((status = 200, description = "Deleted", body = Msg)))]
async fn delete(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    let Entered::<model::Application> { to, .. } = identity.owned(&caller, &scope, &id, Wants::Administer).await?;
    let command = ApplicationCommand::from(DeleteApplication { app_id: id });
    identity.carry_out(&to, &command, &caller, &scope).await?;
    Ok(Json(Msg { message: "Application deleted" }))
}

/// That an application depends on a service.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Link {
    id: String,
    application_id: String,
    service_id: String,
    created_at: String,
}

/// Say that an application depends on a service of its organization (not viewers)
#[utoipa::path(post, path = "/applications/{appId}/services/{serviceId}", tag = "Projects",
    params(("appId" = String, Path, description = "Id of the application"),
        ("serviceId" = String, Path, description = "Id of the service")),
    responses((status = 200, description = "The link, also if there was one", body = Link),
        (status = 400, description = "The service belongs to another organization")))]
async fn link(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path((app_id, service_id)): Path<(String, String)>,
) -> ApiResult<Json<Link>> {
    let Entered::<model::Application> { row: app, to, reading } =
        identity.owned(&caller, &scope, &app_id, Wants::Write).await?;
    let unknown = || ApiError::not_found("Service");
    let service: model::ProjectService = identity.found(&Scope::platform(), &service_id).await?;
    if service.org_id != app.org_id {
        // Who does not belong there learns nothing of it.
        caller.role_in(&service.org_id).ok_or_else(unknown)?;
        let other = "The service belongs to another organization than the application";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "OTHER_ORGANIZATION", other));
    }
    let link_id = Ids(scope.command_id(&caller.id)).of("link");
    let command = LinkService { app_id: app_id.clone(), service_id: service_id.clone(), link_id };
    let command = ApplicationCommand::from(command);
    identity.carry_out(&to, &command, &caller, &scope).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let link = model::service_link(&mut tx, &app_id, &service_id).await?.ok_or_else(unknown)?;
    let model::ServiceLink { id, application_id, service_id, created_at, .. } = link;
    Ok(Json(Link { id, application_id, service_id, created_at: iso(created_at) }))
}

/// Say that an application does not depend on a service any more (not viewers)
#[utoipa::path(delete, path = "/applications/{appId}/services/{serviceId}", tag = "Projects",
    params(("appId" = String, Path, description = "Id of the application"),
        ("serviceId" = String, Path, description = "Id of the service")),
    responses((status = 200, description = "Unlinked, also if there was no link", body = Msg)))]
async fn unlink(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path((app_id, service_id)): Path<(String, String)>,
) -> ApiResult<Json<Msg>> {
    let Entered::<model::Application> { to, .. } = identity.owned(&caller, &scope, &app_id, Wants::Write).await?;
    let command = ApplicationCommand::from(UnlinkService { app_id, service_id });
    identity.carry_out(&to, &command, &caller, &scope).await?;
    Ok(Json(Msg { message: "Service unlinked" }))
}
