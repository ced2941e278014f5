//! Linking accounts at other providers (integrations.md §14): where it can be done, a person's way there and back, and the
//! account once it is linked.

mod client;
mod connection;
mod flow;
mod presets;

pub use client::*;
pub use connection::*;
pub use flow::*;
pub use presets::{PRESETS, Preset, preset};

use crate::{Actor, Rejection};

// Tokens are got, kept and given back by the platform.
fn platforms(by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() { Ok(()) } else { Err(Rejection::forbidden("the platform does this by itself")) }
}

#[cfg(test)]
mod tests;
