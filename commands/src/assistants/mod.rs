//! Commands and aggregates of the assistants service (assistants.md §21), the rule engine, and what follows from what.

mod assistant;
pub mod award;
mod check;
pub mod control;
pub mod fault;
mod lookup;
mod plan;
pub mod reactions;
pub mod replay;
mod rule_run;
mod rule_set;
pub mod rules;
pub mod seed;
pub mod template;

pub use assistant::*;
pub use rule_run::*;
pub use rule_set::*;
