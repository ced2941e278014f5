//! What is known: read models in PostgreSQL, folded from the log.

pub mod server;
