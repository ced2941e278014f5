//! End-to-end, compatibility, fault and isolation tests against the real binary, NATS and PostgreSQL.

pub mod apart;
pub mod binary;
pub mod cluster;
pub mod load;
pub mod python;
pub mod socketio;
pub mod stock;
