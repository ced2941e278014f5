//! Projects, applications, services, and which application depends on which service.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};
use symbia_events::{
    Event,
    identity::{ApplicationEvent, ProjectEvent, ProjectServiceEvent},
};
use time::{OffsetDateTime, serde::rfc3339};

use super::{super::table::Row, Rows};

/// A project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Project {
    pub id: String,
    pub org_id: String,
    pub name: String,
    pub slug: String,
    pub description: Option<String>,
    pub status: String,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// An application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Application {
    pub id: String,
    pub project_id: String,
    pub org_id: String,
    pub name: String,
    pub slug: String,
    pub environment: String,
    pub app_type: String,
    pub repo_url: Option<String>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A service that a project depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct ProjectService {
    pub id: String,
    pub project_id: String,
    pub org_id: String,
    pub name: String,
    pub service_type: String,
    pub provider: Option<String>,
    pub endpoint_url: Option<String>,
    pub external_id: Option<String>,
    pub status: String,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// That an application depends on a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct ServiceLink {
    pub id: String,
    pub org_id: String,
    pub application_id: String,
    pub service_id: String,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

macro_rules! row {
    ($row:ty, $table:literal) => {
        impl Row for $row {
            const TABLE: &'static str = $table;
            fn id(&self) -> &str {
                &self.id
            }
        }
    };
}

row!(Project, "projects");
row!(Application, "applications");
row!(ProjectService, "project_services");
row!(ServiceLink, "service_links");

impl Rows {
    pub(super) fn project(&mut self, event: &Event, change: ProjectEvent) {
        let id = &event.aggregateid;
        match change {
            ProjectEvent::ProjectCreated(e) => {
                self.projects.add(Project {
                    id: id.clone(),
                    org_id: event.orgid.to_string(),
                    name: e.name,
                    slug: e.slug,
                    description: e.description,
                    status: "active".to_owned(),
                    created_at: event.time,
                });
            }
            ProjectEvent::ProjectUpdated(e) => {
                if let Some(project) = self.projects.get_mut(id) {
                    (project.name, project.description) = (e.name, e.description);
                }
            }
            ProjectEvent::ProjectStatusChanged(e) => {
                if let Some(project) = self.projects.get_mut(id) {
                    project.status = e.status;
                }
            }
            ProjectEvent::ProjectDeleted(_) => {
                self.projects.remove(|project| project.id == *id);
                self.forget_scope("project", id);
                for app in self.applications.ids(|app| app.project_id == *id) {
                    self.forget_application(&app);
                }
                for service in self.services.ids(|service| service.project_id == *id) {
                    self.forget_service(&service);
                }
            }
        }
    }

    // A project of another organization, or one that is gone, gets nothing.
    fn has_project(&mut self, id: &str, event: &Event) -> bool {
        self.projects.get_mut(id).is_some_and(|project| project.org_id == event.orgid.as_str())
    }

    pub(super) fn application(&mut self, event: &Event, change: ApplicationEvent) {
        let id = &event.aggregateid;
        match change {
            ApplicationEvent::ApplicationCreated(e) => {
                if !self.has_project(&e.project_id, event) {
                    return;
                }
                self.applications.add(Application {
                    id: id.clone(),
                    project_id: e.project_id,
                    org_id: event.orgid.to_string(),
                    name: e.name,
                    slug: e.slug,
                    environment: e.environment,
                    app_type: e.app_type,
                    repo_url: e.repo_url,
                    created_at: event.time,
                });
            }
            ApplicationEvent::ApplicationUpdated(e) => {
                let Some(app) = self.applications.get_mut(id) else { return };
                (app.name, app.environment, app.app_type, app.repo_url) =
                    (e.name, e.environment, e.app_type, e.repo_url);
            }
            ApplicationEvent::ApplicationDeleted(_) => self.forget_application(id),
            ApplicationEvent::ServiceLinked(e) => {
                let org = event.orgid.as_str();
                let stands = self.applications.get_mut(id).is_some()
                    && self.services.get_mut(&e.service_id).is_some_and(|service| service.org_id == org);
                if !stands {
                    return;
                }
                self.links.add(ServiceLink {
                    id: e.link_id,
                    org_id: org.to_owned(),
                    application_id: id.clone(),
                    service_id: e.service_id,
                    created_at: event.time,
                });
            }
            ApplicationEvent::ServiceUnlinked(e) => {
                self.links.remove(|link| link.id == e.link_id && link.application_id == *id);
            }
        }
    }

    fn forget_application(&mut self, id: &str) {
        self.applications.remove(|app| app.id == id);
        self.links.remove(|link| link.application_id == id);
        self.forget_scope("application", id);
    }

    pub(super) fn service(&mut self, event: &Event, change: ProjectServiceEvent) {
        let id = &event.aggregateid;
        match change {
            ProjectServiceEvent::ProjectServiceRegistered(e) => {
                if !self.has_project(&e.project_id, event) {
                    return;
                }
                self.services.add(ProjectService {
                    id: id.clone(),
                    project_id: e.project_id,
                    org_id: event.orgid.to_string(),
                    name: e.name,
                    service_type: e.service_type,
                    provider: e.provider,
                    endpoint_url: e.endpoint_url,
                    external_id: e.external_id,
                    status: "active".to_owned(),
                    created_at: event.time,
                });
            }
            ProjectServiceEvent::ProjectServiceUpdated(e) => {
                let Some(service) = self.services.get_mut(id) else { return };
                (service.name, service.service_type, service.status) = (e.name, e.service_type, e.status);
                (service.provider, service.endpoint_url, service.external_id) =
                    (e.provider, e.endpoint_url, e.external_id);
            }
            ProjectServiceEvent::ProjectServiceDeleted(_) => self.forget_service(id),
        }
    }

    fn forget_service(&mut self, id: &str) {
        self.services.remove(|service| service.id == id);
        self.links.remove(|link| link.service_id == id);
        self.forget_scope("service", id);
    }

    fn forget_scope(&mut self, kind: &str, id: &str) {
        self.scoped.remove(|entitlement| entitlement.scope_type == kind && entitlement.scope_id == id);
    }
}

macro_rules! reading {
    ($( $(#[$doc:meta])* $name:ident: $row:ty = $select:literal; )*) => {
        $(
            $(#[$doc])*
            pub async fn $name(conn: &mut PgConnection, key: &str) -> Result<Vec<$row>, sqlx::Error> {
                let found: Vec<Json<$row>> = sqlx::query_scalar($select).bind(key).fetch_all(conn).await?;
                Ok(found.into_iter().map(|Json(row)| row).collect())
            }
        )*
    };
}

macro_rules! reading_one {
    ($( $(#[$doc:meta])* $name:ident: $row:ty = $select:literal; )*) => {
        $(
            $(#[$doc])*
            pub async fn $name(conn: &mut PgConnection, id: &str) -> Result<Option<$row>, sqlx::Error> {
                let found: Option<Json<$row>> = sqlx::query_scalar($select).bind(id).fetch_optional(conn).await?;
                Ok(found.map(|Json(row)| row))
            }
        )*
    };
}

reading! {
    /// The projects of an organization, the oldest first.
    projects: Project = "SELECT to_jsonb(p) FROM identity.projects p WHERE org_id = $1 ORDER BY created_at, id";
    /// The applications of a project, the oldest first.
    applications: Application =
        "SELECT to_jsonb(a) FROM identity.applications a WHERE project_id = $1 ORDER BY created_at, id";
    /// The services of a project, the oldest first.
    project_services: ProjectService =
        "SELECT to_jsonb(s) FROM identity.project_services s WHERE project_id = $1 ORDER BY created_at, id";
    /// The services that an application depends on, in the order of linking.
    linked_services: ProjectService =
        "SELECT to_jsonb(s) FROM identity.service_links l JOIN identity.project_services s ON s.id = l.service_id
         WHERE l.application_id = $1 ORDER BY l.created_at, l.id";
}

reading_one! {
    /// A project by id.
    project: Project = "SELECT to_jsonb(p) FROM identity.projects p WHERE id = $1";
    /// An application by id.
    application: Application = "SELECT to_jsonb(a) FROM identity.applications a WHERE id = $1";
    /// A project's service by id.
    project_service: ProjectService = "SELECT to_jsonb(s) FROM identity.project_services s WHERE id = $1";
}

/// The link of an application to a service.
pub async fn service_link(
    conn: &mut PgConnection,
    application_id: &str,
    service_id: &str,
) -> Result<Option<ServiceLink>, sqlx::Error> {
    let select = "SELECT to_jsonb(l) FROM identity.service_links l WHERE application_id = $1 AND service_id = $2";
    let found: Option<Json<ServiceLink>> =
        sqlx::query_scalar(select).bind(application_id).bind(service_id).fetch_optional(conn).await?;
    Ok(found.map(|Json(link)| link))
}
