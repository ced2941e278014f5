//! The agent aggregate: the claim of its handle, its live credential, what it may do (identity.md §4.6, 15).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_events::{
    OrgId,
    identity::{
        AgentActivated, AgentCapabilitiesApproved, AgentCredentialRotated, AgentDeactivated, AgentDeleted, AgentEvent,
        AgentPresenceObserved, AgentRegistered, AgentSessionsRevoked, AgentUpdated,
    },
};
use time::{Duration, OffsetDateTime};

use super::instants::{instant, text};
use super::may_grant;
use crate::{Actor, Aggregate, Claim, Decision, Rejection, Role, TenantRule, domain_commands};

/// Longest time that the credential before a rotation goes on being accepted.
pub const GRACE_MAX: Duration = Duration::days(7);
/// An agent's presence is recorded at most so often (identity.md §16.4).
pub const PRESENCE_INTERVAL: Duration = Duration::seconds(60);
const HANDLE_MAX: usize = 100;
const CAPABILITIES_MAX: usize = 200;

domain_commands! {
    /// What an agent can be asked to do.
    AgentCommand: Identity / "agent" {
        /// Lets it in, after the edge has checked who enrols it and kept its credential's hash.
        RegisterAgent = "symbia.cmd.identity.register-agent.v1" {
            agent_row_id: String,
            agent_id: String,
            name: String,
            #[serde(default)]
            org_id: Option<String>,
            #[serde(default)]
            capabilities: Vec<String>,
            #[serde(default)]
            requested_capabilities: Vec<String>,
            #[serde(default)]
            metadata: Map<String, Value>,
            /// `agent:<agentRowId>:<anything>`.
            credential_ref: String,
            enrolled_by: String,
            /// Id of the enrolment token that is used up by it.
            #[serde(default)]
            enrolment_id: Option<String>,
        }
        /// Gives it another credential.
        RotateAgentCredential = "symbia.cmd.identity.rotate-agent-credential.v1" {
            agent_row_id: String,
            credential_ref: String,
            /// RFC 3339, at most seven days ahead.
            #[serde(default)]
            grace_until: Option<String>,
        }
        /// Says what it may do from now on.
        ApproveAgentCapabilities = "symbia.cmd.identity.approve-agent-capabilities.v1" {
            agent_row_id: String,
            capabilities: Vec<String>,
        }
        /// Lets it in again.
        ActivateAgent = "symbia.cmd.identity.activate-agent.v1" {
            agent_row_id: String,
            #[serde(default)]
            reason: Option<String>,
        }
        /// Keeps it out, at once.
        DeactivateAgent = "symbia.cmd.identity.deactivate-agent.v1" {
            agent_row_id: String,
            #[serde(default)]
            reason: Option<String>,
        }
        /// Changes name or metadata; what is absent stays.
        UpdateAgent = "symbia.cmd.identity.update-agent.v1" {
            agent_row_id: String,
            #[serde(default)]
            name: Option<String>,
            #[serde(default)]
            metadata: Option<Map<String, Value>>,
        }
        /// Records that it was seen.
        ObserveAgentPresence = "symbia.cmd.identity.observe-agent-presence.v1" { agent_row_id: String }
        /// Removes it.
        DeleteAgent = "symbia.cmd.identity.delete-agent.v1" { agent_row_id: String }
    }
}

/// An agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    org: Option<OrgId>,
    name: String,
    metadata: Map<String, Value>,
    capabilities: Vec<String>,
    seen: Option<OffsetDateTime>,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Standing {
    #[default]
    Unknown,
    Active,
    Inactive,
    Deleted,
}

/// Whether a text can be a handle: 1 to 100 of `a-z 0-9 : _ -` (identity.md §3.3).
#[must_use]
pub fn is_handle(text: &str) -> bool {
    (1..=HANDLE_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b":_-".contains(&b))
}

fn check_name(name: &str) -> Result<(), Rejection> {
    if name.trim().is_empty() || name.chars().count() > 200 {
        return Err(Rejection::invalid("name: 1 to 200 characters"));
    }
    Ok(())
}

fn check_credential_ref(reference: &str, agent_row_id: &str) -> Result<(), Rejection> {
    // Nobody makes another principal's secret this agent's.
    if reference.strip_prefix("agent:").and_then(|r| r.strip_prefix(agent_row_id)).is_some_and(|r| r.starts_with(':')) {
        return Ok(());
    }
    Err(Rejection::invalid("credentialRef: names a secret of another principal"))
}

impl Agent {
    fn exists(&self) -> Result<(), Rejection> {
        match self.standing {
            Standing::Active | Standing::Inactive => Ok(()),
            Standing::Unknown | Standing::Deleted => Err(Rejection::not_found("agent")),
        }
    }

    fn administered_by(&self, by: &Actor) -> Result<(), Rejection> {
        self.exists()?;
        administers(self.org.as_ref(), by)
    }

    fn register(&self, c: RegisterAgent, by: &Actor) -> Result<Decision<AgentEvent>, Rejection> {
        if self.standing != Standing::Unknown {
            return Err(Rejection::new("CONFLICT", "this agent id is in use"));
        }
        let org: Option<OrgId> = c.org_id.as_deref().map(str::parse).transpose().map_err(|_| unknown_org())?;
        administers(org.as_ref(), by)?;
        if !is_handle(&c.agent_id) {
            return Err(Rejection::invalid("agentId: 1 to 100 of a-z, 0-9, ':', '_' and '-'"));
        }
        check_name(&c.name)?;
        check_credential_ref(&c.credential_ref, &c.agent_row_id)?;
        let capabilities = granted(&c.capabilities, by)?;
        let claim = |tenant, name, taken| Claim { tenant, name, holder: c.agent_row_id.clone(), taken };
        let handle = claim(OrgId::global(), format!("handle:{}", c.agent_id), "HANDLE_TAKEN");
        let enrolment = c.enrolment_id.as_ref().map(|id| {
            claim(org.clone().unwrap_or_else(OrgId::global), format!("enrolment:{id}"), "ENROLMENT_TOKEN_TAKEN")
        });
        let requested = c.requested_capabilities.into_iter().filter(|r| !capabilities.contains(r));
        let decision = Decision::one(AgentRegistered {
            agent_row_id: c.agent_row_id,
            agent_id: c.agent_id,
            name: c.name,
            org_id: c.org_id,
            requested_capabilities: requested.take(CAPABILITIES_MAX).collect(),
            capabilities,
            metadata: c.metadata,
            credential_ref: c.credential_ref,
            enrolled_by: c.enrolled_by,
        })
        .claiming(handle);
        Ok(match enrolment {
            Some(enrolment) => decision.claiming(enrolment),
            None => decision,
        })
    }

    fn rotate(
        &self,
        c: RotateAgentCredential,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<AgentEvent>, Rejection> {
        self.administered_by(by)?;
        check_credential_ref(&c.credential_ref, &c.agent_row_id)?;
        let grace = c.grace_until.as_deref().map(|end| instant(end).filter(|end| *end <= at + GRACE_MAX));
        if grace == Some(None) {
            return Err(Rejection::invalid("graceUntil: a time at most seven days ahead"));
        }
        let grace = grace.flatten().filter(|end| *end > at);
        let rotated = Decision::one(AgentCredentialRotated {
            agent_row_id: c.agent_row_id.clone(),
            credential_ref: c.credential_ref,
            grace_until: grace.map(text),
            by: by.id.clone(),
        });
        if grace.is_some() {
            return Ok(rotated);
        }
        Ok(rotated.and(revoked(c.agent_row_id, at, "credential-rotated")))
    }

    fn activate(&self, c: ActivateAgent, by: &Actor) -> Result<Decision<AgentEvent>, Rejection> {
        self.administered_by(by)?;
        if self.standing == Standing::Active {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(AgentActivated { agent_row_id: c.agent_row_id, by: by.id.clone(), reason: c.reason }))
    }

    fn deactivate(
        &self,
        c: DeactivateAgent,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<AgentEvent>, Rejection> {
        self.administered_by(by)?;
        if self.standing == Standing::Inactive {
            return Ok(Decision::nothing());
        }
        let event = AgentDeactivated { agent_row_id: c.agent_row_id.clone(), by: by.id.clone(), reason: c.reason };
        Ok(Decision::one(event).and(revoked(c.agent_row_id, at, "deactivated")))
    }

    fn update(&self, c: UpdateAgent, by: &Actor) -> Result<Decision<AgentEvent>, Rejection> {
        self.administered_by(by)?;
        let name = c.name.filter(|name| *name != self.name);
        let metadata = c.metadata.filter(|metadata| *metadata != self.metadata);
        if let Some(name) = &name {
            check_name(name)?;
        }
        if name.is_none() && metadata.is_none() {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(AgentUpdated { agent_row_id: c.agent_row_id, name, metadata }))
    }
}

fn administers(org: Option<&OrgId>, by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() || by.super_admin || org.is_some_and(|org| by.role_in(org) == Some(Role::Admin)) {
        return Ok(());
    }
    Err(Rejection::new("INSUFFICIENT_ROLE", "only an admin of the agent's organization, or a super admin, may do this"))
}

fn unknown_org() -> Rejection {
    Rejection::new("ORG_UNKNOWN", "there is no such organization")
}

/// Each once; refused when the actor may not give one of them away.
fn granted(capabilities: &[String], by: &Actor) -> Result<Vec<String>, Rejection> {
    if capabilities.len() > CAPABILITIES_MAX {
        return Err(Rejection::invalid("capabilities: at most 200"));
    }
    let mut granted: Vec<String> = Vec::with_capacity(capabilities.len());
    for capability in capabilities {
        if !may_grant(by, capability) {
            let message = format!("'{capability}' reaches beyond the organization: a super admin may grant it");
            return Err(Rejection::new("MISSING_CAPABILITY", message));
        }
        if !granted.contains(capability) {
            granted.push(capability.clone());
        }
    }
    Ok(granted)
}

fn revoked(agent_row_id: String, at: OffsetDateTime, reason: &str) -> AgentSessionsRevoked {
    AgentSessionsRevoked { agent_row_id, before: text(at), reason: reason.to_owned() }
}

impl Aggregate for Agent {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("agentRowId");
    type Command = AgentCommand;
    type Event = AgentEvent;

    fn apply(&mut self, event: &AgentEvent) {
        match event {
            AgentEvent::AgentRegistered(e) => {
                self.standing = Standing::Active;
                self.org = e.org_id.as_deref().and_then(|org| org.parse().ok());
                self.name.clone_from(&e.name);
                self.metadata.clone_from(&e.metadata);
                self.capabilities.clone_from(&e.capabilities);
            }
            AgentEvent::AgentCredentialRotated(_) | AgentEvent::AgentSessionsRevoked(_) => {}
            AgentEvent::AgentCapabilitiesApproved(e) => self.capabilities.clone_from(&e.capabilities),
            AgentEvent::AgentActivated(_) => self.standing = Standing::Active,
            AgentEvent::AgentDeactivated(_) => self.standing = Standing::Inactive,
            AgentEvent::AgentUpdated(e) => {
                e.name.iter().for_each(|name| self.name.clone_from(name));
                e.metadata.iter().for_each(|metadata| self.metadata.clone_from(metadata));
            }
            AgentEvent::AgentPresenceObserved(e) => self.seen = instant(&e.seen_at),
            AgentEvent::AgentDeleted(_) => self.standing = Standing::Deleted,
        }
    }

    fn decide(&self, command: AgentCommand, by: &Actor, at: OffsetDateTime) -> Result<Decision<AgentEvent>, Rejection> {
        match command {
            AgentCommand::RegisterAgent(c) => self.register(c, by),
            AgentCommand::RotateAgentCredential(c) => self.rotate(c, by, at),
            AgentCommand::ApproveAgentCapabilities(c) => {
                self.administered_by(by)?;
                let capabilities = granted(&c.capabilities, by)?;
                if capabilities == self.capabilities {
                    return Ok(Decision::nothing());
                }
                let by = by.id.clone();
                Ok(Decision::one(AgentCapabilitiesApproved { agent_row_id: c.agent_row_id, capabilities, by }))
            }
            AgentCommand::ActivateAgent(c) => self.activate(c, by),
            AgentCommand::DeactivateAgent(c) => self.deactivate(c, by, at),
            AgentCommand::UpdateAgent(c) => self.update(c, by),
            AgentCommand::ObserveAgentPresence(c) => {
                self.exists()?;
                if !by.is_platform() {
                    return Err(Rejection::forbidden("presence is recorded by the identity service"));
                }
                if self.seen.is_some_and(|seen| at < seen + PRESENCE_INTERVAL) {
                    return Ok(Decision::nothing());
                }
                Ok(Decision::one(AgentPresenceObserved { agent_row_id: c.agent_row_id, seen_at: text(at) }))
            }
            AgentCommand::DeleteAgent(c) => {
                self.administered_by(by)?;
                Ok(Decision::one(AgentDeleted { agent_row_id: c.agent_row_id, by: by.id.clone() }))
            }
        }
    }

    fn tenant_rule(_: &AgentCommand) -> TenantRule {
        TenantRule::Members
    }
}

#[cfg(test)]
mod tests;
