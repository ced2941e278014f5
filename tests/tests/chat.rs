//! The main job over REST and SSE: real broker, real database, the real workers, a model that follows a script.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "chat/answers.rs"]
mod answers;
#[path = "chat/conversations.rs"]
mod conversations;
#[path = "chat/isolation.rs"]
mod isolation;
#[path = "chat/model.rs"]
mod model;
#[path = "chat/stage.rs"]
mod stage;
#[path = "chat/story.rs"]
mod story;
#[path = "chat/stream.rs"]
mod stream;
