//! Projects of an organization (identity.md §6.6).

use axum::extract::State;
use serde::{Deserialize, Serialize};
use symbia_commands::identity::{CreateProject, DeleteProject, ProjectCommand, UpdateProject, present};
use symbia_events::{AggregateRef, OrgId};
use symbia_projections::{Scope, identity as model};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Identity,
    access::{Wants, address},
    accounts::Ids,
    applications::Application,
    project_services::Service,
    scoped_entitlements::ScopedEntitlement,
    shapes::{Msg, iso},
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope};

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

fn project_address(tenant: &OrgId, id: &str) -> ApiResult<AggregateRef> {
    address(tenant, "project", id, "Project")
}

impl Identity {
    /// A project whose organization lets the caller in, with the scope to read there.
    ///
    /// # Errors
    /// 404 when there is no such project, and those of [`Identity::enter`].
    pub(super) async fn project(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        id: &str,
        wants: Wants,
    ) -> ApiResult<(model::Project, OrgId, Scope)> {
        caller.require_user()?;
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let project = model::project(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("Project"))?;
        drop(tx);
        let (tenant, reading) = self.enter(caller, scope, &project.org_id, wants).await?;
        Ok((project, tenant, reading))
    }

    async fn project_now(&self, reading: &Scope, id: &str) -> ApiResult<Json<Project>> {
        let mut tx = self.platform.read(reading).await?;
        let project = model::project(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("Project"))?;
        Ok(Json(project.into()))
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
    let command =
        CreateProject { project_id: id.clone(), org_id: org, name: name.trim().to_owned(), slug, description };
    let to = project_address(&tenant, &id)?;
    identity.carry_out(&to, &ProjectCommand::from(command), &caller, &scope).await?;
    identity.project_now(&reading, &id).await
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
    let (project, _, reading) = identity.project(&caller, &scope, &id, Wants::Read).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let applications = model::applications(&mut tx, &id).await?;
    let services = model::project_services(&mut tx, &id).await?;
    let entitlements = model::scoped_entitlements(&mut tx, "project", &id).await?;
    Ok(Json(ProjectDetails {
        project: project.into(),
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
    let (_, tenant, reading) = identity.project(&caller, &scope, &id, Wants::Write).await?;
    let command = ProjectCommand::from(UpdateProject { project_id: id.clone(), name, description, status });
    identity.carry_out(&project_address(&tenant, &id)?, &command, &caller, &scope).await?;
    identity.project_now(&reading, &id).await
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
    let (_, tenant, _) = identity.project(&caller, &scope, &id, Wants::Administer).await?;
    let command = ProjectCommand::from(DeleteProject { project_id: id.clone() });
    identity.carry_out(&project_address(&tenant, &id)?, &command, &caller, &scope).await?;
    Ok(Json(Msg { message: "Project deleted" }))
}
