//! What every service of ours is served with: errors, request scope, CORS, health, docs, authentication, limits, shutdown
//! (platform.md §2–4, 7.2, 9–13, 15).
//!
//! A service builds an [`server::ServiceApp`] from its router and gets an [`server::HttpService`] to `serve`.

pub mod auth;
pub mod body;
pub mod caller;
mod codes;
pub mod cors;
pub mod discovery;
mod docs;
mod edge;
pub mod error;
pub mod health;
pub mod listen;
mod llms;
mod metrics;
pub mod principal;
pub mod rate;
pub mod request;
pub(crate) mod routing;
pub mod server;
pub mod shared_rate;
pub mod trace;

pub use auth::{AuthError, Authenticator};
pub use body::{Json, Path, Query, Validation};
pub use caller::{Caller, OptionalCaller};
pub(crate) use error::AsItIs;
pub use error::{ApiError, ApiResult, Detail};
pub use health::Health;
pub use principal::Principal;
pub use request::RequestScope;
pub(crate) use routing::routes;
pub use server::{HttpService, ServiceApp};
