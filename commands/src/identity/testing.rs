//! Who acts in the tests of identity's aggregates.

use symbia_events::ActorType;

use crate::{Actor, Membership};

/// A person with a role in an organization.
pub(super) fn member(id: &str, org: &str, role: &str) -> Actor {
    let role = serde_json::from_value(role.into()).unwrap();
    let orgs = vec![Membership { id: org.parse().unwrap(), role }];
    Actor { id: id.into(), kind: ActorType::User, orgs, ..Actor::service("test") }
}

/// A super admin who belongs to no organization.
pub(super) fn operator(id: &str) -> Actor {
    Actor { id: id.into(), kind: ActorType::User, super_admin: true, ..Actor::service("test") }
}
