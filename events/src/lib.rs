//! What happened: event types per service, the CloudEvents envelope, signing, the hash chain, sealing, ids.

pub mod assistants;
pub mod audit;
pub mod canonical;
mod catalog;
pub mod commit;
mod domain;
mod envelope;
pub mod example;
pub mod identity;
mod ids;
pub mod integrations;
pub mod keys;
pub mod logging;
pub mod messaging;
pub mod models;
pub mod network;
mod recent;
mod seal;
mod service;
pub mod upcast;

pub use catalog::{RecodeError, catalog, recode};
pub use domain::{DecodeError, DomainEvent, MessageType, read_data};
pub use envelope::{
    ActorType, AuthMethod, Context, EncodeError, Event, GENESIS, MAX_DATA, Signed, hash, sign_commit, sign_data, verify,
};
pub use ids::{AggregateRef, CommandId, InvalidPosition, InvalidToken, MAX_TOKEN, OrgId, Position, check_token};
pub use keys::{KeyError, KeyInfo, KeyRing, KeyStatus, SignatureError};
pub use seal::{Personal, SubjectKey, UnsealError};
pub use service::{Service, UnknownService};
