use symbia_events::ActorType;

use super::*;
use crate::{
    Membership,
    testing::{AT, given},
};

fn admin() -> Actor {
    let orgs = vec![Membership { id: "o1".parse().unwrap(), role: Role::Admin }];
    Actor { id: "ada".into(), kind: ActorType::User, orgs, ..Actor::service("test") }
}

fn member() -> Actor {
    let orgs = vec![Membership { id: "o1".parse().unwrap(), role: Role::Member }];
    Actor { id: "bob".into(), orgs, ..admin() }
}

fn stranger() -> Actor {
    let orgs = vec![Membership { id: "o2".parse().unwrap(), role: Role::Admin }];
    Actor { id: "eve".into(), orgs, ..admin() }
}

fn register() -> RegisterAgent {
    RegisterAgent {
        agent_row_id: "a1".into(),
        agent_id: "assistant:billing".into(),
        name: "Billing".into(),
        org_id: Some("o1".into()),
        capabilities: vec!["cap:messaging.send".into(), "cap:messaging.send".into()],
        requested_capabilities: vec!["cap:messaging.send".into(), "cap:global.admin".into()],
        metadata: Map::new(),
        credential_ref: "agent:a1:first".into(),
        enrolled_by: "ada".into(),
        enrolment_id: Some("t1".into()),
    }
}

fn registered() -> AgentEvent {
    Agent::default().register(register(), &admin()).unwrap().events.remove(0)
}

#[test]
fn a_registration_claims_handle_and_token_and_keeps_what_was_only_asked_for_apart() {
    let decision = Agent::default().register(register(), &admin()).unwrap();
    let AgentEvent::AgentRegistered(event) = &decision.events[0] else { panic!("{decision:?}") };
    assert_eq!(event.capabilities, ["cap:messaging.send"]);
    assert_eq!(event.requested_capabilities, ["cap:global.admin"]);
    let claims: Vec<_> = decision.claims.iter().map(|c| (c.claim().name.as_str(), c.claim().tenant.as_str())).collect();
    assert_eq!(claims, [("handle:assistant:billing", "global"), ("enrolment:t1", "o1")]);
    given::<Agent>([registered()]).when(register(), &admin()).rejected("CONFLICT");
}

#[test]
fn only_an_admin_of_the_organization_registers_and_only_within_its_reach() {
    for by in [member(), stranger()] {
        given::<Agent>([]).when(register(), &by).rejected("INSUFFICIENT_ROLE");
    }
    let global = RegisterAgent { org_id: None, ..register() };
    given::<Agent>([]).when(global, &admin()).rejected("INSUFFICIENT_ROLE");
    let mighty = || RegisterAgent { capabilities: vec!["cap:global.admin".into()], ..register() };
    given::<Agent>([]).when(mighty(), &admin()).rejected("MISSING_CAPABILITY");
    let operator = Actor { super_admin: true, orgs: vec![], ..admin() };
    assert!(Agent::default().register(mighty(), &operator).is_ok());
    for bad in [
        RegisterAgent { agent_id: "Not a handle".into(), ..register() },
        RegisterAgent { name: " ".into(), ..register() },
        RegisterAgent { credential_ref: "password:ada".into(), ..register() },
        RegisterAgent { credential_ref: "agent:a10:x".into(), ..register() },
    ] {
        given::<Agent>([]).when(bad, &admin()).rejected("VALIDATION_FAILED");
    }
}

#[test]
fn a_rotation_without_grace_ends_the_sessions() {
    let rotate = |grace: Option<Duration>| RotateAgentCredential {
        agent_row_id: "a1".into(),
        credential_ref: "agent:a1:second".into(),
        grace_until: grace.map(|g| text(AT + g)),
    };
    let rotated = |grace: Option<Duration>| AgentCredentialRotated {
        agent_row_id: "a1".into(),
        credential_ref: "agent:a1:second".into(),
        grace_until: grace.map(|g| text(AT + g)),
        by: "ada".into(),
    };
    let sessions = revoked("a1".into(), AT, "credential-rotated");
    given::<Agent>([registered()]).when(rotate(None), &admin()).then([rotated(None).into(), sessions.into()]);
    let hour = Some(Duration::hours(1));
    given::<Agent>([registered()]).when(rotate(hour), &admin()).then([rotated(hour).into()]);
    given::<Agent>([registered()]).when(rotate(Some(Duration::days(8))), &admin()).rejected("VALIDATION_FAILED");
    given::<Agent>([registered()]).when(rotate(None), &stranger()).rejected("INSUFFICIENT_ROLE");
}

#[test]
fn an_inactive_agent_is_activated_once_and_a_deleted_one_never() {
    let activate = || ActivateAgent { agent_row_id: "a1".into(), reason: None };
    let deactivated = AgentDeactivated { agent_row_id: "a1".into(), by: "ada".into(), reason: None };
    let activated = AgentActivated { agent_row_id: "a1".into(), by: "ada".into(), reason: None };
    given::<Agent>([registered()]).when(activate(), &admin()).then([]);
    given::<Agent>([registered(), deactivated.clone().into()]).when(activate(), &admin()).then([activated.into()]);
    let deactivate = DeactivateAgent { agent_row_id: "a1".into(), reason: None };
    given::<Agent>([registered()])
        .when(deactivate, &admin())
        .then([deactivated.into(), revoked("a1".into(), AT, "deactivated").into()]);
    let deleted = AgentDeleted { agent_row_id: "a1".into(), by: "ada".into() };
    given::<Agent>([registered(), deleted.into()]).when(activate(), &admin()).rejected("NOT_FOUND");
}

#[test]
fn presence_is_recorded_once_a_minute_by_the_platform_alone() {
    let observe = || ObserveAgentPresence { agent_row_id: "a1".into() };
    let seen = |at| AgentPresenceObserved { agent_row_id: "a1".into(), seen_at: text(at) };
    let edge = Actor::service("identity");
    given::<Agent>([registered(), seen(AT - Duration::seconds(59)).into()]).when(observe(), &edge).then([]);
    given::<Agent>([registered(), seen(AT - Duration::seconds(60)).into()])
        .when(observe(), &edge)
        .then([seen(AT).into()]);
    given::<Agent>([registered()]).when(observe(), &admin()).rejected("FORBIDDEN");
}

#[test]
fn capabilities_are_replaced_by_those_who_may_grant_them() {
    let approve = |c: &str| ApproveAgentCapabilities { agent_row_id: "a1".into(), capabilities: vec![c.into()] };
    let approved = AgentCapabilitiesApproved {
        agent_row_id: "a1".into(),
        capabilities: vec!["cap:logs.read".into()],
        by: "ada".into(),
    };
    given::<Agent>([registered()]).when(approve("cap:logs.read"), &admin()).then([approved.into()]);
    given::<Agent>([registered()]).when(approve("cap:messaging.send"), &admin()).then([]);
    given::<Agent>([registered()]).when(approve("cap:catalog.admin"), &admin()).rejected("MISSING_CAPABILITY");
    given::<Agent>([registered()]).when(approve("cap:logs.read"), &member()).rejected("INSUFFICIENT_ROLE");
}
