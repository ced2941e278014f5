//! Events of the integrations service (integrations.md §25).

mod budget;
mod channel;
mod circuit;
mod completion;
mod embedding;
mod eval_schedule;
mod evaluation;
mod guardrail;
mod image;
mod invocation;
mod kept;
mod oauth;
mod price;
mod prompt;
mod registry;
mod route;
mod signature;
mod task;

pub use budget::*;
pub use channel::*;
pub use circuit::*;
pub use completion::*;
pub use embedding::*;
pub use eval_schedule::*;
pub use evaluation::*;
pub use guardrail::*;
pub use image::*;
pub use invocation::*;
pub use kept::*;
pub use oauth::*;
pub use price::*;
pub use prompt::*;
pub use registry::*;
pub use route::*;
pub use signature::*;
pub use task::*;
