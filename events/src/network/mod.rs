//! Events of the network service: who is on an organization's mesh, who may send what to whom, and what became of each call
//! (network.md §13).

mod bridge;
mod contract;
mod hash;
mod node;
mod policy;
mod routed_event;
mod security;
mod view;

pub use bridge::*;
pub use contract::*;
pub use hash::*;
pub use node::*;
pub use policy::*;
pub use routed_event::*;
pub use security::*;
pub use view::*;

/// Id of the key that seals what an organization's events carry.
#[must_use]
pub fn mesh_key_id(org: &str) -> String {
    format!("mesh:{org}")
}
