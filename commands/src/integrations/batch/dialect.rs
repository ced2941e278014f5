//! What the lines of a batch are written in: the same APIs that are served over HTTP. Who runs batches knows none of them.

use serde_json::Value;
use symbia_events::{
    SubjectKey,
    integrations::{BatchEndpoint, CompletionEvent, EmbeddingEvent},
};
use time::OffsetDateTime;

use crate::{
    Rejection,
    integrations::{Question, Texts},
};

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum LineQuestion {
    /// A model's answer.
    Completion(Box<Question>),
    /// Vectors.
    Embedding(Texts),
}

/// What would be answered over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct LineAnswer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
}

impl LineAnswer {
    /// Whether it is no error.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status < 400
    }
}

/// Reads bodies of requests, and writes bodies of answers.
pub trait BatchDialect: Send + Sync + 'static {
    /// What the body of a line asks for.
    ///
    /// # Errors
    /// What would be answered to a body that is refused.
    fn read(&self, endpoint: BatchEndpoint, body: Value) -> Result<LineQuestion, LineAnswer>;

    /// What is refused before a model is asked.
    fn refusal(&self, rejection: Rejection) -> LineAnswer;

    /// The answer to a line, when an event is the end of the request that it is. `asked`: its body.
    fn completed(
        &self,
        endpoint: BatchEndpoint,
        asked: Value,
        asked_at: OffsetDateTime,
        key: &SubjectKey,
        end: CompletionEvent,
    ) -> Option<LineAnswer>;

    /// The same where vectors were asked for.
    fn embedded(&self, asked: Value, key: &SubjectKey, end: EmbeddingEvent) -> Option<LineAnswer>;
}
