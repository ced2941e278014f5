//! The HTTP skeleton seen from outside: whole bodies and headers of everything that services share.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "http/auth.rs"]
mod auth;
#[path = "http/cors.rs"]
mod cors;
#[path = "http/docs.rs"]
mod docs;
#[path = "http/errors.rs"]
mod errors;
#[path = "http/health.rs"]
mod health;
#[path = "http/serving.rs"]
mod serving;
#[path = "http/stage.rs"]
mod stage;
