//! The organization aggregate: at least one admin, every user at most once, a unique slug (identity.md §15).

use serde::{Deserialize, Serialize};
use symbia_events::{
    OrgId,
    identity::{
        MemberAdded, MemberRemoved, MemberRoleChanged, OrganizationCreated, OrganizationDeleted, OrganizationEvent,
        OrganizationRenamed,
    },
};
use time::OffsetDateTime;

use crate::{Actor, Aggregate, Claim, Decision, Rejection, Role, TenantRule, domain_commands};

domain_commands! {
    /// What an organization can be asked to do.
    OrganizationCommand: Identity / "organization" {
        /// Founds it; the owner becomes its first admin.
        CreateOrganization = "symbia.cmd.identity.create-organization.v1" {
            org_id: String,
            name: String,
            slug: String,
            #[serde(default)]
            plan_id: Option<String>,
            membership_id: String,
            /// The first admin; anyone but the platform can only name themselves.
            owner_id: String,
        }
        /// Changes the display name.
        RenameOrganization = "symbia.cmd.identity.rename-organization.v1" { org_id: String, name: String }
        /// Adds a registered user.
        AddMember = "symbia.cmd.identity.add-member.v1" {
            org_id: String,
            membership_id: String,
            user_id: String,
            role: String,
        }
        /// Gives a member another role.
        ChangeMemberRole = "symbia.cmd.identity.change-member-role.v1" {
            org_id: String,
            membership_id: String,
            role: String,
        }
        /// Removes a member; a member may remove themselves.
        RemoveMember = "symbia.cmd.identity.remove-member.v1" { org_id: String, membership_id: String }
        /// Removes the organization.
        DeleteOrganization = "symbia.cmd.identity.delete-organization.v1" { org_id: String }
    }
}

/// An organization with its members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Organization {
    org_id: String,
    slug: String,
    deleted: bool,
    members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Member {
    membership_id: String,
    user_id: String,
    role: String,
}

const ADMIN: &str = "admin";

fn role_of(text: &str) -> Result<Role, Rejection> {
    serde_json::from_value(text.into())
        .map_err(|_| Rejection::invalid(format!("role '{text}' is none of admin, member, viewer")))
}

fn slug_claim(slug: &str, org_id: &str) -> Claim {
    Claim { tenant: OrgId::global(), name: format!("slug:{slug}"), holder: org_id.to_owned(), taken: "SLUG_TAKEN" }
}

/// Whether a text can be a slug: 1 to 100 of `a-z 0-9 -` (identity.md §3.13).
#[must_use]
pub fn is_slug(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl Organization {
    fn exists(&self) -> Result<(), Rejection> {
        if self.org_id.is_empty() || self.deleted {
            return Err(Rejection::not_found("organization"));
        }
        Ok(())
    }

    // The members of the state decide, not the roles in the assertion: those may be minutes old.
    fn administered_by(&self, by: &Actor) -> Result<(), Rejection> {
        self.exists()?;
        if by.is_platform() || self.members.iter().any(|m| m.user_id == by.id && m.role == ADMIN) {
            return Ok(());
        }
        Err(Rejection::new("INSUFFICIENT_ROLE", "only an admin of the organization may do this"))
    }

    fn member(&self, membership_id: &str) -> Result<&Member, Rejection> {
        let found = self.members.iter().find(|m| m.membership_id == membership_id);
        found.ok_or_else(|| Rejection::not_found("member"))
    }

    fn keeps_an_admin_without(&self, member: &Member) -> Result<(), Rejection> {
        let others = self.members.iter().filter(|m| m.membership_id != member.membership_id);
        if member.role != ADMIN || others.clone().any(|m| m.role == ADMIN) {
            return Ok(());
        }
        Err(Rejection::new("LAST_ADMIN", "an organization keeps at least one admin: make another member admin first"))
    }

    fn create(&self, c: CreateOrganization, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        if !self.org_id.is_empty() {
            return Err(Rejection::new("CONFLICT", "this organization id is in use"));
        }
        if !by.is_platform() && by.id != c.owner_id {
            return Err(Rejection::forbidden("an organization is founded in one's own name"));
        }
        if c.name.trim().is_empty() {
            return Err(Rejection::invalid("name: at least one character"));
        }
        if !is_slug(&c.slug) {
            return Err(Rejection::invalid("slug: 1 to 100 of a-z, 0-9 and '-'"));
        }
        let claim = slug_claim(&c.slug, &c.org_id);
        let created = OrganizationCreated {
            org_id: c.org_id.clone(),
            name: c.name,
            slug: c.slug,
            plan_id: c.plan_id,
            by: by.id.clone(),
        };
        let owner = MemberAdded {
            membership_id: c.membership_id,
            org_id: c.org_id,
            user_id: c.owner_id,
            role: ADMIN.to_owned(),
            by: by.id.clone(),
        };
        Ok(Decision::one(created).and(owner).claiming(claim))
    }

    fn add_member(&self, c: AddMember, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.administered_by(by)?;
        role_of(&c.role)?;
        if self.members.iter().any(|m| m.user_id == c.user_id) {
            return Err(Rejection::new("ALREADY_MEMBER", "this user is a member already"));
        }
        Ok(Decision::one(MemberAdded {
            membership_id: c.membership_id,
            org_id: c.org_id,
            user_id: c.user_id,
            role: c.role,
            by: by.id.clone(),
        }))
    }

    fn change_role(&self, c: ChangeMemberRole, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.administered_by(by)?;
        role_of(&c.role)?;
        let member = self.member(&c.membership_id)?;
        if member.role == c.role {
            return Ok(Decision::nothing());
        }
        self.keeps_an_admin_without(member)?;
        Ok(Decision::one(MemberRoleChanged {
            org_id: c.org_id,
            membership_id: c.membership_id,
            user_id: member.user_id.clone(),
            role: c.role,
            previous_role: member.role.clone(),
            by: by.id.clone(),
        }))
    }

    fn remove_member(&self, c: RemoveMember, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.exists()?;
        let leaving = self.members.iter().any(|m| m.membership_id == c.membership_id && m.user_id == by.id);
        if !leaving {
            self.administered_by(by)?;
        }
        let member = self.member(&c.membership_id)?;
        self.keeps_an_admin_without(member)?;
        Ok(Decision::one(MemberRemoved {
            org_id: c.org_id,
            membership_id: c.membership_id,
            user_id: member.user_id.clone(),
            by: by.id.clone(),
            reason: if leaving { "left" } else { "removed" }.to_owned(),
        }))
    }

    fn delete(&self, c: DeleteOrganization, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.exists()?;
        if c.org_id == OrgId::SYSTEM {
            return Err(Rejection::forbidden("the system organization cannot be deleted"));
        }
        if !by.super_admin {
            self.administered_by(by)?;
            let shared = self.members.iter().any(|m| m.role == ADMIN && m.user_id != by.id);
            if shared && !by.is_platform() {
                let others = "only a super admin or the sole admin of an organization can delete it: demote the other admins first";
                return Err(Rejection::new("INSUFFICIENT_ROLE", others));
            }
        }
        let claim = slug_claim(&self.slug, &c.org_id);
        Ok(Decision::one(OrganizationDeleted { org_id: c.org_id, by: by.id.clone() }).releasing(claim))
    }
}

impl Aggregate for Organization {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("orgId");
    type Command = OrganizationCommand;
    type Event = OrganizationEvent;

    fn apply(&mut self, event: &OrganizationEvent) {
        match event {
            OrganizationEvent::OrganizationCreated(e) => {
                self.org_id.clone_from(&e.org_id);
                self.slug.clone_from(&e.slug);
            }
            OrganizationEvent::OrganizationRenamed(_) => {}
            OrganizationEvent::MemberAdded(e) => self.members.push(Member {
                membership_id: e.membership_id.clone(),
                user_id: e.user_id.clone(),
                role: e.role.clone(),
            }),
            OrganizationEvent::MemberRoleChanged(e) => {
                if let Some(member) = self.members.iter_mut().find(|m| m.membership_id == e.membership_id) {
                    member.role.clone_from(&e.role);
                }
            }
            OrganizationEvent::MemberRemoved(e) => self.members.retain(|m| m.membership_id != e.membership_id),
            OrganizationEvent::OrganizationDeleted(_) => {
                self.deleted = true;
                self.members.clear();
            }
        }
    }

    fn decide(
        &self,
        command: OrganizationCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<OrganizationEvent>, Rejection> {
        match command {
            OrganizationCommand::CreateOrganization(c) => self.create(c, by),
            OrganizationCommand::RenameOrganization(c) => {
                self.administered_by(by)?;
                if c.name.trim().is_empty() {
                    return Err(Rejection::invalid("name: at least one character"));
                }
                Ok(Decision::one(OrganizationRenamed { org_id: c.org_id, name: c.name }))
            }
            OrganizationCommand::AddMember(c) => self.add_member(c, by),
            OrganizationCommand::ChangeMemberRole(c) => self.change_role(c, by),
            OrganizationCommand::RemoveMember(c) => self.remove_member(c, by),
            OrganizationCommand::DeleteOrganization(c) => self.delete(c, by),
        }
    }

    fn tenant_rule(command: &OrganizationCommand) -> TenantRule {
        match command {
            OrganizationCommand::CreateOrganization(_) => TenantRule::Anyone,
            _ => TenantRule::Members,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;
    use symbia_events::ActorType;

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
}
