//! What people and machines get wrong: each gives a clear error that says what to do, and leaves nothing half done.
#![allow(missing_docs, reason = "tests")]

#[path = "bad_input/database.rs"]
mod database;
#[path = "bad_input/disk.rs"]
mod disk;
#[path = "bad_input/requests.rs"]
mod requests;
#[path = "bad_input/snapshot.rs"]
mod snapshot;
#[path = "bad_input/start.rs"]
mod start;

type Tested = anyhow::Result<()>;
