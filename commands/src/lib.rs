//! What may happen: command types, aggregates and authorization. Pure: no I/O, no clock, no randomness.

mod actor;
mod address;
mod aggregate;
pub mod assistants;
pub mod asyncapi;
mod authority;
mod catalog;
pub mod claim;
mod envelope;
pub mod identity;
pub mod integrations;
pub mod logging;
pub mod messaging;
pub mod models;
pub mod network;
mod outcome;
mod service_token;
pub mod testing;

pub use actor::{Actor, AssertionError, Membership, Role};
pub use address::check_address;
pub use aggregate::{Aggregate, Claim, ClaimChange, Decision, DomainCommand, Rejection, TenantRule};
pub use authority::{Approved, Authority, Level, action};
pub use catalog::catalog;
pub use envelope::{CommandEnvelope, EnvelopeError, MAX_AGE, MAX_SKEW};
pub use outcome::{EventRef, Outcome, OutcomeStatus};
pub use service_token::{SERVICE_TOKEN_MAX, ServiceToken};
