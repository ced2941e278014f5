//! Events of the identity service (identity.md §16).

mod agent;
mod organization;
mod session;
mod user;

pub use agent::*;
pub use organization::*;
pub use session::*;
pub use user::*;
