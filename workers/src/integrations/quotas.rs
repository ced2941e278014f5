//! What a route lets one of its targets have: so many requests a minute, and so many under way, counted over all processes.

use std::time::Duration;

use symbia_events::integrations::ErrorCategory;
use symbia_nats::{
    limits::{Bucket, Limits},
    places::Places,
};

use super::{provider::Fault, routes::Candidate};

const MINUTE: Duration = Duration::from_secs(60);
/// When it is looked again whether a place is free.
const AGAIN: Duration = Duration::from_secs(1);
/// Why another target is to be asked.
pub(super) const TARGET_LIMITED: &str = "target_limited";

/// The limits. Cheap to clone.
#[derive(Clone)]
pub(super) struct Quotas {
    limits: Limits,
    places: Places,
}

/// A place among those under way, if they are counted.
pub(super) struct Held<'a> {
    places: &'a Places,
    held: Option<(String, &'a str)>,
}

impl Quotas {
    /// Limits over a connection.
    pub fn new(client: async_nats::Client) -> Self {
        Quotas { limits: Limits::new(client.clone()), places: Places::new(client) }
    }

    /// Leave to ask a target for a request, which takes so long at most. What cannot be counted is passed over.
    pub async fn enter<'a>(
        &'a self,
        org: &str,
        target: &Candidate,
        request: &'a str,
        lasts: Duration,
    ) -> Result<Held<'a>, Fault> {
        let mut held = Held { places: &self.places, held: None };
        if target.max_rpm.is_none() && target.max_concurrency.is_none() {
            return Ok(held);
        }
        let key = format!("route:{org}:{}:{}", target.alias.as_deref().unwrap_or_default(), target.name());
        if let Some(most) = target.max_concurrency {
            match self.places.take(&key, most, request, lasts).await {
                Ok(true) => held.held = Some((key.clone(), request)),
                Ok(false) => return Err(limited(target, AGAIN, &format!("{most} requests under way"))),
                // It may have been taken all the same.
                Err(error) => {
                    tracing::warn!(key, %error, "the limit of a target is passed over");
                    held.held = Some((key.clone(), request));
                }
            }
        }
        if let Some(most) = target.max_rpm {
            let bucket = Bucket { size: most.into(), per: MINUTE };
            match self.limits.draw(&key, bucket, 1, 1).await {
                Ok(drawn) if drawn.tokens == 0 => {
                    held.leave().await;
                    return Err(limited(target, drawn.enough_in, &format!("{most} requests a minute")));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(key, %error, "the limit of a target is passed over"),
            }
        }
        Ok(held)
    }
}

impl Held<'_> {
    /// The request has its answer. A place that is not given back is free when its time is over.
    pub async fn leave(self) {
        let Some((key, request)) = self.held else { return };
        if let Err(error) = self.places.leave(&key, request).await {
            tracing::warn!(key, %error, "a place is not given back");
        }
    }
}

fn limited(target: &Candidate, wait: Duration, what: &str) -> Fault {
    let route = target.alias.as_deref().unwrap_or_default();
    let message = format!("'{}' may have {what} by the route '{route}', and has", target.name());
    Fault { retry_after: Some(wait), ..Fault::new(ErrorCategory::RateLimit, TARGET_LIMITED, message) }
}
