//! Events of the identity service (identity.md §16).

mod agent;
mod organization;
mod session;
mod signing_key;
mod user;

pub use agent::*;
pub use organization::*;
pub use session::*;
pub use signing_key::*;
pub use user::*;
