//! The aggregate of a service that a project depends on (identity.md §15, 16.6).

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef,
    identity::{ProjectServiceDeleted, ProjectServiceEvent, ProjectServiceRegistered, ProjectServiceUpdated},
};
use time::OffsetDateTime;

use super::rules::{address, free_text, in_an_organization, may_administer, may_write, name, one_of, present, unused};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

const TYPES: &[&str] = &["database", "api", "auth", "storage", "messaging", "analytics"];
const STATUSES: &[&str] = &["active", "inactive", "error"];

domain_commands! {
    /// What a project's service can be asked to do.
    ProjectServiceCommand: Identity / "project-service" {
        /// Names it.
        RegisterProjectService = "symbia.cmd.identity.register-project-service.v1" {
            service_id: String,
            project_id: String,
            org_id: String,
            name: String,
            service_type: String,
            #[serde(default)]
            provider: Option<String>,
            /// Without user and password.
            #[serde(default)]
            endpoint_url: Option<String>,
            #[serde(default)]
            external_id: Option<String>,
        }
        /// Changes what is given; what is null is taken away.
        UpdateProjectService = "symbia.cmd.identity.update-project-service.v1" {
            service_id: String,
            #[serde(default)]
            name: Option<String>,
            #[serde(default)]
            service_type: Option<String>,
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            provider: Option<Option<String>>,
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            endpoint_url: Option<Option<String>>,
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            external_id: Option<Option<String>>,
            #[serde(default)]
            status: Option<String>,
        }
        /// Removes it.
        DeleteProjectService = "symbia.cmd.identity.delete-project-service.v1" { service_id: String }
    }
}

/// A project's service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProjectService {
    service_id: String,
    org_id: String,
    name: String,
    service_type: String,
    provider: Option<String>,
    endpoint_url: Option<String>,
    external_id: Option<String>,
    status: String,
    deleted: bool,
}

impl ProjectService {
    fn exists(&self) -> Result<(), Rejection> {
        if self.service_id.is_empty() || self.deleted { Err(Rejection::not_found("service")) } else { Ok(()) }
    }

    fn check(&self) -> Result<(), Rejection> {
        name(&self.name)?;
        one_of("serviceType", &self.service_type, TYPES)?;
        one_of("status", &self.status, STATUSES)?;
        free_text("provider", self.provider.as_deref())?;
        free_text("externalId", self.external_id.as_deref())?;
        address("endpointUrl", self.endpoint_url.as_deref())
    }

    fn register(&self, c: RegisterProjectService, by: &Actor) -> Result<Decision<ProjectServiceEvent>, Rejection> {
        may_write(&c.org_id, by)?;
        unused(&self.service_id)?;
        let registered = ProjectServiceRegistered {
            service_id: c.service_id,
            project_id: c.project_id,
            org_id: c.org_id,
            name: c.name,
            service_type: c.service_type,
            provider: c.provider,
            endpoint_url: c.endpoint_url,
            external_id: c.external_id,
            by: by.id.clone(),
        };
        Self::registered(registered.clone()).check()?;
        Ok(Decision::one(registered))
    }

    fn registered(e: ProjectServiceRegistered) -> Self {
        ProjectService {
            service_id: e.service_id,
            org_id: e.org_id,
            name: e.name,
            service_type: e.service_type,
            provider: e.provider,
            endpoint_url: e.endpoint_url,
            external_id: e.external_id,
            status: "active".to_owned(),
            deleted: false,
        }
    }

    fn update(&self, c: UpdateProjectService, by: &Actor) -> Result<Decision<ProjectServiceEvent>, Rejection> {
        self.exists()?;
        may_write(&self.org_id, by)?;
        let next = ProjectService {
            name: c.name.unwrap_or_else(|| self.name.clone()),
            service_type: c.service_type.unwrap_or_else(|| self.service_type.clone()),
            provider: c.provider.unwrap_or_else(|| self.provider.clone()),
            endpoint_url: c.endpoint_url.unwrap_or_else(|| self.endpoint_url.clone()),
            external_id: c.external_id.unwrap_or_else(|| self.external_id.clone()),
            status: c.status.unwrap_or_else(|| self.status.clone()),
            ..self.clone()
        };
        if next == *self {
            return Ok(Decision::nothing());
        }
        next.check()?;
        Ok(Decision::one(ProjectServiceUpdated {
            service_id: next.service_id,
            name: next.name,
            service_type: next.service_type,
            provider: next.provider,
            endpoint_url: next.endpoint_url,
            external_id: next.external_id,
            status: next.status,
            by: by.id.clone(),
        }))
    }

    fn delete(&self, by: &Actor) -> Result<Decision<ProjectServiceEvent>, Rejection> {
        self.exists()?;
        may_administer(&self.org_id, by)?;
        Ok(Decision::one(ProjectServiceDeleted { service_id: self.service_id.clone(), by: by.id.clone() }))
    }
}

impl Aggregate for ProjectService {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("serviceId");
    type Command = ProjectServiceCommand;
    type Event = ProjectServiceEvent;

    fn apply(&mut self, event: &ProjectServiceEvent) {
        match event.clone() {
            ProjectServiceEvent::ProjectServiceRegistered(e) => *self = Self::registered(e),
            ProjectServiceEvent::ProjectServiceUpdated(e) => {
                (self.name, self.service_type, self.status) = (e.name, e.service_type, e.status);
                (self.provider, self.endpoint_url, self.external_id) = (e.provider, e.endpoint_url, e.external_id);
            }
            ProjectServiceEvent::ProjectServiceDeleted(_) => self.deleted = true,
        }
    }

    fn belongs(_command: &ProjectServiceCommand, to: &AggregateRef) -> Result<(), Rejection> {
        in_an_organization(to)
    }

    fn decide(
        &self,
        command: ProjectServiceCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<ProjectServiceEvent>, Rejection> {
        match command {
            ProjectServiceCommand::RegisterProjectService(c) => self.register(c, by),
            ProjectServiceCommand::UpdateProjectService(c) => self.update(c, by),
            ProjectServiceCommand::DeleteProjectService(_) => self.delete(by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::testing::member, testing::given};

    fn register() -> RegisterProjectService {
        RegisterProjectService {
            service_id: "s1".into(),
            project_id: "p1".into(),
            org_id: "o1".into(),
            name: "Orders".into(),
            service_type: "database".into(),
            provider: Some("postgres".into()),
            endpoint_url: Some("postgres://db:5432/orders".into()),
            external_id: None,
        }
    }

    fn registered() -> ProjectServiceEvent {
        let ada = member("ada", "o1", "member");
        ProjectService::default().register(register(), &ada).unwrap().events.remove(0)
    }

    #[test]
    fn kinds_and_addresses_are_checked() {
        let ada = member("ada", "o1", "member");
        let odd = RegisterProjectService { service_type: "toaster".into(), ..register() };
        given::<ProjectService>([]).when(odd, &ada).rejected("VALIDATION_FAILED");
        let secret = RegisterProjectService { endpoint_url: Some("postgres://u:p@db/x".into()), ..register() };
        given::<ProjectService>([]).when(secret, &ada).rejected("VALIDATION_FAILED");
        given::<ProjectService>([]).when(register(), &member("v", "o1", "viewer")).rejected("INSUFFICIENT_ROLE");
    }

    #[test]
    fn an_admin_deletes_it_and_a_member_does_not() {
        let delete = DeleteProjectService { service_id: "s1".into() };
        given::<ProjectService>([registered()])
            .when(delete.clone(), &member("bob", "o1", "member"))
            .rejected("INSUFFICIENT_ROLE");
        let deleted = ProjectServiceDeleted { service_id: "s1".into(), by: "ada".into() };
        let ada = member("ada", "o1", "admin");
        given::<ProjectService>([registered()]).when(delete.clone(), &ada).then([deleted.clone().into()]);
        given::<ProjectService>([registered(), deleted.into()]).when(delete, &ada).rejected("NOT_FOUND");
    }
}
