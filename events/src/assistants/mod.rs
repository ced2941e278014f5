//! Events of the assistants service (assistants.md §21).

mod assistant;
mod rule;
mod rule_run;
mod rule_set;

pub use assistant::*;
pub use rule::*;
pub use rule_run::*;
pub use rule_set::*;
