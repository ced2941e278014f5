//! Lines that met a limit are asked again: what an organization may use in a minute or at once, what a route or a provider lets it
//! have, and a provider that is left alone for a while, are no results of a line. Each further try is a request of its own.
//!
//! That a line waits is in the log before its timer is set, and that its time has come before it is asked: whoever dies in between is
//! followed by one who finds the one or the other, and does it again under the same ids.

use std::hash::{DefaultHasher, Hash, Hasher};

use symbia_commands::{
    DomainCommand,
    integrations::{AskBatchLine, BatchCommand, BatchPhase, DeferBatchLine},
};
use symbia_events::{
    AggregateRef, Event,
    integrations::{BatchLineDeferred, BatchLineDue, ErrorCategory},
};
use symbia_nats::timers::{TimerCommand, When};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::{BatchRunner, Run};

/// The pause before a line is asked again; each further one is twice as long. Lines that are asked meanwhile take what room there is.
const FIRST_PAUSE: Duration = Duration::SECOND;
/// Longest pause, also where a longer one is told: a limit may be raised, and a circuit closed, at any time. A minute, when it is spread.
const LONGEST_PAUSE: Duration = Duration::seconds(40);

/// How long whoever refused a request wants to be left alone, where that was for a limit.
pub(super) fn limited(category: ErrorCategory, code: Option<&str>, retry_after_ms: Option<u64>) -> Option<Duration> {
    let is_limit = category == ErrorCategory::RateLimit || code == Some("circuit_open");
    let told = retry_after_ms.and_then(|told| i64::try_from(told).ok()).map_or(Duration::ZERO, Duration::milliseconds);
    is_limit.then_some(told)
}

fn pause(tries: u32, told: Duration) -> Duration {
    (FIRST_PAUSE * (1i32 << tries.min(6))).max(told).min(LONGEST_PAUSE)
}

// Up to half as long again: those that were refused together do not come together, where one of them would have room. The same for
// whoever looks at the same event.
fn spread(pause: Duration, event: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    event.hash(&mut hasher);
    let parts = i32::from(u8::try_from(hasher.finish() % 128).unwrap_or(0));
    pause + pause / 256i32 * parts
}

/// The timers of a batch: that of its end and those of its lines.
pub(super) fn timer(batch: &AggregateRef, what: &str) -> String {
    format!("batch.{}.{}.{what}", batch.tenant, batch.id)
}

impl BatchRunner {
    /// Has a command sent to a batch at a time. One timer of a name replaces another.
    pub(super) async fn later(
        &self,
        to: &AggregateRef,
        what: &str,
        at: &str,
        command: impl Into<BatchCommand>,
    ) -> anyhow::Result<()> {
        let command: BatchCommand = command.into();
        let due = TimerCommand {
            aggregate: to.clone(),
            command_type: command.command_type().to_owned(),
            data: command.to_data()?,
        };
        let at = OffsetDateTime::parse(at, &Rfc3339)?;
        Ok(self.timers.command(&timer(to, what), &When::At(at), &due).await?)
    }

    /// A line met a limit at this try.
    pub(super) async fn defer(
        &self,
        event: &Event,
        run: &Run,
        (line, tries): (u32, u32),
        told: Duration,
    ) -> anyhow::Result<()> {
        let ask_at = (event.time + spread(pause(tries, told), &event.id.to_string())).format(&Rfc3339)?;
        let defer = DeferBatchLine { batch_id: run.id().to_owned(), line, tries: tries + 1, ask_at };
        self.record(event, &run.to, defer, &format!("defer-{line}")).await.map(drop)
    }

    pub(super) async fn deferred(&self, event: &Event, deferred: BatchLineDeferred) -> anyhow::Result<()> {
        let BatchLineDeferred { batch_id, line, tries, ask_at } = deferred;
        let ask = AskBatchLine { batch_id, line, tries };
        self.later(&event.aggregate()?, &format!("line-{line}"), &ask_at, ask).await
    }

    pub(super) async fn due(&self, event: &Event, due: &BatchLineDue) -> anyhow::Result<()> {
        let Some(run) = self.run(event, &due.batch_id, &[BatchPhase::Running]).await? else { return Ok(()) };
        let Some(input) = self.input(event, &run).await? else { return Ok(()) };
        self.ask(event, &run, &input, (due.line, due.tries)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_met_a_limit_waits_longer_each_time_but_never_for_long() {
        let told = |ms| limited(ErrorCategory::RateLimit, Some("rate_limited"), ms);
        assert_eq!(told(Some(7_500)), Some(Duration::milliseconds(7_500)));
        assert_eq!(told(None), Some(Duration::ZERO));
        assert_eq!(limited(ErrorCategory::Provider, Some("circuit_open"), Some(9)), Some(Duration::milliseconds(9)));
        for (category, code) in [
            (ErrorCategory::Provider, "provider_error"),
            (ErrorCategory::Quota, "budget_exceeded"),
            (ErrorCategory::Auth, "key_gone"),
        ] {
            assert_eq!(limited(category, Some(code), Some(9)), None, "{code}");
        }
        let seconds: Vec<i64> = (0..9).map(|tries| pause(tries, Duration::ZERO).whole_seconds()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 40, 40, 40]);
        assert_eq!(pause(0, Duration::seconds(9)), Duration::seconds(9));
        assert_eq!(pause(u32::MAX, Duration::HOUR), LONGEST_PAUSE);
        let pauses: Vec<Duration> = (0..9).map(|n| spread(Duration::SECOND, &n.to_string())).collect();
        assert!(pauses.iter().all(|one| (1.0..1.5).contains(&one.as_seconds_f64())), "{pauses:?}");
        assert!(pauses.iter().any(|one| *one != pauses[0]) && spread(Duration::SECOND, "0") == pauses[0]);
    }
}
