//! The log and the bus on NATS JetStream: event store, command bus, snapshots, timers, broker.

pub mod broker;
pub mod log;
pub mod process;
