//! Principals and tenants: users, agents, organizations, sessions.

mod access;
mod agent;
mod api_key;
mod application;
mod approval;
mod authorization;
mod capability;
mod credential;
mod delegation;
mod entity;
mod grants;
mod instants;
mod organization;
mod plan;
mod project;
mod project_service;
mod rules;
mod scoped_entitlement;
mod session;
mod sign_in;
mod signing_key;
#[cfg(test)]
mod testing;
mod user;

pub use access::*;
pub use agent::*;
pub use api_key::*;
pub use application::*;
pub use approval::*;
pub use authorization::*;
pub use capability::{BASELINE, may_grant};
pub use credential::*;
pub use delegation::*;
pub use entity::*;
pub use grants::*;
pub use organization::*;
pub use plan::*;
pub use project::*;
pub use project_service::*;
pub use rules::{is_address, present};
pub use scoped_entitlement::*;
pub use session::*;
pub use sign_in::*;
pub use signing_key::*;
pub use user::*;
