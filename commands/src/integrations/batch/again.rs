//! Lines that met a limit: that is no result, and they are asked again later, as often as it takes, as long as their batch is
//! neither stopped nor over its time. That a line waits is in the log, so that whoever stops the batch knows that nobody is asked.

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{BatchEvent, BatchLineDeferred, BatchLineDue, LineOutcome};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{AskBatchLine, Batch, BatchPhase, DeferBatchLine, EndBatchLine};
use crate::{Decision, Rejection};

/// Those lines without an end that met a limit. They are no more than are asked at a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Again(Vec<Try>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Try {
    line: u32,
    tries: u32,
    /// It is not asked now.
    waits: bool,
}

impl Again {
    /// How often a line was, or is to be, asked again.
    pub fn tries(&self, line: u32) -> u32 {
        self.0.iter().find(|one| one.line == line).map_or(0, |one| one.tries)
    }

    /// The lines that wait.
    pub fn waiting(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter(|one| one.waits).map(|one| one.line)
    }

    fn waits_for(&self, line: u32, tries: u32) -> bool {
        self.0.iter().any(|one| one.waits && (one.line, one.tries) == (line, tries))
    }

    pub fn set(&mut self, line: u32, tries: u32, waits: bool) {
        self.end(line);
        self.0.push(Try { line, tries, waits });
    }

    pub fn end(&mut self, line: u32) {
        self.0.retain(|one| one.line != line);
    }
}

impl Batch {
    /// How often a line was, or is to be, asked again.
    #[must_use]
    pub fn tries(&self, line: u32) -> u32 {
        self.again.tries(line)
    }

    // In a batch that was stopped meanwhile it is not asked again.
    pub(super) fn defer(&self, c: DeferBatchLine) -> Result<Decision<BatchEvent>, Rejection> {
        let DeferBatchLine { batch_id, line, tries, ask_at } = c;
        let last = self.tries(line);
        // Told before.
        if self.has_ended_line(line) || tries <= last {
            return Ok(Decision::nothing());
        }
        if self.phase != BatchPhase::Running {
            return self.end_line(EndBatchLine { batch_id, line, outcome: LineOutcome::Dropped });
        }
        if line >= self.lines {
            return Err(Rejection::not_found("line"));
        }
        if tries != last + 1 || OffsetDateTime::parse(&ask_at, &Rfc3339).is_err() {
            return Err(Rejection::invalid(format!("tries: {} is next; askAt: an RFC 3339 time", last + 1)));
        }
        Ok(Decision::one(BatchLineDeferred { batch_id, line, tries, ask_at }))
    }

    // A timer that comes late, or again, does nothing.
    pub(super) fn due(&self, c: AskBatchLine) -> Result<Decision<BatchEvent>, Rejection> {
        self.known()?;
        if self.phase != BatchPhase::Running || !self.again.waits_for(c.line, c.tries) {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(BatchLineDue { batch_id: c.batch_id, line: c.line, tries: c.tries }))
    }
}
