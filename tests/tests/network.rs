//! The network service end to end: real broker, real database, command worker, projectors, deliverer, REST on a port.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "network/contracts.rs"]
mod contracts;
#[path = "network/deliveries.rs"]
mod deliveries;
#[allow(dead_code, reason = "the stage of identity's tests, of which these need a part")]
#[path = "identity/stage.rs"]
mod identity;
#[path = "network/lanes.rs"]
mod lanes;
#[path = "network/liveness.rs"]
mod liveness;
#[path = "network/outside.rs"]
mod outside;
#[path = "network/policies.rs"]
mod policies;
#[path = "network/refusals.rs"]
mod refusals;
#[path = "network/registry.rs"]
mod registry;
#[path = "network/restart.rs"]
mod restart;
#[path = "network/services.rs"]
mod services;
#[path = "network/simulation.rs"]
mod simulation;
#[path = "network/sockets.rs"]
mod sockets;
#[path = "network/sockets_stock.rs"]
mod sockets_stock;
#[path = "network/stage.rs"]
mod stage;
#[path = "network/tenants.rs"]
mod tenants;
#[path = "network/three_ways.rs"]
mod three_ways;
