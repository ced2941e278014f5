use symbia_events::ActorType;
use time::format_description::well_known::Rfc3339;

use super::*;
use crate::{
    Membership,
    testing::{AT, given},
};

fn person(id: &str, org: &str, role: Role) -> Actor {
    let orgs = vec![Membership { id: org.parse().unwrap(), role }];
    Actor { id: id.into(), kind: ActorType::User, orgs, ..Actor::service("test") }
}

fn ada() -> Actor {
    person("ada", "o1", Role::Admin)
}

fn register(id: &str, instance: Option<&str>) -> RegisterEntity {
    RegisterEntity {
        entity_id: id.into(),
        entity_type: "assistant".into(),
        slug: "billing".into(),
        display_name: "Billing".into(),
        instance_id: instance.map(str::to_owned),
        instance_index: None,
        org_id: Some("o1".into()),
        network_id: None,
        capabilities: vec![],
        tags: vec![],
        source_table: None,
        source_id: None,
        metadata: Map::new(),
        email: None,
        person: None,
    }
}

fn registered() -> Vec<EntityEvent> {
    Entity::default().register(register("ent_1", None), &ada()).unwrap().events
}

#[test]
fn instances_of_a_family_share_its_names_and_no_other_family_takes_them() {
    let names = |c: RegisterEntity| {
        let claims = Entity::default().register(c, &ada()).unwrap().claims;
        claims.iter().map(|c| (c.claim().name.clone(), c.claim().holder.clone())).collect::<Vec<_>>()
    };
    let first = names(register("ent_1", None));
    let second = names(register("ent_2", Some("two")));
    let text = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, h)| ((*n).into(), (*h).into())).collect::<Vec<_>>();
    let family = "family:assistant:billing";
    assert_eq!(
        first,
        text(&[("entity:billing:=", "ent_1"), ("alias:billing", family), ("alias:assistant:billing", family)])
    );
    assert_eq!(second[0], ("entity:billing:two".into(), "ent_2".into()));
    assert_eq!(second[1..], first[1..]);
    let service = RegisterEntity { entity_type: "service".into(), ..register("ent_3", Some("three")) };
    assert_eq!(names(service)[1], ("alias:billing".into(), "family:service:billing".into()));
}

#[test]
fn an_entry_is_written_by_members_and_one_of_no_organization_by_operators() {
    let member = person("bob", "o1", Role::Member);
    assert!(Entity::default().register(register("ent_1", None), &member).is_ok());
    let viewer = person("vic", "o1", Role::Viewer);
    given::<Entity>([]).when(register("ent_1", None), &viewer).rejected("INSUFFICIENT_ROLE");
    let eve = person("eve", "o2", Role::Admin);
    given::<Entity>([]).when(register("ent_1", None), &eve).rejected("ORG_ACCESS_DENIED");
    let global = RegisterEntity { org_id: None, ..register("ent_1", None) };
    given::<Entity>([]).when(global, &ada()).rejected("SUPERADMIN_REQUIRED");
    let derived = RegisterEntity { source_table: Some("users".into()), ..register("ent_1", None) };
    given::<Entity>([]).when(derived, &ada()).rejected("FORBIDDEN");
    for bad in [
        RegisterEntity { slug: "Not One".into(), ..register("ent_1", None) },
        RegisterEntity { entity_type: "robot".into(), ..register("ent_1", None) },
        register("ent_1", Some("a.b")),
    ] {
        given::<Entity>([]).when(bad, &ada()).rejected("VALIDATION_FAILED");
    }
    let retire = RetireEntity { entity_id: "ent_1".into() };
    given::<Entity>(registered()).when(retire, &member).rejected("INSUFFICIENT_ROLE");
}

#[test]
fn a_node_is_leased_by_services_and_given_back() {
    let network = Actor::service("network");
    let bind = |node: &str, lease: Duration| BindEntity {
        entity_id: "ent_1".into(),
        node_id: node.into(),
        lease_until: (AT + lease).format(&Rfc3339).unwrap(),
    };
    given::<Entity>(registered()).when(bind("n1", Duration::hours(1)), &ada()).rejected("FORBIDDEN");
    given::<Entity>(registered()).when(bind("n1", Duration::hours(25)), &network).rejected("VALIDATION_FAILED");
    given::<Entity>(registered()).when(bind("n1", Duration::ZERO), &network).rejected("VALIDATION_FAILED");
    let mut entity = Entity::default();
    registered().iter().for_each(|event| entity.apply(event));
    let bound = entity.bind(bind("n1", Duration::hours(1)), &network, AT).unwrap();
    assert_eq!(bound.claims[0].claim().name, "node:n1");
    bound.events.iter().for_each(|event| entity.apply(event));
    let moved = entity.bind(bind("n2", Duration::hours(1)), &network, AT).unwrap();
    let EntityEvent::EntityBound(event) = &moved.events[0] else { panic!("{moved:?}") };
    assert_eq!(event.previous_node_id.as_deref(), Some("n1"));
    assert_eq!(moved.claims[1], crate::ClaimChange::Release(Entity::node_claim("n1", "ent_1")));
    let expired = || UnbindEntity { entity_id: "ent_1".into(), reason: "lease_expired".into() };
    assert_eq!(entity.unbind(expired(), &network, AT).unwrap_err().code, "CONFLICT");
    assert!(entity.unbind(expired(), &network, AT + Duration::hours(2)).is_ok());
}

#[test]
fn its_own_agent_reports_its_instances_and_the_familys_names_outlive_an_alias() {
    let sourced = RegisterEntity {
        source_table: Some("agents".into()),
        source_id: Some("a1".into()),
        metadata: [("agentId".to_owned(), Value::from("assistant:billing"))].into_iter().collect(),
        ..register("ent_1", None)
    };
    let history = Entity::default().register(sourced, &Actor::service("directory")).unwrap().events;
    let report = |status: &str| ReportEntityInstance {
        entity_id: "ent_1".into(),
        instance_id: "one".into(),
        instance_index: 1,
        node_id: None,
        status: status.into(),
        load_score: 3,
        metadata: Map::new(),
    };
    let agent = Actor { kind: ActorType::Agent, ..person("assistant:billing", "o1", Role::Member) };
    let mut entity = Entity::default();
    history.iter().for_each(|event| entity.apply(event));
    let reported = entity.report(report("busy"), &agent).unwrap();
    reported.events.iter().for_each(|event| entity.apply(event));
    assert_eq!(entity.report(report("busy"), &agent).unwrap(), Decision::nothing());
    assert_eq!(entity.report(report("gone"), &agent).unwrap_err().code, "VALIDATION_FAILED");
    assert_eq!(entity.report(report("busy"), &ada()).unwrap_err().code, "FORBIDDEN");

    let add = AddEntityAlias {
        entity_id: "ent_1".into(),
        alias_id: "x".into(),
        alias_type: "federated".into(),
        alias_value: "billing@acme.test".into(),
        priority: 5,
    };
    let added = entity.add_alias(add, &ada()).unwrap();
    assert_eq!(added.claims[0].claim().name, "alias:billing@acme=2Etest");
    added.events.iter().for_each(|event| entity.apply(event));
    let remove = |id: &str| RemoveEntityAlias { entity_id: "ent_1".into(), alias_id: id.into() };
    assert_eq!(entity.remove_alias(remove("x"), &ada()).unwrap().claims.len(), 1);
    assert_eq!(entity.remove_alias(remove("ent_1:slug"), &ada()).unwrap().claims.len(), 0);
    assert_eq!(entity.remove_alias(remove("y"), &ada()).unwrap_err().code, "NOT_FOUND");
}
