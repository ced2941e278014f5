//! Who asks: REST, Socket.IO and WebSocket, one router per service.

pub mod feed;
pub mod http;
pub mod identity;
pub mod platform;

pub use platform::Platform;
