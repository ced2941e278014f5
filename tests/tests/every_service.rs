//! What holds on every service alike: who is let in, on whose word, and for how long.
#![allow(missing_docs, reason = "tests")]

#[path = "every_service/forged.rs"]
mod forged;
#[path = "every_service/operator.rs"]
mod operator;
#[path = "every_service/revoked.rs"]
mod revoked;
#[path = "every_service/stage.rs"]
mod stage;
