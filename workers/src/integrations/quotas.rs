//! What a route lets one of its targets have: so many requests a minute, and so many under way, counted over all processes.

use std::time::Duration;

use symbia_events::integrations::ErrorCategory;
use symbia_nats::{
    limits::{Bucket, Limits},
    places::{Place, Places},
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

impl Quotas {
    /// Limits over a connection.
    pub fn new(client: async_nats::Client) -> Self {
        Quotas { limits: Limits::new(client.clone()), places: Places::new(client) }
    }

    /// Leave to ask a target for a request, and the place that it has as long as it is asked, where those are counted. For one
    /// that an earlier worker at the same request has it is waited so long. What cannot be counted is passed over.
    pub async fn enter(
        &self,
        org: &str,
        target: &Candidate,
        request: &str,
        patience: Duration,
    ) -> Result<Option<Place>, Fault> {
        if target.max_rpm.is_none() && target.max_concurrency.is_none() {
            return Ok(None);
        }
        let key = format!("route:{org}:{}:{}", target.alias.as_deref().unwrap_or_default(), target.name());
        let mut held = None;
        if let Some(most) = target.max_concurrency {
            match self.places.take(&key, most, request, patience).await {
                Ok(Some(place)) => held = Some(place),
                Ok(None) => return Err(limited(target, AGAIN, &format!("{most} requests under way"))),
                Err(error) => tracing::warn!(key, %error, "the limit of a target is passed over"),
            }
        }
        if let Some(most) = target.max_rpm {
            let bucket = Bucket { size: most.into(), per: MINUTE };
            match self.limits.draw(&key, bucket, 1, 1).await {
                Ok(drawn) if drawn.tokens == 0 => {
                    leave(held).await;
                    return Err(limited(target, drawn.enough_in, &format!("{most} requests a minute")));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(key, %error, "the limit of a target is passed over"),
            }
        }
        Ok(held)
    }
}

/// The target was asked, and somebody else may be next.
pub(super) async fn leave(held: Option<Place>) {
    if let Some(place) = held {
        place.leave().await;
    }
}

fn limited(target: &Candidate, wait: Duration, what: &str) -> Fault {
    let route = target.alias.as_deref().unwrap_or_default();
    let message = format!("'{}' may have {what} by the route '{route}', and has", target.name());
    Fault { retry_after: Some(wait), ..Fault::new(ErrorCategory::RateLimit, TARGET_LIMITED, message) }
}
