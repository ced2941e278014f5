//! Commands and aggregates of the integrations service (integrations.md §25).

mod budget;
mod completion;
mod embedding;
mod price;

pub use budget::*;
pub use completion::*;
pub use embedding::*;
pub use price::*;
