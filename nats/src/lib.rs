//! The log and the bus on NATS JetStream: event store, command bus, snapshots, timers, broker.

pub mod append;
pub mod broker;
pub mod bus;
pub mod callout;
pub mod channels;
pub mod connections;
pub mod downloads;
pub mod enquiry;
pub mod files;
mod history;
pub mod inference;
pub mod leases;
pub mod limits;
pub mod log;
pub mod mesh;
pub mod places;
pub mod process;
pub mod read;
pub mod refusals;
pub mod sessions;
mod snapshot;
pub mod store;
pub mod tally;
pub mod telemetry;
pub mod timers;
pub mod topology;
pub mod witness;
