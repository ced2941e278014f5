//! What a messenger does for a connection, whichever it is: to be told where to call, to say something, to give a file.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::StatusCode;
use serde_json::Value;
use symbia_commands::integrations::ChannelContent;
use symbia_egress::{Blocked, EgressError};
use symbia_events::integrations::ChannelMode;
use zeroize::Zeroizing;

use super::{markup::Part, update::Attachment};

/// How long a call may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Why the other side does not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// A code for the record.
    pub code: String,
    /// It may do it later.
    pub passing: bool,
    /// When it wants to be asked again.
    pub after: Option<Duration>,
    /// It will do nothing for this connection.
    pub fatal: bool,
}

impl Refused {
    pub fn passing(code: &str, after: Option<Duration>) -> Self {
        Refused { code: code.to_owned(), passing: true, after, fatal: false }
    }

    pub fn lasting(code: &str) -> Self {
        Refused { code: code.to_owned(), passing: false, after: None, fatal: false }
    }

    pub fn fatal(code: &str) -> Self {
        Refused { fatal: true, ..Self::lasting(code) }
    }

    /// What an HTTP status says of a call that carries a token.
    pub fn of_status(status: StatusCode, after: Option<Duration>) -> Self {
        match status.as_u16() {
            401 => Refused::fatal("unauthorized"),
            403 => Refused::lasting("forbidden"),
            404 => Refused::lasting("not_found"),
            429 => Refused::passing("rate_limited", after),
            400..=499 => Refused::lasting("refused"),
            _ => Refused::passing("unavailable", after),
        }
    }
}

impl From<EgressError> for Refused {
    fn from(error: EgressError) -> Self {
        match error {
            // A name service that fails today may know the name tomorrow.
            EgressError::Blocked(Blocked::Unknown) => Refused::passing(error.code(), None),
            EgressError::Blocked(_) => Refused::fatal(error.code()),
            error => Refused::passing(error.code(), None),
        }
    }
}

/// How a connection is to be made.
pub(super) struct Opening<'o> {
    pub mode: ChannelMode,
    /// Where the other side is to call.
    pub webhook_url: &'o str,
    /// What its calls are to carry, or are signed with.
    pub secret: Option<&'o Zeroizing<String>>,
    /// What was said before is left out.
    pub drop_pending_updates: bool,
}

/// The account there that speaks for us.
pub(super) struct SpeaksAs {
    pub id: String,
    pub name: String,
}

/// A part that is to be said.
pub(super) struct Saying<'s> {
    /// What it is a part of.
    pub content: &'s ChannelContent,
    pub part: &'s Part,
    /// Our id of it, the same at each attempt.
    pub id: &'s str,
    /// What was said last there brought this along for whoever answers.
    pub thread: Option<&'s str>,
}

/// A line to the other side, with what proves whose it is.
#[async_trait]
pub(super) trait Messenger: Send + Sync {
    /// Makes the other side talk to us.
    async fn open(&self, how: &Opening<'_>) -> Result<SpeaksAs, Refused>;

    /// Has the other side talk to us no more.
    async fn close(&self) -> Result<(), Refused> {
        Ok(())
    }

    /// How the other side says that it is doing; nothing when all is well.
    async fn state(&self, _mode: &str) -> Result<Option<String>, Refused> {
        Ok(None)
    }

    /// What was said from a place on, where it is to be asked.
    async fn updates(&self, _offset: i64, _waits: Duration) -> Result<Vec<Value>, Refused> {
        Err(Refused::fatal("not_asked"))
    }

    /// What is to be said, as messages that are not too long.
    fn parts(&self, content: &ChannelContent) -> Vec<Part>;

    /// Says a part, and gives the other side's id of it.
    async fn say(&self, saying: &Saying<'_>) -> Result<String, Refused>;

    /// Shows in a chat that an answer to a message is being thought about, and says for how long it is shown; none when the other
    /// side shows no such thing.
    async fn shows_typing(&self, _chat: &str, _message: &str) -> Result<Option<Duration>, Refused> {
        Ok(None)
    }

    /// A file that came along, if it has no more than `most` bytes.
    async fn file(&self, attachment: &Attachment, most: usize) -> Result<Bytes, Refused>;
}
