//! Who may do what on an organization's mesh (network.md §5.2): holders of the capability who belong there, its admins, and
//! operators.

use symbia_events::OrgId;

use crate::{Actor, Rejection, Role};

/// See nodes, contracts and bridges as a whole.
pub const TOPOLOGY_READ: &str = "cap:network.topology.read";
/// List events.
pub const EVENTS_READ: &str = "cap:network.events.read";
/// Send events from nodes that one owns.
pub const EVENTS_WRITE: &str = "cap:network.events.write";
/// Read traces, and why a call was decided as it was.
pub const TRACES_READ: &str = "cap:network.traces.read";
/// Read policies.
pub const POLICIES_READ: &str = "cap:network.policies.read";
/// Change policies.
pub const POLICIES_WRITE: &str = "cap:network.policies.write";
/// Make and end contracts.
pub const CONTRACTS_WRITE: &str = "cap:network.contracts.write";
/// Manage everybody's nodes, and bridges.
pub const NODES_ADMIN: &str = "cap:network.nodes.admin";

/// Whether an actor has a capability on an organization's mesh. What an agent may do needs the capability too.
#[must_use]
pub fn may(by: &Actor, org: &str, capability: &str) -> bool {
    if by.is_platform() || by.super_admin {
        return true;
    }
    let role = by.orgs.iter().find(|membership| membership.id.as_str() == org).map(|membership| membership.role);
    match role {
        Some(Role::Admin) => true,
        Some(_) => by.holds(capability),
        None => org == OrgId::GLOBAL && by.holds(capability),
    }
}

pub(super) fn require(by: &Actor, org: &str, capability: &str) -> Result<(), Rejection> {
    if may(by, org, capability) {
        return Ok(());
    }
    Err(Rejection::new("MISSING_CAPABILITY", format!("this needs the capability '{capability}'")))
}

/// A name of 1 to 200 characters.
pub(super) fn name(text: &str) -> Result<(), Rejection> {
    if text.trim().is_empty() || text.chars().count() > 200 {
        return Err(Rejection::invalid("name: 1 to 200 characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Membership;
    use symbia_events::ActorType;

    #[test]
    fn a_capability_counts_where_one_belongs_and_an_admin_needs_none() {
        let of = |org: &str, role, entitlements: &[&str]| Actor {
            kind: ActorType::User,
            orgs: vec![Membership { id: org.parse().unwrap(), role }],
            entitlements: entitlements.iter().map(|e| (*e).to_owned()).collect(),
            ..Actor::service("x")
        };
        assert!(may(&of("o1", Role::Admin, &[]), "o1", POLICIES_WRITE));
        assert!(may(&of("o1", Role::Member, &[POLICIES_WRITE]), "o1", POLICIES_WRITE));
        assert!(!may(&of("o1", Role::Member, &[POLICIES_READ]), "o1", POLICIES_WRITE));
        assert!(!may(&of("o1", Role::Admin, &[POLICIES_WRITE]), "o2", POLICIES_WRITE));
        let agent = Actor { kind: ActorType::Agent, ..of("o1", Role::Member, &[]) };
        assert!(!may(&agent, "o1", EVENTS_WRITE));
    }
}
