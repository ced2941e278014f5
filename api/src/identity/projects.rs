//! Projects of an organization (identity.md §6.6).

use axum::extract::State;
use serde::{Deserialize, Serialize};
use symbia_commands::identity::{CreateProject, DeleteProject, ProjectCommand, UpdateProject, present};
use symbia_projections::identity as model;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    access::Wants,
    accounts::Ids,
    applications::Application,
    owned::{Entered, Owned},
    project_services::Service,
    scoped_entitlements::ScopedEntitlement,
    shapes::{Msg, iso},
};
use crate::http::{ApiResult, Caller, Json, Path, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, change, delete))
}

/// A project.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Project {
    id: String,
    org_id: String,
    name: String,
    slug: String,
    description: Option<String>,
    /// `active`, `archived` or `suspended`.
    status: String,
    created_at: String,
}

impl From<model::Project> for Project {
    fn from(p: model::Project) -> Self {
        Project {
            id: p.id,
            org_id: p.org_id,
            name: p.name,
            slug: p.slug,
            description: p.description,
            status: p.status,
            created_at: iso(p.created_at),
        }
    }
}

/// Projects.
#[derive(Serialize, ToSchema)]
struct Projects {
    projects: Vec<Project>,
}

/// List the projects of an organization
#[utoipa::path(get, path = "/orgs/{id}/projects", tag = "Projects",
    params(("id" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "The oldest first", body = Projects)))]
async fn list(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(org): Path<String>,
) -> ApiResult<Json<Projects>> {
    let (_, reading) = identity.enter(&caller, &scope, &org, Wants::Read).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let found = model::projects(&mut tx, &org).await?;
    Ok(Json(Projects { projects: found.into_iter().map(Project::from).collect() }))
}

/// A new project.
#[derive(Deserialize, ToSchema)]
struct NewProject {
    name: String,
    /// Unique within the organization, of `a-z`, `0-9` and `-`.
    slug: String,
    #[serde(default)]
    description: Option<String>,
}

/// Make a project (not viewers)
#[utoipa::path(post, path = "/orgs/{id}/projects", tag = "Projects", request_body = NewProject,
    params(("id" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "The project", body = Project),
        (status = 409, description = "The slug is taken in this organization")))]
async fn create(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(org): Path<String>,
    Json(NewProject { name, slug, description }): Json<NewProject>,
) -> ApiResult<Json<Project>> {
    let (tenant, reading) = identity.enter(&caller, &scope, &org, Wants::Write).await?;
    let id = Ids(scope.command_id(&caller.id)).of("project");
    let to = model::Project::address(&tenant, &id)?;
    let command = CreateProject { project_id: id, org_id: org, name: name.trim().to_owned(), slug, description };
    let command = ProjectCommand::from(command);
    let made: model::Project = identity.changed((&to, &reading), &command, &caller, &scope).await?;
    Ok(Json(made.into()))
}

/// A project with what it has.
#[derive(Serialize, ToSchema)]
struct ProjectDetails {
    project: Project,
    applications: Vec<Application>,
    services: Vec<Service>,
    entitlements: Vec<ScopedEntitlement>,
}

/// Read a project with its applications, services and entitlements
#[utoipa::path(get, path = "/projects/{projectId}", tag = "Projects",
    params(("projectId" = String, Path, description = "Id of the project")),
    responses((status = 200, description = "The project", body = ProjectDetails)))]
async fn read(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<ProjectDetails>> {
    let Entered::<model::Project> { row, reading, .. } = identity.owned(&caller, &scope, &id, Wants::Read).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let applications = model::applications(&mut tx, &id).await?;
    let services = model::project_services(&mut tx, &id).await?;
    let entitlements = model::scoped_entitlements(&mut tx, "project", &id).await?;
    Ok(Json(ProjectDetails {
        project: row.into(),
        applications: applications.into_iter().map(Application::from).collect(),
        services: services.into_iter().map(Service::from).collect(),
        entitlements: entitlements.into_iter().map(ScopedEntitlement::from).collect(),
    }))
}

/// Changes of a project; what is absent stays, the slug always.
#[derive(Deserialize, ToSchema)]
struct ProjectChanges {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    /// `active`, `archived` or `suspended`.
    #[serde(default)]
    status: Option<String>,
}

/// Change a project (not viewers)
#[utoipa::path(patch, path = "/projects/{projectId}", tag = "Projects", request_body = ProjectChanges,
    params(("projectId" = String, Path, description = "Id of the project")),
    responses((status = 200, description = "The project", body = Project)))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(ProjectChanges { name, description, status }): Json<ProjectChanges>,
) -> ApiResult<Json<Project>> {
    let Entered::<model::Project> { to, reading, .. } = identity.owned(&caller, &scope, &id, Wants::Write).await?;
    let command = ProjectCommand::from(UpdateProject { project_id: id, name, description, status });
    let changed: model::Project = identity.changed((&to, &reading), &command, &caller, &scope).await?;
    Ok(Json(changed.into()))
}

/// Delete a project with its applications and services (admins of its organization)
#[utoipa::path(delete, path = "/projects/{projectId}", tag = "Projects",
    params(("projectId" = String, Path, description = "Id of the project")),
    responses((status = 200, description = "Deleted", body = Msg)))]
async fn delete(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    let Entered::<model::Project> { to, .. } = identity.owned(&caller, &scope, &id, Wants::Administer).await?;
    let command = ProjectCommand::from(DeleteProject { project_id: id });
    identity.carry_out(&to, &command, &caller, &scope).await?;
    Ok(Json(Msg { message: "Project deleted" }))
}
