//! Invitations of people who may not have an account yet: for one address, for a time, for one use.

use symbia_events::identity::{InvitationAccepted, InvitationRevoked, MemberAdded, MemberInvited, OrganizationEvent};
use time::{Duration, OffsetDateTime};

use super::{
    super::{instants::text, rules::over},
    AcceptInvitation, InviteMember, Organization, RevokeInvitation,
    members::role_of,
};
use crate::{Actor, Decision, Rejection};

/// How long an invitation can be accepted.
pub const INVITATION_LIFETIME: Duration = Duration::days(7);
const PENDING_MAX: usize = 500;

impl Organization {
    pub(super) fn forget_invitation(&mut self, id: &str) {
        self.invitations.retain(|invitation| invitation.invitation_id != id);
    }

    pub(super) fn invite(
        &self,
        c: InviteMember,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.administered_by(by)?;
        role_of(&c.role)?;
        if self.invitations.iter().any(|invitation| invitation.invitation_id == c.invitation_id) {
            return Err(Rejection::new("CONFLICT", "this invitation id is in use"));
        }
        let replaced = |i: &&super::Invitation| i.email_key == c.email_key || over(Some(&i.expires_at), at);
        let gone: Vec<_> = self.invitations.iter().filter(replaced).map(|i| i.invitation_id.clone()).collect();
        if self.invitations.len() - gone.len() >= PENDING_MAX {
            let full = format!("an organization has at most {PENDING_MAX} pending invitations: revoke some");
            return Err(Rejection::new("QUOTA_EXCEEDED", full));
        }
        let revoked = gone.into_iter().fold(Decision::nothing(), |decision, invitation_id| {
            decision.and(InvitationRevoked { invitation_id, org_id: c.org_id.clone(), by: by.id.clone() })
        });
        let InviteMember { org_id, invitation_id, email, email_key, role, token_hash } = c;
        let (by, expires_at) = (by.id.clone(), text(at + INVITATION_LIFETIME));
        Ok(revoked.and(MemberInvited { invitation_id, org_id, email, email_key, role, by, token_hash, expires_at }))
    }

    // Whoever reads the log sees the token's hash; only the edge has seen the token.
    pub(super) fn accept(
        &self,
        c: AcceptInvitation,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.exists()?;
        if !by.is_platform() {
            return Err(Rejection::forbidden("invitations are accepted through the identity service"));
        }
        let invitation = self.invitations.iter().find(|i| i.invitation_id == c.invitation_id);
        let invitation = invitation.filter(|i| i.token_hash == c.token_hash);
        let invitation = invitation.ok_or_else(|| Rejection::not_found("invitation"))?;
        if over(Some(&invitation.expires_at), at) {
            return Err(Rejection::new("INVITATION_EXPIRED", "the invitation has expired: ask for a new one"));
        }
        if invitation.email_key != c.email_key {
            let other = "the invitation is for another e-mail address: sign in with the account of that address";
            return Err(Rejection::forbidden(other));
        }
        self.has_room_for(&c.user_id)?;
        let (org_id, user_id) = (c.org_id.clone(), c.user_id.clone());
        let accepted = InvitationAccepted { invitation_id: c.invitation_id, org_id, user_id };
        let AcceptInvitation { org_id, user_id, membership_id, .. } = c;
        let role = invitation.role.clone();
        let joined = MemberAdded { membership_id, org_id, by: user_id.clone(), user_id, role };
        Ok(Decision::one(accepted).and(joined))
    }

    pub(super) fn revoke_invitation(
        &self,
        c: RevokeInvitation,
        by: &Actor,
    ) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.administered_by(by)?;
        if !self.invitations.iter().any(|invitation| invitation.invitation_id == c.invitation_id) {
            return Err(Rejection::not_found("invitation"));
        }
        let RevokeInvitation { org_id, invitation_id } = c;
        Ok(Decision::one(InvitationRevoked { invitation_id, org_id, by: by.id.clone() }))
    }
}
