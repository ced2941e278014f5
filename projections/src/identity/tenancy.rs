//! What belongs to an organization beside its members, and what operators keep: plans, features, invitations, projects
//! with their applications and services, entitlements, grants. How events change the rows; the rows stand in the files
//! of their subjects.

mod change;
mod entitlements;
mod hierarchy;
mod invitations;
mod plans;

pub use entitlements::{
    Grant, OrgEntitlement, ScopedEntitlement, grants, org_entitlements, scoped_entitlement, scoped_entitlements,
};
pub use hierarchy::{
    Application, Project, ProjectService, ServiceLink, application, applications, linked_services, project,
    project_service, project_services, projects, service_link,
};
pub use invitations::{Invitation, invitation, invitation_by_token, invitations};
pub use plans::{Plan, plan, plan_by_name, plans};

use sqlx::PgConnection;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::table::Table;
use crate::{FoldError, FoldEvent, secrets::SecretStore};

/// The rows that a batch touches.
struct Rows {
    plans: Table<Plan>,
    org_entitlements: Table<OrgEntitlement>,
    invitations: Table<Invitation>,
    projects: Table<Project>,
    applications: Table<Application>,
    services: Table<ProjectService>,
    links: Table<ServiceLink>,
    scoped: Table<ScopedEntitlement>,
    grants: Table<Grant>,
}

pub(super) async fn fold(
    secrets: &SecretStore,
    conn: &mut PgConnection,
    events: &[FoldEvent],
) -> Result<(), FoldError> {
    let (changes, touched) = change::read(events)?;
    if changes.is_empty() {
        return Ok(());
    }
    let keys = secrets.subject_keys(&touched.kids).await?;
    let mut rows = touched.load(conn).await?;
    for (event, change) in changes {
        change.apply(event, &mut rows, &keys);
    }
    rows.save(conn).await
}

impl Rows {
    async fn save(self, conn: &mut PgConnection) -> Result<(), FoldError> {
        self.plans.save(conn).await?;
        self.org_entitlements.save(conn).await?;
        self.invitations.save(conn).await?;
        self.projects.save(conn).await?;
        self.applications.save(conn).await?;
        self.services.save(conn).await?;
        self.links.save(conn).await?;
        self.scoped.save(conn).await?;
        self.grants.save(conn).await
    }
}

fn instant(text: Option<&str>) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text?, &Rfc3339).ok()
}
