//! Principals and tenants: users, agents, organizations, sessions.

mod agent;
mod capability;
mod organization;
mod session;
mod signing_key;
mod user;

pub use agent::*;
pub use capability::{BASELINE, may_grant};
pub use organization::*;
pub use session::*;
pub use signing_key::*;
pub use user::*;
