//! The delegation aggregate: a person lets an agent act in their name, within limits, until they say no (RFC 8693).

use serde::{Deserialize, Serialize};
use symbia_events::{
    ActorType,
    identity::{DelegationEvent, DelegationGranted, DelegationRevoked},
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Actor, Aggregate, Decision, Level, Rejection, domain_commands};

/// Longest life of a delegation.
pub const LONGEST: Duration = Duration::days(366);
/// Longest chain of agents that a person can allow.
pub const DEEPEST: u32 = 4;

domain_commands! {
    /// What a delegation can be asked to do.
    DelegationCommand: Identity / "delegation" {
        /// Lets an agent act in the sender's name.
        GrantDelegation = "symbia.cmd.identity.grant-delegation.v1" {
            delegation_id: String,
            agent_id: String,
            scopes: Vec<String>,
            #[serde(default)]
            audiences: Vec<String>,
            #[serde(default)]
            may_act: Vec<String>,
            max_depth: u32,
            limit: String,
            expires_at: String,
        }
        /// Ends it: tokens that stand on it are refused at once.
        RevokeDelegation = "symbia.cmd.identity.revoke-delegation.v1" { delegation_id: String, reason: String }
    }
}

/// A delegation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delegation {
    subject_id: String,
    agent_id: String,
    revoked: bool,
}

/// Whether a text can be a scope: a capability or a role of an organization (RFC 6749 §3.3).
#[must_use]
pub fn is_scope(text: &str) -> bool {
    let known = text.starts_with("cap:") || text.starts_with("role:member") || text.starts_with("role:admin");
    known && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b":._-".contains(&b))
}

impl Delegation {
    fn grant(
        &self,
        c: GrantDelegation,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<DelegationEvent>, Rejection> {
        if !self.subject_id.is_empty() {
            return Err(Rejection::new("CONFLICT", "this delegation id is in use"));
        }
        if by.kind != ActorType::User || by.on_behalf_of.is_some() || by.authority.is_some() {
            return Err(Rejection::forbidden("only a person delegates, in their own name"));
        }
        if c.agent_id.is_empty() || c.agent_id == by.id || c.may_act.contains(&c.agent_id) {
            return Err(Rejection::invalid("agentId: an agent, and not one that it is passed on to"));
        }
        if c.scopes.is_empty() || c.scopes.len() > 50 || !c.scopes.iter().all(|scope| is_scope(scope)) {
            return Err(Rejection::invalid("scopes: 1 to 50 capabilities (cap:…) or roles (role:member, role:admin)"));
        }
        if c.audiences.len() > 10 || c.may_act.len() > 10 || !(1..=DEEPEST).contains(&c.max_depth) {
            return Err(Rejection::invalid("at most 10 audiences and 10 further agents, in a chain of 1 to 4"));
        }
        if Level::named(&c.limit).is_none() {
            return Err(Rejection::invalid("limit: ordinary or grave"));
        }
        let end = OffsetDateTime::parse(&c.expires_at, &Rfc3339).ok();
        if !end.is_some_and(|end| end > at && end <= at + LONGEST) {
            return Err(Rejection::invalid("expiresAt: in the future, and within a year"));
        }
        Ok(Decision::one(DelegationGranted {
            delegation_id: c.delegation_id,
            subject_id: by.id.clone(),
            agent_id: c.agent_id,
            scopes: c.scopes,
            audiences: c.audiences,
            may_act: c.may_act,
            max_depth: c.max_depth,
            limit: c.limit,
            expires_at: c.expires_at,
        }))
    }

    fn revoke(&self, c: RevokeDelegation, by: &Actor) -> Result<Decision<DelegationEvent>, Rejection> {
        // An agent may give up what it was given.
        let theirs = by.id == self.subject_id || by.id == self.agent_id || by.is_platform() || by.super_admin;
        if self.subject_id.is_empty() || !theirs {
            return Err(Rejection::not_found("delegation"));
        }
        if self.revoked {
            return Ok(Decision::nothing());
        }
        let (subject_id, by) = (self.subject_id.clone(), by.id.clone());
        Ok(Decision::one(DelegationRevoked { delegation_id: c.delegation_id, subject_id, by, reason: c.reason }))
    }
}

impl Aggregate for Delegation {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("delegationId");
    type Command = DelegationCommand;
    type Event = DelegationEvent;

    fn apply(&mut self, event: &DelegationEvent) {
        match event {
            DelegationEvent::DelegationGranted(e) => {
                self.subject_id.clone_from(&e.subject_id);
                self.agent_id.clone_from(&e.agent_id);
            }
            DelegationEvent::DelegationRevoked(_) => self.revoked = true,
        }
    }

    fn decide(
        &self,
        command: DelegationCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<DelegationEvent>, Rejection> {
        match command {
            DelegationCommand::GrantDelegation(c) => self.grant(c, by, at),
            DelegationCommand::RevokeDelegation(c) => self.revoke(c, by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{AT, given};

    fn person(id: &str) -> Actor {
        Actor { id: id.into(), kind: ActorType::User, ..Actor::service("x") }
    }

    fn grant() -> GrantDelegation {
        GrantDelegation {
            delegation_id: "d1".into(),
            agent_id: "agent:a".into(),
            scopes: vec!["cap:identity.read".into()],
            audiences: vec![],
            may_act: vec!["agent:b".into()],
            max_depth: 2,
            limit: "ordinary".into(),
            expires_at: (AT + Duration::days(1)).format(&Rfc3339).unwrap(),
        }
    }

    fn granted() -> DelegationEvent {
        Delegation::default().grant(grant(), &person("ada"), AT).unwrap().events.remove(0)
    }

    #[test]
    fn a_person_delegates_in_their_own_name_and_within_bounds() {
        let DelegationEvent::DelegationGranted(event) = granted() else { panic!("another event") };
        assert_eq!((event.subject_id.as_str(), event.agent_id.as_str()), ("ada", "agent:a"));
        let agent = Actor { kind: ActorType::Agent, on_behalf_of: Some("ada".into()), ..person("agent:a") };
        given::<Delegation>([]).when(grant(), &agent).rejected("FORBIDDEN");
        given::<Delegation>([]).when(grant(), &Actor::service("identity")).rejected("FORBIDDEN");
        let ada = person("ada");
        for bad in [
            GrantDelegation { scopes: vec![], ..grant() },
            GrantDelegation { scopes: vec!["everything".into()], ..grant() },
            GrantDelegation { scopes: vec!["cap:a b".into()], ..grant() },
            GrantDelegation { max_depth: 0, ..grant() },
            GrantDelegation { max_depth: DEEPEST + 1, ..grant() },
            GrantDelegation { limit: "none".into(), ..grant() },
            GrantDelegation { expires_at: "2026-01-01T00:00:00Z".into(), ..grant() },
            GrantDelegation { expires_at: "2027-06-01T00:00:00Z".into(), ..grant() },
            GrantDelegation { may_act: vec!["agent:a".into()], ..grant() },
        ] {
            given::<Delegation>([]).when(bad, &ada).rejected("VALIDATION_FAILED");
        }
    }

    #[test]
    fn the_person_and_the_agent_can_end_it_and_nobody_else_sees_it() {
        let revoke = RevokeDelegation { delegation_id: "d1".into(), reason: "done".into() };
        for by in ["ada", "agent:a"] {
            let revoked = DelegationRevoked {
                delegation_id: "d1".into(),
                subject_id: "ada".into(),
                by: by.into(),
                reason: "done".into(),
            };
            given::<Delegation>([granted()]).when(revoke.clone(), &person(by)).then([revoked.clone().into()]);
            given::<Delegation>([granted(), revoked.into()]).when(revoke.clone(), &person(by)).then([]);
        }
        given::<Delegation>([granted()]).when(revoke.clone(), &person("eve")).rejected("NOT_FOUND");
        given::<Delegation>([]).when(revoke, &person("ada")).rejected("NOT_FOUND");
    }
}
