//! Commands and aggregates of the integrations service (integrations.md §25).

mod completion;

pub use completion::*;
