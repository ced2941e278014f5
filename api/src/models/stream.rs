//! Answers as they come: server-sent events in the order of OpenAI's API (models.md §5, 15.2).

use std::{convert::Infallible, time::Duration};

use axum::{
    http::HeaderName,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;
use serde_json::{Value, json};
use symbia_nats::inference::{Completed, Frame, Frames};
use tokio::sync::mpsc;

use super::{
    answer::Heading,
    error::{failed, unanswered},
};
use crate::http::ApiError;

/// Parts between the engine and the connection.
const QUEUE: usize = 64;
const HEARTBEAT: Duration = Duration::from_secs(15);
const DONE: &str = "[DONE]";

/// Answers with the frames of a request whose computation has begun. A connection that ends stops the model.
pub(super) fn answer(frames: Frames, heading: Heading, choices: u32, include_usage: bool) -> Response {
    let (parts, queue) = mpsc::channel(QUEUE);
    let connection = parts.clone();
    tokio::spawn(async move {
        let mut streaming = Streaming { heading, parts, calls: vec![0; choices as usize], include_usage };
        tokio::select! {
            _ = streaming.run(frames) => {}
            () = connection.closed() => {}
        }
    });
    let lines = stream::unfold(queue, |mut queue| async { queue.recv().await.map(|line| (line, queue)) });
    let lines = futures::StreamExt::map(lines, |text: String| Ok::<_, Infallible>(Event::default().data(text)));
    let mut response = Sse::new(lines).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response();
    // Proxies would hold the parts back.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), axum::http::HeaderValue::from_static("no"));
    response.headers_mut().extend([unbuffered]);
    response
}

struct Streaming {
    heading: Heading,
    parts: mpsc::Sender<String>,
    /// Calls of tools so far, by choice.
    calls: Vec<usize>,
    include_usage: bool,
}

/// The connection is gone.
struct Gone;

impl Streaming {
    async fn run(&mut self, mut frames: Frames) -> Result<(), Gone> {
        for choice in 0..self.calls.len() {
            if let Some(opening) = self.heading.opening(choice as u32) {
                self.put(&opening).await?;
            }
        }
        loop {
            match frames.next().await {
                Ok(Frame::Delta { choice, piece }) => {
                    let Some(calls) = self.calls.get_mut(choice as usize) else { continue };
                    let chunk = self.heading.piece(choice, &piece, calls);
                    self.put(&chunk).await?;
                }
                Ok(Frame::Completed(completed)) => return self.complete(&completed).await,
                Ok(Frame::Failed(failure)) => return self.fail(&failed(failure)).await,
                Ok(frame) if frame.is_terminal() => return self.fail(&cancelled()).await,
                Ok(_) => {}
                Err(error) => return self.fail(&unanswered(error)).await,
            }
        }
    }

    async fn complete(&self, completed: &Completed) -> Result<(), Gone> {
        for (choice, answer) in (0..).zip(&completed.choices) {
            self.put(&self.heading.closing(choice, answer.finish_reason.name())).await?;
        }
        if self.include_usage {
            self.put(&self.heading.usage(completed)).await?;
        }
        self.send(DONE.to_owned()).await
    }

    async fn fail(&self, error: &ApiError) -> Result<(), Gone> {
        let object = json!({ "message": error.message(), "type": "server_error", "code": error.code().to_lowercase() });
        self.put(&json!({ "error": object })).await?;
        self.send(DONE.to_owned()).await
    }

    async fn put(&self, part: &Value) -> Result<(), Gone> {
        self.send(part.to_string()).await
    }

    async fn send(&self, text: String) -> Result<(), Gone> {
        self.parts.send(text).await.map_err(|_| Gone)
    }
}

/// Nobody but us cancels: the process is stopping.
pub(super) fn cancelled() -> ApiError {
    let message = "the model was stopped before its end; try again";
    super::error::error(axum::http::StatusCode::SERVICE_UNAVAILABLE, "engine_unavailable", message)
}
