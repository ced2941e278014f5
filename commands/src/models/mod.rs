//! Commands and aggregates of the models service (models.md §16).

mod download;
mod model;
mod settings;
mod usage;

pub use download::*;
pub use model::*;
pub use usage::*;
