//! The organization aggregate: at least one admin, every user at most once, a unique slug (identity.md §15).

mod invitations;
mod members;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef, OrgId, Personal,
    identity::{MemberAdded, OrganizationCreated, OrganizationDeleted, OrganizationEvent},
};
use time::OffsetDateTime;

pub use invitations::INVITATION_LIFETIME;

use super::rules::name;
use crate::{Actor, Aggregate, Claim, Decision, Rejection, TenantRule, domain_commands};

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
        /// Changes the unique short name.
        ChangeOrganizationSlug = "symbia.cmd.identity.change-organization-slug.v1" { org_id: String, slug: String }
        /// Gives it another plan, or none (operators).
        AssignPlan = "symbia.cmd.identity.assign-plan.v1" {
            org_id: String,
            #[serde(default)]
            plan_id: Option<String>,
            /// Most members under this plan.
            #[serde(default)]
            member_limit: Option<u32>,
        }
        /// Gives it a feature, or switches one off (operators).
        SetOrgEntitlement = "symbia.cmd.identity.set-org-entitlement.v1" {
            org_id: String,
            feature_key: String,
            enabled: bool,
            /// RFC 3339.
            #[serde(default)]
            expires_at: Option<String>,
        }
        /// Takes a feature away (operators).
        RemoveOrgEntitlement = "symbia.cmd.identity.remove-org-entitlement.v1" { org_id: String, feature_key: String }
        /// Records that an operator acts in an organization that is not theirs, and why.
        RecordAccess = "symbia.cmd.identity.record-access.v1" { org_id: String, operation: String, reason: String }
        /// Invites somebody who may not have an account yet. A former invitation of the address is revoked.
        InviteMember = "symbia.cmd.identity.invite-member.v1" {
            org_id: String,
            invitation_id: String,
            email: Personal,
            email_key: String,
            role: String,
            token_hash: String,
        }
        /// Lets an invited user in. The edge has seen the token and knows the user's address.
        AcceptInvitation = "symbia.cmd.identity.accept-invitation.v1" {
            org_id: String,
            invitation_id: String,
            token_hash: String,
            user_id: String,
            email_key: String,
            membership_id: String,
        }
        /// Withdraws an invitation.
        RevokeInvitation = "symbia.cmd.identity.revoke-invitation.v1" { org_id: String, invitation_id: String }
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
    plan_id: Option<String>,
    member_limit: Option<u32>,
    /// Features by key: whether switched on, and until when.
    entitlements: BTreeMap<String, (bool, Option<String>)>,
    invitations: Vec<Invitation>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Invitation {
    invitation_id: String,
    email_key: String,
    role: String,
    token_hash: String,
    expires_at: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Member {
    membership_id: String,
    user_id: String,
    role: String,
}

const ADMIN: &str = "admin";

fn slug_claim(slug: &str, org_id: &str) -> Claim {
    Claim { tenant: OrgId::global(), name: format!("slug:{slug}"), holder: org_id.to_owned(), taken: "SLUG_TAKEN" }
}

/// Whether a text can be a slug: 1 to 100 of `a-z 0-9 -` (identity.md §3.13).
#[must_use]
pub fn is_slug(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn check_slug(slug: &str) -> Result<(), Rejection> {
    if is_slug(slug) { Ok(()) } else { Err(Rejection::invalid("slug: 1 to 100 of a-z, 0-9 and '-'")) }
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
        // Who acts for a member may have been left less than the member's role.
        let left =
            by.authority.is_none() || self.org_id.parse().is_ok_and(|org| by.role_in(&org) == Some(crate::Role::Admin));
        let admin = self.members.iter().any(|m| m.user_id == by.subject() && m.role == ADMIN);
        if by.is_platform() || by.super_admin || (admin && left) {
            return Ok(());
        }
        Err(Rejection::new("INSUFFICIENT_ROLE", "only an admin of the organization may do this"))
    }

    fn create(&self, c: CreateOrganization, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        if !self.org_id.is_empty() {
            return Err(Rejection::new("CONFLICT", "this organization id is in use"));
        }
        if !by.is_platform() && by.subject() != c.owner_id {
            return Err(Rejection::forbidden("an organization is founded in one's own name"));
        }
        if c.plan_id.is_some() && !by.is_platform() && !by.super_admin {
            return Err(Rejection::new(
                "SUPERADMIN_REQUIRED",
                "only a super admin chooses the plan of an organization",
            ));
        }
        name(&c.name)?;
        check_slug(&c.slug)?;
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

    fn delete(&self, c: DeleteOrganization, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.exists()?;
        if c.org_id == OrgId::SYSTEM {
            return Err(Rejection::forbidden("the system organization cannot be deleted"));
        }
        if !by.super_admin {
            self.administered_by(by)?;
            let shared = self.members.iter().any(|m| m.role == ADMIN && m.user_id != by.subject());
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
    const STATE_VERSION: u32 = 2;
    const ID_FIELD: Option<&'static str> = Some("orgId");
    type Command = OrganizationCommand;
    type Event = OrganizationEvent;

    fn apply(&mut self, event: &OrganizationEvent) {
        match event.clone() {
            OrganizationEvent::OrganizationCreated(e) => {
                (self.org_id, self.slug, self.plan_id) = (e.org_id, e.slug, e.plan_id);
            }
            OrganizationEvent::OrganizationRenamed(_) | OrganizationEvent::OrganizationAccessed(_) => {}
            OrganizationEvent::OrganizationSlugChanged(e) => self.slug = e.slug,
            OrganizationEvent::PlanAssigned(e) => (self.plan_id, self.member_limit) = (e.plan_id, e.member_limit),
            OrganizationEvent::OrgEntitlementSet(e) => {
                self.entitlements.insert(e.feature_key, (e.enabled, e.expires_at));
            }
            OrganizationEvent::OrgEntitlementRemoved(e) => _ = self.entitlements.remove(&e.feature_key),
            OrganizationEvent::MemberInvited(e) => self.invitations.push(Invitation {
                invitation_id: e.invitation_id,
                email_key: e.email_key,
                role: e.role,
                token_hash: e.token_hash,
                expires_at: e.expires_at,
            }),
            OrganizationEvent::InvitationAccepted(e) => self.forget_invitation(&e.invitation_id),
            OrganizationEvent::InvitationRevoked(e) => self.forget_invitation(&e.invitation_id),
            OrganizationEvent::MemberAdded(e) => {
                let MemberAdded { membership_id, user_id, role, .. } = e;
                self.members.push(Member { membership_id, user_id, role });
            }
            OrganizationEvent::MemberRoleChanged(e) => {
                if let Some(member) = self.members.iter_mut().find(|m| m.membership_id == e.membership_id) {
                    member.role = e.role;
                }
            }
            OrganizationEvent::MemberRemoved(e) => self.members.retain(|m| m.membership_id != e.membership_id),
            OrganizationEvent::OrganizationDeleted(_) => {
                let (org_id, slug) = (std::mem::take(&mut self.org_id), std::mem::take(&mut self.slug));
                *self = Organization { org_id, slug, deleted: true, ..Organization::default() };
            }
        }
    }

    fn decide(
        &self,
        command: OrganizationCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<OrganizationEvent>, Rejection> {
        match command {
            OrganizationCommand::CreateOrganization(c) => self.create(c, by),
            OrganizationCommand::RenameOrganization(c) => self.rename(c, by),
            OrganizationCommand::ChangeOrganizationSlug(c) => self.change_slug(c, by),
            OrganizationCommand::AssignPlan(c) => self.assign_plan(c, by),
            OrganizationCommand::SetOrgEntitlement(c) => self.set_entitlement(c, by),
            OrganizationCommand::RemoveOrgEntitlement(c) => self.remove_entitlement(c, by),
            OrganizationCommand::RecordAccess(c) => self.record_access(c, by),
            OrganizationCommand::InviteMember(c) => self.invite(c, by, at),
            OrganizationCommand::AcceptInvitation(c) => self.accept(c, by, at),
            OrganizationCommand::RevokeInvitation(c) => self.revoke_invitation(c, by),
            OrganizationCommand::AddMember(c) => self.add_member(c, by),
            OrganizationCommand::ChangeMemberRole(c) => self.change_role(c, by),
            OrganizationCommand::RemoveMember(c) => self.remove_member(c, by),
            OrganizationCommand::DeleteOrganization(c) => self.delete(c, by),
        }
    }

    fn belongs(_command: &OrganizationCommand, to: &AggregateRef) -> Result<(), Rejection> {
        if to.tenant.as_str() == to.id { Ok(()) } else { Err(Rejection::misaddressed(to)) }
    }

    fn tenant_rule(command: &OrganizationCommand) -> TenantRule {
        match command {
            OrganizationCommand::CreateOrganization(_) => TenantRule::Anyone,
            _ => TenantRule::Members,
        }
    }
}
