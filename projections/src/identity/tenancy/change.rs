//! Which events change these rows, which rows they touch, and the change itself.

use std::collections::{BTreeSet, HashMap};

use sqlx::PgConnection;
use symbia_events::{
    DomainEvent, Event, SubjectKey,
    identity::{
        ApplicationEvent, GrantsEvent, OrganizationEvent, PlanEvent, ProjectEvent, ProjectServiceEvent,
        ScopedEntitlementEvent, UserEvent,
    },
};

use super::{
    super::table::{Table, deletes_organization},
    Rows, entitlements, invitations, plans,
};
use crate::{FoldError, FoldEvent};

pub(super) enum Change {
    Organization(OrganizationEvent),
    UserDeleted,
    Plan(PlanEvent),
    Project(ProjectEvent),
    Application(ApplicationEvent),
    Service(ProjectServiceEvent),
    Scoped(ScopedEntitlementEvent),
    Grants(GrantsEvent),
}

/// Keys of the rows that a batch touches.
#[derive(Default)]
pub(super) struct Touched {
    plans: Ids,
    org_entitlements: Ids,
    invitations: Ids,
    projects: Ids,
    applications: Ids,
    services: Ids,
    links: Ids,
    scoped: Ids,
    grants: Ids,
    deleted_users: Ids,
    /// Organizations that are gone.
    deleted_orgs: Ids,
    /// Organizations where something is gone that others hang on.
    shrunk_orgs: Ids,
    pub kids: Vec<String>,
}

type Ids = BTreeSet<String>;

type Changes<'e> = Vec<(&'e Event, Change)>;

pub(super) fn read(events: &[FoldEvent]) -> Result<(Changes<'_>, Touched), FoldError> {
    let (mut changes, mut touched) = (Vec::new(), Touched::default());
    for FoldEvent { event, .. } in events {
        if let Some(change) = touched.by(event)? {
            changes.push((&**event, change));
        }
    }
    Ok((changes, touched))
}

// The ids in a payload came with a command; the address was authorized. Only when both agree is the payload believed.
fn agree(event: &Event, id: &str, org: Option<&str>) -> Result<(), FoldError> {
    let tenant = event.orgid.as_str();
    if id == event.aggregateid && org.is_none_or(|org| org == tenant) {
        return Ok(());
    }
    Err(FoldError::Event(format!("a {} of {} that names another aggregate", event.event_type, event.subject)))
}

impl Touched {
    fn by(&mut self, event: &Event) -> Result<Option<Change>, FoldError> {
        let (id, org) = (event.aggregateid.clone(), event.orgid.to_string());
        Ok(Some(match event.aggregatetype.as_str() {
            OrganizationEvent::AGGREGATE => {
                if deletes_organization(event) {
                    self.deleted_orgs.insert(id.clone());
                    self.shrunk_orgs.insert(id);
                }
                let change: OrganizationEvent = event.decode()?;
                match &change {
                    OrganizationEvent::OrgEntitlementSet(e) => {
                        self.org_entitlements.insert(entitlements::feature_id(&e.org_id, &e.feature_key));
                    }
                    OrganizationEvent::OrgEntitlementRemoved(e) => {
                        self.org_entitlements.insert(entitlements::feature_id(&e.org_id, &e.feature_key));
                    }
                    OrganizationEvent::MemberInvited(e) => {
                        self.invitations.insert(e.invitation_id.clone());
                        self.kids.push(e.email.kid.clone());
                    }
                    OrganizationEvent::InvitationAccepted(e) => _ = self.invitations.insert(e.invitation_id.clone()),
                    OrganizationEvent::InvitationRevoked(e) => _ = self.invitations.insert(e.invitation_id.clone()),
                    OrganizationEvent::OrganizationDeleted(_) => {}
                    _ => return Ok(None),
                }
                Change::Organization(change)
            }
            UserEvent::AGGREGATE => match event.decode::<UserEvent>()? {
                UserEvent::UserDeleted(_) => {
                    self.deleted_users.insert(id);
                    Change::UserDeleted
                }
                _ => return Ok(None),
            },
            PlanEvent::AGGREGATE => {
                self.plans.insert(id);
                Change::Plan(event.decode()?)
            }
            ProjectEvent::AGGREGATE => {
                let change: ProjectEvent = event.decode()?;
                match &change {
                    ProjectEvent::ProjectCreated(e) => agree(event, &e.project_id, Some(&e.org_id))?,
                    ProjectEvent::ProjectDeleted(_) => _ = self.shrunk_orgs.insert(org),
                    _ => {}
                }
                self.projects.insert(id);
                Change::Project(change)
            }
            ApplicationEvent::AGGREGATE => {
                let change: ApplicationEvent = event.decode()?;
                match &change {
                    ApplicationEvent::ApplicationCreated(e) => {
                        agree(event, &e.app_id, Some(&e.org_id))?;
                        self.projects.insert(e.project_id.clone());
                    }
                    ApplicationEvent::ServiceLinked(e) => {
                        self.services.insert(e.service_id.clone());
                        self.links.insert(e.link_id.clone());
                    }
                    ApplicationEvent::ServiceUnlinked(e) => _ = self.links.insert(e.link_id.clone()),
                    ApplicationEvent::ApplicationDeleted(_) => _ = self.shrunk_orgs.insert(org),
                    ApplicationEvent::ApplicationUpdated(_) => {}
                }
                self.applications.insert(id);
                Change::Application(change)
            }
            ProjectServiceEvent::AGGREGATE => {
                let change: ProjectServiceEvent = event.decode()?;
                match &change {
                    ProjectServiceEvent::ProjectServiceRegistered(e) => {
                        agree(event, &e.service_id, Some(&e.org_id))?;
                        self.projects.insert(e.project_id.clone());
                    }
                    ProjectServiceEvent::ProjectServiceDeleted(_) => _ = self.shrunk_orgs.insert(org),
                    ProjectServiceEvent::ProjectServiceUpdated(_) => {}
                }
                self.services.insert(id);
                Change::Service(change)
            }
            ScopedEntitlementEvent::AGGREGATE => {
                let change: ScopedEntitlementEvent = event.decode()?;
                if let ScopedEntitlementEvent::ScopedEntitlementCreated(e) = &change {
                    agree(event, &e.id, Some(&e.org_id))?;
                }
                self.scoped.insert(id);
                Change::Scoped(change)
            }
            GrantsEvent::AGGREGATE => {
                let change: GrantsEvent = event.decode()?;
                self.grants.insert(match &change {
                    GrantsEvent::EntitlementGranted(e) => e.grant_id.clone(),
                    GrantsEvent::EntitlementRevoked(e) => e.grant_id.clone(),
                    GrantsEvent::RoleGranted(e) => e.grant_id.clone(),
                    GrantsEvent::RoleRevoked(e) => e.grant_id.clone(),
                    GrantsEvent::GrantExpired(e) => e.grant_id.clone(),
                });
                Change::Grants(change)
            }
            _ => return Ok(None),
        }))
    }

    pub(super) async fn load(self, conn: &mut PgConnection) -> Result<Rows, sqlx::Error> {
        let list = |ids: &Ids| ids.iter().cloned().collect::<Vec<String>>();
        let (deleted, shrunk) = (list(&self.deleted_orgs), list(&self.shrunk_orgs));
        let by = |ids: &Ids, orgs: &[String]| [("id", list(ids)), ("org_id", orgs.to_vec())];
        Ok(Rows {
            plans: Table::load(conn, &by(&self.plans, &[])).await?,
            org_entitlements: Table::load(conn, &by(&self.org_entitlements, &deleted)).await?,
            invitations: Table::load(conn, &by(&self.invitations, &deleted)).await?,
            projects: Table::load(conn, &by(&self.projects, &deleted)).await?,
            applications: Table::load(conn, &by(&self.applications, &shrunk)).await?,
            services: Table::load(conn, &by(&self.services, &shrunk)).await?,
            links: Table::load(conn, &by(&self.links, &shrunk)).await?,
            scoped: Table::load(conn, &by(&self.scoped, &shrunk)).await?,
            grants: Table::load(conn, &[("id", list(&self.grants)), ("principal_id", list(&self.deleted_users))])
                .await?,
        })
    }
}

impl Change {
    pub(super) fn apply(self, event: &Event, rows: &mut Rows, keys: &HashMap<String, SubjectKey>) {
        match self {
            Change::Organization(change) => rows.organization(event, change, keys),
            Change::UserDeleted => _ = rows.grants.remove(|grant| grant.principal_id == event.aggregateid),
            Change::Plan(change) => plans::apply(&mut rows.plans, event, change),
            Change::Project(change) => rows.project(event, change),
            Change::Application(change) => rows.application(event, change),
            Change::Service(change) => rows.service(event, change),
            Change::Scoped(change) => entitlements::scoped(&mut rows.scoped, event, change),
            Change::Grants(change) => entitlements::granted(&mut rows.grants, event, change),
        }
    }
}

impl Rows {
    fn organization(&mut self, event: &Event, change: OrganizationEvent, keys: &HashMap<String, SubjectKey>) {
        match change {
            OrganizationEvent::OrgEntitlementSet(e) => entitlements::set(&mut self.org_entitlements, e),
            OrganizationEvent::OrgEntitlementRemoved(e) => {
                let id = entitlements::feature_id(&e.org_id, &e.feature_key);
                self.org_entitlements.remove(|row| row.id == id);
            }
            OrganizationEvent::MemberInvited(e) => invitations::invited(&mut self.invitations, event, e, keys),
            OrganizationEvent::InvitationAccepted(e) => _ = self.invitations.remove(|row| row.id == e.invitation_id),
            OrganizationEvent::InvitationRevoked(e) => _ = self.invitations.remove(|row| row.id == e.invitation_id),
            OrganizationEvent::OrganizationDeleted(_) => {
                let org = event.aggregateid.as_str();
                self.org_entitlements.remove(|row| row.org_id == org);
                self.invitations.remove(|row| row.org_id == org);
                self.projects.remove(|row| row.org_id == org);
                self.applications.remove(|row| row.org_id == org);
                self.services.remove(|row| row.org_id == org);
                self.links.remove(|row| row.org_id == org);
                self.scoped.remove(|row| row.org_id == org);
            }
            _ => {}
        }
    }
}
