//! The command envelope: a CloudEvent of type `symbia.cmd.<service>.<verb>.v<n>` with a signed actor (platform.md §26.3).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use symbia_events::{AggregateRef, CommandId, Context, KeyRing, OrgId};
use time::{Duration, OffsetDateTime};

use crate::{Actor, AssertionError, DomainCommand};

/// A command whose time lies further in the past is refused: its aggregate may have forgotten having decided it.
pub const MAX_AGE: Duration = Duration::hours(24);
/// A command whose time lies further in the future is refused.
pub const MAX_SKEW: Duration = Duration::minutes(5);

/// A command on the bus.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the attributes are described in platform.md §26.3 and docs/COMMANDS.md")]
pub struct CommandEnvelope {
    pub specversion: String,
    pub id: CommandId,
    pub source: String,
    #[serde(rename = "type")]
    pub command_type: String,
    /// `<aggregate>/<id>`, the same as in the NATS subject.
    pub subject: String,
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    pub orgid: OrgId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actorassertion: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causationid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataclass: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policyref: Option<String>,
    /// The outcome shall hold the events themselves. Heeded where the outcome goes to a bus of the platform.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub returnevents: bool,
    pub data: Box<RawValue>,
}

/// Why an envelope is refused before any aggregate sees it.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// No envelope at all.
    #[error("the command is no CloudEvent of ours: {0}")]
    Malformed(String),
    /// Subject and envelope disagree.
    #[error("the command was published for {subject} but names {named}; both must name the same tenant and aggregate")]
    Address {
        /// Where it was published.
        subject: String,
        /// What the envelope says.
        named: String,
    },
    /// The actor is not proved.
    #[error(transparent)]
    Actor(#[from] AssertionError),
    /// Its time is out of bounds.
    #[error("the command's time {time} is more than {} off the worker's clock {now}; set the clock or send a new command",
        if time > now { "5 minutes ahead" } else { "24 hours behind" })]
    Clock {
        /// The command's.
        time: OffsetDateTime,
        /// The worker's.
        now: OffsetDateTime,
    },
}

impl EnvelopeError {
    /// Stable code for the outcome.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            EnvelopeError::Malformed(_) => "MALFORMED_COMMAND",
            EnvelopeError::Address { .. } => "WRONG_TENANT",
            EnvelopeError::Actor(AssertionError::Expired(_)) => "TOKEN_EXPIRED",
            EnvelopeError::Actor(AssertionError::Missing) => "AUTH_REQUIRED",
            EnvelopeError::Actor(_) => "TOKEN_INVALID",
            EnvelopeError::Clock { .. } => "CLOCK_SKEW",
        }
    }
}

impl CommandEnvelope {
    /// A command for an aggregate, asserted by `actor` for five minutes.
    pub fn new(
        keys: &KeyRing,
        aggregate: &AggregateRef,
        command: &impl DomainCommand,
        actor: &Actor,
        id: CommandId,
        at: OffsetDateTime,
    ) -> serde_json::Result<Self> {
        Ok(Self::of_data(keys, aggregate, command.command_type(), command.to_data()?, actor, id, at))
    }

    /// [`CommandEnvelope::new`] of a command given as type and data.
    #[must_use]
    pub fn of_data(
        keys: &KeyRing,
        aggregate: &AggregateRef,
        command_type: &str,
        data: Box<RawValue>,
        actor: &Actor,
        id: CommandId,
        at: OffsetDateTime,
    ) -> Self {
        CommandEnvelope {
            specversion: "1.0".to_owned(),
            id,
            source: "symbia/api".to_owned(),
            command_type: command_type.to_owned(),
            subject: aggregate.path(),
            time: at,
            datacontenttype: Some("application/json".to_owned()),
            orgid: aggregate.tenant.clone(),
            actorassertion: Some(actor.assert(keys, at, Duration::minutes(5))),
            correlationid: None,
            causationid: None,
            traceparent: None,
            env: None,
            dataclass: None,
            policyref: None,
            returnevents: false,
            data,
        }
    }

    /// Parses an envelope.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope: Self = serde_json::from_slice(bytes).map_err(|e| EnvelopeError::Malformed(e.to_string()))?;
        if envelope.specversion != "1.0" {
            return Err(EnvelopeError::Malformed(format!("specversion '{}' is not 1.0", envelope.specversion)));
        }
        Ok(envelope)
    }

    /// Checks that the envelope belongs to the address it was published for, that its actor is proved, and its time.
    ///
    /// `received` is when the bus stored the command: the actor must have been valid then, however long it waited.
    pub fn authenticate(
        &self,
        keys: &KeyRing,
        aggregate: &AggregateRef,
        received: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<Actor, EnvelopeError> {
        if self.orgid != aggregate.tenant || self.subject != aggregate.path() {
            return Err(EnvelopeError::Address {
                subject: aggregate.command_subject(),
                named: format!("{}/{}", self.orgid, self.subject),
            });
        }
        let assertion = self.actorassertion.as_deref().ok_or(AssertionError::Missing)?;
        let actor = Actor::of_assertion(keys, assertion, received)?;
        if self.time > now + MAX_SKEW || self.time < now - MAX_AGE {
            return Err(EnvelopeError::Clock { time: self.time, now });
        }
        Ok(actor)
    }

    /// What the events of this command carry of it.
    #[must_use]
    pub fn context(&self, actor: &Actor) -> Context {
        Context {
            actor_id: actor.id.clone(),
            actor_type: actor.kind,
            on_behalf_of: actor.on_behalf_of.clone(),
            auth_method: actor.auth,
            command_id: self.id,
            correlation_id: self.correlationid.clone().unwrap_or_else(|| self.id.to_string()),
            causation_id: self.causationid.clone().unwrap_or_else(|| self.id.to_string()),
            traceparent: self.traceparent.clone(),
            data_class: self.dataclass.clone(),
            env: self.env.clone(),
            policy_ref: self.policyref.clone(),
            at: self.time,
        }
    }
}
