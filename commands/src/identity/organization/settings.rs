//! Names, plan and features of an organization, and the record of operators who act in it.

use symbia_events::identity::{
    OrgEntitlementRemoved, OrgEntitlementSet, OrganizationAccessed, OrganizationEvent, OrganizationRenamed,
    OrganizationSlugChanged, PlanAssigned,
};

use super::{
    super::rules::{instant, name, named, operators_only},
    AssignPlan, ChangeOrganizationSlug, Organization, RecordAccess, RemoveOrgEntitlement, RenameOrganization,
    SetOrgEntitlement, check_slug, slug_claim,
};
use crate::{Actor, Decision, Rejection};

const ENTITLEMENTS_MAX: usize = 1_000;

impl Organization {
    pub(super) fn rename(&self, c: RenameOrganization, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.administered_by(by)?;
        name(&c.name)?;
        Ok(Decision::one(OrganizationRenamed { org_id: c.org_id, name: c.name }))
    }

    pub(super) fn change_slug(
        &self,
        c: ChangeOrganizationSlug,
        by: &Actor,
    ) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.administered_by(by)?;
        check_slug(&c.slug)?;
        if c.slug == self.slug {
            return Ok(Decision::nothing());
        }
        let (taken, released) = (slug_claim(&c.slug, &c.org_id), slug_claim(&self.slug, &c.org_id));
        let (previous_slug, by) = (self.slug.clone(), by.id.clone());
        let changed = OrganizationSlugChanged { org_id: c.org_id, slug: c.slug, previous_slug, by };
        Ok(Decision::one(changed).claiming(taken).releasing(released))
    }

    pub(super) fn assign_plan(&self, c: AssignPlan, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.exists()?;
        operators_only(by)?;
        if c.plan_id == self.plan_id && c.member_limit == self.member_limit {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(PlanAssigned {
            org_id: c.org_id,
            plan_id: c.plan_id,
            previous_plan_id: self.plan_id.clone(),
            member_limit: c.member_limit,
            by: by.id.clone(),
        }))
    }

    pub(super) fn set_entitlement(
        &self,
        c: SetOrgEntitlement,
        by: &Actor,
    ) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.exists()?;
        operators_only(by)?;
        named("featureKey", &c.feature_key)?;
        if let Some(end) = &c.expires_at {
            instant("expiresAt", end)?;
        }
        let held = self.entitlements.get(&c.feature_key);
        if held.is_none() && self.entitlements.len() >= ENTITLEMENTS_MAX {
            let full = format!("an organization has at most {ENTITLEMENTS_MAX} entitlements");
            return Err(Rejection::new("QUOTA_EXCEEDED", full));
        }
        if held.is_some_and(|(enabled, end)| *enabled == c.enabled && *end == c.expires_at) {
            return Ok(Decision::nothing());
        }
        let SetOrgEntitlement { org_id, feature_key, enabled, expires_at } = c;
        Ok(Decision::one(OrgEntitlementSet { org_id, feature_key, enabled, expires_at, by: by.id.clone() }))
    }

    pub(super) fn remove_entitlement(
        &self,
        c: RemoveOrgEntitlement,
        by: &Actor,
    ) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.exists()?;
        operators_only(by)?;
        if !self.entitlements.contains_key(&c.feature_key) {
            return Ok(Decision::nothing());
        }
        let RemoveOrgEntitlement { org_id, feature_key } = c;
        Ok(Decision::one(OrgEntitlementRemoved { org_id, feature_key, by: by.id.clone() }))
    }

    pub(super) fn record_access(&self, c: RecordAccess, by: &Actor) -> Result<Decision<OrganizationEvent>, Rejection> {
        self.exists()?;
        operators_only(by)?;
        named("reason", &c.reason)?;
        let RecordAccess { org_id, operation, reason } = c;
        Ok(Decision::one(OrganizationAccessed { org_id, principal_id: by.id.clone(), operation, reason }))
    }
}
