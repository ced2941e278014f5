//! Events of the integrations service (integrations.md §25).

mod budget;
mod circuit;
mod completion;
mod embedding;
mod price;
mod prompt;

pub use budget::*;
pub use circuit::*;
pub use completion::*;
pub use embedding::*;
pub use price::*;
pub use prompt::*;
