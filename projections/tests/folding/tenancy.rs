//! What happens to projects, applications, services, entitlements, invitations, plans and grants of a few organizations:
//! also what no aggregate would decide.

use std::collections::BTreeMap;

use proptest::prelude::*;
use symbia_events::{
    DomainEvent, KeyRing, Position, Service, SubjectKey,
    identity::{
        ApplicationCreated, ApplicationDeleted, ApplicationEvent, EntitlementConsumed, EntitlementGranted,
        EntitlementRevoked, GrantsEvent, InvitationAccepted, MemberInvited, OrgEntitlementRemoved, OrgEntitlementSet,
        OrganizationDeleted, OrganizationEvent, PlanCreated, PlanEvent, PlanRetired, ProjectCreated, ProjectDeleted,
        ProjectEvent, ProjectServiceDeleted, ProjectServiceEvent, ProjectServiceRegistered, ScopedEntitlementCreated,
        ScopedEntitlementEvent, ServiceLinked, ServiceUnlinked, UserDeleted, UserEvent,
    },
};
use symbia_projections::FoldEvent;

use super::sign;

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Project(u8, u8),
    DropProject(u8, u8),
    App(u8, u8),
    DropApp(u8, u8),
    Service(u8, u8),
    DropService(u8, u8),
    Link(u8, u8),
    Unlink(u8, u8),
    Entitle(u8, u8),
    Consume(u8, u8),
    Feature(u8, u8),
    NoFeature(u8, u8),
    Invite(u8, u8),
    Accept(u8, u8),
    Plan(u8),
    Retire(u8),
    Grant(u8, u8),
    Revoke(u8, u8),
    DeleteUser(u8),
    DeleteOrg(u8),
}

type Pair = fn(u8, u8) -> Step;
type Single = fn(u8) -> Step;

pub fn step() -> impl Strategy<Value = Step> {
    let (one, two) = (0..2u8, (0..2u8, 0..2u8));
    let pairs: [(u32, Pair); 16] = [
        (6, Step::Project),
        (1, Step::DropProject),
        (5, Step::App),
        (1, Step::DropApp),
        (5, Step::Service),
        (1, Step::DropService),
        (5, Step::Link),
        (1, Step::Unlink),
        (5, Step::Entitle),
        (3, Step::Consume),
        (3, Step::Feature),
        (1, Step::NoFeature),
        (3, Step::Invite),
        (1, Step::Accept),
        (3, Step::Grant),
        (1, Step::Revoke),
    ];
    let singles: [(u32, Single); 4] = [(2, Step::Plan), (1, Step::Retire), (1, Step::DeleteUser), (1, Step::DeleteOrg)];
    let pairs =
        pairs.into_iter().map(|(weight, make)| (weight, two.clone().prop_map(move |(a, b)| make(a, b)).boxed()));
    let singles = singles.into_iter().map(|(weight, make)| (weight, one.clone().prop_map(make).boxed()));
    prop::strategy::Union::new_weighted(pairs.chain(singles).collect())
}

pub fn events(ring: &KeyRing, keys: &[SubjectKey], steps: &[Step]) -> Vec<FoldEvent> {
    let mut log = Vec::new();
    for (number, step) in (0u32..).zip(steps) {
        log.extend(one(ring, keys, number, *step));
    }
    for (sequence, event) in (1u64..).zip(&mut log) {
        event.position = Position { service: Service::Identity, sequence };
    }
    log
}

fn one(ring: &KeyRing, keys: &[SubjectKey], number: u32, step: Step) -> Vec<FoldEvent> {
    fn in_org<E: DomainEvent>(ring: &KeyRing, o: u8, id: &str, number: u32, event: E) -> Vec<FoldEvent> {
        sign(ring, &format!("o{o}"), id, number, &[event])
    }
    let (by, org) = ("t".to_owned(), |o: u8| format!("o{o}"));
    let of_org = |o: u8, event: OrganizationEvent| in_org(ring, o, &org(o), number, event);
    let user = |u: u8| format!("u{u}");
    match step {
        Step::Project(o, p) => {
            let project_id = format!("p{p}-{o}");
            let (name, slug) = (format!("n{number}\0"), format!("s{number}"));
            let created =
                ProjectCreated { project_id: project_id.clone(), org_id: org(o), name, slug, description: None, by };
            in_org::<ProjectEvent>(ring, o, &project_id, number, created.into())
        }
        Step::DropProject(o, p) => {
            let project_id = format!("p{p}-{o}");
            let deleted = ProjectDeleted { project_id: project_id.clone(), org_id: org(o), by };
            in_org::<ProjectEvent>(ring, o, &project_id, number, deleted.into())
        }
        Step::App(o, p) => {
            let app_id = format!("a{p}-{o}");
            let created = ApplicationCreated {
                app_id: app_id.clone(),
                project_id: format!("p{p}-{o}"),
                org_id: org(o),
                name: format!("n{number}"),
                slug: "s".into(),
                environment: "staging".into(),
                app_type: "web".into(),
                repo_url: None,
                by,
            };
            in_org::<ApplicationEvent>(ring, o, &app_id, number, created.into())
        }
        Step::DropApp(o, p) => {
            let app_id = format!("a{p}-{o}");
            let deleted = ApplicationDeleted { app_id: app_id.clone(), by };
            in_org::<ApplicationEvent>(ring, o, &app_id, number, deleted.into())
        }
        Step::Service(o, p) => {
            let service_id = format!("s{p}-{o}");
            let registered = ProjectServiceRegistered {
                service_id: service_id.clone(),
                project_id: format!("p{p}-{o}"),
                org_id: org(o),
                name: format!("n{number}"),
                service_type: "database".into(),
                provider: None,
                endpoint_url: None,
                external_id: None,
                by,
            };
            in_org::<ProjectServiceEvent>(ring, o, &service_id, number, registered.into())
        }
        Step::DropService(o, p) => {
            let service_id = format!("s{p}-{o}");
            let deleted = ProjectServiceDeleted { service_id: service_id.clone(), by };
            in_org::<ProjectServiceEvent>(ring, o, &service_id, number, deleted.into())
        }
        // The application is the organization's own, the service perhaps the other's.
        Step::Link(o, p) => {
            let (app_id, service_id) = (format!("a{p}-{o}"), format!("s{o}-{p}"));
            let linked = ServiceLinked { link_id: format!("l{o}-{p}"), app_id: app_id.clone(), service_id, by };
            in_org::<ApplicationEvent>(ring, o, &app_id, number, linked.into())
        }
        Step::Unlink(o, p) => {
            let (app_id, service_id) = (format!("a{p}-{o}"), format!("s{o}-{p}"));
            let unlinked = ServiceUnlinked { link_id: format!("l{o}-{p}"), app_id: app_id.clone(), service_id, by };
            in_org::<ApplicationEvent>(ring, o, &app_id, number, unlinked.into())
        }
        Step::Entitle(o, p) => {
            let id = format!("e{p}-{o}");
            let (scope_type, scope_id) =
                [("project", format!("p0-{o}")), ("service", format!("s1-{o}"))][usize::from(p)].clone();
            let created = ScopedEntitlementCreated {
                id: id.clone(),
                org_id: org(o),
                scope_type: scope_type.into(),
                scope_id,
                feature_key: "f".into(),
                quota: Some(number.into()),
                enabled: true,
                expires_at: Some("2026-02-01T00:00:00.5Z".into()),
                by,
            };
            in_org::<ScopedEntitlementEvent>(ring, o, &id, number, created.into())
        }
        Step::Consume(o, p) => {
            let id = format!("e{p}-{o}");
            let consumed = u64::from(number);
            let event = EntitlementConsumed { id: id.clone(), amount: 1, consumed, idempotency_key: "k".into() };
            in_org::<ScopedEntitlementEvent>(ring, o, &id, number, event.into())
        }
        Step::Feature(o, f) => of_org(
            o,
            OrgEntitlementSet {
                org_id: org(o),
                feature_key: format!("f{f}"),
                enabled: number.is_multiple_of(2),
                expires_at: None,
                by,
            }
            .into(),
        ),
        Step::NoFeature(o, f) => {
            of_org(o, OrgEntitlementRemoved { org_id: org(o), feature_key: format!("f{f}"), by }.into())
        }
        Step::Invite(o, i) => of_org(
            o,
            MemberInvited {
                invitation_id: format!("i{i}-{o}"),
                org_id: org(o),
                email: keys[usize::from(i) + 1].seal("x@example.test"),
                email_key: "k".into(),
                role: "member".into(),
                by,
                token_hash: format!("h{number}"),
                expires_at: "2026-02-01T00:00:00Z".into(),
            }
            .into(),
        ),
        Step::Accept(o, i) => {
            let invitation_id = format!("i{i}-{o}");
            of_org(o, InvitationAccepted { invitation_id, org_id: org(o), user_id: "u".into() }.into())
        }
        Step::Plan(p) => {
            let created = PlanCreated {
                plan_id: format!("plan{p}"),
                name: format!("n{number}"),
                features: vec!["a".into()],
                limits: BTreeMap::from([("members".into(), 5.into())]),
                price_cents: number,
                by,
            };
            sign::<PlanEvent>(ring, "global", &format!("plan{p}"), number, &[created.into()])
        }
        Step::Retire(p) => {
            let retired = PlanRetired { plan_id: format!("plan{p}"), by };
            sign::<PlanEvent>(ring, "global", &format!("plan{p}"), number, &[retired.into()])
        }
        Step::Grant(u, g) => {
            let granted = EntitlementGranted {
                grant_id: format!("g{g}-{u}"),
                principal_id: user(u),
                key: format!("k{number}"),
                expires_at: None,
                by,
            };
            sign::<GrantsEvent>(ring, "global", &user(u), number, &[granted.into()])
        }
        Step::Revoke(u, g) => {
            let revoked =
                EntitlementRevoked { grant_id: format!("g{g}-{u}"), principal_id: user(u), key: "k".into(), by };
            sign::<GrantsEvent>(ring, "global", &user(u), number, &[revoked.into()])
        }
        Step::DeleteUser(u) => {
            sign::<UserEvent>(ring, "global", &user(u), number, &[UserDeleted { user_id: user(u), by }.into()])
        }
        Step::DeleteOrg(o) => of_org(o, OrganizationDeleted { org_id: org(o), by }.into()),
    }
}
