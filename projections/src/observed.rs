//! What telemetry sees of folding: how much, how long, and a span in the trace of each event that was just written.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use symbia_nats::telemetry::{
    self, KeyValue,
    metrics::{Counter, Histogram},
};
use time::OffsetDateTime;

use crate::commit::Batch;

/// An older event is folded again, not for the first time: its trace is over.
const FRESH: Duration = Duration::from_secs(60);

struct Metrics {
    events: Counter<u64>,
    quarantined: Counter<u64>,
    seconds: Histogram<f64>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let counter = |name, text| telemetry::meter().u64_counter(name).with_description(text).build();
    Metrics {
        events: counter("symbia.projection.events", "Events folded"),
        quarantined: counter("symbia.projection.quarantined", "Messages and events put aside"),
        seconds: telemetry::seconds("symbia.projection.duration", "Time of a batch, from its arrival to its commit"),
    }
});

/// A batch was committed.
pub(crate) fn folded(projection: &'static str, batch: &Batch, quarantined: usize, since: SystemTime) {
    let labels = [KeyValue::new("projection", projection)];
    METRICS.events.add(batch.events.len() as u64, &labels);
    METRICS.quarantined.add(quarantined as u64, &labels);
    METRICS.seconds.record(since.elapsed().unwrap_or_default().as_secs_f64(), &labels);
    if !telemetry::is_exporting() {
        return;
    }
    let fresh = OffsetDateTime::now_utc() - FRESH;
    for folded in batch.events.iter().filter(|folded| folded.event.time > fresh) {
        let Some(traceparent) = &folded.event.traceparent else { continue };
        let attributes = vec![
            KeyValue::new("symbia.projection", projection),
            KeyValue::new("symbia.event.type", folded.event.event_type.clone()),
            KeyValue::new("symbia.event.id", folded.event.id.to_string()),
        ];
        telemetry::record("project", since, traceparent, attributes);
    }
}
