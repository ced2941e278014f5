//! What follows from the network's events: deliveries to nodes, bridges, webhooks and conversations, and the end of nodes that
//! fell silent.

mod bridges;
mod courier;
mod deliverer;
mod keeper;
mod liveness;
mod metrics;
mod order;
mod post;
mod queue;
mod replies;
mod webhooks;
mod word;

pub use courier::Courier;
pub use deliverer::{DelivererOptions, MeshDeliverer};
pub use keeper::MeshKeeper;
pub use liveness::Liveness;
pub use post::Post;
pub(crate) use word::{Word, iso};
