//! The network service's aggregates, and its pure core: policies compiled and asked, and the routing of an event
//! (network.md §8, 13).

mod bridge;
mod contract;
mod conversations;
mod engine;
mod letter;
mod node;
mod pattern;
mod policy;
mod refusals;
mod rights;
mod routed_event;
mod routing;
mod transform;

pub use bridge::*;
pub use contract::*;
pub use conversations::*;
pub use engine::{Evaluation, Inputs, PolicyRecord, PolicySet, Rule};
pub use letter::Letter;
pub use node::*;
pub use pattern::{covers, is_ephemeral, is_pattern};
pub use policy::*;
pub use refusals::*;
pub use rights::{
    CONTRACTS_WRITE, EVENTS_READ, EVENTS_WRITE, NODES_ADMIN, POLICIES_READ, POLICIES_WRITE, TOPOLOGY_READ, TRACES_READ,
    may,
};
pub use routed_event::*;
pub use routing::{
    BridgeView, ContractView, Decided, MeshEvent, MeshView, NodeView, Options, bridge_node, reconsider, route,
};
pub use transform::{redacted, transformed};
