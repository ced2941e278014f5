//! Who may follow what of a tenant's events.

use symbia_commands::network::{EVENTS_READ, NODES_ADMIN, POLICIES_READ, TRACES_READ};
use symbia_events::{Event, Service};

use crate::http::Principal;

/// What of its tenant's events a caller may have. Asked for each item; must be quick.
pub trait Audience: Send + Sync + 'static {
    /// May have a stored event.
    fn may_see(&self, caller: &Principal, event: &Event) -> bool;

    /// May have a live message; `subject` is what stands behind `symbia.live.<tenant>.`.
    fn may_hear(&self, caller: &Principal, subject: &str) -> bool;
}

/// Everyone in the tenant may have everything.
#[derive(Clone, Copy, Debug)]
pub struct WholeTenant;

impl Audience for WholeTenant {
    fn may_see(&self, _: &Principal, _: &Event) -> bool {
        true
    }

    fn may_hear(&self, _: &Principal, _: &str) -> bool {
        true
    }
}

/// Conversations, runs and completions belong to those who take part: their events, though sealed, tell who speaks with whom,
/// and live tokens are in clear. Members follow theirs at `/api/conversations/:id/stream`; here they are for admins of the
/// tenant and holders of `cap:messaging.observe`. Live messages are for the latter alone. Of an organization's mesh, members see
/// who is on it; its policies and what went over it are for those who may read them over REST, and what it refused for those
/// who manage it.
#[derive(Clone, Copy, Debug)]
pub struct PrivateConversations;

const OBSERVE: &str = "cap:messaging.observe";
const PRIVATE: [Service; 3] = [Service::Messaging, Service::Assistants, Service::Integrations];
/// The kinds of the mesh's aggregates, and what one needs to have their events.
const MESH: [(&str, &[&str]); 6] = [
    ("node", &[]),
    ("contract", &[]),
    ("bridge", &[]),
    ("policy", &[POLICIES_READ]),
    ("routed-event", &[EVENTS_READ, TRACES_READ]),
    ("security", &[NODES_ADMIN]),
];

impl PrivateConversations {
    /// Whether a caller who belongs to an organization may have a service's stored events of it.
    #[must_use]
    pub fn opens(caller: &Principal, org: &str, service: Service) -> bool {
        let open = !PRIVATE.contains(&service) || caller.role_in(org) == Some("admin") || Self::is_observer(caller);
        open && caller.reaches(service)
    }

    /// The kinds of aggregates whose events a caller may have, of a service that is open to them; `None`: all.
    #[must_use]
    pub fn kinds(caller: &Principal, org: &str, service: Service) -> Option<Vec<&'static str>> {
        if service != Service::Network || caller.role_in(org) == Some("admin") {
            return None;
        }
        let open = MESH.iter().filter(|(_, needed)| needed.iter().all(|needed| caller.has_capability(needed)));
        let open: Vec<_> = open.map(|(kind, _)| *kind).collect();
        (open.len() < MESH.len()).then_some(open)
    }

    /// Whether a caller may have the live messages of its organizations.
    #[must_use]
    pub fn is_observer(caller: &Principal) -> bool {
        caller.has_capability(OBSERVE)
    }
}

impl Audience for PrivateConversations {
    fn may_see(&self, caller: &Principal, event: &Event) -> bool {
        let org = event.orgid.as_str();
        let opens = |service| {
            let kinds = Self::kinds(caller, org, service);
            Self::opens(caller, org, service) && kinds.is_none_or(|kinds| kinds.contains(&event.aggregatetype.as_str()))
        };
        event.service().is_none_or(opens)
    }

    fn may_hear(&self, caller: &Principal, _: &str) -> bool {
        Self::is_observer(caller)
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::{Service, domain_events};

    use super::*;
    use crate::http::principal::{AuthType, Membership, PrincipalKind};

    domain_events! {
        /// An event of a private conversation.
        PrivateEvent: Messaging / "conversation" { Said = "symbia.messaging.conversation.said.v1" { by: String } }
    }

    fn event(service: Service) -> std::sync::Arc<Event> {
        event_of(service, "conversation")
    }

    fn event_of(service: Service, kind: &str) -> std::sync::Arc<Event> {
        use symbia_events::{ActorType, AggregateRef, AuthMethod, CommandId, Context, GENESIS, KeyRing, sign_commit};
        let at = time::OffsetDateTime::UNIX_EPOCH;
        let context = Context {
            actor_id: "ada".into(),
            actor_type: ActorType::User,
            on_behalf_of: None,
            auth_method: AuthMethod::Jwt,
            command_id: CommandId::random(),
            correlation_id: "c".into(),
            causation_id: "c".into(),
            traceparent: None,
            data_class: None,
            env: None,
            policy_ref: None,
            at,
        };
        let aggregate = AggregateRef::new(service, "acme".parse().unwrap(), kind, "x").unwrap();
        let said = [PrivateEvent::from(Said { by: "ada".into() })];
        sign_commit(&KeyRing::generate(at), &aggregate, &context, 0, GENESIS, &said).unwrap().remove(0).event
    }

    fn caller(role: &str) -> Principal {
        let membership = Membership { id: "acme".into(), name: "Acme".into(), slug: "acme".into(), role: role.into() };
        let organizations = vec![membership];
        Principal { organizations, ..Principal::new("bob", PrincipalKind::User, AuthType::Jwt) }
    }

    #[test]
    fn a_member_follows_the_organization_but_not_other_peoples_conversations() {
        let member = caller("member");
        assert!(PrivateConversations.may_see(&member, &event(Service::Identity)));
        assert!(!PrivateConversations.may_see(&member, &event(Service::Messaging)));
        assert!(PrivateConversations.may_see(&caller("admin"), &event(Service::Messaging)));
        assert!(!PrivateConversations.may_hear(&caller("admin"), "conversation.x"));
        let reader = Principal { entitlements: vec![POLICIES_READ.into()], ..caller("member") };
        for (kind, sees) in [
            ("node", [true; 3]),
            ("policy", [false, true, true]),
            ("routed-event", [false, false, true]),
            ("security", [false, false, true]),
        ] {
            let seen = [&member, &reader, &caller("admin")]
                .map(|who| PrivateConversations.may_see(who, &event_of(Service::Network, kind)));
            assert_eq!(seen, sees, "{kind}");
        }
        let observer = Principal { entitlements: vec![OBSERVE.into()], ..caller("viewer") };
        assert!(PrivateConversations.may_hear(&observer, "conversation.x"));
    }
}
