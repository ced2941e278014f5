//! What the process has done for whom: sums of each hour, organization and model (models.md §17), for the status.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use symbia_nats::inference::{Timings, Usage, UsageRow};

use super::totals::now;

const HOUR: u64 = 3600;
/// Buckets of a distribution, four for each doubling from a tenth of a unit on: up to a factor of ten millions.
const BUCKETS: usize = 96;

/// How often values of a size came.
#[derive(Debug)]
struct Distribution([u32; BUCKETS]);

impl Default for Distribution {
    fn default() -> Self {
        Distribution([0; BUCKETS])
    }
}

impl Distribution {
    fn add(&mut self, value: f64) {
        // Below a tenth, and what is no number, is in the first.
        let bucket = ((value * 10.0).log2() * 4.0).max(0.0) as usize;
        self.0[bucket.min(BUCKETS - 1)] += 1;
    }

    /// A value that such a part of all is below, to within a fifth; none of nothing.
    fn quantile(&self, part: f64) -> Option<f64> {
        let all: u32 = self.0.iter().sum();
        let wanted = (f64::from(all) * part).ceil().max(1.0) as u32;
        let mut below = 0;
        let bucket = self.0.iter().position(|count| {
            below += count;
            below >= wanted
        })?;
        Some(0.1 * 2f64.powf((bucket as f64 + 0.5) / 4.0))
    }
}

#[derive(Debug, Default)]
struct Sums {
    requests: u64,
    errors: u64,
    usage: [u64; 3],
    first_token: Distribution,
    speed: Distribution,
    queue: Distribution,
}

/// Hour, organization, model.
type Key = (u64, String, String);

/// Sums of this hour and the one before.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<BTreeMap<Key, Sums>>);

impl Ledger {
    /// A request has ended; with what it took, or without when it failed.
    pub(super) fn note(&self, org: Option<&str>, model: &str, done: Option<(Usage, Timings)>) {
        self.note_at(now(), org, model, done);
    }

    fn note_at(&self, now: u64, org: Option<&str>, model: &str, done: Option<(Usage, Timings)>) {
        let hour = now - now % HOUR;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(of, _, _), _| *of + HOUR >= hour);
        let sums = all.entry((hour, org.unwrap_or_default().to_owned(), model.to_owned())).or_default();
        sums.requests += 1;
        let Some((usage, timings)) = done else {
            sums.errors += 1;
            return;
        };
        let tokens = [usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens];
        sums.usage.iter_mut().zip(tokens).for_each(|(sum, tokens)| *sum += u64::from(tokens));
        sums.queue.add(timings.queue_ms);
        sums.first_token.add(timings.queue_ms + timings.prompt_ms);
        if timings.predicted_ms > 0.0 {
            sums.speed.add(f64::from(usage.completion_tokens) / timings.predicted_ms * 1e3);
        }
    }

    pub(super) fn rows(&self) -> Vec<UsageRow> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |((hour, org, model), sums): (&Key, &Sums)| UsageRow {
            hour: *hour,
            org: (!org.is_empty()).then(|| org.clone()),
            model: model.clone(),
            requests: sums.requests,
            errors: sums.errors,
            tokens_in: sums.usage[0],
            tokens_cached: sums.usage[1],
            tokens_out: sums.usage[2],
            ttft_ms_p50: sums.first_token.quantile(0.5),
            ttft_ms_p95: sums.first_token.quantile(0.95),
            tokens_per_sec_p50: sums.speed.quantile(0.5),
            queue_ms_p95: sums.queue.quantile(0.95),
        };
        all.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near_what_was_added() {
        let mut all = Distribution::default();
        assert_eq!(all.quantile(0.5), None);
        (1..=1000).for_each(|value| all.add(f64::from(value)));
        for (part, value) in [(0.5, 500.0), (0.95, 950.0)] {
            let found = all.quantile(part).unwrap_or_default();
            assert!((found / value - 1.0).abs() < 0.2, "{part}: {found}");
        }
        [0.0, -1.0, f64::NAN, f64::INFINITY].into_iter().for_each(|odd| all.add(odd));
    }

    #[test]
    fn each_organization_and_hour_has_its_own_sums() {
        let ledger = Ledger::default();
        let usage = Usage { prompt_tokens: 10, cached_tokens: 4, completion_tokens: 5 };
        let timings = Timings { queue_ms: 1.0, prompt_ms: 9.0, predicted_ms: 100.0 };
        ledger.note_at(HOUR, Some("a"), "m", Some((usage, timings)));
        ledger.note_at(HOUR + 1, Some("a"), "m", None);
        ledger.note_at(HOUR + 2, None, "m", Some((usage, timings)));
        let rows = ledger.rows();
        let seen: Vec<_> =
            rows.iter().map(|row| (row.org.as_deref(), row.requests, row.errors, row.tokens_in)).collect();
        assert_eq!(seen, [(None, 1, 0, 10), (Some("a"), 2, 1, 10)]);
        let speed = rows[1].tokens_per_sec_p50.unwrap_or_default();
        assert!((speed / 50.0 - 1.0).abs() < 0.2, "{speed}");
        ledger.note_at(3 * HOUR, None, "m", None);
        assert_eq!(ledger.rows().len(), 1, "what is long over is forgotten");
    }
}
