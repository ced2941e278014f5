//! Events of the models service (models.md §16).

mod model;

pub use model::*;
