//! The project aggregate: a slug that is unique within its organization (identity.md §15, 16.6).

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef,
    identity::{ProjectCreated, ProjectDeleted, ProjectEvent, ProjectStatusChanged, ProjectUpdated},
};
use time::OffsetDateTime;

use super::{
    is_slug,
    rules::{claim_in, free_text, in_an_organization, may_administer, may_write, name, one_of, present, unused},
};
use crate::{Actor, Aggregate, Claim, Decision, Rejection, domain_commands};

const STATUSES: &[&str] = &["active", "archived", "suspended"];

domain_commands! {
    /// What a project can be asked to do.
    ProjectCommand: Identity / "project" {
        /// Makes it.
        CreateProject = "symbia.cmd.identity.create-project.v1" {
            project_id: String,
            org_id: String,
            name: String,
            slug: String,
            #[serde(default)]
            description: Option<String>,
        }
        /// Changes what is given; a description of null is taken away.
        UpdateProject = "symbia.cmd.identity.update-project.v1" {
            project_id: String,
            #[serde(default)]
            name: Option<String>,
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            description: Option<Option<String>>,
            #[serde(default)]
            status: Option<String>,
        }
        /// Removes it.
        DeleteProject = "symbia.cmd.identity.delete-project.v1" { project_id: String }
    }
}

/// A project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Project {
    project_id: String,
    org_id: String,
    name: String,
    slug: String,
    description: Option<String>,
    status: String,
    deleted: bool,
}

impl Project {
    fn exists(&self) -> Result<(), Rejection> {
        if self.project_id.is_empty() || self.deleted { Err(Rejection::not_found("project")) } else { Ok(()) }
    }

    fn slug_claim(org: &str, slug: &str, project: &str) -> Result<Claim, Rejection> {
        claim_in(org, format!("project-slug:{slug}"), project, "SLUG_TAKEN")
    }

    fn create(&self, c: CreateProject, by: &Actor) -> Result<Decision<ProjectEvent>, Rejection> {
        may_write(&c.org_id, by)?;
        unused(&self.project_id)?;
        name(&c.name)?;
        free_text("description", c.description.as_deref())?;
        if !is_slug(&c.slug) {
            return Err(Rejection::invalid("slug: 1 to 100 of a-z, 0-9 and '-'"));
        }
        let claim = Self::slug_claim(&c.org_id, &c.slug, &c.project_id)?;
        let CreateProject { project_id, org_id, name, slug, description } = c;
        let created = ProjectCreated { project_id, org_id, name, slug, description, by: by.id.clone() };
        Ok(Decision::one(created).claiming(claim))
    }

    fn update(&self, c: UpdateProject, by: &Actor) -> Result<Decision<ProjectEvent>, Rejection> {
        self.exists()?;
        may_write(&self.org_id, by)?;
        let mut decision = Decision::nothing();
        let new_name = c.name.unwrap_or_else(|| self.name.clone());
        let description = c.description.unwrap_or_else(|| self.description.clone());
        name(&new_name)?;
        free_text("description", description.as_deref())?;
        if new_name != self.name || description != self.description {
            let project_id = self.project_id.clone();
            decision = decision.and(ProjectUpdated { project_id, name: new_name, description, by: by.id.clone() });
        }
        if let Some(status) = c.status.filter(|status| *status != self.status) {
            one_of("status", &status, STATUSES)?;
            decision = decision.and(ProjectStatusChanged {
                project_id: self.project_id.clone(),
                status,
                previous_status: self.status.clone(),
                by: by.id.clone(),
            });
        }
        Ok(decision)
    }

    fn delete(&self, by: &Actor) -> Result<Decision<ProjectEvent>, Rejection> {
        self.exists()?;
        may_administer(&self.org_id, by)?;
        let claim = Self::slug_claim(&self.org_id, &self.slug, &self.project_id)?;
        let (project_id, org_id) = (self.project_id.clone(), self.org_id.clone());
        Ok(Decision::one(ProjectDeleted { project_id, org_id, by: by.id.clone() }).releasing(claim))
    }
}

impl Aggregate for Project {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("projectId");
    type Command = ProjectCommand;
    type Event = ProjectEvent;

    fn apply(&mut self, event: &ProjectEvent) {
        match event.clone() {
            ProjectEvent::ProjectCreated(e) => {
                let ProjectCreated { project_id, org_id, name, slug, description, .. } = e;
                let status = "active".to_owned();
                *self = Project { project_id, org_id, name, slug, description, status, deleted: false };
            }
            ProjectEvent::ProjectUpdated(e) => (self.name, self.description) = (e.name, e.description),
            ProjectEvent::ProjectStatusChanged(e) => self.status = e.status,
            ProjectEvent::ProjectDeleted(_) => self.deleted = true,
        }
    }

    fn belongs(_command: &ProjectCommand, to: &AggregateRef) -> Result<(), Rejection> {
        in_an_organization(to)
    }

    fn decide(
        &self,
        command: ProjectCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<ProjectEvent>, Rejection> {
        match command {
            ProjectCommand::CreateProject(c) => self.create(c, by),
            ProjectCommand::UpdateProject(c) => self.update(c, by),
            ProjectCommand::DeleteProject(_) => self.delete(by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::testing::member, testing::given};

    fn created() -> ProjectCreated {
        ProjectCreated {
            project_id: "p1".into(),
            org_id: "o1".into(),
            name: "Site".into(),
            slug: "site".into(),
            description: None,
            by: "ada".into(),
        }
    }

    fn create() -> CreateProject {
        let ProjectCreated { project_id, org_id, name, slug, description, .. } = created();
        CreateProject { project_id, org_id, name, slug, description }
    }

    fn update() -> UpdateProject {
        UpdateProject { project_id: "p1".into(), name: None, description: None, status: None }
    }

    #[test]
    fn members_make_projects_and_viewers_and_strangers_do_not() {
        let claim = Project::slug_claim("o1", "site", "p1").unwrap();
        let expected = Decision::one(created()).claiming(claim);
        given::<Project>([]).when(create(), &member("ada", "o1", "member")).then_decision(expected);
        given::<Project>([]).when(create(), &member("ada", "o1", "viewer")).rejected("INSUFFICIENT_ROLE");
        given::<Project>([]).when(create(), &member("ada", "o2", "admin")).rejected("INSUFFICIENT_ROLE");
        let odd = CreateProject { slug: "Not one".into(), ..create() };
        given::<Project>([]).when(odd, &member("ada", "o1", "member")).rejected("VALIDATION_FAILED");
    }

    #[test]
    fn only_what_changes_becomes_an_event() {
        let ada = member("ada", "o1", "member");
        given::<Project>([created().into()]).when(update(), &ada).then([]);
        let same = UpdateProject { name: Some("Site".into()), description: Some(None), ..update() };
        given::<Project>([created().into()]).when(same, &ada).then([]);
        let changed = ProjectStatusChanged {
            project_id: "p1".into(),
            status: "archived".into(),
            previous_status: "active".into(),
            by: "ada".into(),
        };
        let archive = UpdateProject { status: Some("archived".into()), ..update() };
        given::<Project>([created().into()]).when(archive, &ada).then([changed.into()]);
        let lost = UpdateProject { status: Some("lost".into()), ..update() };
        given::<Project>([created().into()]).when(lost, &ada).rejected("VALIDATION_FAILED");
    }

    #[test]
    fn an_admin_deletes_a_project_once_and_its_slug_is_free() {
        let delete = DeleteProject { project_id: "p1".into() };
        given::<Project>([created().into()])
            .when(delete.clone(), &member("ada", "o1", "member"))
            .rejected("INSUFFICIENT_ROLE");
        let deleted = ProjectDeleted { project_id: "p1".into(), org_id: "o1".into(), by: "ada".into() };
        let expected = Decision::one(deleted.clone()).releasing(Project::slug_claim("o1", "site", "p1").unwrap());
        let ada = member("ada", "o1", "admin");
        given::<Project>([created().into()]).when(delete.clone(), &ada).then_decision(expected);
        given::<Project>([created().into(), deleted.into()]).when(delete, &ada).rejected("NOT_FOUND");
    }
}
