//! Acting on what happens in conversations.

mod eraser;
mod retention;

pub use eraser::{Eraser, Periods};
pub use retention::Retention;
