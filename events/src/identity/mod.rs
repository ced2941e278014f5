//! Events of the identity service (identity.md §16).

mod access;
mod agent;
mod api_key;
mod application;
mod authorization;
mod credential;
mod delegation;
mod entity;
mod grants;
mod organization;
mod plan;
mod project;
mod project_service;
mod scoped_entitlement;
mod session;
mod sign_in;
mod signing_key;
mod user;

pub use access::*;
pub use agent::*;
pub use api_key::*;
pub use application::*;
pub use authorization::*;
pub use credential::*;
pub use delegation::*;
pub use entity::*;
pub use grants::*;
pub use organization::*;
pub use plan::*;
pub use project::*;
pub use project_service::*;
pub use scoped_entitlement::*;
pub use session::*;
pub use sign_in::*;
pub use signing_key::*;
pub use user::*;
