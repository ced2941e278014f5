//! Feeds seen from outside, on a real broker: nothing missing, nothing twice, nothing of others, and clear ends.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, missing_docs, reason = "tests")]

#[path = "feed/access.rs"]
mod access;
#[path = "feed/endings.rs"]
mod endings;
#[path = "feed/following.rs"]
mod following;
#[path = "feed/requests.rs"]
mod requests;
#[path = "feed/stage.rs"]
mod stage;
