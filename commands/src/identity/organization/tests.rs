//! What an organization decides.

use super::*;
use crate::{
    identity::testing::operator,
    testing::{AT, given},
};
use symbia_events::{ActorType, SubjectKey, identity::*};

fn person(id: &str) -> Actor {
    Actor { id: id.into(), kind: ActorType::User, ..Actor::service("test") }
}

fn created() -> [OrganizationEvent; 2] {
    let org = OrganizationCreated {
        org_id: "o1".into(),
        name: "Acme".into(),
        slug: "acme".into(),
        plan_id: None,
        by: "ada".into(),
    };
    [org.into(), member("m1", "ada", "admin").into()]
}

fn member(membership: &str, user: &str, role: &str) -> MemberAdded {
    MemberAdded {
        membership_id: membership.into(),
        org_id: "o1".into(),
        user_id: user.into(),
        role: role.into(),
        by: "ada".into(),
    }
}

#[test]
fn an_organization_with_two_admins_is_not_deleted_by_one_of_them() {
    let delete = DeleteOrganization { org_id: "o1".into() };
    let [org, ada] = created();
    let second = member("m2", "bob", "admin").into();
    given::<Organization>([org.clone(), ada.clone(), second])
        .when(delete.clone(), &person("ada"))
        .rejected("INSUFFICIENT_ROLE");
    let deleted = OrganizationDeleted { org_id: "o1".into(), by: "ada".into() };
    given::<Organization>([org, ada]).when(delete, &person("ada")).then([deleted.into()]);
}

fn add(user: &str, role: &str) -> AddMember {
    AddMember { org_id: "o1".into(), membership_id: "m2".into(), user_id: user.into(), role: role.into() }
}

#[test]
fn the_founder_becomes_admin_and_the_slug_is_claimed() {
    let found = CreateOrganization {
        org_id: "o1".into(),
        name: "Acme".into(),
        slug: "acme".into(),
        plan_id: None,
        membership_id: "m1".into(),
        owner_id: "ada".into(),
    };
    let [org, owner] = created();
    let expected = Decision { events: vec![org, owner], claims: Vec::new() }.claiming(slug_claim("acme", "o1"));
    given::<Organization>([]).when(found.clone(), &person("ada")).then_decision(expected);
    given::<Organization>([]).when(found.clone(), &person("bob")).rejected("FORBIDDEN");
    given::<Organization>([])
        .when(CreateOrganization { slug: "A b".into(), ..found }, &person("ada"))
        .rejected("VALIDATION_FAILED");
}

#[test]
fn only_an_admin_adds_members_and_only_once() {
    given::<Organization>(created())
        .when(add("bob", "member"), &person("ada"))
        .then([member("m2", "bob", "member").into()]);
    given::<Organization>(created()).when(add("bob", "owner"), &person("ada")).rejected("VALIDATION_FAILED");
    given::<Organization>(created()).when(add("bob", "member"), &person("eve")).rejected("INSUFFICIENT_ROLE");
    given::<Organization>(created()).when(add("ada", "member"), &person("ada")).rejected("ALREADY_MEMBER");
}

#[test]
fn the_last_admin_can_neither_leave_nor_be_demoted() {
    let demote = ChangeMemberRole { org_id: "o1".into(), membership_id: "m1".into(), role: "viewer".into() };
    let leave = RemoveMember { org_id: "o1".into(), membership_id: "m1".into() };
    given::<Organization>(created()).when(demote, &person("ada")).rejected("LAST_ADMIN");
    given::<Organization>(created()).when(leave, &person("ada")).rejected("LAST_ADMIN");
}

#[test]
fn a_member_may_leave_but_not_remove_others() {
    let history = || created().into_iter().chain([member("m2", "bob", "member").into()]);
    let leave = RemoveMember { org_id: "o1".into(), membership_id: "m2".into() };
    let left = MemberRemoved {
        org_id: "o1".into(),
        membership_id: "m2".into(),
        user_id: "bob".into(),
        by: "bob".into(),
        reason: "left".into(),
    };
    given::<Organization>(history()).when(leave, &person("bob")).then([left.into()]);
    let remove = RemoveMember { org_id: "o1".into(), membership_id: "m1".into() };
    given::<Organization>(history()).when(remove, &person("bob")).rejected("INSUFFICIENT_ROLE");
}

fn joined() -> impl Iterator<Item = OrganizationEvent> {
    created().into_iter().chain([member("m2", "bob", "member").into()])
}

#[test]
fn a_slug_moves_with_its_claim() {
    let change = |slug: &str| ChangeOrganizationSlug { org_id: "o1".into(), slug: slug.into() };
    let changed = OrganizationSlugChanged {
        org_id: "o1".into(),
        slug: "labs".into(),
        previous_slug: "acme".into(),
        by: "ada".into(),
    };
    let expected = Decision::one(changed).claiming(slug_claim("labs", "o1")).releasing(slug_claim("acme", "o1"));
    given::<Organization>(created()).when(change("labs"), &person("ada")).then_decision(expected);
    given::<Organization>(created()).when(change("acme"), &person("ada")).then([]);
    given::<Organization>(joined()).when(change("labs"), &person("bob")).rejected("INSUFFICIENT_ROLE");
}

#[test]
fn operators_assign_plans_whose_member_limit_holds() {
    let assign = AssignPlan { org_id: "o1".into(), plan_id: Some("p1".into()), member_limit: Some(2) };
    let assigned = PlanAssigned {
        org_id: "o1".into(),
        plan_id: Some("p1".into()),
        previous_plan_id: None,
        member_limit: Some(2),
        by: "root".into(),
    };
    given::<Organization>(created()).when(assign.clone(), &operator("root")).then([assigned.clone().into()]);
    given::<Organization>(created()).when(assign, &person("ada")).rejected("SUPERADMIN_REQUIRED");
    let full = joined().chain([assigned.into()]);
    given::<Organization>(full).when(add("eve", "viewer"), &person("ada")).rejected("QUOTA_EXCEEDED");
}

#[test]
fn features_are_set_by_operators_and_only_when_they_change() {
    let set = SetOrgEntitlement {
        org_id: "o1".into(),
        feature_key: "sso".into(),
        enabled: true,
        expires_at: Some("2027-01-01T00:00:00Z".into()),
    };
    let done = OrgEntitlementSet {
        org_id: "o1".into(),
        feature_key: "sso".into(),
        enabled: true,
        expires_at: set.expires_at.clone(),
        by: "root".into(),
    };
    let root = operator("root");
    given::<Organization>(created()).when(set.clone(), &person("ada")).rejected("SUPERADMIN_REQUIRED");
    given::<Organization>(created()).when(set.clone(), &root).then([done.clone().into()]);
    given::<Organization>(created().into_iter().chain([done.into()])).when(set, &root).then([]);
    let remove = RemoveOrgEntitlement { org_id: "o1".into(), feature_key: "sso".into() };
    given::<Organization>(created()).when(remove, &root).then([]);
}

#[test]
fn an_operator_says_why() {
    let access = |reason: &str| RecordAccess {
        org_id: "o1".into(),
        operation: "GET /api/orgs/o1".into(),
        reason: reason.into(),
    };
    let accessed = OrganizationAccessed {
        org_id: "o1".into(),
        principal_id: "root".into(),
        operation: "GET /api/orgs/o1".into(),
        reason: "ticket 7".into(),
    };
    given::<Organization>(created()).when(access("ticket 7"), &operator("root")).then([accessed.into()]);
    given::<Organization>(created()).when(access(" "), &operator("root")).rejected("VALIDATION_FAILED");
    given::<Organization>(created()).when(access("ticket 7"), &person("ada")).rejected("SUPERADMIN_REQUIRED");
}

fn invited(id: &str, expires_at: &str) -> MemberInvited {
    MemberInvited {
        invitation_id: id.into(),
        org_id: "o1".into(),
        email: Personal { kid: "k".into(), alg: "A256GCM".into(), nonce: "n".into(), ct: "c".into() },
        email_key: "bob@".into(),
        role: "member".into(),
        by: "ada".into(),
        token_hash: format!("hash-{id}"),
        expires_at: expires_at.into(),
    }
}

fn accept(id: &str, email_key: &str) -> AcceptInvitation {
    AcceptInvitation {
        org_id: "o1".into(),
        invitation_id: id.into(),
        token_hash: format!("hash-{id}"),
        user_id: "bob".into(),
        email_key: email_key.into(),
        membership_id: "m2".into(),
    }
}

#[test]
fn an_invitation_holds_for_one_address_one_time_and_seven_days() {
    let edge = Actor::service("identity");
    let history = |end: &str| created().into_iter().chain([invited("i1", end).into()]);
    let accepted = InvitationAccepted { invitation_id: "i1".into(), org_id: "o1".into(), user_id: "bob".into() };
    let joined = MemberAdded { by: "bob".into(), ..member("m2", "bob", "member") };
    let (open, end) = ("2026-01-01T00:00:01Z", "2026-01-01T00:00:00Z");
    given::<Organization>(history(open))
        .when(accept("i1", "bob@"), &edge)
        .then([accepted.clone().into(), joined.into()]);
    given::<Organization>(history(open)).when(accept("i1", "eve@"), &edge).rejected("FORBIDDEN");
    given::<Organization>(history(open)).when(accept("i1", "bob@"), &person("bob")).rejected("FORBIDDEN");
    let guessed = AcceptInvitation { token_hash: "hash-i2".into(), ..accept("i1", "bob@") };
    given::<Organization>(history(open)).when(guessed, &edge).rejected("NOT_FOUND");
    given::<Organization>(history(end)).when(accept("i1", "bob@"), &edge).rejected("INVITATION_EXPIRED");
    let again = history(open).chain([accepted.into()]);
    given::<Organization>(again).when(accept("i1", "bob@"), &edge).rejected("NOT_FOUND");
}

#[test]
fn a_second_invitation_of_an_address_replaces_the_first() {
    let key = SubjectKey::from_bytes("k", [7; 32]);
    let invite = InviteMember {
        org_id: "o1".into(),
        invitation_id: "i2".into(),
        email: key.seal("bob@example.test"),
        email_key: "bob@".into(),
        role: "member".into(),
        token_hash: "hash-i2".into(),
    };
    let history = || created().into_iter().chain([invited("i1", "2026-01-05T00:00:00Z").into()]);
    let revoked = InvitationRevoked { invitation_id: "i1".into(), org_id: "o1".into(), by: "ada".into() };
    let expected = MemberInvited { email: invite.email.clone(), ..invited("i2", "2026-01-08T00:00:00Z") };
    assert_eq!(AT + INVITATION_LIFETIME, time::macros::datetime!(2026-01-08 00:00 UTC));
    given::<Organization>(history()).when(invite.clone(), &person("ada")).then([revoked.into(), expected.into()]);
    given::<Organization>(history()).when(invite, &person("eve")).rejected("INSUFFICIENT_ROLE");
}

#[test]
fn an_erased_account_leaves_even_what_it_alone_administers() {
    let remove = RemoveMember { org_id: "o1".into(), membership_id: "m1".into() };
    let removed = MemberRemoved {
        org_id: "o1".into(),
        membership_id: "m1".into(),
        user_id: "ada".into(),
        by: "service:identity".into(),
        reason: "account-deleted".into(),
    };
    given::<Organization>(created()).when(remove, &Actor::service("identity")).then([removed.into()]);
}
