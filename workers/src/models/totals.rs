//! What the engine counts: for its status, and as metrics.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use symbia_nats::inference::Totals;
use symbia_nats::telemetry::{
    KeyValue, meter,
    metrics::{Counter, Histogram, UpDownCounter},
    seconds,
};

use super::Event;

struct Metrics {
    requests: Counter<u64>,
    waiting: UpDownCounter<i64>,
    tokens: Counter<u64>,
    steps: Histogram<f64>,
    first_token: Histogram<f64>,
    loads: Counter<u64>,
    memory: UpDownCounter<i64>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    requests: meter()
        .u64_counter("symbia.inference.requests")
        .with_description("Requests that ended, by outcome")
        .build(),
    waiting: meter()
        .i64_up_down_counter("symbia.inference.pending")
        .with_description("Requests that are computed or wait")
        .build(),
    tokens: meter()
        .u64_counter("symbia.inference.tokens")
        .with_description("Tokens of prompts (read), those not computed again (cached), and generated (written)")
        .build(),
    steps: seconds("symbia.inference.step", "Time that a model computes at a stretch"),
    first_token: seconds("symbia.inference.first_token", "Time from a request's arrival to its first token"),
    loads: meter().u64_counter("symbia.inference.loads").with_description("Models loaded, by outcome").build(),
    memory: meter()
        .i64_up_down_counter("symbia.inference.memory")
        .with_unit("By")
        .with_description("Bytes of the models in memory")
        .build(),
});

/// Counts of the whole engine.
#[derive(Debug, Default)]
pub(super) struct Tally {
    requests: AtomicU64,
    errors: AtomicU64,
    pending: AtomicUsize,
    active: AtomicUsize,
    tokens_in: AtomicU64,
    tokens_cached: AtomicU64,
    tokens_out: AtomicU64,
    first_token_us: AtomicU64,
    first_tokens: AtomicU64,
    predicted_us: AtomicU64,
}

impl Tally {
    pub(super) fn totals(&self) -> Totals {
        let ms = |micros: &AtomicU64| micros.load(Relaxed) as f64 / 1e3;
        let active = self.active.load(Relaxed) as u64;
        Totals {
            requests: self.requests.load(Relaxed),
            errors: self.errors.load(Relaxed),
            active,
            queued: (self.pending.load(Relaxed) as u64).saturating_sub(active),
            tokens_in: self.tokens_in.load(Relaxed),
            tokens_cached: self.tokens_cached.load(Relaxed),
            tokens_out: self.tokens_out.load(Relaxed),
            first_token_ms: ms(&self.first_token_us),
            first_tokens: self.first_tokens.load(Relaxed),
            predicted_ms: ms(&self.predicted_us),
        }
    }
}

/// Counts of one model in memory, which add to those of the engine.
#[derive(Debug)]
pub(super) struct Counters {
    tally: Arc<Tally>,
    taken: AtomicUsize,
    last_used: AtomicU64,
}

impl Counters {
    pub(super) fn new(tally: Arc<Tally>) -> Self {
        Counters { tally, taken: AtomicUsize::new(0), last_used: AtomicU64::new(now()) }
    }

    /// Requests that are computed or wait.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// When somebody last asked, in seconds since 1970.
    pub(super) fn last_used(&self) -> u64 {
        self.last_used.load(Relaxed)
    }

    pub(super) fn enter(&self, most: usize) -> bool {
        let next = |count| (count < most).then_some(count + 1);
        let entered = self.taken.fetch_update(Relaxed, Relaxed, next).is_ok();
        if entered {
            self.last_used.store(now(), Relaxed);
            self.tally.pending.fetch_add(1, Relaxed);
            METRICS.waiting.add(1, &[]);
        }
        entered
    }

    pub(super) fn leave(&self) {
        self.taken.fetch_sub(1, Relaxed);
        self.last_used.store(now(), Relaxed);
        self.tally.pending.fetch_sub(1, Relaxed);
        METRICS.waiting.add(-1, &[]);
    }

    /// A prompt's computation begins.
    pub(super) fn started(&self, prompt_tokens: u32, cached_tokens: u32) {
        self.tally.active.fetch_add(1, Relaxed);
        self.tally.tokens_in.fetch_add(prompt_tokens.into(), Relaxed);
        self.tally.tokens_cached.fetch_add(cached_tokens.into(), Relaxed);
        tokens("read", prompt_tokens.into());
        tokens("cached", cached_tokens.into());
    }

    /// What was started is over.
    pub(super) fn stopped(&self, completion_tokens: u32, predicted: Duration) {
        self.tally.active.fetch_sub(1, Relaxed);
        self.tally.tokens_out.fetch_add(completion_tokens.into(), Relaxed);
        self.tally.predicted_us.fetch_add(micros(predicted), Relaxed);
        tokens("written", completion_tokens.into());
    }

    /// The first token came, `prompt` after its prompt was begun and `after` the request arrived.
    pub(super) fn first_token(&self, prompt: Duration, after: Duration) {
        self.tally.first_token_us.fetch_add(micros(prompt), Relaxed);
        self.tally.first_tokens.fetch_add(1, Relaxed);
        METRICS.first_token.record(after.as_secs_f64(), &[]);
    }

    /// A request ended.
    pub(super) fn ended(&self, event: &Event) {
        let outcome = match event {
            Event::Failed(_) => "failed",
            Event::Cancelled { .. } => "cancelled",
            _ => "completed",
        };
        self.tally.requests.fetch_add(1, Relaxed);
        self.tally.errors.fetch_add(u64::from(outcome == "failed"), Relaxed);
        METRICS.requests.add(1, &[KeyValue::new("outcome", outcome)]);
    }
}

fn tokens(direction: &'static str, count: u64) {
    METRICS.tokens.add(count, &[KeyValue::new("direction", direction)]);
}

/// A model computed at a stretch.
pub(super) fn stepped(took: Duration) {
    METRICS.steps.record(took.as_secs_f64(), &[]);
}

/// A model was loaded, or could not be.
pub(super) fn loaded(outcome: &'static str) {
    METRICS.loads.add(1, &[KeyValue::new("outcome", outcome)]);
}

/// Models take so much more memory, or less.
pub(super) fn memory(change: i64) {
    METRICS.memory.add(change, &[]);
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
