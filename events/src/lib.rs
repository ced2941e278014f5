//! What happened: event types per service, the CloudEvents envelope, signing, the hash chain, sealing, ids.

pub mod service;

pub use service::Service;
