//! What follows from the network's events: deliveries to nodes and bridges, and the end of nodes that fell silent.

mod deliverer;
mod liveness;
mod order;
mod post;

pub use deliverer::{DelivererOptions, MeshDeliverer};
pub use liveness::Liveness;
pub use post::Post;
