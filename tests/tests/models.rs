//! The models service over HTTP: real broker, real database, the real engine with the models that ship.
#![cfg(feature = "llama")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "models/answers.rs"]
mod answers;
#[path = "models/clients.rs"]
mod clients;
#[path = "models/downloads.rs"]
mod downloads;
#[path = "models/hub.rs"]
mod hub;
#[path = "models/lifecycle.rs"]
mod lifecycle;
#[path = "models/memory.rs"]
mod memory;
#[path = "models/ollama.rs"]
mod ollama;
#[path = "models/settings.rs"]
mod settings;
#[path = "models/stage.rs"]
mod stage;
