//! Who asks: REST, Socket.IO and WebSocket, one router per service.

pub mod http;
