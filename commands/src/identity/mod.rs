//! Commands and aggregates of the identity service (identity.md §15, §16).

mod organization;
mod session;
mod user;

pub use organization::*;
pub use session::*;
pub use user::*;
