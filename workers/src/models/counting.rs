//! Records what the inference processes have done for whom: their sums of an hour, once a minute while they grow, and at once
//! when a process is gone. What one that is killed did in its last second is not counted.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use symbia_commands::models::CountUsage;
use symbia_events::OrgId;
use symbia_nats::inference::{Status, UsageRow};

/// How often sums that grow are recorded.
const PERIOD: Duration = Duration::from_secs(60);

/// Process, hour, organization, model.
type Key = (String, u64, Option<String>, String);

/// Sums as they were told last.
#[derive(Clone, Debug)]
struct Sums {
    row: UsageRow,
    /// Requests that are recorded.
    recorded: u64,
    /// When they were, or when the first was seen.
    since: Instant,
}

/// What was told and what is recorded of it.
#[derive(Debug, Default)]
pub(super) struct Counting(HashMap<Key, Sums>);

impl Counting {
    /// What is to be recorded of what the processes tell now, those that are going among them, and for which tenant.
    pub(super) fn due(&mut self, workers: &[Status], now: Instant) -> Vec<(OrgId, CountUsage)> {
        for (worker, row) in workers.iter().flat_map(|status| status.usage.iter().map(move |row| (&status.worker, row)))
        {
            let key = (worker.clone(), row.hour, row.org.clone(), row.model.clone());
            let sums = self.0.entry(key).or_insert_with(|| Sums { row: row.clone(), recorded: 0, since: now });
            sums.row.clone_from(row);
        }
        let mut due = Vec::new();
        self.0.retain(|(worker, hour, ..), sums| {
            let told = workers.iter().find(|status| status.worker == *worker);
            let is_forgotten = told.is_none_or(|status| status.usage.iter().all(|row| row.hour > *hour));
            let is_over = is_forgotten || told.is_some_and(|status| status.draining);
            if sums.row.requests > sums.recorded && (is_over || now.duration_since(sums.since) >= PERIOD) {
                (sums.recorded, sums.since) = (sums.row.requests, now);
                due.extend(count(worker, &sums.row));
            }
            !is_forgotten
        });
        due
    }

    /// It was not recorded after all: the next round tries again.
    pub(super) fn missed(&mut self, count: &CountUsage) {
        for ((worker, hour, _, model), sums) in &mut self.0 {
            if (worker, *hour, model) == (&count.worker_id, count.hour, &count.model_id) {
                sums.recorded = 0;
            }
        }
    }
}

fn count(worker: &str, row: &UsageRow) -> Option<(OrgId, CountUsage)> {
    let tenant = row.org.as_deref().map_or_else(|| Ok(OrgId::global()), str::parse).ok()?;
    let count = CountUsage {
        usage_id: format!("{worker}-{}-{}", row.hour, row.model),
        hour: row.hour,
        model_id: row.model.clone(),
        worker_id: worker.to_owned(),
        requests: row.requests,
        errors: row.errors,
        tokens_in: row.tokens_in,
        tokens_cached: row.tokens_cached,
        tokens_out: row.tokens_out,
        ttft_ms_p50: row.ttft_ms_p50,
        ttft_ms_p95: row.ttft_ms_p95,
        tokens_per_sec_p50: row.tokens_per_sec_p50,
        queue_ms_p95: row.queue_ms_p95,
    };
    Some((tenant, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_recorded_once_a_minute_and_when_the_process_is_gone() {
        let told = |requests, hour| {
            let row = UsageRow { requests, hour, model: "m".into(), ..UsageRow::default() };
            vec![Status { worker: "w".into(), usage: vec![row], ..Status::default() }]
        };
        let (mut counting, begin) = (Counting::default(), Instant::now());
        let mut due = |workers: &[Status], seconds| {
            let due = counting.due(workers, begin + Duration::from_secs(seconds));
            due.into_iter().map(|(_, count)| (count.requests, count.hour)).collect::<Vec<_>>()
        };
        assert_eq!(due(&told(1, 3600), 0), []);
        assert_eq!(due(&told(5, 3600), 61), [(5, 3600)]);
        assert_eq!(due(&told(5, 3600), 200), [], "nothing has come since");
        assert_eq!(due(&told(6, 3600), 201), [(6, 3600)]);
        assert_eq!(due(&told(7, 3600), 202), []);
        assert_eq!(due(&told(1, 7200), 203), [(7, 3600)], "the hour is over");
        assert_eq!(due(&[], 204), [(1, 7200)], "the process is gone");
        assert_eq!(due(&[], 300), []);
    }
}
