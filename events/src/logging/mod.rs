//! Events of the logging service (logging.md §14).

mod seal;

pub use seal::*;
