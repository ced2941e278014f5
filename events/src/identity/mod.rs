//! Events of the identity service (identity.md §16).

mod organization;
mod session;
mod user;

pub use organization::*;
pub use session::*;
pub use user::*;
