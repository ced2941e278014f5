//! The webhook aggregate: where software that takes part from outside is told of what it is asked (messaging.md §8.12). It
//! names itself, or an admin of the organization does; the secret that signs what is sent is kept elsewhere.

use serde::{Deserialize, Serialize};
use symbia_events::{
    ActorType, AggregateRef,
    messaging::{WebhookEvent, WebhookRegistered, WebhookRemoved},
};
use time::OffsetDateTime;

use crate::{Actor, Aggregate, Decision, Rejection, Role, domain_commands, identity::is_address};

/// What the reference of a webhook's secret begins with.
#[must_use]
pub fn webhook_secret_prefix(org: &str, principal_id: &str) -> String {
    format!("webhook:{org}:{principal_id}:")
}

domain_commands! {
    /// What a webhook can be asked to do.
    WebhookCommand: Messaging / "webhook" {
        /// Has a participant told there, and no longer where it was told before.
        RegisterWebhook = "symbia.cmd.messaging.register-webhook.v1" {
            principal_id: String,
            org_id: String,
            url: String,
            /// A reference of this webhook's own.
            secret_ref: String,
        }
        /// Has it told there no more.
        RemoveWebhook = "symbia.cmd.messaging.remove-webhook.v1" { principal_id: String }
    }
}

/// A webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    org_id: String,
    secret_ref: Option<String>,
}

// Whoever chooses the address reads what is said to the participant.
fn may_choose(by: &Actor, principal_id: &str, org: &str) -> Result<(), Rejection> {
    let member = |role: Option<Role>| by.orgs.iter().any(|m| m.id.as_str() == org && role.is_none_or(|r| m.role == r));
    let itself = by.subject() == principal_id && by.subject_kind() == ActorType::Agent && member(None);
    if itself || member(Some(Role::Admin)) || by.super_admin || by.is_platform() {
        return Ok(());
    }
    let text = "an agent chooses where it is told itself, or an admin of the organization does";
    Err(Rejection::forbidden(text))
}

impl Webhook {
    fn register(&self, c: RegisterWebhook, by: &Actor) -> Result<Decision<WebhookEvent>, Rejection> {
        may_choose(by, &c.principal_id, &c.org_id)?;
        let web = c.url.starts_with("https://") || c.url.starts_with("http://");
        if !web || !is_address(&c.url) {
            return Err(Rejection::invalid("url: an http or https URL without user and password"));
        }
        if !c.secret_ref.starts_with(&webhook_secret_prefix(&c.org_id, &c.principal_id)) {
            return Err(Rejection::invalid("secretRef: a reference of this webhook's own"));
        }
        let RegisterWebhook { principal_id, org_id, url, secret_ref } = c;
        Ok(Decision::one(WebhookRegistered { principal_id, org_id, url, secret_ref, by: by.id.clone() }))
    }

    fn remove(&self, c: RemoveWebhook, by: &Actor) -> Result<Decision<WebhookEvent>, Rejection> {
        let secret_ref = self.secret_ref.clone().ok_or_else(|| Rejection::not_found("webhook"))?;
        may_choose(by, &c.principal_id, &self.org_id)?;
        Ok(Decision::one(WebhookRemoved { principal_id: c.principal_id, secret_ref, by: by.id.clone() }))
    }
}

impl Aggregate for Webhook {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("principalId");
    type Command = WebhookCommand;
    type Event = WebhookEvent;

    fn belongs(command: &WebhookCommand, to: &AggregateRef) -> Result<(), Rejection> {
        match command {
            WebhookCommand::RegisterWebhook(c) if c.org_id != to.tenant.as_str() => Err(Rejection::misaddressed(to)),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, event: &WebhookEvent) {
        match event {
            WebhookEvent::WebhookRegistered(e) => {
                *self = Webhook { org_id: e.org_id.clone(), secret_ref: Some(e.secret_ref.clone()) };
            }
            WebhookEvent::WebhookRemoved(_) => self.secret_ref = None,
        }
    }

    fn decide(
        &self,
        command: WebhookCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<WebhookEvent>, Rejection> {
        match command {
            WebhookCommand::RegisterWebhook(c) => self.register(c, by),
            WebhookCommand::RemoveWebhook(c) => self.remove(c, by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::testing::people;
    use super::*;
    use crate::{Membership, testing::given};

    fn register(url: &str) -> RegisterWebhook {
        RegisterWebhook {
            principal_id: "agent:a".into(),
            org_id: "org".into(),
            url: url.into(),
            secret_ref: "webhook:org:agent:a:1".into(),
        }
    }

    fn registered(by: &str) -> WebhookEvent {
        let RegisterWebhook { principal_id, org_id, url, secret_ref } = register("https://a.example/told");
        WebhookRegistered { principal_id, org_id, url, secret_ref, by: by.into() }.into()
    }

    fn agent(id: &str, org: &str) -> Actor {
        Actor { kind: ActorType::Agent, ..people(id, org) }
    }

    #[test]
    fn an_agent_or_an_admin_chooses_where_it_is_told_and_nobody_else() {
        let wish = || register("https://a.example/told");
        given::<Webhook>([]).when(wish(), &agent("agent:a", "org")).then([registered("agent:a")]);
        let orgs = vec![Membership { id: "org".parse().unwrap(), role: Role::Admin }];
        let admin = Actor { orgs, ..people("ada", "org") };
        given::<Webhook>([]).when(wish(), &admin).then([registered("ada")]);
        for by in [people("bob", "org"), agent("agent:b", "org"), agent("agent:a", "other")] {
            given::<Webhook>([]).when(wish(), &by).rejected("FORBIDDEN");
            let remove = RemoveWebhook { principal_id: "agent:a".into() };
            given::<Webhook>([registered("ada")]).when(remove, &by).rejected("FORBIDDEN");
        }
    }

    #[test]
    fn only_an_address_of_the_web_and_a_secret_of_its_own_will_do() {
        let by = agent("agent:a", "org");
        for url in ["ftp://a.example/", "https://me:pw@a.example/", "a.example", ""] {
            given::<Webhook>([]).when(register(url), &by).rejected("VALIDATION_FAILED");
        }
        let foreign = RegisterWebhook { secret_ref: "webhook:org:agent:b:1".into(), ..register("https://a.example/") };
        given::<Webhook>([]).when(foreign, &by).rejected("VALIDATION_FAILED");
    }

    #[test]
    fn what_is_removed_is_removed_once() {
        let (by, remove) = (agent("agent:a", "org"), RemoveWebhook { principal_id: "agent:a".into() });
        let secret_ref = "webhook:org:agent:a:1".to_owned();
        let removed: WebhookEvent =
            WebhookRemoved { principal_id: "agent:a".into(), secret_ref, by: "agent:a".into() }.into();
        given::<Webhook>([registered("agent:a")]).when(remove.clone(), &by).then([removed.clone()]);
        given::<Webhook>([registered("agent:a"), removed]).when(remove, &by).rejected("NOT_FOUND");
    }
}
