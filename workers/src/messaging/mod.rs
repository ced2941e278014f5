//! Acting on what happens in conversations.

mod eraser;

pub use eraser::{Eraser, Periods};
