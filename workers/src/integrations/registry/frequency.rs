//! How often an organization calls what it registered: buckets that all processes share, drawn from before a call is begun.

use std::time::Duration;

use symbia_events::integrations::{CallRate, ErrorCategory};
use symbia_nats::limits::{Bucket, Limits};
use symbia_projections::integrations::Integration;

use crate::integrations::provider::Fault;

/// Draws from every limit that counts a call; refuses when one has nothing left, and then has drawn from none.
pub(super) async fn draw(limits: &Limits, org: &str, integration: &Integration, operation: &str) -> Result<(), Fault> {
    let Some(limit) = &integration.rate_limit else { return Ok(()) };
    let whole = format!("integration:{org}:{}", integration.key);
    let mut buckets = buckets(&whole, limit.all());
    if let Some(rate) = limit.operations.get(operation) {
        buckets.extend(self::buckets(&format!("{whole}:{operation}"), *rate));
    }
    let mut drawn = Vec::new();
    for (key, bucket) in buckets {
        match limits.draw(&key, bucket, 1, 1).await {
            Ok(got) if got.tokens > 0 => drawn.push((key, bucket)),
            Ok(got) => {
                for (key, bucket) in drawn {
                    if let Err(error) = limits.settle(&key, bucket, 1, 0).await {
                        tracing::warn!(%error, "a limit is not corrected");
                    }
                }
                return Err(refusal(&integration.key, bucket, got.enough_in));
            }
            // A broker that is away keeps nobody from working.
            Err(error) => tracing::warn!(key, %error, "a limit is passed over"),
        }
    }
    Ok(())
}

fn buckets(key: &str, CallRate { requests_per_second, requests_per_minute }: CallRate) -> Vec<(String, Bucket)> {
    let of = |name: &str, most: Option<u32>, per: u64| {
        most.map(|most| (format!("{key}:{name}"), Bucket { size: most.into(), per: Duration::from_secs(per) }))
    };
    [of("second", requests_per_second, 1), of("minute", requests_per_minute, 60)].into_iter().flatten().collect()
}

fn refusal(key: &str, bucket: Bucket, wait: Duration) -> Fault {
    let per = if bucket.per.as_secs() == 1 { "second" } else { "minute" };
    let text = format!(
        "the organization calls '{key}' at most {} times a {per}, and has: ask again in {} s",
        bucket.size,
        wait.as_secs() + 1
    );
    Fault { retry_after: Some(wait), ..Fault::new(ErrorCategory::RateLimit, "rate_limited", text) }
}
