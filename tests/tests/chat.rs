//! The main job over REST and SSE: real broker, real database, the real workers, a model that follows a script.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "chat/admin.rs"]
mod admin;
#[path = "chat/answers.rs"]
mod answers;
#[path = "chat/channels.rs"]
mod channels;
#[path = "chat/checklist.rs"]
mod checklist;
#[path = "chat/control.rs"]
mod control;
#[path = "chat/conversations.rs"]
mod conversations;
#[path = "chat/delegates.rs"]
mod delegates;
#[path = "chat/endings.rs"]
mod endings;
#[path = "chat/erasure.rs"]
mod erasure;
#[path = "chat/front.rs"]
mod front;
#[path = "chat/isolation.rs"]
mod isolation;
#[path = "chat/members.rs"]
mod members;
#[path = "chat/model.rs"]
mod model;
#[path = "chat/reading.rs"]
mod reading;
#[path = "chat/sockets.rs"]
mod sockets;
#[path = "chat/sockets_resume.rs"]
mod sockets_resume;
#[path = "chat/sockets_stock.rs"]
mod sockets_stock;
#[path = "chat/stage.rs"]
mod stage;
#[path = "chat/story.rs"]
mod story;
#[path = "chat/stream.rs"]
mod stream;
