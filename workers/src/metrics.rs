//! What the workers count.

use std::{sync::LazyLock, time::Duration};

use symbia_events::AggregateRef;
use symbia_nats::telemetry::{
    KeyValue, meter,
    metrics::{Counter, Histogram},
    seconds,
};

struct Metrics {
    taken: Counter<u64>,
    decided: Histogram<f64>,
    reactions: Histogram<f64>,
    completions: Histogram<f64>,
    first_token: Histogram<f64>,
    tokens: Counter<u64>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    taken: meter()
        .u64_counter("symbia.commands.taken")
        .with_description("Commands that came, over the queue or within the process")
        .build(),
    decided: seconds(
        "symbia.command.duration",
        "Time from a command's arrival at the worker to its outcome, by outcome",
    ),
    reactions: seconds("symbia.reactor.duration", "Time that a reactor took for an event, by outcome"),
    completions: seconds("symbia.completion.duration", "Time of an attempt at a completion, by provider and outcome"),
    first_token: seconds(
        "symbia.completion.first_token",
        "Time from asking a provider to the first piece of its answer",
    ),
    tokens: meter().u64_counter("symbia.completion.tokens").with_description("Tokens read and written").build(),
});

/// A command arrived.
pub(crate) fn command_taken() {
    METRICS.taken.add(1, &[]);
}

/// A command's outcome: `accepted`, `repeated`, `rejected`, `returned` (to come again) or `dead`. Without an aggregate it
/// was for none that there is: what a client wrote is no label.
pub(crate) fn command_ended(aggregate: Option<&AggregateRef>, outcome: &'static str, took: Duration) {
    let kind = aggregate.map_or_else(|| "unknown".to_owned(), |a| format!("{}/{}", a.service, a.kind));
    METRICS.decided.record(took.as_secs_f64(), &[KeyValue::new("aggregate", kind), KeyValue::new("outcome", outcome)]);
}

/// A delivery of an event ended: `handled`, `failed` (to come again), `buried` or `not believed`.
pub(crate) fn reacted(reactor: &'static str, outcome: &'static str, took: Duration) {
    let labels = [KeyValue::new("reactor", reactor), KeyValue::new("outcome", outcome)];
    METRICS.reactions.record(took.as_secs_f64(), &labels);
}

/// An attempt at a completion ended: `completed`, `failed`, `lost` (another follows) or `cancelled`.
pub(crate) fn attempted(provider: &'static str, outcome: &'static str, took: Duration) {
    let labels = [KeyValue::new("provider", provider), KeyValue::new("outcome", outcome)];
    METRICS.completions.record(took.as_secs_f64(), &labels);
}

/// The first piece of an answer came.
pub(crate) fn first_token(provider: &'static str, after: Duration) {
    METRICS.first_token.record(after.as_secs_f64(), &[KeyValue::new("provider", provider)]);
}

/// What an answer took.
pub(crate) fn tokens(provider: &'static str, read: u64, written: u64) {
    for (direction, count) in [("read", read), ("written", written)] {
        let labels = [KeyValue::new("provider", provider), KeyValue::new("direction", direction)];
        METRICS.tokens.add(count, &labels);
    }
}
