//! How much an organization calls what it registered: buckets that all processes share, drawn from before a call is begun and
//! settled when it is known what the call took; and places, had while the other side works on it and not while it waits to be
//! tried again.

use std::time::Duration;

use serde_json::Value;
use symbia_events::integrations::{CallRate, ErrorCategory, InvocationInput};
use symbia_nats::{
    limits::{Bucket, Limits},
    places::{Place, Places},
};
use symbia_projections::integrations::Integration;
use tokio::time::Instant;

use crate::integrations::provider::Fault;

/// Bytes of a token, about.
const TOKEN: usize = 4;
const MINUTE: Duration = Duration::from_secs(60);
/// For so many minutes one answer's tokens count at most.
const MOST_MINUTES: u64 = 4;
/// When who has too many calls under way may make the next.
const AGAIN: Duration = Duration::from_secs(1);

/// The limits. Cheap to clone.
#[derive(Clone)]
pub struct CallLimits {
    buckets: Limits,
    places: Places,
}

/// A call that is to be counted.
pub(super) struct Counted<'a> {
    pub org: &'a str,
    pub integration: &'a Integration,
    pub operation: &'a str,
    /// Its id.
    pub request: &'a str,
    /// When it must have its answer: so long it is waited for the place of a worker that died over it.
    pub deadline: Instant,
}

/// What a call has taken from the buckets that count it.
#[derive(Default)]
pub(super) struct Drawn {
    calls: Vec<(String, Bucket)>,
    tokens: Vec<(String, Bucket)>,
}

/// The places of a call among those at once.
#[must_use]
pub(super) struct Held(Vec<Place>);

impl Held {
    /// Gives them back.
    pub(super) async fn leave(self) {
        for place in self.0 {
            place.leave().await;
        }
    }
}

impl Counted<'_> {
    // What its integration as a whole may be called, and its operation.
    fn rates(&self) -> impl Iterator<Item = (String, CallRate)> {
        let whole = format!("integration:{}:{}", self.org, self.integration.key);
        let limit = self.integration.rate_limit.as_ref();
        let of_one = limit.and_then(|limit| limit.operations.get(self.operation));
        let of_one = of_one.map(|rate| (format!("{whole}:{}", self.operation), *rate));
        limit.map(|limit| (whole, limit.all())).into_iter().chain(of_one)
    }
}

impl CallLimits {
    /// Over a connection.
    #[must_use]
    pub fn new(client: async_nats::Client) -> Self {
        CallLimits { buckets: Limits::new(client.clone()), places: Places::new(client) }
    }

    /// Takes every place that a call needs, or none.
    pub(super) async fn enter(&self, call: &Counted<'_>) -> Result<Held, Fault> {
        let mut held = Held(Vec::new());
        for (key, rate) in call.rates() {
            let Some(most) = rate.concurrent_requests else { continue };
            let key = format!("{key}:at-once");
            let left = call.deadline.saturating_duration_since(Instant::now());
            match self.places.take(&key, most, call.request, left).await {
                Ok(Some(place)) => held.0.push(place),
                Ok(None) => {
                    held.leave().await;
                    return Err(crowded(&call.integration.key, most));
                }
                // A broker that is away keeps nobody from working.
                Err(error) => tracing::warn!(key, %error, "a limit is passed over"),
            }
        }
        Ok(held)
    }

    /// The same for a call that has waited to be tried again; none: others have them until its deadline.
    pub(super) async fn enter_again(&self, call: &Counted<'_>) -> Option<Held> {
        loop {
            match self.enter(call).await {
                Ok(held) => return Some(held),
                Err(_) if Instant::now() + AGAIN >= call.deadline => return None,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// Draws from every bucket that counts a call; refuses when one has nothing left, and then has drawn from none.
    pub(super) async fn draw(&self, call: &Counted<'_>) -> Result<Drawn, Fault> {
        let mut drawn = Drawn::default();
        for (key, rate) in call.rates() {
            if let Err(fault) = self.draw_at(call, &key, rate, &mut drawn).await {
                for (key, bucket) in std::mem::take(&mut drawn.calls) {
                    self.correct(&key, bucket, 0).await;
                }
                self.settle(drawn, 0).await;
                return Err(fault);
            }
        }
        Ok(drawn)
    }

    /// Takes the tokens that a call took.
    pub(super) async fn settle(&self, drawn: Drawn, tokens: u64) {
        for (key, bucket) in drawn.tokens {
            // An answer says what it took, and is not believed without bounds.
            self.correct(&key, bucket, tokens.min(bucket.size.saturating_mul(MOST_MINUTES))).await;
        }
    }

    // One was drawn.
    async fn correct(&self, key: &str, bucket: Bucket, spent: u64) {
        if let Err(error) = self.buckets.settle(key, bucket, 1, spent).await {
            tracing::warn!(key, %error, "a limit is not corrected");
        }
    }

    async fn draw_at(&self, call: &Counted<'_>, key: &str, rate: CallRate, drawn: &mut Drawn) -> Result<(), Fault> {
        let integration = &call.integration.key;
        let CallRate { requests_per_second, requests_per_minute, tokens_per_minute, .. } = rate;
        for (name, most, per) in [
            ("second", requests_per_second, Duration::from_secs(1)),
            ("minute", requests_per_minute, MINUTE),
            ("tokens", tokens_per_minute, MINUTE),
        ] {
            let Some(most) = most else { continue };
            let (key, bucket) = (format!("{key}:{name}"), Bucket { size: most.into(), per });
            match self.buckets.draw(&key, bucket, 1, 1).await {
                Ok(got) if got.tokens == 0 => return Err(refusal(integration, name, bucket, got.enough_in)),
                Ok(_) if name == "tokens" => drawn.tokens.push((key, bucket)),
                Ok(_) => drawn.calls.push((key, bucket)),
                Err(error) => tracing::warn!(key, %error, "a limit is passed over"),
            }
        }
        Ok(())
    }
}

fn crowded(key: &str, most: u32) -> Fault {
    let text = format!("the organization calls '{key}' at most {most} times at once, and does: ask again in 1 s");
    Fault { retry_after: Some(AGAIN), ..Fault::new(ErrorCategory::RateLimit, "too_many_at_once", text) }
}

fn refusal(key: &str, name: &str, Bucket { size, .. }: Bucket, wait: Duration) -> Fault {
    let what = match name {
        "tokens" => format!("'{key}' may use {size} tokens a minute, and has"),
        per => format!("the organization calls '{key}' at most {size} times a {per}, and has"),
    };
    let text = format!("{what}: ask again in {} s", wait.as_secs() + 1);
    Fault { retry_after: Some(wait), ..Fault::new(ErrorCategory::RateLimit, "rate_limited", text) }
}

/// The tokens that an answer says it took, else about as many as its text and what was asked are.
pub(super) fn tokens(input: &InvocationInput, answer: &Value) -> u64 {
    let said = |names: &[&str]| names.iter().find_map(|name| answer["usage"][*name].as_u64());
    let parts = || {
        let (read, written) = (said(&["prompt_tokens", "input_tokens"]), said(&["completion_tokens", "output_tokens"]));
        read.or(written).map(|_| read.unwrap_or(0).saturating_add(written.unwrap_or(0)))
    };
    let text = |value: &Value| if value.is_null() { 0 } else { value.to_string().len() };
    let asked = text(&input.body) + input.params.values().map(text).sum::<usize>();
    let about = || u64::try_from((asked + text(answer)).div_ceil(TOKEN)).unwrap_or(u64::MAX);
    said(&["total_tokens"]).or_else(parts).unwrap_or_else(about)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_are_those_that_an_answer_tells_or_about_as_many_as_its_text_has() {
        let input = InvocationInput { body: json!({ "text": "12345678" }), ..InvocationInput::default() };
        let told = |usage: Value| tokens(&input, &json!({ "usage": usage, "text": "x".repeat(4000) }));
        assert_eq!(told(json!({ "total_tokens": 7, "prompt_tokens": 5 })), 7);
        assert_eq!(told(json!({ "prompt_tokens": 5, "completion_tokens": 3 })), 8);
        assert_eq!(told(json!({ "input_tokens": 5 })), 5);
        assert!((1000..1050).contains(&told(json!("unknown"))), "{}", told(json!("unknown")));
        assert_eq!(tokens(&InvocationInput::default(), &Value::Null), 0);
        assert_eq!(tokens(&input, &Value::Null), 5, "what was asked counts as well");
    }
}
