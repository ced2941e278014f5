//! The shape of deciding: an aggregate folds its events into state and decides commands against it.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use symbia_events::{AggregateRef, DecodeError, DomainEvent, MessageType, OrgId};
use time::OffsetDateTime;

use crate::Actor;

/// The commands of one kind of aggregate. Implemented by [`domain_commands!`](crate::domain_commands).
pub trait DomainCommand: Clone + fmt::Debug + Send + Sync + Sized + 'static {
    /// CloudEvents `type`: `symbia.cmd.<service>.<verb-kebab>.v<n>`.
    fn command_type(&self) -> &'static str;
    /// The payload as JSON.
    fn to_data(&self) -> serde_json::Result<Box<serde_json::value::RawValue>>;
    /// Reads the payload of a command of the given `type`.
    fn from_data(command_type: &str, data: &str) -> Result<Self, DecodeError>;
    /// Types and schemas, for the documents.
    fn types() -> Vec<MessageType>;
}

/// A consistency boundary. `decide` sees the state, the command, the actor and the command's time, and nothing else.
pub trait Aggregate: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Version of the state's shape; snapshots of another version are dropped.
    const STATE_VERSION: u32;
    /// The member of its commands' data that repeats the aggregate's id, where there is one. A command that names another
    /// aggregate in its data than the one it is sent to is refused; so is one whose `orgId` is not its tenant.
    const ID_FIELD: Option<&'static str> = None;
    /// What it can be asked to do.
    type Command: DomainCommand;
    /// What can have happened to it.
    type Event: DomainEvent;

    /// Folds one event into the state. Total: it never fails and never panics.
    fn apply(&mut self, event: &Self::Event);

    /// Whether a command is, as a rule, the first that is sent to its aggregate, whose id is made with it. It is decided without
    /// a look at the log, which refuses what is decided if there is something after all; then it is looked at.
    fn begins(_command: &Self::Command) -> bool {
        false
    }

    /// Whether nothing more is expected to happen to it. Who asks for it again then reads its events: it is worth neither memory
    /// nor a snapshot.
    fn has_ended(&self) -> bool {
        false
    }

    /// Decides a command: the events that follow from it, or why it is refused. No events = nothing to change.
    fn decide(
        &self,
        command: Self::Command,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<Self::Event>, Rejection>;

    /// Whether a command may be sent to this address, where that takes more than [`Self::ID_FIELD`] and `orgId` to tell.
    /// [`check_address`](crate::check_address) asks.
    fn belongs(_command: &Self::Command, _to: &AggregateRef) -> Result<(), Rejection> {
        Ok(())
    }

    /// Whether a command is only for those who belong to its tenant.
    fn tenant_rule(_command: &Self::Command) -> TenantRule {
        TenantRule::Members
    }
}

/// Who may send a command to a tenant's aggregate, before the aggregate itself looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantRule {
    /// Members of the tenant, operators, the platform.
    Members,
    /// Anyone authenticated: the aggregate decides (founding an organization, say).
    Anyone,
}

/// What follows from a command: events of the aggregate, and names it claims or gives up in the same commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<E> {
    /// Events of the aggregate, in order.
    pub events: Vec<E>,
    /// Changes of unique names.
    pub claims: Vec<ClaimChange>,
}

impl<E> Decision<E> {
    /// Nothing to change.
    #[must_use]
    pub fn nothing() -> Self {
        Decision { events: Vec::new(), claims: Vec::new() }
    }

    /// One event.
    pub fn one(event: impl Into<E>) -> Self {
        Decision { events: vec![event.into()], claims: Vec::new() }
    }

    /// And another event.
    #[must_use]
    pub fn and(mut self, event: impl Into<E>) -> Self {
        self.events.push(event.into());
        self
    }

    /// And a name that must be free, or held by the same holder already.
    #[must_use]
    pub fn claiming(mut self, claim: Claim) -> Self {
        self.claims.push(ClaimChange::Take(claim));
        self
    }

    /// And a name given up.
    #[must_use]
    pub fn releasing(mut self, claim: Claim) -> Self {
        self.claims.push(ClaimChange::Release(claim));
        self
    }
}

/// A name that only one holder can have within a tenant: the way to uniqueness across aggregates (DESIGN §4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Tenant within which it is unique.
    pub tenant: OrgId,
    /// `<purpose>:<value or keyed hash>`, a subject token.
    pub name: String,
    /// Who has it: the claiming aggregate's id.
    pub holder: String,
    /// Code of the rejection when somebody else has it, e.g. `EMAIL_TAKEN`.
    pub taken: &'static str,
}

/// A change of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimChange {
    /// Takes a free name.
    Take(Claim),
    /// Gives it up.
    Release(Claim),
}

impl ClaimChange {
    /// The claim that changes.
    #[must_use]
    pub fn claim(&self) -> &Claim {
        match self {
            ClaimChange::Take(claim) | ClaimChange::Release(claim) => claim,
        }
    }
}

/// A command refused: nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Stable UPPER_SNAKE code (platform.md §9.2).
    pub code: Cow<'static, str>,
    /// What was wrong and what to do.
    pub message: String,
}

impl Rejection {
    /// A refusal.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Rejection { code: Cow::Borrowed(code), message: message.into() }
    }

    /// The thing addressed does not exist.
    pub fn not_found(what: &str) -> Self {
        Self::new("NOT_FOUND", format!("there is no such {what}"))
    }

    /// The actor may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new("FORBIDDEN", message)
    }

    /// The data names another aggregate than the one that it was sent to.
    pub fn misaddressed(to: &AggregateRef) -> Self {
        Self::new("WRONG_TENANT", format!("the data names another aggregate than {to}, which the command was sent to"))
    }

    /// A field has an unusable value.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new("VALIDATION_FAILED", message)
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Declares the commands of one kind of aggregate: a payload struct each (camelCase on the wire) and the enum over them.
#[macro_export]
macro_rules! domain_commands {
    (
        $(#[$outer:meta])*
        $enum:ident: $service:ident / $aggregate:literal {
            $( $(#[$meta:meta])* $command:ident = $type:literal { $( $(#[$fmeta:meta])* $field:ident: $ty:ty ),* $(,)? } )*
        }
    ) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
            #[serde(rename_all = "camelCase", deny_unknown_fields)]
            #[allow(missing_docs, reason = "payload fields are named as in the service's specification")]
            pub struct $command { $( $(#[$fmeta])* pub $field: $ty ),* }
            impl From<$command> for $enum {
                fn from(command: $command) -> Self { $enum::$command(command) }
            }
            impl $command {
                /// CloudEvents `type`.
                pub const TYPE: &'static str = $type;
            }
        )*
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each variant wraps the payload of the same name")]
        #[allow(clippy::large_enum_variant, reason = "a command is moved once, from the wire to its decision")]
        pub enum $enum { $( $command($command) ),* }

        impl $crate::DomainCommand for $enum {
            fn command_type(&self) -> &'static str {
                match self { $( $enum::$command(_) => $type ),* }
            }

            fn to_data(&self) -> serde_json::Result<Box<serde_json::value::RawValue>> {
                match self { $( $enum::$command(command) => serde_json::value::to_raw_value(command) ),* }
            }

            fn from_data(command_type: &str, data: &str) -> Result<Self, symbia_events::DecodeError> {
                match command_type {
                    $( $type => symbia_events::read_data::<$command>(command_type, data).map($enum::$command), )*
                    _ => Err(symbia_events::DecodeError::UnknownType(command_type.to_owned())),
                }
            }

            fn types() -> Vec<symbia_events::MessageType> {
                vec![ $( symbia_events::MessageType {
                    name: $type,
                    schema: schemars::schema_for!($command),
                    service: symbia_events::Service::$service,
                    aggregate: $aggregate,
                } ),* ]
            }
        }
    };
}
