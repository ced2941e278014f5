//! The batch aggregate: many requests to models that are asked a few at a time, each once (integrations.md §28).
//!
//! Which lines have their ends is a set of bits, so that the largest batch fits into a small snapshot. A line that ends makes the
//! next one be asked: the one that is as many places behind as are asked at once.

mod again;
mod dialect;
mod lines;
mod places;

use again::Again;
pub use dialect::{BatchDialect, LineAnswer, LineQuestion};
pub use lines::{BatchLine, LineCheck, MAX_ERRORS, MAX_LINE, MAX_LINES};
pub use places::{MAX_BATCHES, PLACE_TAKEN};

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    integrations::{
        BatchAdmitted, BatchCancelled, BatchCompleted, BatchCreated, BatchEndpoint, BatchError, BatchEvent,
        BatchExpired, BatchFailed, BatchFinalizing, BatchLineEnded, BatchStarted, BatchStop, BatchStopping,
        LineOutcome,
    },
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// How long a batch may take, and what it is called.
pub const WINDOW: (&str, Duration) = ("24h", Duration::hours(24));
/// Most bytes of what its owner says of it, sealed.
const MAX_METADATA: usize = 32 * 1024;

domain_commands! {
    /// What can be done about a batch. All but making and cancelling it is the platform's.
    BatchCommand: Integrations / "batch" {
        /// Has the lines of a file asked.
        CreateBatch = "symbia.cmd.integrations.create-batch.v1" {
            batch_id: String,
            input_file_id: String,
            endpoint: BatchEndpoint,
            /// `24h`.
            completion_window: String,
            /// The JSON of an object of texts.
            #[serde(default)]
            metadata: Option<Personal>,
        }
        /// It is one of those that its organization may have under way, and has this place until its end.
        AdmitBatch = "symbia.cmd.integrations.admit-batch.v1" { batch_id: String, org_id: String, place: u32 }
        /// Its lines can be asked.
        StartBatch = "symbia.cmd.integrations.start-batch.v1" { batch_id: String, lines: u32, at_once: u32 }
        /// Its input cannot be used.
        FailBatch = "symbia.cmd.integrations.fail-batch.v1" { batch_id: String, errors: Vec<BatchError> }
        /// A line has its result.
        EndBatchLine = "symbia.cmd.integrations.end-batch-line.v1" {
            batch_id: String,
            line: u32,
            outcome: LineOutcome,
        }
        /// A line met a limit, and is to be asked again at a time.
        DeferBatchLine = "symbia.cmd.integrations.defer-batch-line.v1" {
            batch_id: String,
            line: u32,
            /// How often it will have been asked again then.
            tries: u32,
            /// RFC 3339.
            ask_at: String,
        }
        /// That time has come.
        AskBatchLine = "symbia.cmd.integrations.ask-batch-line.v1" { batch_id: String, line: u32, tries: u32 }
        /// Whose it is wants no more of it.
        CancelBatch = "symbia.cmd.integrations.cancel-batch.v1" { batch_id: String }
        /// Its time is over.
        ExpireBatch = "symbia.cmd.integrations.expire-batch.v1" { batch_id: String }
        /// Its results are put together.
        CompleteBatch = "symbia.cmd.integrations.complete-batch.v1" {
            batch_id: String,
            #[serde(default)]
            output_file_id: Option<String>,
            #[serde(default)]
            error_file_id: Option<String>,
        }
    }
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchPhase {
    /// Never made.
    #[default]
    Unknown,
    /// Its file is looked through.
    Validating,
    /// Its lines are asked.
    Running,
    /// Those that were asked come to their ends.
    Stopping,
    /// Its results are put together.
    Finalizing,
    /// It has its one end.
    Over,
}

/// A batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    phase: BatchPhase,
    created: Option<Box<BatchCreated>>,
    admitted: Option<Box<BatchAdmitted>>,
    lines: u32,
    at_once: u32,
    /// A bit for each line that has its end.
    ended: Vec<u64>,
    count: u32,
    stop: Option<BatchStop>,
    /// Those lines that may have been asked when it was stopped.
    asked: u32,
    again: Again,
}

impl Batch {
    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> BatchPhase {
        self.phase
    }

    /// What it was made with.
    #[must_use]
    pub fn created(&self) -> Option<&BatchCreated> {
        self.created.as_deref()
    }

    /// How many lines it has.
    #[must_use]
    pub fn lines(&self) -> u32 {
        self.lines
    }

    /// Lines that are asked at a time.
    #[must_use]
    pub fn at_once(&self) -> u32 {
        self.at_once
    }

    /// Why it is stopped, if it is.
    #[must_use]
    pub fn stop(&self) -> Option<BatchStop> {
        self.stop
    }

    /// Whether a line has its end.
    #[must_use]
    pub fn has_ended_line(&self, line: u32) -> bool {
        self.ended.get(line as usize / 64).is_some_and(|bits| bits >> (line % 64) & 1 == 1)
    }

    /// Those lines that may have been asked and have no end.
    pub fn open_lines(&self) -> impl Iterator<Item = u32> {
        let asked = if self.stop.is_some() { self.asked } else { self.asked_so_far() };
        (0..asked).filter(|line| !self.has_ended_line(*line))
    }

    fn asked_so_far(&self) -> u32 {
        self.lines.min(self.at_once.saturating_add(self.count))
    }

    fn known(&self) -> Result<&BatchCreated, Rejection> {
        self.created.as_deref().ok_or_else(|| Rejection::not_found("batch"))
    }

    fn conflict(&self) -> Rejection {
        let stands = match (self.phase, self.stop) {
            (BatchPhase::Over, _) => "has its end already",
            (BatchPhase::Finalizing, _) => "has all its results",
            (BatchPhase::Stopping, _) => "is being stopped",
            _ => "is not that far",
        };
        Rejection::new("CONFLICT", format!("the batch {stands}"))
    }

    fn create(&self, c: CreateBatch, by: &Actor, at: OffsetDateTime) -> Result<Decision<BatchEvent>, Rejection> {
        if self.created.is_some() {
            return Err(Rejection::new("CONFLICT", "this batch id is in use"));
        }
        if c.completion_window != WINDOW.0 {
            return Err(Rejection::invalid(format!("completion_window: must be {}", WINDOW.0)));
        }
        if let Some(metadata) = &c.metadata {
            if metadata.kid != by.subject() {
                let text = format!("metadata: seal it with the key '{}'", by.subject());
                return Err(Rejection::new("WRONG_KEY", text));
            }
            if metadata.text_len() > MAX_METADATA {
                return Err(Rejection::new("TOO_LARGE", format!("metadata: at most {MAX_METADATA} bytes")));
            }
        }
        let expires_at = (at + WINDOW.1).format(&Rfc3339);
        Ok(Decision::one(BatchCreated {
            batch_id: c.batch_id,
            input_file_id: c.input_file_id,
            endpoint: c.endpoint,
            completion_window: c.completion_window,
            expires_at: expires_at.map_err(|_| Rejection::invalid("time: out of range"))?,
            metadata: c.metadata,
            created_by: by.subject().to_owned(),
            key_id: by.key.clone(),
        }))
    }

    fn start(&self, c: StartBatch) -> Result<Decision<BatchEvent>, Rejection> {
        self.known()?;
        if self.phase != BatchPhase::Validating {
            return Err(self.conflict());
        }
        let StartBatch { batch_id, lines, at_once } = c;
        if !(1..=MAX_LINES).contains(&lines) || at_once == 0 {
            return Err(Rejection::invalid(format!("lines: 1 to {MAX_LINES}, at least one at once")));
        }
        Ok(Decision::one(BatchStarted { batch_id, lines, at_once }))
    }

    // Of a batch under way as well: its file, or its owner's key, may be gone.
    fn fail(&self, c: FailBatch) -> Result<Decision<BatchEvent>, Rejection> {
        self.known()?;
        if self.phase == BatchPhase::Over {
            return Err(self.conflict());
        }
        let FailBatch { batch_id, mut errors } = c;
        errors.truncate(MAX_ERRORS);
        Ok(self.over(BatchFailed { batch_id, errors }))
    }

    // A line has one result, however often it is told.
    fn end_line(&self, c: EndBatchLine) -> Result<Decision<BatchEvent>, Rejection> {
        self.known()?;
        if !matches!(self.phase, BatchPhase::Running | BatchPhase::Stopping) {
            return Err(self.conflict());
        }
        if c.line >= self.lines {
            return Err(Rejection::not_found("line"));
        }
        if self.has_ended_line(c.line) {
            return Ok(Decision::nothing());
        }
        let place = self.count + 1;
        let decision =
            Decision::one(BatchLineEnded { batch_id: c.batch_id.clone(), line: c.line, place, outcome: c.outcome });
        let last = match self.phase {
            BatchPhase::Stopping => self.open_lines().all(|open| open == c.line),
            _ => place == self.lines,
        };
        Ok(if last { decision.and(BatchFinalizing { batch_id: c.batch_id }) } else { decision })
    }

    // Nobody is asked for what a line waits with: it ends with the batch.
    fn stopping(&self, batch_id: String, reason: BatchStop, by: &Actor) -> Result<Decision<BatchEvent>, Rejection> {
        let decision = Decision::one(BatchStopping { batch_id: batch_id.clone(), reason, by: by.id.clone() });
        match self.phase {
            // No line was asked.
            BatchPhase::Validating => Ok(decision.and(BatchFinalizing { batch_id })),
            BatchPhase::Running => {
                let dropped = |(line, place): (u32, u32)| BatchLineEnded {
                    batch_id: batch_id.clone(),
                    line,
                    place,
                    outcome: LineOutcome::Dropped,
                };
                let decision = self.again.waiting().zip(self.count + 1..).map(dropped).fold(decision, Decision::and);
                let is_last = self.open_lines().count() == self.again.waiting().count();
                Ok(if is_last { decision.and(BatchFinalizing { batch_id }) } else { decision })
            }
            BatchPhase::Stopping => Ok(Decision::nothing()),
            BatchPhase::Finalizing if self.stop.is_some() => Ok(Decision::nothing()),
            _ => Err(self.conflict()),
        }
    }

    fn complete(&self, c: CompleteBatch) -> Result<Decision<BatchEvent>, Rejection> {
        self.known()?;
        if self.phase != BatchPhase::Finalizing {
            return Err(self.conflict());
        }
        let CompleteBatch { batch_id, output_file_id, error_file_id } = c;
        Ok(match self.stop {
            None => self.over(BatchCompleted { batch_id, output_file_id, error_file_id }),
            Some(BatchStop::Cancelled) => self.over(BatchCancelled { batch_id, output_file_id, error_file_id }),
            Some(BatchStop::Expired) => self.over(BatchExpired { batch_id, output_file_id, error_file_id }),
        })
    }
}

impl Aggregate for Batch {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("batchId");
    type Command = BatchCommand;
    type Event = BatchEvent;

    fn begins(command: &BatchCommand) -> bool {
        matches!(command, BatchCommand::CreateBatch(_))
    }

    fn has_ended(&self) -> bool {
        self.phase == BatchPhase::Over
    }

    fn apply(&mut self, event: &BatchEvent) {
        match event {
            BatchEvent::BatchCreated(e) => {
                self.phase = BatchPhase::Validating;
                self.created = Some(Box::new(e.clone()));
            }
            BatchEvent::BatchAdmitted(e) => self.admitted = Some(Box::new(e.clone())),
            BatchEvent::BatchStarted(e) => {
                self.phase = BatchPhase::Running;
                (self.lines, self.at_once) = (e.lines, e.at_once);
                self.ended = vec![0; (e.lines as usize).div_ceil(64)];
            }
            BatchEvent::BatchLineEnded(e) => {
                if let Some(bits) = self.ended.get_mut(e.line as usize / 64) {
                    *bits |= 1 << (e.line % 64);
                }
                self.count = e.place;
                self.again.end(e.line);
            }
            BatchEvent::BatchLineDeferred(e) => self.again.set(e.line, e.tries, true),
            BatchEvent::BatchLineDue(e) => self.again.set(e.line, e.tries, false),
            BatchEvent::BatchStopping(e) => {
                self.asked = self.asked_so_far();
                self.phase = BatchPhase::Stopping;
                self.stop = Some(e.reason);
            }
            BatchEvent::BatchFinalizing(_) => self.phase = BatchPhase::Finalizing,
            BatchEvent::BatchFailed(_)
            | BatchEvent::BatchCompleted(_)
            | BatchEvent::BatchCancelled(_)
            | BatchEvent::BatchExpired(_) => {
                self.phase = BatchPhase::Over;
                self.ended = Vec::new();
                self.again = Again::default();
            }
        }
    }

    fn decide(&self, command: BatchCommand, by: &Actor, at: OffsetDateTime) -> Result<Decision<BatchEvent>, Rejection> {
        let platforms =
            || by.is_platform().then_some(()).ok_or_else(|| Rejection::forbidden("the platform runs batches"));
        match command {
            BatchCommand::CreateBatch(c) => self.create(c, by, at),
            BatchCommand::CancelBatch(c) => {
                // Nobody else learns that there is one.
                if self.known()?.created_by != by.subject() && !by.is_platform() {
                    return Err(Rejection::not_found("batch"));
                }
                self.stopping(c.batch_id, BatchStop::Cancelled, by)
            }
            BatchCommand::AdmitBatch(c) => platforms().and_then(|()| self.admit(c)),
            BatchCommand::DeferBatchLine(c) => platforms().and_then(|()| self.defer(c)),
            BatchCommand::AskBatchLine(c) => platforms().and_then(|()| self.due(c)),
            BatchCommand::StartBatch(c) => platforms().and_then(|()| self.start(c)),
            BatchCommand::FailBatch(c) => platforms().and_then(|()| self.fail(c)),
            BatchCommand::EndBatchLine(c) => platforms().and_then(|()| self.end_line(c)),
            BatchCommand::ExpireBatch(c) => {
                platforms()?;
                self.known()?;
                self.stopping(c.batch_id, BatchStop::Expired, by)
            }
            BatchCommand::CompleteBatch(c) => platforms().and_then(|()| self.complete(c)),
        }
    }
}

#[cfg(test)]
mod tests;
