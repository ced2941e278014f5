//! Identifiers: newtypes, so that a tenant, a command and an aggregate cannot be mixed up, and the subjects they spell.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Service;

/// Longest identifier that may be a subject token.
pub const MAX_TOKEN: usize = 128;

/// A text that cannot be a token of a NATS subject.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not usable as an identifier: 1 to 128 of A-Z a-z 0-9 _ - : @ = are")]
pub struct InvalidToken(pub String);

/// Checks that a text can be one token of a NATS subject: no dots, blanks or wildcards, at most [`MAX_TOKEN`] bytes.
pub fn check_token(text: &str) -> Result<&str, InvalidToken> {
    let fits = !text.is_empty()
        && text.len() <= MAX_TOKEN
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-:@=".contains(&b));
    if fits { Ok(text) } else { Err(InvalidToken(text.chars().take(40).collect())) }
}

/// The tenant: an organization's id, or [`OrgId::GLOBAL`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct OrgId(String);

impl OrgId {
    /// The tenant of what belongs to no organization.
    pub const GLOBAL: &'static str = "global";
    /// The built-in organization of the platform's operators (platform.md §7.3).
    pub const SYSTEM: &'static str = "00000000-0000-0000-0000-000000000001";

    /// The tenant of what belongs to no organization.
    #[must_use]
    pub fn global() -> Self {
        OrgId(Self::GLOBAL.to_owned())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for OrgId {
    type Error = InvalidToken;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        check_token(&text)?;
        Ok(OrgId(text))
    }
}

impl FromStr for OrgId {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.to_owned().try_into()
    }
}

impl From<OrgId> for String {
    fn from(id: OrgId) -> String {
        id.0
    }
}

impl fmt::Display for OrgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Id of a command; repeating a command with the same id gives the first outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct CommandId(pub Uuid);

impl CommandId {
    /// A new, time-ordered id (UUIDv7).
    #[must_use]
    pub fn random() -> Self {
        CommandId(Uuid::now_v7())
    }

    /// The id of the follow-up that a reactor derives from this command or event: the same every time it is derived.
    #[must_use]
    pub fn derived(cause: Uuid, purpose: &str) -> Self {
        CommandId(Uuid::new_v5(&cause, purpose.as_bytes()))
    }

    /// Id of the commit this command leads to, the `Nats-Msg-Id` of its message (DESIGN §3).
    #[must_use]
    pub fn commit_id(self) -> Uuid {
        Uuid::new_v5(&self.0, b"commit")
    }

    /// Id of an aggregate's `index`-th event in the commit: a UUIDv7 of the command's time whose random part is derived from
    /// the command id and the aggregate. A commit may hold events of two aggregates: one and its claims.
    #[must_use]
    pub fn event_id(self, at: OffsetDateTime, aggregate: &AggregateRef, index: usize) -> Uuid {
        let seed = Uuid::new_v5(&self.0, format!("event {aggregate} {index}").as_bytes());
        let mut random = [0u8; 10];
        random.copy_from_slice(&seed.as_bytes()[..10]);
        let millis = u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The address of an aggregate: the four tokens after `symbia.evt.` and `symbia.cmd.`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AggregateRef {
    /// Owning service.
    pub service: Service,
    /// Tenant.
    pub tenant: OrgId,
    /// Kind of aggregate, kebab-case, e.g. `organization`.
    pub kind: String,
    /// Id within kind and tenant.
    pub id: String,
}

impl AggregateRef {
    /// Builds an address; fails when kind or id cannot be subject tokens.
    pub fn new(
        service: Service,
        tenant: OrgId,
        kind: impl Into<String>,
        id: impl Into<String>,
    ) -> Result<Self, InvalidToken> {
        let (kind, id) = (kind.into(), id.into());
        check_token(&kind)?;
        check_token(&id)?;
        Ok(AggregateRef { service, tenant, kind, id })
    }

    /// Subject of its events: `symbia.evt.<service>.<tenant>.<aggregate>.<id>`.
    #[must_use]
    pub fn event_subject(&self) -> String {
        format!("symbia.evt.{}.{}.{}.{}", self.service, self.tenant, self.kind, self.id)
    }

    /// Subject of its commands: `symbia.cmd.<service>.<tenant>.<aggregate>.<id>`.
    #[must_use]
    pub fn command_subject(&self) -> String {
        format!("symbia.cmd.{}.{}.{}.{}", self.service, self.tenant, self.kind, self.id)
    }

    /// Reads an address from a subject `symbia.<evt|cmd>.<service>.<tenant>.<aggregate>.<id>`.
    #[must_use]
    pub fn of_subject(subject: &str) -> Option<Self> {
        let mut tokens = subject.split('.');
        if tokens.next()? != "symbia" || !matches!(tokens.next()?, "evt" | "cmd") {
            return None;
        }
        let service = tokens.next()?.parse().ok()?;
        let tenant = tokens.next()?.parse().ok()?;
        let address = Self::new(service, tenant, tokens.next()?, tokens.next()?).ok()?;
        tokens.next().is_none().then_some(address)
    }

    /// The CloudEvents `subject`: `<aggregate>/<id>`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.kind, self.id)
    }
}

impl fmt::Display for AggregateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.service, self.tenant, self.kind, self.id)
    }
}

/// A place in the log: sequence of a message in a service's event stream. 0 = before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Whose event stream.
    pub service: Service,
    /// Sequence of the message in that stream, from 1.
    pub sequence: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.sequence)
    }
}

/// The text is no position.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no position: write <service>:<sequence>, for example identity:42")]
pub struct InvalidPosition(pub String);

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPosition(text.to_owned());
        let (service, sequence) = text.split_once(':').ok_or_else(invalid)?;
        Ok(Position {
            service: service.parse().map_err(|_| invalid())?,
            sequence: sequence.parse().map_err(|_| invalid())?,
        })
    }
}
