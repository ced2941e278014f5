//! Processes and servers are killed under load, at random moments. Nothing acknowledged is lost or done twice, the read
//! models equal the log, and everything heals by itself.
//!
//! `SYMBIA_TEST_LONG` makes it 50 rounds of each kill instead of 5; `SYMBIA_TEST_SEED` repeats a run's moments.
#![allow(missing_docs, reason = "tests")]

#[path = "faults/kills.rs"]
mod kills;
#[path = "faults/outage.rs"]
mod outage;
#[path = "faults/repeated.rs"]
mod repeated;
#[path = "faults/sockets.rs"]
mod sockets;

type Tested = anyhow::Result<()>;
