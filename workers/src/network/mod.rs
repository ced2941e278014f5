//! What follows from the network's events: deliveries to nodes and bridges, and the end of nodes that fell silent.

mod bridges;
mod courier;
mod deliverer;
mod keeper;
mod liveness;
mod metrics;
mod order;
mod post;

pub use courier::Courier;
pub use deliverer::{DelivererOptions, MeshDeliverer};
pub use keeper::MeshKeeper;
pub use liveness::Liveness;
pub use post::Post;
