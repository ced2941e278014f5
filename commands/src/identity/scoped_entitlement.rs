//! The aggregate of an entitlement with a quota: never more consumed than granted, one per scope and feature
//! (identity.md §15, 16.7).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef,
    identity::{
        EntitlementConsumed, EntitlementExhausted, EntitlementUsageReset, ScopedEntitlementCreated,
        ScopedEntitlementDeleted, ScopedEntitlementEvent, ScopedEntitlementUpdated,
    },
};
use time::OffsetDateTime;

use super::rules::{
    COUNT_MAX, claim_in, digest, in_an_organization, instant, may_administer, named, one_of, over, present, unused,
};
use crate::{Actor, Aggregate, Claim, Decision, Rejection, domain_commands};

/// What an entitlement can be scoped to.
pub const SCOPES: &[&str] = &["org", "project", "application", "service"];
/// Uses that are recognised when they are reported again.
const REMEMBERED: usize = 256;

fn yes() -> bool {
    true
}

domain_commands! {
    /// What a scoped entitlement can be asked to do.
    ScopedEntitlementCommand: Identity / "scoped-entitlement" {
        /// Gives a scope a feature.
        CreateScopedEntitlement = "symbia.cmd.identity.create-scoped-entitlement.v1" {
            id: String,
            org_id: String,
            scope_type: String,
            scope_id: String,
            feature_key: String,
            /// None = no limit.
            #[serde(default)]
            quota: Option<u64>,
            #[serde(default = "yes")]
            enabled: bool,
            /// RFC 3339.
            #[serde(default)]
            expires_at: Option<String>,
        }
        /// Changes what is given; a quota of null is no limit, an end of null never comes.
        UpdateScopedEntitlement = "symbia.cmd.identity.update-scoped-entitlement.v1" {
            id: String,
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            quota: Option<Option<u64>>,
            #[serde(default)]
            consumed: Option<u64>,
            #[serde(default)]
            enabled: Option<bool>,
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            expires_at: Option<Option<String>>,
        }
        /// Uses some of it. The same key again uses nothing.
        ConsumeEntitlement = "symbia.cmd.identity.consume-entitlement.v1" {
            id: String,
            amount: u64,
            idempotency_key: String,
        }
        /// Starts counting anew.
        ResetEntitlementUsage = "symbia.cmd.identity.reset-entitlement-usage.v1" { id: String }
        /// Takes the feature away.
        DeleteScopedEntitlement = "symbia.cmd.identity.delete-scoped-entitlement.v1" { id: String }
    }
}

/// A scoped entitlement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScopedEntitlement {
    id: String,
    org_id: String,
    scope_type: String,
    scope_id: String,
    feature_key: String,
    quota: Option<u64>,
    consumed: u64,
    enabled: bool,
    expires_at: Option<String>,
    uses: VecDeque<String>,
    deleted: bool,
}

impl ScopedEntitlement {
    fn exists(&self) -> Result<(), Rejection> {
        if self.id.is_empty() || self.deleted { Err(Rejection::not_found("entitlement")) } else { Ok(()) }
    }

    fn claim(org: &str, (kind, scope, feature): (&str, &str, &str), holder: &str) -> Result<Claim, Rejection> {
        let name = format!("entitlement:{}", digest(&[kind, scope, feature]));
        claim_in(org, name, holder, "ENTITLEMENT_TAKEN")
    }

    fn create(&self, c: CreateScopedEntitlement, by: &Actor) -> Result<Decision<ScopedEntitlementEvent>, Rejection> {
        may_administer(&c.org_id, by)?;
        unused(&self.id)?;
        one_of("scopeType", &c.scope_type, SCOPES)?;
        named("scopeId", &c.scope_id)?;
        named("featureKey", &c.feature_key)?;
        check(c.quota, 0, c.expires_at.as_deref())?;
        if c.scope_type == "org" && c.scope_id != c.org_id {
            return Err(Rejection::invalid("scopeId: the organization itself"));
        }
        let claim = Self::claim(&c.org_id, (&c.scope_type, &c.scope_id, &c.feature_key), &c.id)?;
        Ok(Decision::one(ScopedEntitlementCreated {
            id: c.id,
            org_id: c.org_id,
            scope_type: c.scope_type,
            scope_id: c.scope_id,
            feature_key: c.feature_key,
            quota: c.quota,
            enabled: c.enabled,
            expires_at: c.expires_at,
            by: by.id.clone(),
        })
        .claiming(claim))
    }

    fn update(&self, c: UpdateScopedEntitlement, by: &Actor) -> Result<Decision<ScopedEntitlementEvent>, Rejection> {
        self.exists()?;
        may_administer(&self.org_id, by)?;
        let next = ScopedEntitlement {
            quota: c.quota.unwrap_or(self.quota),
            consumed: c.consumed.unwrap_or(self.consumed),
            enabled: c.enabled.unwrap_or(self.enabled),
            expires_at: c.expires_at.unwrap_or_else(|| self.expires_at.clone()),
            ..self.clone()
        };
        if next == *self {
            return Ok(Decision::nothing());
        }
        check(next.quota, next.consumed, next.expires_at.as_deref())?;
        let ScopedEntitlement { id, quota, consumed, enabled, expires_at, .. } = next;
        Ok(Decision::one(ScopedEntitlementUpdated { id, quota, consumed, enabled, expires_at, by: by.id.clone() }))
    }

    fn consume(
        &self,
        c: ConsumeEntitlement,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<ScopedEntitlementEvent>, Rejection> {
        self.exists()?;
        may_administer(&self.org_id, by)?;
        named("idempotencyKey", &c.idempotency_key)?;
        if !(1..=COUNT_MAX).contains(&c.amount) {
            return Err(Rejection::invalid("amount: at least 1"));
        }
        if self.uses.contains(&c.idempotency_key) {
            return Ok(Decision::nothing());
        }
        if !self.enabled || over(self.expires_at.as_deref(), at) {
            let inactive = "the entitlement is switched off or its time is over: nothing can be used of it";
            return Err(Rejection::new("ENTITLEMENT_INACTIVE", inactive));
        }
        let remaining = self.quota.unwrap_or(COUNT_MAX).saturating_sub(self.consumed);
        if c.amount > remaining {
            return Ok(Decision::one(EntitlementExhausted { id: c.id, requested: c.amount, remaining }));
        }
        let consumed = self.consumed + c.amount;
        let ConsumeEntitlement { id, amount, idempotency_key } = c;
        Ok(Decision::one(EntitlementConsumed { id, amount, consumed, idempotency_key }))
    }

    fn reset(&self, by: &Actor) -> Result<Decision<ScopedEntitlementEvent>, Rejection> {
        self.exists()?;
        may_administer(&self.org_id, by)?;
        let (id, previous_consumed) = (self.id.clone(), self.consumed);
        Ok(Decision::one(EntitlementUsageReset { id, previous_consumed, by: by.id.clone() }))
    }

    fn delete(&self, by: &Actor) -> Result<Decision<ScopedEntitlementEvent>, Rejection> {
        self.exists()?;
        may_administer(&self.org_id, by)?;
        let claim = Self::claim(&self.org_id, (&self.scope_type, &self.scope_id, &self.feature_key), &self.id)?;
        Ok(Decision::one(ScopedEntitlementDeleted { id: self.id.clone(), by: by.id.clone() }).releasing(claim))
    }
}

fn check(quota: Option<u64>, consumed: u64, expires_at: Option<&str>) -> Result<(), Rejection> {
    if quota.unwrap_or_default() > COUNT_MAX || consumed > COUNT_MAX {
        return Err(Rejection::invalid(format!("quota and consumed: at most {COUNT_MAX}")));
    }
    expires_at.map_or(Ok(()), |end| instant("expiresAt", end).map(|_| ()))
}

impl Aggregate for ScopedEntitlement {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("id");
    type Command = ScopedEntitlementCommand;
    type Event = ScopedEntitlementEvent;

    fn apply(&mut self, event: &ScopedEntitlementEvent) {
        match event.clone() {
            ScopedEntitlementEvent::ScopedEntitlementCreated(e) => {
                *self = ScopedEntitlement {
                    id: e.id,
                    org_id: e.org_id,
                    scope_type: e.scope_type,
                    scope_id: e.scope_id,
                    feature_key: e.feature_key,
                    quota: e.quota,
                    enabled: e.enabled,
                    expires_at: e.expires_at,
                    ..ScopedEntitlement::default()
                };
            }
            ScopedEntitlementEvent::ScopedEntitlementUpdated(e) => {
                (self.quota, self.consumed) = (e.quota, e.consumed);
                (self.enabled, self.expires_at) = (e.enabled, e.expires_at);
            }
            ScopedEntitlementEvent::EntitlementConsumed(e) => {
                self.consumed = e.consumed;
                if self.uses.len() >= REMEMBERED {
                    self.uses.pop_front();
                }
                self.uses.push_back(e.idempotency_key);
            }
            ScopedEntitlementEvent::EntitlementExhausted(_) => {}
            ScopedEntitlementEvent::EntitlementUsageReset(_) => self.consumed = 0,
            ScopedEntitlementEvent::ScopedEntitlementDeleted(_) => self.deleted = true,
        }
    }

    fn belongs(_command: &ScopedEntitlementCommand, to: &AggregateRef) -> Result<(), Rejection> {
        in_an_organization(to)
    }

    fn decide(
        &self,
        command: ScopedEntitlementCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<ScopedEntitlementEvent>, Rejection> {
        match command {
            ScopedEntitlementCommand::CreateScopedEntitlement(c) => self.create(c, by),
            ScopedEntitlementCommand::UpdateScopedEntitlement(c) => self.update(c, by),
            ScopedEntitlementCommand::ConsumeEntitlement(c) => self.consume(c, by, at),
            ScopedEntitlementCommand::ResetEntitlementUsage(_) => self.reset(by),
            ScopedEntitlementCommand::DeleteScopedEntitlement(_) => self.delete(by),
        }
    }
}

#[cfg(test)]
#[path = "scoped_entitlement/tests.rs"]
mod tests;
