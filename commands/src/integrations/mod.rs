//! Commands and aggregates of the integrations service (integrations.md §25).

mod administration;
mod asker;
mod budget;
pub mod builtin;
mod channel;
mod circuit;
mod completion;
mod embedding;
mod evaluation;
mod image;
mod invocation;
mod model_scope;
mod oauth;
pub mod openapi;
mod price;
mod registry;
mod route;
mod tags;
mod task;
mod tools;

pub use budget::*;
pub use channel::*;
pub use circuit::*;
pub use completion::*;
pub use embedding::*;
pub use evaluation::*;
pub use image::*;
pub use invocation::*;
pub use model_scope::*;
pub use oauth::*;
pub use price::*;
pub use registry::*;
pub use route::*;
pub use task::*;
pub use tools::{prompt_operation, resource_operations, tool_operation};
