//! The application aggregate with its links to services, each at most once (identity.md §15, 16.6).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef,
    identity::{
        ApplicationCreated, ApplicationDeleted, ApplicationEvent, ApplicationUpdated, ServiceLinked, ServiceUnlinked,
    },
};
use time::OffsetDateTime;

use super::{
    is_slug,
    rules::{address, in_an_organization, may_administer, may_write, name, one_of, present, unused},
};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

const ENVIRONMENTS: &[&str] = &["development", "staging", "production"];
const TYPES: &[&str] = &["web", "mobile", "api", "cli"];
const LINKS_MAX: usize = 1_000;

fn development() -> String {
    "development".to_owned()
}

fn web() -> String {
    "web".to_owned()
}

domain_commands! {
    /// What an application can be asked to do.
    ApplicationCommand: Identity / "application" {
        /// Makes it.
        CreateApplication = "symbia.cmd.identity.create-application.v1" {
            app_id: String,
            project_id: String,
            org_id: String,
            name: String,
            slug: String,
            #[serde(default = "development")]
            environment: String,
            #[serde(default = "web")]
            app_type: String,
            #[serde(default)]
            repo_url: Option<String>,
        }
        /// Changes what is given; a `repoUrl` of null is taken away.
        UpdateApplication = "symbia.cmd.identity.update-application.v1" {
            app_id: String,
            #[serde(default)]
            name: Option<String>,
            #[serde(default)]
            environment: Option<String>,
            #[serde(default)]
            app_type: Option<String>,
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            repo_url: Option<Option<String>>,
        }
        /// Removes it.
        DeleteApplication = "symbia.cmd.identity.delete-application.v1" { app_id: String }
        /// Says that it depends on a service of its organization.
        LinkService = "symbia.cmd.identity.link-service.v1" { app_id: String, service_id: String, link_id: String }
        /// Says that it does so no longer.
        UnlinkService = "symbia.cmd.identity.unlink-service.v1" { app_id: String, service_id: String }
    }
}

/// An application.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Application {
    app_id: String,
    org_id: String,
    name: String,
    environment: String,
    app_type: String,
    repo_url: Option<String>,
    /// Link ids by service.
    links: BTreeMap<String, String>,
    deleted: bool,
}

impl Application {
    fn exists(&self) -> Result<(), Rejection> {
        if self.app_id.is_empty() || self.deleted { Err(Rejection::not_found("application")) } else { Ok(()) }
    }

    fn create(&self, c: CreateApplication, by: &Actor) -> Result<Decision<ApplicationEvent>, Rejection> {
        may_write(&c.org_id, by)?;
        unused(&self.app_id)?;
        if !is_slug(&c.slug) {
            return Err(Rejection::invalid("slug: 1 to 100 of a-z, 0-9 and '-'"));
        }
        let CreateApplication { app_id, project_id, org_id, name, slug, environment, app_type, repo_url } = c;
        let by = by.id.clone();
        check(&name, &environment, &app_type, repo_url.as_deref())?;
        let created =
            ApplicationCreated { app_id, project_id, org_id, name, slug, environment, app_type, repo_url, by };
        Ok(Decision::one(created))
    }

    fn update(&self, c: UpdateApplication, by: &Actor) -> Result<Decision<ApplicationEvent>, Rejection> {
        self.exists()?;
        may_write(&self.org_id, by)?;
        let next = Application {
            name: c.name.unwrap_or_else(|| self.name.clone()),
            environment: c.environment.unwrap_or_else(|| self.environment.clone()),
            app_type: c.app_type.unwrap_or_else(|| self.app_type.clone()),
            repo_url: c.repo_url.unwrap_or_else(|| self.repo_url.clone()),
            ..self.clone()
        };
        if next == *self {
            return Ok(Decision::nothing());
        }
        check(&next.name, &next.environment, &next.app_type, next.repo_url.as_deref())?;
        let Application { app_id, name, environment, app_type, repo_url, .. } = next;
        Ok(Decision::one(ApplicationUpdated { app_id, name, environment, app_type, repo_url, by: by.id.clone() }))
    }

    fn delete(&self, by: &Actor) -> Result<Decision<ApplicationEvent>, Rejection> {
        self.exists()?;
        may_administer(&self.org_id, by)?;
        Ok(Decision::one(ApplicationDeleted { app_id: self.app_id.clone(), by: by.id.clone() }))
    }

    fn link(&self, c: LinkService, by: &Actor) -> Result<Decision<ApplicationEvent>, Rejection> {
        self.exists()?;
        may_write(&self.org_id, by)?;
        if self.links.contains_key(&c.service_id) {
            return Ok(Decision::nothing());
        }
        if self.links.len() >= LINKS_MAX {
            return Err(Rejection::new("QUOTA_EXCEEDED", format!("an application has at most {LINKS_MAX} links")));
        }
        let LinkService { app_id, service_id, link_id } = c;
        Ok(Decision::one(ServiceLinked { link_id, app_id, service_id, by: by.id.clone() }))
    }

    fn unlink(&self, c: UnlinkService, by: &Actor) -> Result<Decision<ApplicationEvent>, Rejection> {
        self.exists()?;
        may_write(&self.org_id, by)?;
        let Some(link_id) = self.links.get(&c.service_id).cloned() else { return Ok(Decision::nothing()) };
        let UnlinkService { app_id, service_id } = c;
        Ok(Decision::one(ServiceUnlinked { link_id, app_id, service_id, by: by.id.clone() }))
    }
}

fn check(app_name: &str, environment: &str, app_type: &str, repo_url: Option<&str>) -> Result<(), Rejection> {
    name(app_name)?;
    one_of("environment", environment, ENVIRONMENTS)?;
    one_of("appType", app_type, TYPES)?;
    address("repoUrl", repo_url)
}

impl Aggregate for Application {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("appId");
    type Command = ApplicationCommand;
    type Event = ApplicationEvent;

    fn apply(&mut self, event: &ApplicationEvent) {
        match event.clone() {
            ApplicationEvent::ApplicationCreated(e) => {
                let ApplicationCreated { app_id, org_id, name, environment, app_type, repo_url, .. } = e;
                *self = Application { app_id, org_id, name, environment, app_type, repo_url, ..Application::default() };
            }
            ApplicationEvent::ApplicationUpdated(e) => {
                (self.name, self.environment) = (e.name, e.environment);
                (self.app_type, self.repo_url) = (e.app_type, e.repo_url);
            }
            ApplicationEvent::ApplicationDeleted(_) => {
                self.deleted = true;
                self.links.clear();
            }
            ApplicationEvent::ServiceLinked(e) => _ = self.links.insert(e.service_id, e.link_id),
            ApplicationEvent::ServiceUnlinked(e) => _ = self.links.remove(&e.service_id),
        }
    }

    fn belongs(_command: &ApplicationCommand, to: &AggregateRef) -> Result<(), Rejection> {
        in_an_organization(to)
    }

    fn decide(
        &self,
        command: ApplicationCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<ApplicationEvent>, Rejection> {
        match command {
            ApplicationCommand::CreateApplication(c) => self.create(c, by),
            ApplicationCommand::UpdateApplication(c) => self.update(c, by),
            ApplicationCommand::DeleteApplication(_) => self.delete(by),
            ApplicationCommand::LinkService(c) => self.link(c, by),
            ApplicationCommand::UnlinkService(c) => self.unlink(c, by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::testing::member, testing::given};

    fn created() -> ApplicationCreated {
        ApplicationCreated {
            app_id: "a1".into(),
            project_id: "p1".into(),
            org_id: "o1".into(),
            name: "Shop".into(),
            slug: "shop".into(),
            environment: "development".into(),
            app_type: "web".into(),
            repo_url: None,
            by: "ada".into(),
        }
    }

    fn linked() -> ServiceLinked {
        ServiceLinked { link_id: "l1".into(), app_id: "a1".into(), service_id: "s1".into(), by: "ada".into() }
    }

    fn link() -> LinkService {
        LinkService { app_id: "a1".into(), service_id: "s1".into(), link_id: "l1".into() }
    }

    #[test]
    fn a_repository_address_holds_no_password() {
        let ada = member("ada", "o1", "member");
        let update = UpdateApplication {
            app_id: "a1".into(),
            name: None,
            environment: None,
            app_type: None,
            repo_url: Some(Some("https://ada:secret@git.example.test/shop".into())),
        };
        given::<Application>([created().into()]).when(update.clone(), &ada).rejected("VALIDATION_FAILED");
        let cleared = UpdateApplication { repo_url: Some(None), ..update };
        given::<Application>([created().into()]).when(cleared, &ada).then([]);
    }

    #[test]
    fn a_service_is_linked_once_and_unlinked_once() {
        let ada = member("ada", "o1", "member");
        given::<Application>([created().into()]).when(link(), &ada).then([linked().into()]);
        let again = LinkService { link_id: "l2".into(), ..link() };
        given::<Application>([created().into(), linked().into()]).when(again, &ada).then([]);
        let unlink = UnlinkService { app_id: "a1".into(), service_id: "s1".into() };
        given::<Application>([created().into()]).when(unlink.clone(), &ada).then([]);
        let ServiceLinked { link_id, app_id, service_id, by } = linked();
        let unlinked = ServiceUnlinked { link_id, app_id, service_id, by };
        given::<Application>([created().into(), linked().into()]).when(unlink, &ada).then([unlinked.into()]);
        given::<Application>([created().into()])
            .when(link(), &member("eve", "o2", "admin"))
            .rejected("INSUFFICIENT_ROLE");
    }
}
