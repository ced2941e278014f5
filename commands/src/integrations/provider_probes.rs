//! The probes aggregate: which providers an organization has asked now and then whether they are there (integrations.md §28).
//! There is one for each organization. What is found is no event: it lasts until the next look.

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{ProviderProbesEvent, ProviderProbesSet};
use time::OffsetDateTime;

use super::administration::is_name;
use crate::{Actor, Aggregate, Decision, Rejection, Role, domain_commands};

/// Most providers, and how often one may be asked.
const MOST: usize = 20;
const EVERY: std::ops::RangeInclusive<u32> = 60..=86_400;
const OTHERS: &str = "only an admin of the organization, and nobody in their place, says which providers are asked";

domain_commands! {
    /// What can be done about probes.
    ProviderProbesCommand: Integrations / "provider-probes" {
        /// Has these providers asked, and no others. Its id is the organization's.
        SetProviderProbes = "symbia.cmd.integrations.set-provider-probes.v1" {
            probes_id: String,
            org_id: String,
            providers: Vec<String>,
            every_seconds: u32,
        }
    }
}

/// The probes of an organization.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderProbes {
    version: u64,
}

impl Aggregate for ProviderProbes {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("probesId");
    type Command = ProviderProbesCommand;
    type Event = ProviderProbesEvent;

    fn apply(&mut self, event: &ProviderProbesEvent) {
        let ProviderProbesEvent::ProviderProbesSet(e) = event;
        self.version = e.version;
    }

    fn decide(
        &self,
        command: ProviderProbesCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<ProviderProbesEvent>, Rejection> {
        let ProviderProbesCommand::SetProviderProbes(c) = command;
        // They are asked with the keys of who sets them, which are an admin's.
        if !by.orgs.iter().any(|m| m.id.as_str() == c.org_id && m.role == Role::Admin) {
            return Err(Rejection::new("INSUFFICIENT_ROLE", OTHERS));
        }
        if c.probes_id != c.org_id {
            return Err(Rejection::invalid("probesId: is the id of the organization"));
        }
        let mut providers = c.providers;
        providers.sort_unstable();
        providers.dedup();
        if providers.len() > MOST || !providers.iter().all(|provider| is_name(provider)) {
            return Err(Rejection::invalid(format!("providers: at most {MOST}, each 1 to 200 printable characters")));
        }
        if !EVERY.contains(&c.every_seconds) {
            return Err(Rejection::invalid("everySeconds: 60 to 86400"));
        }
        Ok(Decision::one(ProviderProbesSet {
            probes_id: c.probes_id,
            version: self.version + 1,
            providers,
            every_seconds: c.every_seconds,
            by: by.subject().to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::ActorType;

    use super::*;
    use crate::{
        Membership,
        testing::{AT, given},
    };

    fn member(role: Role) -> Actor {
        let orgs = vec![Membership { id: "acme".parse().unwrap(), role }];
        Actor { id: "ada".into(), kind: ActorType::User, orgs, ..Actor::service("integrations") }
    }

    fn set(every_seconds: u32) -> SetProviderProbes {
        let providers = vec!["openai".into(), "anthropic".into(), "openai".into()];
        SetProviderProbes { probes_id: "acme".into(), org_id: "acme".into(), providers, every_seconds }
    }

    #[test]
    fn admins_alone_have_providers_asked_and_not_too_often() {
        let admin = member(Role::Admin);
        given::<ProviderProbes>([]).when(set(60), &member(Role::Member)).rejected("INSUFFICIENT_ROLE");
        let operator = Actor { super_admin: true, orgs: Vec::new(), ..member(Role::Member) };
        given::<ProviderProbes>([]).when(set(60), &operator).rejected("INSUFFICIENT_ROLE");
        given::<ProviderProbes>([]).when(set(59), &admin).rejected("VALIDATION_FAILED");
        let other = SetProviderProbes { probes_id: "other".into(), ..set(60) };
        given::<ProviderProbes>([]).when(other, &admin).rejected("VALIDATION_FAILED");
        let decided = ProviderProbes::default().decide(set(60).into(), &admin, AT).unwrap();
        let ProviderProbesEvent::ProviderProbesSet(e) = &decided.events[0];
        assert_eq!((e.providers.join(" ").as_str(), e.version, e.by.as_str()), ("anthropic openai", 1, "ada"));
    }
}
