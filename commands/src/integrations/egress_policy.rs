//! The egress policy aggregate: where an organization lets its own calls go, within what the operator allows
//! (integrations.md §17.4, §28). There is one for each organization.

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{EgressPolicyEvent, EgressPolicySet, EgressTerms, host_pattern};
use time::OffsetDateTime;

use super::administration::administers;
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Most patterns of a list, and most ports.
const MOST_HOSTS: usize = 500;
const MOST_PORTS: usize = 100;
const OTHERS: &str = "says where its calls may go";

domain_commands! {
    /// What can be done about an egress policy.
    EgressPolicyCommand: Integrations / "egress-policy" {
        /// Replaces it. Its id is the organization's.
        SetEgressPolicy = "symbia.cmd.integrations.set-egress-policy.v1" {
            policy_id: String,
            org_id: String,
            terms: EgressTerms,
        }
    }
}

/// An egress policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EgressPolicy {
    version: u64,
    terms: EgressTerms,
}

// Patterns as they are compared, in order, each once.
fn patterns(list: &str, given: &[String]) -> Result<Vec<String>, Rejection> {
    if given.len() > MOST_HOSTS {
        return Err(Rejection::invalid(format!("terms.{list}: at most {MOST_HOSTS}")));
    }
    let mut patterns = Vec::with_capacity(given.len());
    for text in given {
        let pattern = host_pattern(text).ok_or_else(|| {
            let what = "is no host: write a name (api.example.com, in ASCII as in xn--…), an address, or all names below \
                        one (*.example.com), without scheme, port and path";
            Rejection::invalid(format!("terms.{list}: '{text}' {what}"))
        })?;
        patterns.push(pattern);
    }
    patterns.sort_unstable();
    patterns.dedup();
    Ok(patterns)
}

fn checked(terms: &EgressTerms) -> Result<EgressTerms, Rejection> {
    let mut ports = terms.allow_ports.clone();
    ports.sort_unstable();
    ports.dedup();
    if ports.len() > MOST_PORTS || ports.first() == Some(&0) {
        return Err(Rejection::invalid(format!("terms.allowPorts: at most {MOST_PORTS}, each 1 to 65535")));
    }
    Ok(EgressTerms {
        allow_hosts: patterns("allowHosts", &terms.allow_hosts)?,
        deny_hosts: patterns("denyHosts", &terms.deny_hosts)?,
        allow_ports: ports,
        allow_http: terms.allow_http,
    })
}

impl Aggregate for EgressPolicy {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("policyId");
    type Command = EgressPolicyCommand;
    type Event = EgressPolicyEvent;

    fn apply(&mut self, event: &EgressPolicyEvent) {
        let EgressPolicyEvent::EgressPolicySet(e) = event;
        (self.version, self.terms) = (e.version, e.terms.clone());
    }

    fn decide(
        &self,
        command: EgressPolicyCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<EgressPolicyEvent>, Rejection> {
        let EgressPolicyCommand::SetEgressPolicy(c) = command;
        administers(by, &c.org_id, OTHERS)?;
        if c.policy_id != c.org_id {
            return Err(Rejection::invalid("policyId: is the id of the organization"));
        }
        let terms = checked(&c.terms)?;
        if self.version > 0 && terms == self.terms {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(EgressPolicySet {
            policy_id: c.policy_id,
            version: self.version + 1,
            terms,
            by: by.id.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::ActorType;

    use super::*;
    use crate::{Membership, Role, testing::given};

    fn member(role: Role) -> Actor {
        let orgs = vec![Membership { id: "acme".parse().unwrap(), role }];
        Actor { id: "ada".into(), kind: ActorType::User, orgs, ..Actor::service("integrations") }
    }

    fn set(deny: &[&str], ports: &[u16]) -> SetEgressPolicy {
        let deny_hosts = deny.iter().map(|host| (*host).to_owned()).collect();
        let terms = EgressTerms { deny_hosts, allow_ports: ports.to_vec(), ..EgressTerms::default() };
        SetEgressPolicy { policy_id: "acme".into(), org_id: "acme".into(), terms }
    }

    #[test]
    fn admins_of_the_organization_alone_set_it_and_what_changes_nothing_is_no_event() {
        let (admin, member) = (member(Role::Admin), member(Role::Member));
        let new = || set(&["*.Evil.example", "*.evil.example"], &[443, 80, 443]);
        given::<EgressPolicy>([]).when(new(), &member).rejected("INSUFFICIENT_ROLE");
        let terms = set(&["*.evil.example"], &[80, 443]).terms;
        let event = EgressPolicySet { policy_id: "acme".into(), version: 1, terms, by: "ada".into() };
        given::<EgressPolicy>([]).when(new(), &admin).then([event.clone().into()]);
        given::<EgressPolicy>([event.clone().into()]).when(new(), &admin).then([]);
        let lifted = EgressPolicySet { version: 2, terms: EgressTerms::default(), ..event.clone() };
        given::<EgressPolicy>([event.into()]).when(set(&[], &[]), &admin).then([lifted.into()]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let admin = member(Role::Admin);
        let refused = |c: SetEgressPolicy| given::<EgressPolicy>([]).when(c, &admin).rejected("VALIDATION_FAILED");
        for wrong in ["https://x.example", "*", "x.example:80", "a b", ""] {
            refused(set(&[wrong], &[]));
        }
        refused(set(&[], &[0]));
        refused(set(&vec!["x.example"; MOST_HOSTS + 1], &[]));
        refused(SetEgressPolicy { policy_id: "other".into(), ..set(&[], &[]) });
    }
}
