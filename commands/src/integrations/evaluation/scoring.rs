//! What evaluations say of a model, in marks from 0 to 100 (integrations.md §16).

use symbia_events::integrations::CaseResult;

/// How much each mark counts in the composite one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Of the answers.
    pub quality: f64,
    /// Of their coming.
    pub speed: f64,
    /// Of their price.
    pub cost: f64,
    /// Of there being any.
    pub reliability: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { quality: 0.4, speed: 0.25, cost: 0.25, reliability: 0.1 }
    }
}

/// The marks of a model for a task.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "as in the weights")]
pub struct Marks {
    pub quality: f64,
    pub speed: f64,
    pub cost: f64,
    pub reliability: f64,
}

/// An evaluation that has its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ended {
    /// Its score, 0 to 1; none when it failed.
    pub score: Option<f64>,
    /// Of its answers.
    pub latency_p50_ms: u64,
}

impl Marks {
    /// From the evaluations of a model, and what it costs in US dollars for a million tokens, read and written. None when no
    /// evaluation was completed.
    #[must_use]
    pub fn of(evaluations: &[Ended], dollars_per_million: Option<f64>) -> Option<Self> {
        let qualities: Vec<f64> = evaluations.iter().filter_map(|one| one.score).map(|score| score * 100.0).collect();
        if qualities.is_empty() {
            return None;
        }
        let completed = qualities.len() as f64;
        let quality = qualities.iter().sum::<f64>() / completed;
        let variance = qualities.iter().map(|one| (one - quality).powi(2)).sum::<f64>() / completed;
        let done = evaluations.iter().filter(|one| one.score.is_some());
        let latency = done.map(|one| one.latency_p50_ms as f64).sum::<f64>() / completed;
        let success = completed / evaluations.len() as f64;
        let reliability = (success * 80.0 + (20.0 - variance).max(0.0)).min(100.0);
        Some(Marks { quality, speed: speed(latency), cost: cost(dollars_per_million), reliability })
    }

    /// All of them in one.
    #[must_use]
    pub fn composite(&self, weights: &Weights) -> f64 {
        let all = weights.quality + weights.speed + weights.cost + weights.reliability;
        let sum = self.quality * weights.quality
            + self.speed * weights.speed
            + self.cost * weights.cost
            + self.reliability * weights.reliability;
        if all > 0.0 { sum / all } else { 0.0 }
    }
}

fn speed(ms: f64) -> f64 {
    steps(ms, [(500.0, 100.0), (1000.0, 80.0), (2000.0, 60.0), (5000.0, 40.0)])
}

fn cost(dollars_per_million: Option<f64>) -> f64 {
    let of = |dollars| steps(dollars, [(0.5, 100.0), (2.0, 80.0), (5.0, 60.0), (15.0, 40.0)]);
    dollars_per_million.map_or(50.0, of)
}

fn steps(value: f64, below: [(f64, f64); 4]) -> f64 {
    below.into_iter().find(|(limit, _)| value < *limit).map_or(20.0, |(_, mark)| mark)
}

/// What the cases of an evaluation come to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "named as in the event")]
pub struct Totals {
    pub overall_score: f64,
    pub accuracy: f64,
    pub latency_p50_ms: u64,
    pub latency_p95_ms: u64,
    pub latency_p99_ms: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_micros: u64,
}

impl Totals {
    /// Of results with the weights of their cases.
    #[must_use]
    pub fn of(results: &[(f64, CaseResult)]) -> Self {
        let weight: f64 = results.iter().map(|(weight, _)| weight).sum();
        let scored: f64 = results.iter().map(|(weight, result)| weight * result.score).sum();
        let passed = results.iter().filter(|(_, result)| result.passed).count();
        let mut latencies: Vec<u64> =
            results.iter().filter(|(_, r)| r.error.is_none()).map(|(_, r)| r.latency_ms).collect();
        latencies.sort_unstable();
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let sum = |of: fn(&CaseResult) -> u64| results.iter().map(|(_, result)| of(result)).sum();
        Totals {
            overall_score: share(scored, weight),
            accuracy: share(passed as f64, results.len() as f64),
            latency_p50_ms: nearest_rank(&latencies, 50),
            latency_p95_ms: nearest_rank(&latencies, 95),
            latency_p99_ms: nearest_rank(&latencies, 99),
            input_tokens: sum(|result| result.input_tokens),
            output_tokens: sum(|result| result.output_tokens),
            cost_micros: sum(|result| result.cost_micros.unwrap_or(0)),
        }
    }
}

fn nearest_rank(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(score: f64, passed: bool, latency_ms: u64) -> CaseResult {
        CaseResult {
            test_case_id: "c".into(),
            request_id: None,
            output: None,
            passed,
            score,
            reason: None,
            latency_ms,
            input_tokens: 10,
            output_tokens: 5,
            cost_micros: Some(3),
            error: None,
        }
    }

    #[test]
    fn scores_count_by_weight_and_percentiles_are_of_what_was_answered() {
        let failed = CaseResult { error: Some("timeout".into()), ..result(0.0, false, 9000) };
        let results = [(2.0, result(1.0, true, 100)), (1.0, result(0.5, false, 300)), (1.0, failed)];
        let totals = Totals::of(&results);
        assert_eq!((totals.overall_score, totals.latency_p50_ms), (0.625, 100));
        assert!((totals.accuracy - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!((totals.latency_p95_ms, totals.latency_p99_ms), (300, 300));
        assert_eq!((totals.input_tokens, totals.output_tokens, totals.cost_micros), (30, 15, 9));
        assert_eq!(Totals::of(&[]), Totals::default());
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!([50, 95, 99].map(|percent| nearest_rank(&hundred, percent)), [50, 95, 99]);
    }

    #[test]
    fn marks_follow_the_steps_of_the_contract() {
        let speeds = [499.0, 500.0, 999.9, 1000.0, 1999.0, 2000.0, 4999.0, 5000.0].map(speed);
        assert_eq!(speeds, [100.0, 80.0, 80.0, 60.0, 60.0, 40.0, 40.0, 20.0]);
        let costs = [0.0, 0.49, 0.5, 1.9, 2.0, 4.9, 5.0, 14.9, 15.0].map(|dollars| cost(Some(dollars)));
        assert_eq!(costs, [100.0, 100.0, 80.0, 80.0, 60.0, 60.0, 40.0, 40.0, 20.0]);
        assert_eq!(cost(None), 50.0);
    }

    #[test]
    fn what_succeeds_evenly_is_reliable() {
        let ended = |score, latency_p50_ms| Ended { score, latency_p50_ms };
        let even = Marks::of(&[ended(Some(0.9), 400), ended(Some(0.9), 800)], Some(1.0)).unwrap();
        assert_eq!((even.quality, even.speed, even.cost, even.reliability), (90.0, 80.0, 80.0, 100.0));
        // Half of them failed: 40, and nothing is uneven.
        let half = Marks::of(&[ended(Some(0.9), 400), ended(None, 0)], None).unwrap();
        assert_eq!((half.reliability, half.cost, half.speed), (60.0, 50.0, 100.0));
        let uneven = Marks::of(&[ended(Some(0.2), 400), ended(Some(1.0), 400)], None).unwrap();
        assert_eq!(uneven.reliability, 80.0);
        assert_eq!(Marks::of(&[ended(None, 0)], None), None);
        let marks = Marks { quality: 90.0, speed: 80.0, cost: 60.0, reliability: 100.0 };
        assert!((marks.composite(&Weights::default()) - 81.0).abs() < 1e-9);
        let quality = Weights { quality: 2.0, speed: 0.0, cost: 0.0, reliability: 0.0 };
        assert_eq!(marks.composite(&quality), 90.0);
        assert_eq!(marks.composite(&Weights { quality: 0.0, ..quality }), 0.0);
    }
}
