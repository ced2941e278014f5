//! Events of what was done with a model for an organization in an hour (models.md §17), by one inference process.

use crate::domain_events;

domain_events! {
    /// What can have happened to the sums of an hour.
    UsageEvent: Models / "usage" {
        /// They are so far; the last one of an hour holds.
        UsageCounted = "symbia.models.usage.usage-counted.v1" {
            usage_id: String,
            /// When the hour began, in seconds since 1970.
            hour: u64,
            model_id: String,
            worker_id: String,
            requests: u64,
            /// Of these, requests that failed or were cancelled.
            errors: u64,
            tokens_in: u64,
            tokens_cached: u64,
            tokens_out: u64,
            ttft_ms_p50: Option<f64>,
            ttft_ms_p95: Option<f64>,
            tokens_per_sec_p50: Option<f64>,
            queue_ms_p95: Option<f64>,
        }
    }
}
