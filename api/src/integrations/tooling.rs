//! Tools of MCP servers that the platform calls itself (integrations.md §28): a model is asked, what it calls is called, and it
//! is asked again with the results, until it answers, calls a function of the caller's own, or may call no more.
//!
//! Each time that the model is asked is a request of its own in the log, and each call an invocation; their ids follow from that
//! of the first request. So a repetition with the same `Idempotency-Key` finds what was done, and goes on where it stood.
//!
//! A turn that calls both tools of servers and functions of the caller's own ends the loop with the latter alone, and none of the
//! former is made: its result would be in no conversation that the caller could send back, so it would be called for nothing.

mod calls;
mod names;
mod outcome;
mod rounds;
mod telling;
mod toolset;
mod wanted;

pub(super) use self::{
    calls::{Fault, Made, Planned, again, plan},
    names::{NamedServer, NamedTool, Next, ToolNames},
    outcome::{Outcome, PARAGRAPH, Round},
    rounds::{LATER_ROUND, Rounds, nth_round},
    telling::ToolDialect,
    toolset::Toolset,
    wanted::{ServerOf, Wanted, WantedServer, first_tool, most_rounds},
};
