//! Commands and aggregates of the integrations service (integrations.md §25).

mod budget;
mod circuit;
mod completion;
mod embedding;
mod model_scope;
mod price;

pub use budget::*;
pub use circuit::*;
pub use completion::*;
pub use embedding::*;
pub use model_scope::*;
pub use price::*;
