//! Who belongs to an organization: adding, roles, removal, and that an admin always remains.

use symbia_events::identity::{MemberAdded, MemberRemoved, MemberRoleChanged, OrganizationEvent};

use super::{ADMIN, AddMember, ChangeMemberRole, Member, Organization, RemoveMember};
use crate::{Actor, Decision, Rejection, Role};

pub(super) fn role_of(text: &str) -> Result<Role, Rejection> {
    serde_json::from_value(text.into())
        .map_err(|_| Rejection::invalid(format!("role '{text}' is none of admin, member, viewer")))
}

impl Organization {
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

    /// That a user can become a member: is none yet, and the plan has room.
    pub(super) fn has_room_for(&self, user_id: &str) -> Result<(), Rejection> {
        if self.members.iter().any(|m| m.user_id == user_id) {
            return Err(Rejection::new("ALREADY_MEMBER", "this user is a member already"));
        }
        if self.member_limit.is_some_and(|most| self.members.len() >= most as usize) {
            let full = "the plan of the organization has room for no further member: remove one, or change the plan";
            return Err(Rejection::new("QUOTA_EXCEEDED", full));
        }
        Ok(())
    }

    pub(super) fn add_member(&self, c: AddMember, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.administered_by(by)?;
        role_of(&c.role)?;
        self.has_room_for(&c.user_id)?;
        Ok(Decision::one(MemberAdded {
            membership_id: c.membership_id,
            org_id: c.org_id,
            user_id: c.user_id,
            role: c.role,
            by: by.id.clone(),
        }))
    }

    pub(super) fn change_role(
        &self,
        c: ChangeMemberRole,
        by: &Actor,
    ) -> Result<Decision<OrganizationEvent>, Rejection> {
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

    pub(super) fn remove_member(&self, c: RemoveMember, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.exists()?;
        let leaving = self.members.iter().any(|m| m.membership_id == c.membership_id && m.user_id == by.subject());
        if !leaving {
            self.administered_by(by)?;
        }
        let member = self.member(&c.membership_id)?;
        // An account that is erased leaves even an organization that nobody else administers.
        if !by.is_platform() {
            self.keeps_an_admin_without(member)?;
        }
        let reason = match (leaving, by.is_platform()) {
            (true, _) => "left",
            (false, true) => "account-deleted",
            (false, false) => "removed",
        };
        Ok(Decision::one(MemberRemoved {
            org_id: c.org_id,
            membership_id: c.membership_id,
            user_id: member.user_id.clone(),
            by: by.id.clone(),
            reason: reason.to_owned(),
        }))
    }
}
